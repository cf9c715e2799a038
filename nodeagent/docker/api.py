"""What nodeagent asks of a container engine: the protocol that Engine and the tests' fake follow.

Every call raises EngineNotFound, EngineConflict, EngineUnavailable or EngineError. A call that is
cancelled waits for Docker's answer before it passes the cancellation on, so nobody acts on a
state that is about to change; a Docker that hangs ends it by time-out.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nodeagent.pods.observed import Seen


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts of the engine; *cgroup_driver* is cgroupfs or systemd, *root* Docker's data folder."""

    version: str
    api_version: str
    cgroup_driver: str = "cgroupfs"
    cgroup_version: str = "1"
    root: str = "/var/lib/docker"
    storage_driver: str = ""
    security_options: tuple[str, ...] = ()
    live_restore: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of containers: enough to see whether it has to be inspected anew."""

    id: str
    state: str
    labels: Mapping[str, str]
    names: tuple[str, ...] = ()
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """A container event: *action* as Docker names it, such as ``die``."""

    action: str
    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The end of a command: *output* is standard output and error together, cut."""

    code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """An image: *user* is its configured user ("" for root), *size* in bytes."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    user: str = ""
    created: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogOptions:
    """*since* is RFC 3339 or "", *tail* a number of lines or None for all."""

    follow: bool = False
    tail: int | None = None
    since: str = ""
    timestamps: bool = False
    stdout: bool = True
    stderr: bool = True


class Engine(Protocol):
    """The calls; container ids are full."""

    async def info(self) -> EngineInfo:
        """Facts; also the check whether it answers."""
        ...

    async def ping(self, within: float) -> None:
        """Raise EngineUnavailable unless it answers in *within* seconds."""
        ...

    async def containers(self, uid: str = "") -> list[Entry]:
        """All containers with our labels, dead ones too; those of one pod with *uid*."""
        ...

    async def inspect(self, container: str) -> Seen:
        """One container; raises EngineNotFound, or ValueError when its labels are not ours."""
        ...

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container from the body of POST /containers/create; its id."""
        ...

    async def start(self, container: str) -> None:
        """Start it; nothing when it runs already."""
        ...

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal; nothing when it does not run or is gone."""
        ...

    async def remove(self, container: str) -> None:
        """Delete it by force, with its anonymous volumes; nothing when it is gone."""
        ...

    async def exec(
        self, container: str, argv: Sequence[str], *, timeout: float, limit: int = 10_240
    ) -> ExecResult:
        """Run a command in it; raises TimeoutError after *timeout* seconds."""
        ...

    def logs(self, container: str, options: LogOptions) -> AsyncGenerator[tuple[int, bytes], None]:
        """Pieces of output with their stream, 1 or 2; close it (``aclosing``) to stop."""
        ...

    async def image(self, reference: str) -> Image | None:
        """The image as it is here, None when it is not."""
        ...

    async def images(self) -> list[Image]:
        """All images that are here."""
        ...

    async def pull(
        self, reference: str, auth: Mapping[str, str] | None, progress: Callable[[str], None]
    ) -> None:
        """Pull an image; *progress* hears one line now and then."""
        ...

    async def remove_image(self, image: str) -> None:
        """Delete an image and its tags; raises EngineConflict when it is in use."""
        ...

    async def stats(self, container: str) -> Mapping[str, Any]:
        """One reading of Docker's stats, undecoded."""
        ...

    def events(self) -> AsyncGenerator[EngineEvent, None]:
        """Events of containers from now on; ends with EngineUnavailable when the stream breaks."""
        ...
