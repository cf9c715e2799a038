"""Metrics in Prometheus' text format, on a registry of our own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
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

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A figure that only grows."""
        return Counter(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A figure that goes up and down."""
        return Gauge(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def reading(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that only grows and is kept elsewhere: *read* gives it when it is asked for."""
        self.registry.register(_Reading(f"{self.prefix}_{name}", text, read))

    def render(self) -> bytes:
        """The exposition of every figure."""
        return generate_latest(self.registry)
