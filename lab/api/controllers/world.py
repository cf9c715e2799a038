"""What a plan sees, and what it wants done: values without effects."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lab.api.controllers.views import Raw, Thing, view
from lab.api.kinds import POD, Kind


@dataclass(frozen=True, slots=True)
class Create:
    """Make *object*."""

    kind: Kind
    object: Raw


@dataclass(frozen=True, slots=True)
class Update:
    """Replace all of an object but its status."""

    kind: Kind
    object: Raw


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Replace an object's status."""

    kind: Kind
    object: Raw


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete *thing*, a pod within *grace* seconds (None: as the pod says)."""

    kind: Kind
    thing: Thing
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """Put the pod *thing* on *node*."""

    thing: Thing
    node: str


Action = Create | Update | SetStatus | Delete | Bind


@dataclass(slots=True)
class World:
    """All objects of some kinds at one moment, *now* (RFC 3339). ``bad`` names the unreadable."""

    objects: Mapping[Kind, Sequence[Raw]]
    now: str = ""
    bad: dict[str, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Thing]:
        """The readable objects of *kind*."""
        found = []
        for raw in self.objects[kind]:
            try:
                found.append(view(raw))
            except ValueError as error:
                self.bad[f"{kind.name} {raw.get('metadata')!r:.200}"] = str(error)
        return found

    def each(self, kind: Kind, plan: Callable[[Thing], Iterable[Action]]) -> list[Action]:
        """What *plan* wants for each object of *kind*; one that it cannot read is left out."""
        actions: list[Action] = []
        for thing in self.of(kind):
            try:
                actions += list(plan(thing))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self.bad[f"{kind.name} {thing.metadata.name}"] = repr(error)
        return actions

    def pods(self) -> dict[str, list[Thing]]:
        """The pods by namespace."""
        found: defaultdict[str, list[Thing]] = defaultdict(list)
        for pod in self.of(POD):
            found[pod.metadata.namespace].append(pod)
        return found


Plan = Callable[[World], list[Action]]
