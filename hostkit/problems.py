"""What is wrong right now, in one place: the log, the status view, /readyz and a metric read it.

A problem has a key (what it is about) and a sentence (what is wrong, what to do). It is logged
once when it appears or changes and once when it is over, however often it is reported.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; *blocking* ones make the service not ready. *since* is Unix time."""

    key: str
    text: str
    blocking: bool
    since: float


class Problems:
    """The current problems by key."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._current: dict[str, Problem] = {}

    def set(self, key: str, text: str, *, blocking: bool = False) -> None:
        """Report or update the problem *key*."""
        old = self._current.get(key)
        if old is not None and old.text == text and old.blocking == blocking:
            return
        since = old.since if old is not None else self._clock()
        self._current[key] = Problem(key, text, blocking, since)
        log.warning("%s: %s", key, text)

    def clear(self, key: str) -> None:
        """Say that *key* is over, if it was a problem."""
        if self._current.pop(key, None) is not None:
            log.info("%s: resolved", key)

    def update(self, key: str, text: str | None, *, blocking: bool = False) -> None:
        """Set *key* to *text*, or clear it when *text* is None or empty."""
        if text:
            self.set(key, text, blocking=blocking)
        else:
            self.clear(key)

    def replace_group(self, prefix: str, texts: Iterable[tuple[str, str]]) -> None:
        """Make the problems whose keys start with *prefix* exactly *texts* (suffix, sentence)."""
        wanted = {prefix + suffix: text for suffix, text in texts}
        for key in [key for key in self._current if key.startswith(prefix) and key not in wanted]:
            self.clear(key)
        for key, text in wanted.items():
            self.set(key, text)

    def all(self) -> tuple[Problem, ...]:
        """All problems, by key."""
        return tuple(self._current[key] for key in sorted(self._current))

    def blocking(self) -> tuple[Problem, ...]:
        """Those that make the service not ready."""
        return tuple(problem for problem in self.all() if problem.blocking)

    def __contains__(self, key: object) -> bool:
        return key in self._current
