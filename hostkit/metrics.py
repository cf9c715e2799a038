"""Metrics in Prometheus' text format, on a registry of our own."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class _Reading(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text)]

    def collect(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text, value=self._read())]


class Metrics:
    """A registry with the process's own figures; *prefix* starts every name made here."""

    def __init__(self, prefix: str, *, registry: CollectorRegistry | None = None) -> None:
        self.prefix = prefix
        self.registry = registry or CollectorRegistry()
        if registry is None:
            ProcessCollector(registry=self.registry)

    def under(self, prefix: str) -> "Metrics":
        """The same registry with names that start with *prefix*, as another program gave them."""
        return Metrics(prefix, registry=self.registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A figure that only grows; ``_total`` is added to its name."""
        return Counter(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A figure that goes up and down."""
        return Gauge(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """How often an observed figure was at most each of *buckets*, which ascend."""
        return Histogram(
            f"{self.prefix}_{name}", text, labels, buckets=buckets, registry=self.registry
        )

    def reading(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that only grows and is kept elsewhere: *read* gives it when it is asked for."""
        self.registry.register(_Reading(f"{self.prefix}_{name}", text, read))

    def render(self) -> bytes:
        """The exposition of every figure."""
        return generate_latest(self.registry)
