"""Which service of a node to start, restart or stop next: a state machine without effects.

``next`` says what to do, the caller does it and reports back with ``started``, ``ready`` and
``exited``. Invariants: a service starts only after everything it comes after has been ready
once since boot, and all that it wants has been ready or has failed (a later restart of those
does not take it down: containers keep running when netd restarts); on stop, services end in the
reverse order of the list, one at a time.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.model import Service, ServiceState

FIRST_DELAY = 0.25
MOST_DELAY = 10.0
# A service that ran this long had started well: its next failure is a first failure again.
GOOD_RUN = 30.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start this service."""

    service: Service


@dataclass(frozen=True, slots=True)
class Kill:
    """Send this signal to this process."""

    pid: int
    signal: signal.Signals


Action = Start | Kill


@dataclass(slots=True)
class _Record:
    service: Service
    state: str = "waiting"
    pid: int = 0
    restarts: int = 0
    failures: int = 0
    last_exit: str = ""
    was_ready: bool = False
    since: float = 0.0
    not_before: float = 0.0
    kill_at: float | None = None


class Supervisor:
    """Keeps *services* (in start order) running; *clock* is monotonic, in seconds."""

    def __init__(self, services: Sequence[Service], clock: Callable[[], float]) -> None:
        self._records = {s.name: _Record(s) for s in services}
        self._clock = clock
        self._stopping = False

    @property
    def done(self) -> bool:
        """Whether everything has ended after stop."""
        return self._stopping and not any(r.pid for r in self._records.values())

    def states(self) -> tuple[ServiceState, ...]:
        """What to publish."""
        return tuple(
            ServiceState(
                name=r.service.name,
                state=r.state,
                pid=r.pid,
                restarts=r.restarts,
                last_exit=r.last_exit,
            )
            for r in self._records.values()
        )

    def next(self) -> list[Action]:
        """The actions that are due now. Each is returned once."""
        return self._stop_actions() if self._stopping else self._start_actions()

    def _start_actions(self) -> list[Action]:
        now = self._clock()
        due: list[Action] = []
        for record in self._records.values():
            blocked = self._blocked(record.service)
            if record.state in {"waiting", "failed"} and not blocked and now >= record.not_before:
                record.state = "launching"
                due.append(Start(record.service))
        return due

    def _blocked(self, service: Service) -> bool:
        after = (self._records[name] for name in service.after)
        wanted = (self._records[name] for name in service.wants)
        return not (
            all(one.was_ready for one in after)
            and all(one.was_ready or one.failures for one in wanted)
        )

    def _stop_actions(self) -> list[Action]:
        for record in reversed(self._records.values()):
            if not record.pid:
                record.state = "stopped"
                continue
            if record.kill_at is None:
                record.kill_at = self._clock() + record.service.stop_seconds
                record.state = "stopping"
                return [Kill(record.pid, signal.SIGTERM)]
            if self._clock() >= record.kill_at:
                record.kill_at = float("inf")
                return [Kill(record.pid, signal.SIGKILL)]
            return []
        return []

    def wait(self) -> float | None:
        """Seconds until ``next`` may have something to do by itself; None: only after an event."""
        now = self._clock()
        if self._stopping:
            times = [r.kill_at for r in self._records.values() if r.pid and r.kill_at is not None]
        else:
            times = [r.not_before for r in self._records.values() if r.state == "failed"]
        finite = [t for t in times if t != float("inf")]
        return max(0.0, min(finite) - now) if finite else None

    def started(self, name: str, pid: int) -> None:
        """*name* runs as *pid*."""
        record = self._records[name]
        record.pid = pid
        record.since = self._clock()
        record.state = "starting"
        if not record.service.notify:
            self.ready(name)

    def start_failed(self, name: str, reason: str) -> None:
        """*name* could not be started."""
        self._failed(self._records[name], reason)

    def ready(self, name: str) -> None:
        """*name* has said that it is ready."""
        record = self._records[name]
        if record.state == "starting":
            record.state = "ready"
            record.was_ready = True

    def exited(self, pid: int, reason: str) -> str | None:
        """Process *pid* has ended; returns the service it was, or None for an adopted process."""
        for record in self._records.values():
            if record.pid == pid:
                record.pid = 0
                record.last_exit = reason
                if self._stopping:
                    record.state = "stopped"
                else:
                    if self._clock() - record.since >= GOOD_RUN:
                        record.failures = 0
                    self._failed(record, reason)
                return record.service.name
        return None

    def _failed(self, record: _Record, reason: str) -> None:
        record.state = "failed"
        record.last_exit = reason
        record.restarts += 1
        record.failures += 1
        delay = min(MOST_DELAY, FIRST_DELAY * 2.0 ** min(record.failures - 1, 30))
        record.not_before = self._clock() + delay

    def stop(self) -> None:
        """Begin to stop everything."""
        self._stopping = True
