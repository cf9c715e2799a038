"""Metrics in Prometheus' text format, on a registry of our own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import generate_latest


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

    def render(self) -> bytes:
        """The exposition of every figure."""
        return generate_latest(self.registry)
