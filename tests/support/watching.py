"""Clients and watches of a real etcd cluster, and waiting for what they show."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdError, EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient, absent, get, put
from hostkit.etcd.watch import Changes, Snapshot, watch_prefix
from tests.support.etcd import EtcdCluster
from tests.support.poll import eventually

PREFIX = "/coreos.com/network/subnets/"
WAIT = 60.0


@asynccontextmanager
async def client_of(cluster: EtcdCluster, **values: Any) -> AsyncIterator[EtcdClient]:
    """A client of all members."""
    config = EtcdConfig(cluster.endpoints, **{"total_timeout": 30.0, **values})
    client = EtcdClient(config)
    try:
        yield client
    finally:
        await client.close()


class Follower:
    """The state of the prefix as the watch tells it."""

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self.revisions: list[int] = []
        self.snapshots = 0
        self.connected_to = ""
        self.outages = 0

    def connected(self, endpoint: str) -> None:
        self.connected_to = endpoint

    def disconnected(self, error: EtcdError) -> None:
        assert str(error)
        self.connected_to = ""
        self.outages += 1

    def take(self, item: Snapshot | Changes) -> None:
        if isinstance(item, Snapshot):
            self.snapshots += 1
            self.seen = {kv.key: kv.value for kv in item.kvs}
            return
        for event in item.events:
            self.revisions.append(event.kv.mod_revision)
            if event.type == "put":
                self.seen[event.kv.key] = event.kv.value
            else:
                del self.seen[event.kv.key]


@asynccontextmanager
async def following(client: EtcdClient) -> AsyncIterator[Follower]:
    """A watch of PREFIX that has connected."""
    follower = Follower()

    async def run() -> None:
        watch = watch_prefix(
            client, PREFIX, probe_interval=0.5, probe_timeout=1.0, listener=follower
        )
        async with aclosing(watch) as items:
            async for item in items:
                follower.take(item)

    task = asyncio.create_task(run())
    try:
        await until(lambda: bool(follower.connected_to))
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for *holds*, as long as a busy machine may take."""
    await eventually(holds, timeout=WAIT)


async def create(client: EtcdClient, key: str, value: bytes) -> None:
    """Create *key* as a lease holder does: a doubtful write is decided by reading again."""
    while True:
        try:
            await client.txn([absent(key)], [put(key, value)], [get(key)])
        except EtcdUnavailable as error:
            assert error.maybe_applied
        kv = await client.get(key)
        if kv is not None:
            assert kv.value == value
            return


def member_of(cluster: EtcdCluster, endpoint: str) -> int:
    """The number of the member behind *endpoint*."""
    return cluster.endpoints.index(endpoint)
