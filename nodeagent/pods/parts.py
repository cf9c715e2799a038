"""What a pod's worker works with, as protocols: the real parts and the tests' fakes follow them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nodeagent.api.port import Objects, Recorder, SecretData
from nodeagent.docker.api import Engine, Image
from nodeagent.pods.backoff import Delays
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host, Mount
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen


class Observing(Protocol):
    """The cache of what Docker has."""

    def pod(self, uid: str) -> PodSeen:
        """A pod's containers as last seen."""
        ...

    async def refresh(self, uid: str) -> PodSeen:
        """A pod's containers, read now."""
        ...

    async def started(self, container: str) -> None:
        """Have the cache show a container, by its id, as it is after its start."""
        ...


class ImageKeeping(Protocol):
    """Images."""

    async def ensure(self, pod: Pod, container: Container, secrets: Sequence[SecretData]) -> Image:
        """The container's image, pulled where its policy says so; raises PodError."""
        ...


class VolumeKeeping(Protocol):
    """Volumes and the files of a pod."""

    async def prepare(self, pod: Pod) -> None:
        """Make all volumes ready; raises PodError."""
        ...

    async def mounts(
        self, pod: Pod, container: Container, attempt: int, *, pod_ip: str, env: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """All bind mounts of one instance of a container; raises PodError."""
        ...

    async def refresh(self, pod: Pod) -> bool:
        """Bring the contents of volumes up to date; whether something changed."""
        ...

    async def teardown(self, uid: str) -> None:
        """Unmount and delete all files of the pod."""
        ...


class ProbeVerdict(Protocol):
    """What probes say of one instance."""

    @property
    def ready(self) -> bool: ...
    @property
    def started(self) -> bool: ...
    @property
    def failed(self) -> Literal["", "liveness", "startup"]: ...
    @property
    def message(self) -> str: ...
    @property
    def grace(self) -> int | None: ...


class Probing(Protocol):
    """Probes."""

    def sync(
        self,
        pod: Pod,
        running: Mapping[str, Seen],
        address: str,
        carried: Mapping[str, tuple[bool, bool]],
        *,
        terminating: bool = False,
    ) -> None:
        """Probe these running instances and no others."""
        ...

    def verdict(self, container_id: str) -> ProbeVerdict:
        """What is known of an instance."""
        ...

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        ...


class StatusSink(Protocol):
    """Where statuses go."""

    def put(self, target: Pod, status: dict[str, Any]) -> None:
        """Have the status of *target* written; never blocks."""
        ...

    async def confirm_gone(self, target: Pod) -> bool:
        """Have the object deleted for good; whether it is gone."""
        ...


class CgroupKeeping(Protocol):
    """The pods' control groups."""

    async def prepare(self, pod: Pod) -> str:
        """Make the pod's group with its limits; the parent for its containers, "" for Docker's."""
        ...

    async def end_left(self, uid: str, container: str) -> None:
        """End what is left of a *container* of the pod that Docker has removed."""
        ...

    async def remove(self, uid: str) -> None:
        """Remove the pod's group, when Docker has none of its containers."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """All of it.

    *pause* has the sandbox's image ready for a pod; *clock* is monotonic seconds, *wall* Unix
    seconds, for show and first sight; *process_age* tells for how many seconds a process has been
    there, None when that is not known.
    """

    host: Host
    engine: Engine
    observer: Observing
    images: ImageKeeping
    volumes: VolumeKeeping
    probes: Probing
    objects: Objects
    recorder: Recorder
    statuses: StatusSink
    cgroups: CgroupKeeping
    pause: Callable[[Pod], Awaitable[object]]
    clock: Callable[[], float]
    wall: Callable[[], float]
    delays: Delays = field(default_factory=Delays)
    keep_dead: int = 1
    process_age: Callable[[int], float | None] = lambda _pid: None
