"""What is there: containers of pods as Docker has them, found by their labels alone.

Order among the attempts of a container is the attempt number, never a time: the clock may be set
back (kubernetes#83050).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["created", "running", "exited"]

SANDBOX = "POD"
"""The container name of the one that holds the pod's namespaces (dockershim's ``POD``)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One container: *name* is SANDBOX or the container's name in the spec.

    *attempt* counts from 0 and is the restart count that goes with this instance. *hash* is
    ``Container.hash`` at its creation. Times are Docker's RFC 3339 texts, "" for never; *address*
    is the pod's IPv4 address, known for sandboxes only; *grace* is the pod's grace period in
    seconds when it was created. *error* is Docker's reason why it could not be started.
    *sandbox_id* is the sandbox that a container was made for, by its label. One that is not
    *inspected* is known by its line in Docker's list only, which has no exit code.
    """

    id: str
    uid: str
    pod: str
    namespace: str
    name: str
    attempt: int
    state: State
    hash: str = ""
    image: str = ""
    image_id: str = ""
    created_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    address: str = ""
    pid: int = 0
    grace: int = 30
    stop_signal: str = "SIGTERM"
    host_network: bool = False
    sandbox_id: str = ""
    inspected: bool = True

    @property
    def running(self) -> bool:
        """Whether its process lives; a paused or restarting one counts as running."""
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class PodSeen:
    """The containers of one pod; each tuple is ordered by attempt, the newest first."""

    uid: str
    sandboxes: tuple[Seen, ...] = ()
    containers: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, uid: str, found: Iterable[Seen]) -> "PodSeen":
        """Sorted from the containers *found*, in any order."""
        sandboxes: list[Seen] = []
        containers: dict[str, list[Seen]] = {}
        for seen in sorted(found, key=lambda one: (-one.attempt, one.created_at, one.id)):
            if seen.name == SANDBOX:
                sandboxes.append(seen)
            else:
                containers.setdefault(seen.name, []).append(seen)
        return cls(
            uid, tuple(sandboxes), {name: tuple(c) for name, c in sorted(containers.items())}
        )

    @property
    def everything(self) -> tuple[Seen, ...]:
        """All containers, sandboxes last."""
        return (*(one for group in self.containers.values() for one in group), *self.sandboxes)

    @property
    def sandbox(self) -> Seen | None:
        """The newest sandbox."""
        return self.sandboxes[0] if self.sandboxes else None

    def newest(self, name: str) -> Seen | None:
        """The newest instance of the container *name*."""
        group = self.containers.get(name, ())
        return group[0] if group else None
