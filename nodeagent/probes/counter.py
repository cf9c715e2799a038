"""From single results to a verdict: thresholds count results in a row (``core/v1`` Probe)."""

from typing import Literal

from nodeagent.pods.container import Probe

Kind = Literal["liveness", "readiness", "startup"]


class Counter:
    """The verdict of one probe on one instance of a container.

    ``verdict`` is None until there is one. A liveness probe starts as good and a readiness probe
    as bad, so that only results in a row change it; *initial* takes the place of that start.
    Thresholds below 1 count as 1; liveness and startup need one success, whatever is written.
    """

    __slots__ = ("_failures", "_run", "_run_of", "_successes", "verdict")

    def __init__(self, probe: Probe, kind: Kind, initial: bool | None = None) -> None:
        self._failures = max(probe.failure_threshold, 1)
        self._successes = max(probe.success_threshold, 1) if kind == "readiness" else 1
        self._run = 0
        self._run_of: bool | None = None
        first = {"liveness": True, "readiness": False, "startup": None}[kind]
        self.verdict: bool | None = first if initial is None else initial

    def feed(self, success: bool) -> bool:
        """Count one result; whether the verdict is another now."""
        self._run = self._run + 1 if success is self._run_of else 1
        self._run_of = success
        if self._run < (self._successes if success else self._failures):
            return False
        changed = self.verdict is not success
        self.verdict = success
        return changed
