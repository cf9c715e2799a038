"""Two machines under one node name: found by what is written that we did not write.

Both would tear pods away from each other, so it is said loudly, and a machine that comes second
does not register before the first has fallen silent. What counts is whether things change while
we look, on our own monotonic clock: the other machine's times prove nothing.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from nodeagent.node.facts import Facts
from nodeagent.node.status import conditions, part

SILENCE = 25.0
"""Seconds: two heartbeats of 10 s and a half."""

MEMORY = 60.0
"""Seconds for which a sign of another agent counts."""


class Rival:
    """Signs of another agent with our node's name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._signs: list[tuple[float, str]] = []

    def seen(self, text: str) -> None:
        """Note one sign, in words."""
        self._signs = [*self._recent(), (self._clock(), text)][-10:]

    @property
    def text(self) -> str:
        """What to tell the operator, "" when there is no rival.

        One sign alone may be the last word of the agent that ran here before.
        """
        recent = self._recent()
        if len(recent) < 2:
            return ""
        return (
            f"{recent[-1][1]}: two agents run under this node name; stop one of them, or give it "
            "another --hostname-override"
        )

    def _recent(self) -> list[tuple[float, str]]:
        now = self._clock()
        return [sign for sign in self._signs if now - sign[0] < MEMORY]


class Vigil:
    """Watches whether the agent that registered the node still lives, before we take it over."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, silence: float = SILENCE
    ) -> None:
        self._clock = clock
        self._silence = silence
        self._sign: object = None
        self._since: float | None = None
        self._moved = False

    def over(self, sign: object) -> bool:
        """Whether *sign*, which a living agent changes, has stayed the same for long enough."""
        now = self._clock()
        if self._since is None or sign != self._sign:
            self._moved = self._since is not None
            self._sign, self._since = sign, now
        return now - self._since >= self._silence

    @property
    def moved(self) -> bool:
        """Whether the last sign but one was different: the other agent lives."""
        return self._moved

    def reset(self) -> None:
        """Begin anew."""
        self._since = None


def is_stranger(node: Mapping[str, Any], facts: Facts) -> bool:
    """Whether *node* was reported by another machine than this one."""
    info = part(part(node, "status"), "nodeInfo")
    return any(
        theirs and ours and str(theirs).lower() != ours.lower()
        for theirs, ours in (
            (info.get("machineID"), facts.machine_id),
            (info.get("systemUUID"), facts.system_uuid),
        )
    )


def life_sign(node: Mapping[str, Any], lease: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """What changes while the agent of *node* lives, whatever its clock says."""
    ready = conditions(part(node, "status")).get("Ready", {})
    # The control plane itself writes the condition of a node that has fallen silent.
    beat = ready.get("lastHeartbeatTime") if ready.get("status") != "Unknown" else None
    return beat, part(lease or {}, "spec").get("renewTime")
