"""One lab host with the real netd, dockerd and nodeagent, for all tests of this folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.pods import PodWorld, barenode, lab
from tests.support.netns import eventually

HERE = Path(__file__).parent
NAME = f"e{os.getpid() % 100000}"
"""A lab that no other run of these tests on this machine has."""
SETTINGS = """\
container-backoff-first = "1s"
"""
"""Crashes and failed pulls are waited out; ten seconds for each would make the tests slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a real Docker Engine."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.engine)


class Host:
    """node1 of the lab."""

    def run(self, *command: str, check: bool = True) -> str:
        """Run *command* on the host."""
        return barenode("lab", "exec", "--name", NAME, "node1", "--", *command, check=check)

    def netd(self) -> dict[str, object]:
        """netd's status document."""
        document: dict[str, object] = json.loads(
            self.run(
                "/usr/bin/curl", "-s", "--unix-socket", "/run/netd/netd.sock", "http://x/status"
            )
        )
        return document

    def container(self, name: str) -> str:
        """Start a container that sleeps; its address."""
        self.run("/usr/bin/docker", "run", "-d", "--name", name, "barenode/busybox:lab",
                 "sleep", "100000")  # fmt: skip
        return self.inspect(name, "{{.NetworkSettings.IPAddress}}")

    def inspect(self, name: str, form: str) -> str:
        """What ``docker inspect`` says."""
        return self.run("/usr/bin/docker", "inspect", "-f", form, name).strip()


@pytest.fixture(scope="session")
def world() -> Iterator[PodWorld]:
    """The lab, with its control plane and a busybox image on the host."""
    with lab(NAME, settings=SETTINGS) as made:
        yield made


@pytest.fixture(scope="session")
def host(world: PodWorld) -> Host:
    """The host."""
    made = Host()
    eventually(lambda: made.netd()["ready"], "netd ready", deadline=60)
    return made


@pytest.fixture
def pods(world: PodWorld) -> Iterator[PodWorld]:
    """Makes pods on the host; what a test leaves is removed after it."""
    try:
        yield world
    finally:
        world.clean()
