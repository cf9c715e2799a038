"""When this node is short of memory, disk or process ids, and which pods go first then.

Model: each signal is an amount that is still available; a threshold of ``--eviction-hard`` says
below which amount, or share of the whole, the node is under pressure. The signals and the three
node conditions are Kubernetes' own (node-pressure eviction).

Invariants:

* pressure is seen at once, and is over only when its thresholds have been kept for the whole
  transition period, so that pods are not put on a node that has just thrown some out;
* a signal that cannot be read changes nothing;
* times are monotonic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from nodeagent.pods import quantity
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import pod_request

MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"

Condition = Literal["MemoryPressure", "DiskPressure", "PIDPressure"]

SIGNALS: Mapping[str, Condition] = {
    "memory.available": "MemoryPressure",
    "nodefs.available": "DiskPressure",
    "nodefs.inodesFree": "DiskPressure",
    "imagefs.available": "DiskPressure",
    "imagefs.inodesFree": "DiskPressure",
    "pid.available": "PIDPressure",
}
"""The signals, and the condition of the node that each one is about."""

DEFAULT = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%"
"""The kubelet's own ``--eviction-hard``."""

TRANSITION = 300.0
"""Seconds: the kubelet's own ``--eviction-pressure-transition-period``."""

CRITICAL = 2_000_000_000
"""Priorities from here on are those of pods that a cluster cannot do without."""

_RESOURCES = {"MemoryPressure": "memory", "DiskPressure": "ephemeral-storage"}


@dataclass(frozen=True, slots=True)
class Level:
    """How much of a signal is available, of what capacity: bytes, inodes or process ids."""

    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Pressure begins below *amount*, or below *share* (0 to 1) of the capacity."""

    signal: str
    amount: int = 0
    share: Fraction | None = None

    def limit(self, capacity: int) -> int:
        """The amount for this *capacity*."""
        return self.amount if self.share is None else int(self.share * capacity)

    @property
    def text(self) -> str:
        """The limit as it was written."""
        if self.share is None:
            return quantity.format_bytes(self.amount)
        return f"{float(self.share * 100):g}%"


@dataclass(frozen=True, slots=True)
class Breach:
    """A threshold that is not kept now."""

    threshold: Threshold
    level: Level

    @property
    def condition(self) -> Condition:
        """The node's condition that it is about."""
        return SIGNALS[self.threshold.signal]

    @property
    def text(self) -> str:
        """A sentence for conditions and events."""
        left = quantity.format_bytes(self.level.available)
        return f"{self.threshold.signal} is {left}, below {self.threshold.text}"


def parse_thresholds(text: str) -> tuple[Threshold, ...]:
    """The thresholds of ``--eviction-hard``, as in ``memory.available<100Mi,nodefs.available<10%``.

    0% and 100% turn a signal off, as the kubelet has it; so does leaving it out. Raises
    ValueError naming the signal.
    """
    found: dict[str, Threshold | None] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        signal, less, value = (piece.strip() for piece in part.partition("<"))
        if not less:
            raise ValueError(f"{part!r}: write it as SIGNAL<AMOUNT, such as memory.available<100Mi")
        if signal not in SIGNALS:
            raise ValueError(f"there is no signal {signal!r}: use one of {', '.join(SIGNALS)}")
        if signal in found:
            raise ValueError(f"{signal} is there twice: keep one")
        found[signal] = _threshold(signal, value)
    return tuple(one for one in found.values() if one is not None)


def _threshold(signal: str, value: str) -> Threshold | None:
    advice = f"{signal}: {value!r} is no amount, use one such as 100Mi or 10%"
    if value.endswith("%"):
        try:
            share = Fraction(value[:-1]) / 100
        except (ValueError, ZeroDivisionError):
            raise ValueError(advice) from None
        if not 0 <= share <= 1:
            raise ValueError(f"{signal}: {value} is not between 0% and 100%")
        return Threshold(signal, share=share) if 0 < share < 1 else None
    try:
        amount = quantity.parse(value)
    except ValueError:
        raise ValueError(advice) from None
    if amount < 0:
        raise ValueError(f"{signal}: {value} is below zero")
    return Threshold(signal, amount=int(amount))


class Pressure:
    """Follows *thresholds*; a condition lasts *transition* seconds longer than its cause."""

    def __init__(
        self, thresholds: Sequence[Threshold] = (), transition: float = TRANSITION
    ) -> None:
        self._thresholds = tuple(thresholds)
        self._transition = transition
        self._last: dict[Threshold, float] = {}
        self._breaches: dict[Threshold, Breach] = {}
        self._active: dict[str, str] = {}

    @property
    def active(self) -> frozenset[str]:
        """The conditions that are true now: MemoryPressure, DiskPressure, PIDPressure."""
        return frozenset(self._active)

    @property
    def reasons(self) -> Mapping[str, str]:
        """What led to each condition that is true."""
        return dict(self._active)

    @property
    def breaches(self) -> tuple[Breach, ...]:
        """What is not kept at this moment, and calls for eviction: memory before disk."""
        return tuple(self._breaches[one] for one in self._ordered() if one in self._breaches)

    def observe(self, levels: Mapping[str, Level], now: float) -> bool:
        """Take the signals in at the monotonic time *now*; whether a condition changed.

        A signal that is missing could not be read, one of capacity 0 is not there at all.
        """
        before = self.active
        for one in self._thresholds:
            level = levels.get(one.signal)
            if level is None:
                if one in self._breaches:
                    self._last[one] = now
            elif level.capacity > 0 and level.available < one.limit(level.capacity):
                self._breaches[one] = Breach(one, level)
                self._last[one] = now
            else:
                self._breaches.pop(one, None)
        for one in [one for one in self._last if now - self._last[one] >= self._transition]:
            if one not in self._breaches:
                del self._last[one]
        self._active = self._conditions()
        return self.active != before

    def _conditions(self) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for one in self._ordered():
            # With the number each look would be a change of the node's status.
            if one in self._breaches:
                text = f"{one.signal} is below {one.text}"
            elif one in self._last:
                text = f"{one.signal} was below {one.text} a short time ago"
            else:
                continue
            found.setdefault(SIGNALS[one.signal], []).append(text)
        return {condition: "; ".join(texts) for condition, texts in found.items()}

    def _ordered(self) -> list[Threshold]:
        order = list(SIGNALS)
        return sorted(self._thresholds, key=lambda one: order.index(one.signal))


def victims(signal: str, pods: Sequence[tuple[Pod, int]]) -> tuple[str, ...]:
    """The UIDs of *pods* (with what each uses of *signal*) in the order to evict them.

    Those that use more than they requested come first, then the lower priority, then the higher
    usage above the request. Static pods and those of critical priority are never named.
    """
    resource = _RESOURCES.get(SIGNALS[signal])

    def rank(entry: tuple[Pod, int]) -> tuple[bool, int, Fraction, str]:
        pod, usage = entry
        # Process ids cannot be requested.
        asked = pod_request(pod, resource) if resource else Fraction(0)
        return (usage <= asked, pod.spec.priority, asked - usage, pod.uid)

    candidates = [
        entry
        for entry in pods
        if not (entry[0].is_static or entry[0].is_mirror or entry[0].spec.priority >= CRITICAL)
    ]
    return tuple(pod.uid for pod, _ in sorted(candidates, key=rank))
