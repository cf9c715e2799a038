"""The figures under kube-proxy's names: what is pending, and how long changes take."""

import time
from functools import partial

import pytest

from hostkit.metrics import Metrics
from netd.services.figures import MOST_TRIGGERS, ProxyFigures

NETWORK = "kubeproxy_network_programming_duration_seconds"
SYNC = "kubeproxy_sync_proxy_rules"


class Figures:
    """The figures and what a scrape shows of them."""

    def __init__(self) -> None:
        self.metrics = Metrics("netd")
        self.failures = {"iptables_restore_failures": 0.0, "iptables_partial_restore_failures": 0.0}
        self.figures = ProxyFigures(
            self.metrics, {name: partial(self.failures.__getitem__, name) for name in self.failures}
        )

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(name, labels)
        assert found is not None, name
        return found


@pytest.fixture
def made() -> Figures:
    return Figures()


def test_a_change_is_pending_until_a_sync_that_began_after_it_is_written(made: Figures) -> None:
    made.figures.arrived("service")
    made.figures.begun()
    made.figures.arrived("service")
    made.figures.arrived("endpoint")
    assert made.figures.pending == {"service": 2, "endpoint": 1}
    made.figures.written(0.1, {})
    assert made.value(f"{SYNC}_service_changes_pending") == 1
    assert made.value(f"{SYNC}_endpoint_changes_pending") == 1
    made.figures.begun()
    made.figures.written(0.1, {})
    assert made.figures.pending == {"service": 0, "endpoint": 0}
    assert made.value(f"{SYNC}_service_changes_total") == 2
    assert made.value(f"{SYNC}_endpoint_changes_total") == 1


def test_what_a_failed_sync_was_to_write_stays_pending_and_counts_once(made: Figures) -> None:
    made.figures.arrived("endpoint", time.time())
    made.figures.begun()
    made.figures.begun()
    made.figures.written(0.1, {})
    assert made.figures.pending["endpoint"] == 0
    assert made.value(f"{NETWORK}_count") == 1


def test_programming_time_counts_from_what_caused_the_change(made: Figures) -> None:
    made.figures.arrived("endpoint", time.time() - 100)
    made.figures.arrived("endpoint", None)
    made.figures.arrived("endpoint", time.time() + 1000)
    made.figures.begun()
    made.figures.arrived("endpoint", time.time() - 100)
    made.figures.written(0.1, {})
    assert made.value(f"{NETWORK}_count") == 2, "one told no time, one came after the sync began"
    assert made.value(f"{NETWORK}_bucket", le="60.0") == 1, "a clock that is ahead counts as 0"
    assert made.value(f"{NETWORK}_bucket", le="120.0") == 2


def test_the_memory_of_causes_is_bounded(made: Figures) -> None:
    for _ in range(MOST_TRIGGERS + 5):
        made.figures.arrived("endpoint", 0.0)
    made.figures.begun()
    made.figures.written(0.1, {})
    assert made.value(f"{NETWORK}_count") == MOST_TRIGGERS


def test_a_sync_is_timed_dated_and_its_rules_are_counted_by_table(made: Figures) -> None:
    before = time.time()
    made.figures.begun()
    made.figures.written(0.25, {"nat": 120, "filter": 7})
    assert made.value(f"{SYNC}_duration_seconds_sum") == 0.25
    assert made.value(f"{SYNC}_last_timestamp_seconds") >= before
    assert made.value(f"{SYNC}_iptables_total", table="nat") == 120
    assert made.value(f"{SYNC}_iptables_total", table="filter") == 7


def test_failures_are_read_from_those_who_count_them(made: Figures) -> None:
    made.failures["iptables_restore_failures"] = 2
    made.failures["iptables_partial_restore_failures"] = 3
    assert made.value(f"{SYNC}_iptables_restore_failures_total") == 2
    assert made.value(f"{SYNC}_iptables_partial_restore_failures_total") == 3


def test_a_sync_is_queued_when_a_change_arrives(made: Figures) -> None:
    before = time.time()
    assert made.value(f"{SYNC}_last_queued_timestamp_seconds") == 0
    made.figures.arrived("service")
    assert made.value(f"{SYNC}_last_queued_timestamp_seconds") >= before
