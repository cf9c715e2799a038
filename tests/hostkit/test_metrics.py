"""Metrics: one registry a program, names with its prefix, figures that are kept elsewhere."""

from prometheus_client.parser import text_string_to_metric_families

from hostkit.metrics import Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """Name and labels of every figure with its value, as Prometheus reads them."""
    return {
        sample.name + "".join(f"{{{name}={text}}}" for name, text in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def types(metrics: Metrics) -> dict[str, str]:
    """The type of each family."""
    return {
        family.name: family.type
        for family in text_string_to_metric_families(metrics.render().decode())
    }


def test_counters_and_gauges_start_with_the_prefix() -> None:
    metrics = Metrics("netd")
    metrics.counter("repairs", "Repairs", "kind").labels("route").inc(2)
    metrics.gauge("peers", "Other hosts").set(3)
    seen = samples(metrics)
    assert seen["netd_repairs_total{kind=route}"] == 2
    assert seen["netd_peers"] == 3
    assert seen["process_resident_memory_bytes"] > 0


def test_a_reading_is_taken_anew_each_time_and_is_a_counter() -> None:
    metrics = Metrics("netd")
    figure = [7.0]
    metrics.reading("watch_reconnects", "Reconnects", lambda: figure[0])
    assert samples(metrics)["netd_watch_reconnects_total"] == 7
    figure[0] = 9
    assert samples(metrics)["netd_watch_reconnects_total"] == 9
    assert types(metrics)["netd_watch_reconnects"] == "counter"


def test_a_reading_is_not_taken_before_somebody_asks() -> None:
    """When it is registered, what it reads may not be there yet."""
    metrics = Metrics("netd")
    parts: list[float] = []
    metrics.reading("requests", "Requests", lambda: parts[0])
    parts.append(4)
    assert samples(metrics)["netd_requests_total"] == 4


def test_two_sets_of_metrics_do_not_share_a_figure() -> None:
    first, second = Metrics("netd"), Metrics("netd")
    first.gauge("peers", "Other hosts").set(3)
    first.reading("requests", "Requests", lambda: 1.0)
    assert not {"netd_peers", "netd_requests_total"} & samples(second).keys()


def test_figures_of_another_name_are_shown_with_the_others() -> None:
    """Dashboards exist for kube-proxy's names."""
    metrics = Metrics("netd")
    metrics.gauge("problems", "Problems that stand").set(1)
    other = metrics.under("kubeproxy")
    other.counter("sync_failures", "Failures").inc(2)
    other.gauge("rules_total", "Rules", "table").labels("nat").set(5)
    seen = samples(metrics)
    assert seen["netd_problems"] == 1
    assert seen["kubeproxy_sync_failures_total"] == 2
    assert seen["kubeproxy_rules_total{table=nat}"] == 5
    assert seen == samples(other) | {
        name: seen[name] for name in seen if name.startswith("process_")
    }


def test_a_histogram_counts_what_it_saw_in_the_buckets_it_was_given() -> None:
    metrics = Metrics("netd")
    histogram = metrics.histogram("sync_seconds", "Length of a sync", (0.01, 0.1))
    for seconds in (0.005, 0.05, 0.06, 7):
        histogram.observe(seconds)
    seen = samples(metrics)
    assert [seen[f"netd_sync_seconds_bucket{{le={le}}}"] for le in ("0.01", "0.1", "+Inf")] == [
        1, 3, 4,
    ]  # fmt: skip
    assert types(metrics)["netd_sync_seconds"] == "histogram"
