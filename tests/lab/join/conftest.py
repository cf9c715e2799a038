"""The cluster that tests of join, renewal and reset talk to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.lab.join.cluster import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster that answers."""
    folder = tmp_path / "master"
    folder.mkdir()
    made = Cluster(folder)
    await made.start()
    yield made
    await made.stop()
