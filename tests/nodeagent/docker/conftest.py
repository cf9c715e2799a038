"""A daemon that speaks as Docker does, and an engine on it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hostkit.metrics import Metrics
from nodeagent.docker.engine import DockerEngine
from tests.fakes.dockerd import Dockerd


@pytest.fixture
def dockerd(tmp_path: Path) -> Iterator[Dockerd]:
    """A daemon that listens."""
    made = Dockerd(tmp_path / "docker.sock")
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def engine(dockerd: Dockerd) -> AsyncIterator[DockerEngine]:
    """An engine of that daemon."""
    made = DockerEngine(dockerd.url, metrics=Metrics("kubelet"))
    yield made
    await made.close()
