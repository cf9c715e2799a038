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
