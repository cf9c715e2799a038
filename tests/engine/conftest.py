"""One lab host with the real netd and a real dockerd, for all tests of this folder."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import eventually

HERE = Path(__file__).parent
NAME = "engine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a real Docker Engine."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.engine)


def barenode(*argv: str, check: bool = True) -> str:
    """Run the operator's command; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *argv], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"barenode {' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


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
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host, with a busybox image loaded."""
    image = tmp_path_factory.mktemp("image") / "busybox.tar"
    barenode("lab", "down", "--name", NAME, check=False)
    try:
        barenode("lab", "up", "--name", NAME, "--nodes", "1", "--control-plane", "none")
        barenode("image", "build", "busybox", "-o", str(image))
        barenode("lab", "load", "--name", NAME, str(image))
        made = Host()
        eventually(lambda: made.netd()["ready"], "netd ready", deadline=30)
        yield made
    finally:
        barenode("lab", "down", "--name", NAME)
