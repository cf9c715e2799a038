"""Two fake API servers of one cluster, and a client of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube, Store


@pytest.fixture
def store() -> Store:
    """What the cluster holds."""
    return Store()


@pytest.fixture
async def servers(store: Store) -> AsyncIterator[list[FakeKube]]:
    """Two API servers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeKube(store)) for _ in range(2)]


def _client(servers: list[FakeKube], deadline: float) -> KubeClient:
    config = KubeConfig(tuple(server.url for server in servers))
    return KubeClient(config, user_agent="test", deadline=deadline, probe_every=0.05, settle=3600)


@pytest.fixture
async def client(servers: list[FakeKube]) -> AsyncIterator[KubeClient]:
    """A client of both, which does not go back to the first."""
    made = _client(servers, deadline=20)
    yield made
    await made.close()


@pytest.fixture
async def impatient(servers: list[FakeKube]) -> AsyncIterator[KubeClient]:
    """The same with a deadline short enough for tests of silence."""
    made = _client(servers, deadline=0.5)
    yield made
    await made.close()
