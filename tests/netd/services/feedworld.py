"""A feed that follows servers in memory, and objects for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from netd.services.book import Book
from netd.services.feed import ServiceFeed
from netd.services.figures import ProxyFigures
from netd.services.names import address_key
from tests.fakes.kubeobjects import (
    AgedKube,
)
from tests.netd.services.objects import (
    endpoint,
    endpoint_slice,
)

Json = dict[str, Any]


class Follower:
    """A feed, and what it told."""

    def __init__(self, *servers: AgedKube, look_again: float = 3600) -> None:
        self.client = KubeClient(
            KubeConfig(tuple(one.url for one in servers)),
            user_agent="test",
            deadline=5.0,
            settle=3600,
        )
        self.book = Book("node1")
        self.problems = Problems()
        self.metrics = Metrics("netd")
        self.figures = ProxyFigures(
            self.metrics,
            {
                "iptables_restore_failures": lambda: 0.0,
                "iptables_partial_restore_failures": lambda: 0.0,
            },
        )
        self.changes = 0
        self.lists: list[str] = []
        self.feed = ServiceFeed(
            self.client,
            self.book,
            self.problems,
            self.figures,
            changed=self._changed,
            listed=self.lists.append,
            look_again=look_again,
        )

    def _changed(self) -> None:
        self.changes += 1

    def answering(self, address: str = "10.0.0.7") -> tuple[str, ...] | None:
        """Who answers at *address*; None when it is no service's."""
        found = self.book.at_address(address_key(address))
        return found[0].pool.every if found else None

    def troubles(self) -> dict[str, str]:
        return {one.key: one.text for one in self.feed.troubles()}

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"kubeproxy_{name}")

    def problem(self) -> str:
        return next((one.text for one in self.problems.all() if one.key == "api"), "")


@asynccontextmanager
async def following(*servers: AgedKube, look_again: float = 3600) -> AsyncIterator[Follower]:
    """A feed that runs."""
    made = Follower(*servers, look_again=look_again)
    task = asyncio.create_task(made.feed.run())
    try:
        yield made
        assert not task.done(), "the feed never ends"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.client.close()


def named(document: Json, name: str, **meta: Any) -> Json:
    """*document* under another name in the namespace default."""
    document["metadata"] |= {"name": name, "namespace": "default", **meta}
    return document


def slice_of(name: str, *addresses: str, **meta: Any) -> Json:
    """The slice NAME-abcde of the service *name*."""
    made = endpoint_slice(*(endpoint(one) for one in addresses))
    labels = {"kubernetes.io/service-name": name}
    return named(made, f"{name}-abcde", labels=labels, **meta)


def subset(*addresses: str) -> Json:
    return {
        "addresses": [{"ip": one} for one in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
