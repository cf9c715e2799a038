"""Driving the lab as its operator does, and a look at the host before and after.

A missing tool or missing root fails these tests; nothing here skips.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.probe import process_ref
from tests.support.kubelab import KubeLab
from tests.support.kubernetes import built
from tests.support.realnode import RealNode, real_node


@dataclass(frozen=True)
class HostState:
    """What a lab must leave as it was. Other users' network namespaces are not ours to compare."""

    netns: frozenset[str]
    mounts: tuple[str, ...]
    cgroups: frozenset[str]
    files: frozenset[str]
    network: dict[str, str] = field(hash=False)


def read(*argv: str) -> str:
    """The output of a command that must succeed."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def mounts(prefix: str) -> tuple[str, ...]:
    """Mount point, source and type of every mount except foreign ones in /run/netns."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        if not point.startswith("/run/netns") or f"/bn-{prefix}" in point:
            found.append(f"{point} {right}")
    return tuple(sorted(found))


def host_state(prefix: str) -> HostState:
    """The host now, as far as labs whose names start with *prefix* could have changed it."""
    netns = Path("/run/netns")
    names = [p.name for p in netns.iterdir()] if netns.is_dir() else []
    cgroups = Path("/sys/fs/cgroup").glob(f"**/barenode-lab/{prefix}*")
    roots = ("/run/barenode/labs", "/run/barenode/locks", "/var/lib/barenode/labs")
    files = [str(p) for root in roots for p in Path(root).glob(f"{prefix}*")]
    files += [p for p in ("/var/lib/docker", "/var/lib/kubelet", "/etc/netd") if Path(p).exists()]
    # Counters and packet totals change by themselves; rules, links, addresses, routes do not.
    rules = re.sub(r"(?m)^#.*$|\[\d+:\d+\]", "", read("iptables-save"))
    return HostState(
        netns=frozenset(n for n in names if n.startswith(f"bn-{prefix}")),
        mounts=mounts(prefix),
        cgroups=frozenset(map(str, cgroups)),
        files=frozenset(files),
        network={
            "rules": rules,
            "links": read("ip", "-brief", "link"),
            "addresses": read("ip", "-brief", "-4", "address"),
            "routes": read("ip", "-4", "route", "show", "table", "all"),
            "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        },
    )


def namespaces_of(kind: str, pid: int | str) -> str | None:
    """The identity of a process's namespace, None when the process is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return None


def processes_in(namespaces: set[str]) -> dict[int, str]:
    """Every process that has a network or pid namespace of *namespaces*."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            held = {namespaces_of(kind, directory.name) for kind in ("net", "pid")}
            # A zombie has ended; when it is reaped is up to the host's pid 1.
            if held & namespaces and process_ref(int(directory.name)) is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    found[int(directory.name)] = (directory / "comm").read_text().strip()
    return found


class Operator:
    """Calls ``barenode`` as a person would, for labs whose names start with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._seen: dict[str, int] = {}

    def name(self, suffix: str = "") -> str:
        """A lab name that nobody else on this machine uses."""
        return f"{self.prefix}{suffix}"

    def __call__(self, *words: str, status: int = 0, stdin: str = "") -> str:
        """Run one command, which must end with *status*; returns its output."""
        done = subprocess.run(
            [sys.executable, "-m", "lab", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if done.stdout else done.stderr

    def status(self, name: str) -> dict[str, Any]:
        """``status --json``; remembers the namespaces of every node it sees."""
        found: dict[str, Any] = json.loads(self("lab", "status", "--name", name, "--json"))
        for node in (found["fabric"], *found["nodes"]):
            for kind in ("net", "pid") if node["pid"] else ():
                identity = namespaces_of(kind, node["pid"])
                if identity and identity not in self._seen:
                    # While a descriptor is open the kernel does not use the number again.
                    self._seen[identity] = os.open(f"/proc/{node['pid']}/ns/{kind}", os.O_RDONLY)
        return found

    def in_node(self, name: str, node: str, *command: str) -> str:
        """Run a command in a node; returns its output."""
        return self("lab", "exec", "--name", name, node, "--", *command)

    def survivors(self) -> dict[int, str]:
        """Processes that still live in a namespace of a node once seen."""
        return processes_in(set(self._seen))

    def forget(self) -> None:
        """Let go of the namespaces seen."""
        for descriptor in self._seen.values():
            os.close(descriptor)
        self._seen.clear()


@pytest.fixture
def operator() -> Iterator[Operator]:
    """An operator whose labs are gone, with every trace, when the test ends."""
    assert os.geteuid() == 0, "these tests make namespaces: run them as root"
    operator = Operator(f"t{os.getpid() % 100000}")
    before = host_state(operator.prefix)
    yield operator
    for suffix in ("", "-a", "-b"):
        operator("lab", "down", "--name", operator.name(suffix))
    assert host_state(operator.prefix) == before, "the lab changed the host"
    assert operator.survivors() == {}, "processes of the lab live on"
    operator.forget()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[RealNode]:  # fmt: skip
    """A host whose nodeagent talks to two real kube-apiservers."""
    with real_node(tmp_path_factory.mktemp("node"), built(pytestconfig)) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test needs the shared lab first waits for it to come up, too."""
    for item in items:
        if "kube" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def kube() -> Iterator[KubeLab]:
    """A lab with a master and two workers, which have the images; shared by all tests."""
    lab = KubeLab(f"k{os.getpid()}", masters=1, workers=2)
    try:
        lab.up()
        lab.load("guestbook", "nginx", "redis")
        yield lab
    finally:
        lab.down()
