"""What a Docker daemon holds, in memory: containers, images, a registry; outlives its agents.

It refuses what Docker refuses, with Docker 20.10's words and status. Processes do as ``World.run``
says, others run until they are signalled.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nodeagent.docker.api import EngineEvent, ExecResult, Image
from nodeagent.docker.labels import CONTAINER_NAME, OURS, POD_UID
from nodeagent.docker.references import names, parse
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable

SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15}
NEVER = "0001-01-01T00:00:00Z"


@dataclass
class Program:
    """What a process does. *exits* at once with that code; *start_error* is why it cannot start.

    *ignores* are signals without effect, *on_term* the exit code after SIGTERM.
    """

    exits: int | None = None
    start_error: str = ""
    ignores: frozenset[str] = frozenset()
    on_term: int = 143
    oom: bool = False
    output: bytes = b""


@dataclass
class FakeContainer:
    """A container: *config* is the body it was created from."""

    id: str
    name: str
    config: Mapping[str, Any]
    image_id: str
    created_at: str
    status: str = "created"
    exit_code: int = 0
    started_at: str = NEVER
    finished_at: str = NEVER
    error: str = ""
    oom: bool = False
    pid: int = 0
    address: str = ""
    starts: int = 0
    log: list[tuple[int, bytes]] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.config.get("Labels") or {}

    @property
    def network_mode(self) -> str:
        """``HostConfig.NetworkMode``."""
        return str((self.config.get("HostConfig") or {}).get("NetworkMode") or "default")

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.status in {"running", "paused"}

    def document(self) -> dict[str, Any]:
        """What GET /containers/{id}/json answers."""
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": self.image_id,
            "Created": self.created_at,
            "Config": dict(self.config),
            "HostConfig": dict(self.config.get("HostConfig") or {}),
            "State": {
                "Status": self.status,
                "Running": self.running,
                "OOMKilled": self.oom,
                "Pid": self.pid,
                "ExitCode": self.exit_code,
                "Error": self.error,
                "StartedAt": self.started_at,
                "FinishedAt": self.finished_at,
            },
            "NetworkSettings": {
                "IPAddress": self.address,
                "Networks": {"bridge": {"IPAddress": self.address}},
            },
        }


class World:
    """Containers and images; what happens to them from outside is done by its methods."""

    def __init__(self) -> None:
        self.containers: dict[str, FakeContainer] = {}
        self.images: dict[str, Image] = {}
        self.registry: dict[str, Image] = {}
        self.passwords: dict[str, str] = {}
        self.programs: dict[str, Program] = {}
        self.commands: dict[str, ExecResult | Exception | Callable[..., ExecResult]] = {}
        self.time = 1_700_000_000.0
        self.down = False
        self.history: list[tuple[str, str]] = []
        self.streams: set[asyncio.Queue[EngineEvent | EngineError]] = set()
        self._numbers = itertools.count(1)

    # --- what there is ---

    def add_image(self, reference: str, *, user: str = "", size: int = 1000) -> Image:
        """Have an image here."""
        made = self._image(reference, user, size)
        self.images[made.id] = made
        return made

    def publish(self, reference: str, *, wants: str = "", user: str = "") -> Image:
        """Have an image in its registry, which may want a password."""
        made = self._image(reference, user, 1000)
        self.registry[reference] = made
        if wants:
            self.passwords[reference] = wants
        return made

    def run(self, name: str, program: Program) -> None:
        """Containers whose name in the spec is *name* do as *program* says from their start."""
        self.programs[name] = program

    def find(self, name: str, uid: str = "") -> list[FakeContainer]:
        """Containers by their name in the spec, and by pod; in the order of their creation."""
        return [
            one
            for one in self.containers.values()
            if one.labels.get(CONTAINER_NAME) == name
            and (not uid or one.labels.get(POD_UID) == uid)
        ]

    def _image(self, reference: str, user: str, size: int) -> Image:
        wanted = parse(reference)
        number = wanted.image_id or f"sha256:{next(self._numbers):064x}"
        plain = reference.partition("@")[0]
        last = plain.rpartition("/")[2]
        tag = plain if ":" in last else f"{plain}:latest"
        digest = f"{tag.rpartition(':')[0]}@{wanted.digest or f'sha256:{next(self._numbers):064x}'}"
        tags = () if wanted.pinned else (tag,)
        return Image(number, tags, () if wanted.image_id else (digest,), size, user)

    def text(self) -> str:
        """The time, as Docker writes it; each look at it is a millisecond later."""
        self.time += 0.001
        moment = datetime.fromtimestamp(self.time, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"

    # --- what happens ---

    def emit(self, action: str, one: FakeContainer) -> None:
        """Tell an event."""
        if one.labels.get(OURS) == "1":
            for stream in self.streams:
                stream.put_nowait(EngineEvent(action, one.id, dict(one.labels)))

    def break_events(self) -> None:
        """End all streams of events."""
        for stream in self.streams:
            stream.put_nowait(EngineUnavailable("the stream has ended"))

    def start(self, one: FakeContainer) -> None:
        """Start its process; raises what Docker answers."""
        program = self.programs.get(one.labels.get(CONTAINER_NAME, ""), Program())
        problem = self._start_problem(one, program)
        if problem is not None:
            one.error, one.exit_code = str(problem), 128
            raise problem
        one.status, one.error, one.oom = "running", "", False
        one.started_at, one.finished_at, one.exit_code = self.text(), NEVER, 0
        one.pid = 1000 + next(self._numbers)
        one.starts += 1
        if one.network_mode in {"default", "bridge"}:
            number = next(self._numbers)
            one.address = f"10.3.{number // 250 % 250}.{number % 250 + 2}"
        self.emit("start", one)
        if program.output:
            self.write(one.id, program.output)
        if program.exits is not None:
            self.exit(one.id, program.exits, oom=program.oom)

    def _start_problem(self, one: FakeContainer, program: Program) -> EngineError | None:
        kind, _, joined = one.network_mode.partition(":")
        if kind == "container":
            if joined not in self.containers:
                return EngineNotFound(f"No such container: {joined}", 404)
            if not self.containers[joined].running:
                text = f"cannot join network of a non running container: {joined}"
                return EngineConflict(text, 409)
        return EngineError(program.start_error, 400) if program.start_error else None

    def exit(self, container: str, code: int = 0, *, oom: bool = False) -> None:
        """End its process; nothing when it has none."""
        one = self.containers[container]
        if not one.running:
            return
        one.status, one.exit_code, one.oom = "exited", code, oom
        one.pid, one.address, one.finished_at = 0, "", self.text()
        one.grown.set()
        self.emit("die", one)

    def signal(self, container: str, signal: str) -> None:
        """Have its process get a signal, named or numbered."""
        one = self.containers[container]
        word = signal.removeprefix("SIG")
        word = next((w for w, n in SIGNALS.items() if str(n) == word), word)
        if word not in SIGNALS:
            raise EngineError(f"Invalid signal: {signal}", 400)
        program = self.programs.get(one.labels.get(CONTAINER_NAME, ""), Program())
        if word == "KILL" or word not in {s.removeprefix("SIG") for s in program.ignores}:
            self.exit(container, program.on_term if word == "TERM" else 128 + SIGNALS[word])

    def delete(self, container: str) -> None:
        """``docker rm -f``."""
        self.exit(container, 137)
        one = self.containers.pop(container)
        self.emit("destroy", one)

    def write(self, container: str, data: bytes, stream: int = 1) -> None:
        """Have its process print."""
        one = self.containers[container]
        one.log.append((stream, data))
        one.grown.set()

    def stop_daemon(self, *, live_restore: bool = False) -> None:
        """Docker is killed: without live restore its containers die with it."""
        if not live_restore:
            for one in list(self.containers.values()):
                self.exit(one.id, 137)
        self.down = True
        self.break_events()

    def start_daemon(self) -> None:
        """Docker comes back."""
        self.down = False

    # --- what the engine is asked ---

    def held(self, container: str) -> FakeContainer:
        """A container; raises EngineNotFound."""
        try:
            return self.containers[container]
        except KeyError:
            raise EngineNotFound(f"No such container: {container}", 404) from None

    def here(self, reference: str) -> Image | None:
        """The image that *reference* names, if it is here."""
        try:
            wanted = parse(reference)
        except ValueError:
            return None
        for one in self.images.values():
            if names(wanted, one.id, (*one.tags, *one.digests)):
                return one
        return None

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container; its id."""
        for one in self.containers.values():
            if one.name == name:
                raise EngineConflict(
                    f'Conflict. The container name "/{name}" is already in use by container '
                    f'"{one.id}". You have to remove (or rename) that container to be able to '
                    "reuse that name.",
                    409,
                )
        image = self.here(str(config.get("Image")))
        if image is None:
            raise EngineNotFound(f"No such image: {config.get('Image')}", 404)
        number = f"{next(self._numbers):x}".rjust(64, "c")
        made = FakeContainer(number, name, dict(config), image.id, self.text())
        self.containers[number] = made
        return number

    def remove_image(self, image: str) -> None:
        """Delete an image that no container uses."""
        users = [c for c in self.containers.values() if c.image_id == image]
        if users:
            state = "running" if users[0].running else "stopped"
            raise EngineConflict(
                f"conflict: unable to delete {image[7:19]} (must be forced) - image is being used "
                f"by {state} container {users[0].id[:12]}",
                409,
            )
        self.images.pop(image, None)
