"""A three-member fake cluster and a client of it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.gateway import EtcdClient
from tests.fakes.etcd import FakeEtcd, Store


@pytest.fixture
def store() -> Store:
    """What the cluster has agreed on."""
    return Store()


@pytest.fixture
async def members(store: Store) -> AsyncIterator[list[FakeEtcd]]:
    """Three members of one cluster."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeEtcd(store)) for _ in range(3)]


@pytest.fixture
def config(members: list[FakeEtcd]) -> EtcdConfig:
    """All members, with deadlines short enough for tests of silence."""
    urls = tuple(member.url for member in members)
    return EtcdConfig(urls, call_timeout=2.0, total_timeout=5.0)


@pytest.fixture
async def client(config: EtcdConfig) -> AsyncIterator[EtcdClient]:
    """A client of the three members."""
    made = EtcdClient(config)
    yield made
    await made.close()
