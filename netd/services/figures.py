"""The figures of the services half, under the names that kube-proxy gave them.

Dashboards and alerts that people have for kube-proxy go on working.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

from hostkit.metrics import Metrics

_SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0,
)  # fmt: skip

MOST_TRIGGERS = 10_000
"""Most times of changes that are remembered between two syncs."""


class ProxyFigures:
    """Counts what arrives and what is written; *readings* are kept elsewhere, by metric name."""

    def __init__(self, metrics: Metrics, readings: Mapping[str, Callable[[], float]]) -> None:
        own = metrics.under("kubeproxy")
        self._sync = own.histogram(
            "sync_proxy_rules_duration_seconds", "Time of one sync", _SYNC_BUCKETS
        )
        self._programming = own.histogram(
            "network_programming_duration_seconds",
            "Time from a change of a service or its pods to the rules in the kernel",
            _PROGRAMMING_BUCKETS,
        )
        self._last = own.gauge(
            "sync_proxy_rules_last_timestamp_seconds", "When the last sync succeeded"
        )
        self._queued = own.gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for"
        )
        self._rules = own.gauge(
            "sync_proxy_rules_iptables_total", "Rules of ours in the table", "table"
        )
        self._changes = {
            kind: own.counter(
                f"sync_proxy_rules_{kind}_changes", f"Changes of {kind}s that arrived"
            )
            for kind in ("service", "endpoint")
        }
        self.pending = {"service": 0, "endpoint": 0}
        for kind in self.pending:
            waiting = own.gauge(
                f"sync_proxy_rules_{kind}_changes_pending",
                f"Changes of {kind}s that no sync has written yet",
            )
            waiting.set_function(partial(self._waiting, kind))
        for name, text in (
            ("iptables_restore_failures", "Failed writes of iptables rules"),
            ("iptables_partial_restore_failures", "Failed writes of the changed rules alone"),
        ):
            own.reading(f"sync_proxy_rules_{name}", text, readings[name])
        self._triggers: list[float] = []
        self._taken: tuple[dict[str, int], list[float]] = ({}, [])

    def _waiting(self, kind: str) -> float:
        return float(self.pending[kind])

    def arrived(self, kind: str, triggered: float | None = None) -> None:
        """A change of a *kind* arrived; *triggered* is when its cause happened, Unix seconds."""
        self._changes[kind].inc()
        self.pending[kind] += 1
        self._queued.set_to_current_time()
        if triggered is not None and len(self._triggers) < MOST_TRIGGERS:
            self._triggers.append(triggered)

    def begun(self) -> None:
        """A sync begins: what arrived until now will be in it."""
        self._taken = (dict(self.pending), list(self._triggers))

    def written(self, seconds: float, rules: Mapping[str, int]) -> None:
        """The sync succeeded after *seconds* and left *rules* by table."""
        now = time.time()
        counted, triggers = self._taken
        for kind, number in counted.items():
            self.pending[kind] -= number
        del self._triggers[: len(triggers)]
        for one in triggers:
            self._programming.observe(max(0.0, now - one))
        self._sync.observe(seconds)
        self._last.set(now)
        for table, count in rules.items():
            self._rules.labels(table).set(count)
