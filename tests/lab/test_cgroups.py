"""Finding, ending and removing what a lab runs, on directories that look like cgroups."""

import os
import signal
from pathlib import Path

import pytest

from lab.cgroups import TOP, Cgroups, Hierarchy, parse_hierarchies
from lab.errors import LabError, PrerequisiteError


class Kernel:
    """Directories as a v1 hierarchy, with processes that die when killed unless frozen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.immortal: set[int] = set()
        self.killed: list[int] = []
        self.now = 0.0

    def put(self, path: str, *pids: int) -> Path:
        """A cgroup holding *pids*."""
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return directory

    def kill(self, pid: int, number: int) -> None:
        """kill(2)."""
        assert number == signal.SIGKILL
        self.killed.append(pid)
        if pid in self.immortal:
            return
        for file in self.root.glob("**/cgroup.procs"):
            freezer = file.parent / "freezer.state"
            frozen = freezer.exists() and freezer.read_text() == "FROZEN"
            left = [p for p in file.read_text().split() if int(p) != pid or frozen]
            file.write_text("\n".join(left))
        if pid == 13:
            raise ProcessLookupError

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def cgroups(self) -> Cgroups:
        """The code under test on this kernel."""
        return Cgroups(
            [Hierarchy(self.root, 1)], clock=lambda: self.now, sleep=self.sleep, kill=self.kill
        )


def entries(directory: Path) -> list[str]:
    """The names in a directory."""
    return [path.name for path in directory.iterdir()]


MOUNTINFO = """22 1 0:21 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
33 31 0:29 / /mnt/again rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/with\\040blank rw,relatime - cgroup2 cgroup2 rw
"""


def test_each_hierarchy_is_found_once() -> None:
    """With its version, also where a path is escaped or a hierarchy is mounted twice."""
    assert parse_hierarchies(MOUNTINFO) == (
        Hierarchy(Path("/sys/fs/cgroup/cpu"), 1),
        Hierarchy(Path("/sys/fs/cgroup/with blank"), 2),
    )


def test_a_host_without_cgroups_is_refused() -> None:
    """A lab could not be found again."""
    with pytest.raises(PrerequisiteError, match="no cgroup hierarchy"):
        Cgroups([]).require()


async def test_every_process_below_the_lab_dies_and_no_other(tmp_path: Path) -> None:
    """Containers are nested deeper; a lab whose name begins alike is left alone."""
    kernel = Kernel(tmp_path)
    kernel.put(f"{TOP}/x/node1", 11, 13)
    kernel.put(f"{TOP}/x/node2/docker/abc", 12, 0)
    other = kernel.put(f"{TOP}/x-2/node1", 99)
    assert await kernel.cgroups().kill("x") == 3
    assert set(kernel.killed) == {11, 12, 13}
    assert (other / "cgroup.procs").read_text().split() == ["99"]
    assert kernel.cgroups().labs() == {"x", "x-2"}


async def test_a_frozen_process_is_thawed_to_die(tmp_path: Path) -> None:
    """docker pause uses the freezer."""
    kernel = Kernel(tmp_path)
    (kernel.put(f"{TOP}/x/node1/docker/abc", 12) / "freezer.state").write_text("FROZEN")
    assert await kernel.cgroups().kill("x") == 1
    assert kernel.cgroups().processes("x") == set()


async def test_only_one_node_is_killed_when_one_is_named(tmp_path: Path) -> None:
    """A power failure takes one host."""
    kernel = Kernel(tmp_path)
    kernel.put(f"{TOP}/x/node1", 11)
    kernel.put(f"{TOP}/x/node2", 12)
    await kernel.cgroups().kill("x", "node1")
    assert kernel.cgroups().processes("x") == {12}


async def test_a_process_that_does_not_die_is_named(tmp_path: Path) -> None:
    """After the deadline, not for ever."""
    kernel = Kernel(tmp_path)
    kernel.put(f"{TOP}/x/node1", 66)
    kernel.immortal.add(66)
    with pytest.raises(LabError, match="66"):
        await kernel.cgroups().kill("x", timeout=1)


async def test_the_command_itself_is_never_its_own_victim(tmp_path: Path) -> None:
    """Somebody may run the lab's command from inside the lab's cgroup."""
    kernel = Kernel(tmp_path)
    kernel.put(f"{TOP}/x/node1", os.getpid())
    assert await kernel.cgroups().kill("x") == 0


async def test_empty_cgroups_are_removed_deepest_first(tmp_path: Path) -> None:
    """And the common top only with the last lab."""
    hierarchy = [Hierarchy(tmp_path, 1)]
    (tmp_path / TOP / "x/node1/docker/abc").mkdir(parents=True)
    (tmp_path / TOP / "y").mkdir()
    await Cgroups(hierarchy).remove("x")
    assert entries(tmp_path / TOP) == ["y"]
    await Cgroups(hierarchy).remove("y")
    await Cgroups(hierarchy).remove("y")
    assert entries(tmp_path) == []


async def test_a_busy_cgroup_is_retried_and_then_named(tmp_path: Path) -> None:
    """A killed process leaves its cgroup a moment later."""
    kernel = Kernel(tmp_path)
    busy = kernel.put(f"{TOP}/x/node1")
    tries = 0

    async def sleep(seconds: float) -> None:
        nonlocal tries
        tries += 1
        kernel.now += seconds
        if tries == 3:
            (busy / "cgroup.procs").unlink()

    cgroups = Cgroups([Hierarchy(tmp_path, 1)], clock=lambda: kernel.now, sleep=sleep)
    await cgroups.remove("x")
    assert tries == 3
    kernel.put(f"{TOP}/x/node1")
    with pytest.raises(LabError, match="node1"):
        await kernel.cgroups().remove("x", timeout=0.1)


def test_a_v1_cpuset_inherits_its_parent_s_cpus(tmp_path: Path) -> None:
    """Otherwise the kernel admits no process to it."""

    class Cpuset(type(tmp_path)):  # type: ignore[misc]
        """A directory whose children have cpuset files, as the kernel makes them."""

        def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            super().mkdir(mode, parents, exist_ok)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (self / name).exists():
                    (self / name).write_text("\n")

    root = Cpuset(tmp_path)
    (root / "cpuset.cpus").write_text("0-1\n")
    (root / "cpuset.mems").write_text("0\n")
    cgroups = Cgroups([Hierarchy(root, 1)])
    cgroups.create("x", "node1")
    assert (root / TOP / "x/node1/cpuset.cpus").read_text() == "0-1\n"
    assert (root / TOP / "x/node1/cpuset.mems").read_text() == "0\n"
    assert cgroups.paths("x", "node1") == (str(root / TOP / "x" / "node1"),)


def test_v2_controllers_are_delegated_down_to_the_node_s_parent(tmp_path: Path) -> None:
    """The node's own cgroup is delegated by its pid 1, which must first leave it."""
    for part in ("", TOP, f"{TOP}/x", f"{TOP}/x/node1"):
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "cgroup.controllers").write_text("cpu memory\n")
    Cgroups([Hierarchy(tmp_path, 2)]).create("x", "node1")
    for part, wanted in ((TOP, True), (f"{TOP}/x", True), (f"{TOP}/x/node1", False)):
        file = tmp_path / part / "cgroup.subtree_control"
        assert file.exists() is wanted
        assert not wanted or file.read_text() == "+cpu +memory"
    assert not (tmp_path / "cgroup.subtree_control").exists()
