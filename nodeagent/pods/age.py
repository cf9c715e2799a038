"""How long a pod has been active, by clocks that nobody sets.

The status has the time at which a pod began by the wall clock, which may have been set since: it
counts only where the first sandbox, whose process the kernel knows the age of, is gone. Pure.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from nodeagent.pods.observed import Seen


def stamp(unix: float) -> str:
    """Seconds of the wall clock in the API's form (RFC 3339, UTC, whole seconds)."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_stamp(text: str) -> float | None:
    """Unix seconds of an RFC 3339 text; None when it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


class Age:
    """*reported* is the status' startTime, "" for a pod that begins now.

    *clock* is monotonic, *wall* Unix seconds; *process_age* tells for how many seconds a process
    has been there, None when that is not known.
    """

    def __init__(
        self,
        reported: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        process_age: Callable[[int], float | None],
    ) -> None:
        now = wall()
        self._clock = clock
        self._process_age = process_age
        self.start_time = reported or stamp(now)
        self.began = clock() - max(0.0, now - (read_stamp(reported) or now))
        self._told = not reported
        self._sandbox_unseen = False

    @property
    def sure(self) -> bool:
        """False while there is a sandbox that was not looked at closely."""
        return not self._sandbox_unseen

    def notice(self, sandbox: Seen | None) -> None:
        """Learn from the sandbox; ``began``, a time of *clock*, is right after that."""
        self._sandbox_unseen = False
        if self._told or sandbox is None or not sandbox.running or sandbox.attempt:
            return
        if not sandbox.pid:
            self._sandbox_unseen = True
        elif (age := self._process_age(sandbox.pid)) is not None:
            self.began = self._clock() - age
            self._told = True
