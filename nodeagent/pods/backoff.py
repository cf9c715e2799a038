"""How long a container waits before it is started again, on the monotonic clock.

The first restart comes at once, the next after *first* seconds, each further one after twice the
time up to *most*; one that ran for *steady* seconds begins anew (kubernetes#57291).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds: *first*, doubling to *most*; *steady* is how long a good run lasts."""

    first: float = 10.0
    most: float = 300.0
    steady: float = 600.0

    def after(self, failures: int) -> float:
        """The wait after *failures* in a row (1 or more), when none of them is free."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30))


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until: float = 0.0
    wait: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    last: str = ""


class Backoffs:
    """The waits of one pod's containers, by name."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._records: dict[str, _Record] = {}

    @property
    def waits(self) -> dict[str, float]:
        """Until when each container waits; those that do not are left out."""
        return {name: record.until for name, record in self._records.items() if record.until}

    def began(self, name: str, instance: str, now: float) -> None:
        """An instance was seen to run."""
        record = self._records.setdefault(name, _Record())
        if instance not in record.began:
            record.began = {instance: now}

    def ended(self, name: str, instance: str, now: float) -> bool:
        """An instance was seen to have ended; False when that was known."""
        record = self._records.setdefault(name, _Record())
        if record.last == instance:
            return False
        record.last = instance
        if now - record.began.get(instance, now) >= self._delays.steady:
            record.failures = 0
        record.failures += 1
        record.wait = self._delays.after(record.failures - 1) if record.failures > 1 else 0.0
        record.until = now + record.wait
        return True

    def failed(self, name: str, now: float) -> float:
        """A try to start it failed: the seconds to wait, *first* after the first failure."""
        record = self._records.setdefault(name, _Record())
        record.failures += 1
        record.wait = self._delays.after(record.failures)
        record.until = now + record.wait
        return record.wait

    def failures(self, name: str) -> int:
        """Failures in a row."""
        return self._records[name].failures if name in self._records else 0

    def wait(self, name: str) -> float:
        """The whole of the wait that was set last, in seconds."""
        return self._records[name].wait if name in self._records else 0.0

    def succeeded(self, name: str) -> None:
        """What failed works: the next failure is a first one."""
        self._records.pop(name, None)

    def hurry(self, name: str, now: float) -> None:
        """Something changed that may mend it: wait no longer."""
        if name in self._records:
            self._records[name].until = min(self._records[name].until, now)
