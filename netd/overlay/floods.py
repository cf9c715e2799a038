"""Log lines about what somebody may do a thousand times a second.

Model: the first event of a kind is told at once; those that follow within a period are counted
and told as one line when the period is over.

Invariant: per kind at most one line a period, and every event is in exactly one line.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

PERIOD = 10.0
"""Seconds between two lines of one kind."""


class Say(Protocol):
    """Writes the line about *count* events of *kind*; *seconds* is 0 when they are new."""

    def __call__(self, kind: str, count: int, seconds: float, /) -> None: ...


def lines(log: logging.Logger, level: int, new: str, held: str) -> Say:
    """Writes to *log* by the template *new* or, for what was held back, *held*.

    Both may name ``{kind}`` and ``{n}``, the latter ``{span}`` too.
    """

    def say(kind: str, count: int, seconds: float, /) -> None:
        template, span = (held, f"in the last {seconds:.0f} s") if seconds else (new, "")
        log.log(level, "%s", template.format(kind=kind, n=count, span=span))

    return say


class Floods:
    """Limits what *say* gets to hear to once a *period* (seconds) per kind.

    *clock* is monotonic, in seconds. ``note`` needs a running event loop.
    """

    def __init__(self, say: Say, clock: Callable[[], float], period: float = PERIOD) -> None:
        self._say = say
        self._clock = clock
        self._period = period
        self._told: dict[str, float] = {}
        self._held: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, kind: str, count: int = 1) -> None:
        """Tell or count *count* events of *kind*."""
        if kind not in self._held and self._wait(kind) <= 0:
            self._tell(kind, count, 0.0)
            return
        self._held[kind] += count
        self.flush()

    def flush(self) -> None:
        """Tell what is due."""
        for kind in [kind for kind in sorted(self._held) if self._wait(kind) <= 0]:
            self._tell_held(kind)
        if self._held and self._timer is None:
            delay = min(self._wait(kind) for kind in self._held)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def stop(self) -> None:
        """Tell what was held back; forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in sorted(self._held):
            self._tell_held(kind)

    def _wait(self, kind: str) -> float:
        """Seconds until *kind* may be told of."""
        last = self._told.get(kind)
        return 0.0 if last is None else last + self._period - self._clock()

    def _tell_held(self, kind: str) -> None:
        self._tell(kind, self._held.pop(kind), self._clock() - self._told[kind])

    def _tell(self, kind: str, count: int, seconds: float) -> None:
        self._told[kind] = self._clock()
        self._say(kind, count, seconds)

    def _due(self) -> None:
        self._timer = None
        self.flush()
