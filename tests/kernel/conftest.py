"""What the kernel tests share: a mark, a check for root, and a fabric of namespaces per test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import netns
from tests.support.netd import Net, net

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a kernel test."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(autouse=True, scope="session")
def root() -> None:
    """Without root nothing here means anything, and a skip would hide it."""
    if os.geteuid() != 0:
        pytest.fail("kernel tests need root", pytrace=False)


@pytest.fixture
def fabric(root: None) -> Iterator[netns.Fabric]:
    """A bridge in a namespace of its own; removed with its hosts after the test."""
    with netns.fabric() as made:
        yield made


@pytest.fixture
def network(fabric: netns.Fabric, tmp_path: Path) -> Iterator[Net]:
    """The fabric with a running, configured 3-member etcd."""
    with net(fabric, tmp_path) as made:
        yield made
