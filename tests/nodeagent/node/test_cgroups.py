"""Control groups of pods, in a folder that stands for the kernel's."""

import asyncio
import errno
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hostkit.command import CommandError, Completed
from hostkit.problems import Problems
from nodeagent.node.cgroups import PodCgroups
from nodeagent.pods.host import Host
from tests.lab.fakes import FakeRunner
from tests.nodeagent.pods.making import HOST, asks, pod_of

FULL = {"cpu": "500m", "memory": "64Mi"}
SYSTEMD = replace(HOST, cgroup_driver="systemd")


@dataclass
class Kernel:
    """A hierarchy: groups go away with the kernel's files in them, unless a process is inside."""

    root: Path
    refused: int = 0
    busy: int = 0
    undying: bool = False
    killed: set[int] = field(default_factory=set)
    slept: list[float] = field(default_factory=list)

    def remove(self, folder: Path) -> None:
        procs = folder / "cgroup.procs"
        if self.busy or (procs.exists() and procs.read_text().strip()):
            self.busy = max(self.busy - 1, 0)
            self.refused += 1
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        for one in folder.iterdir():
            if one.is_file():
                one.unlink()
        folder.rmdir()

    def kill(self, pid: int, number: signal.Signals) -> None:
        """End a process, unless it hangs in the kernel."""
        assert number == signal.SIGKILL
        self.killed.add(pid)
        for procs in self.root.glob("**/cgroup.procs"):
            left = [text for text in procs.read_text().split() if int(text) != pid]
            if not self.undying:
                procs.write_text("\n".join(left))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def groups(self) -> set[str]:
        """The groups of pods in all hierarchies."""
        found = (str(one.relative_to(self.root)) for one in self.root.glob("**/pod*"))
        return {name for name in found if "kubepods/" in name}


class Systemd(FakeRunner):
    """systemd's manager: its units are folders of the hierarchy."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.units: dict[str, list[str]] = {}
        self.broken = False

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        call = argv[argv.index("org.freedesktop.systemd1.Manager") + 1 :]
        method, name = call[0], call[2]
        parts = name.removesuffix(".slice").split("-")
        folder = self.root.joinpath(
            *("-".join(parts[:count]) + ".slice" for count in range(1, len(parts) + 1))
        )
        if self.broken or (method == "StartTransientUnit") == (name in self.units):
            return self.fails(argv, f"Unit {name} not loaded properly")
        if method == "StopUnit":
            del self.units[name]
            folder.rmdir()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.units[name] = call[5:]
        return self.ok(argv)


@pytest.fixture
def v1(tmp_path: Path) -> Kernel:
    for controller in ("cpu,cpuacct", "memory", "pids"):
        (tmp_path / controller).mkdir()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    return Kernel(tmp_path)


@pytest.fixture
def v2(tmp_path: Path) -> Kernel:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    return Kernel(tmp_path)


def keeper(
    kernel: Kernel, host: Host = HOST, *, problems: Problems | None = None, runner: Any = None
) -> PodCgroups:
    return PodCgroups(
        host,
        runner or FakeRunner(),
        problems or Problems(),
        root=kernel.root,
        remove_folder=kernel.remove,
        sleep=kernel.sleep,
        kill=kernel.kill,
    )


async def test_a_pod_gets_a_group_with_its_limits_in_each_hierarchy(v1: Kernel) -> None:
    assert await keeper(v1).prepare(pod_of(asks({}, FULL))) == "/kubepods/podu-1"
    assert v1.text("cpu/kubepods/podu-1/cpu.shares") == "512"
    assert v1.text("cpu/kubepods/podu-1/cpu.cfs_quota_us") == "50000"
    assert v1.text("memory/kubepods/podu-1/memory.limit_in_bytes") == str(64 * 2**20)
    assert v1.text("cpu/kubepods/cpu.shares") == "4096"
    assert v1.text("cpu/kubepods/besteffort/cpu.shares") == "2"


async def test_limits_count_what_is_below_on_old_kernels(v1: Kernel) -> None:
    folder = v1.root / "memory" / "kubepods"
    folder.mkdir()
    (folder / "memory.use_hierarchy").write_text("0\n")
    await keeper(v1).prepare(pod_of(asks({}, FULL)))
    assert v1.text("memory/kubepods/memory.use_hierarchy") == "1"


async def test_the_burstable_class_has_the_shares_of_its_pods(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of(asks({"cpu": "1"}), uid="a"))
    await groups.prepare(pod_of(asks({"cpu": "500m"}), uid="b"))
    assert v1.text("cpu/kubepods/burstable/cpu.shares") == "1536"
    await groups.remove("a")
    await groups.prepare(pod_of(asks({"cpu": "250m"}), uid="c"))
    assert v1.text("cpu/kubepods/burstable/cpu.shares") == "768"


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_pods_of_a_former_agent_keep_their_share(
    kind: str, request: pytest.FixtureRequest
) -> None:
    kernel: Kernel = request.getfixturevalue(kind)
    await keeper(kernel).prepare(pod_of(asks({"cpu": "1"}), uid="a"))
    again = keeper(kernel)
    await again.prepare(pod_of(asks({"cpu": "1"}), uid="b"))
    if kind == "v1":
        assert kernel.text("cpu/kubepods/burstable/cpu.shares") == "2048"
    else:
        assert kernel.text("kubepods/burstable/cpu.weight") == "78"
    await again.remove("a")
    await again.prepare(pod_of(asks({"cpu": "1"}), uid="c"))
    if kind == "v1":
        assert kernel.text("cpu/kubepods/burstable/cpu.shares") == "2048"


async def test_preparing_twice_changes_nothing(v1: Kernel) -> None:
    groups = keeper(v1)
    pod = pod_of(asks({"cpu": "1"}))
    assert await groups.prepare(pod) == await groups.prepare(pod)
    assert v1.text("cpu/kubepods/burstable/cpu.shares") == "1024"


async def test_one_tree_has_controllers_switched_on_from_the_top(v2: Kernel) -> None:
    assert await keeper(v2).prepare(pod_of(asks({}, FULL))) == "/kubepods/podu-1"
    assert v2.text("cgroup.subtree_control") == "cpu memory pids"
    assert v2.text("kubepods/cgroup.subtree_control") == "+cpu +memory +pids"
    assert v2.text("kubepods/podu-1/cpu.max") == "50000 100000"
    assert v2.text("kubepods/podu-1/memory.max") == str(64 * 2**20)


async def test_a_group_goes_from_all_hierarchies_with_what_containers_left(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    for controller in ("cpu", "memory", "pids"):
        (v1.root / controller / "kubepods/besteffort/podu-1/0123/init").mkdir(parents=True)
    await groups.remove("u-1")
    assert v1.groups() == set()
    assert (v1.root / "cpu/kubepods/besteffort").is_dir()
    await groups.remove("u-1")


async def test_a_group_in_use_is_tried_again_for_a_while(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    v1.busy = 3
    await groups.remove("u-1")
    assert v1.groups() == set()
    assert len(v1.slept) == 3


async def test_a_group_that_stays_in_use_is_left_alone(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    v1.undying = True
    (v1.root / "cpu/kubepods/besteffort/podu-1/cgroup.procs").write_text("7\n")
    await groups.remove("u-1")
    assert "cpu,cpuacct/kubepods/besteffort/podu-1" in v1.groups()
    assert await groups.sweep(tuple) == ()


async def test_processes_that_docker_forgot_end_with_their_pod(v1: Kernel) -> None:
    groups = keeper(v1)
    for uid in ("u-1", "u-2"):
        await groups.prepare(pod_of(uid=uid))
        container = v1.root / f"pids/kubepods/besteffort/pod{uid}/0123"
        container.mkdir(parents=True)
        (container / "cgroup.procs").write_text("7\n8\n" if uid == "u-1" else "9\n")
    await groups.remove("u-1")
    assert v1.killed == {7, 8}
    assert {name.rpartition("/")[2] for name in v1.groups()} == {"podu-2"}


async def test_what_is_left_of_a_removed_container_is_ended_and_no_other(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    for container, text in (("0123", "0\n7\n"), ("4567", "8\n")):
        for folder in (f"podu-1/{container}", f"podu-1/{container}/inner"):
            path = v1.root / "pids/kubepods/besteffort" / folder
            path.mkdir(parents=True, exist_ok=True)
            (path / "cgroup.procs").write_text(text if folder.endswith("inner") else "")
    await groups.end_left("u-1", "0123")
    assert v1.killed == {7}, "0 is a process of another PID namespace"
    await groups.end_left("u-1", "")
    assert v1.killed == {7}


@pytest.mark.parametrize("uid", ["../../..", "", "a/b", ".."])
async def test_a_uid_that_is_a_path_removes_nothing(v1: Kernel, uid: str) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    before = v1.groups()
    await groups.remove(uid)
    assert v1.groups() == before
    assert v1.refused == 0


async def test_groups_of_pods_that_nobody_knows_are_swept_away(v1: Kernel) -> None:
    groups = keeper(v1)
    for uid, limits in (("a", FULL), ("b", {"cpu": "1"}), ("c-1", {}), ("d", {})):
        await groups.prepare(pod_of(asks({}, limits), uid=uid))
    assert await keeper(v1).sweep(lambda: {"a", "c-1"}) == ("podb", "podd")
    assert {name.rpartition("/")[2] for name in v1.groups()} == {"poda", "podc-1"}


async def test_clearing_removes_the_classes_too(v1: Kernel) -> None:
    groups = keeper(v1)
    await groups.prepare(pod_of())
    assert await groups.clear() == ()
    assert not (v1.root / "cpu" / "kubepods").exists()
    assert await groups.prepare(pod_of()) == "/kubepods/besteffort/podu-1"
    (v1.root / "cpu/kubepods/besteffort/podu-1/cgroup.procs").write_text("7\n")
    assert "/kubepods" in await groups.clear()


@pytest.mark.parametrize("missing", ["cpu", "memory"])
async def test_without_a_hierarchy_pods_run_in_dockers_group_and_a_problem_says_so(
    v1: Kernel, missing: str
) -> None:
    (v1.root / missing).rename(v1.root / "away") if missing == "memory" else (
        v1.root / missing
    ).unlink()
    problems = Problems()
    groups = keeper(v1, problems=problems)
    assert "no such cgroup hierarchy" in await groups.check()
    assert await groups.prepare(pod_of()) == ""
    (one,) = problems.all()
    assert "--cgroups-per-qos=false" in one.text


async def test_the_problem_is_over_when_groups_can_be_made_again(v1: Kernel) -> None:
    problems = Problems()
    groups = keeper(v1, problems=problems)
    (v1.root / "cpu/kubepods").write_text("in the way")
    assert await groups.prepare(pod_of()) == ""
    (v1.root / "cpu/kubepods").unlink()
    assert await groups.prepare(pod_of()) == "/kubepods/besteffort/podu-1"
    assert problems.all() == ()
    assert await groups.check() == ""


async def test_without_groups_per_pod_nothing_is_touched(v1: Kernel) -> None:
    groups = keeper(v1, replace(HOST, cgroup_per_pod=False, cgroup_root="/x"))
    assert await groups.check() == ""
    assert await groups.prepare(pod_of()) == "/x"
    await groups.remove("u-1")
    assert await groups.sweep(tuple) == ()
    assert v1.groups() == set()


async def test_slices_are_started_changed_and_stopped_by_systemd(v2: Kernel) -> None:
    systemd = Systemd(v2.root)
    groups = keeper(v2, SYSTEMD, runner=systemd)
    name = "kubepods-podu_1.slice"
    assert await groups.prepare(pod_of(asks({}, FULL))) == name
    assert set(systemd.units) >= {"kubepods.slice", "kubepods-burstable.slice", name}
    assert "500000" in systemd.units[name]
    assert await groups.prepare(pod_of(asks({}, FULL))) == name
    await groups.remove("u-1")
    assert name not in systemd.units


async def test_a_slice_with_processes_is_not_stopped(v2: Kernel) -> None:
    systemd = Systemd(v2.root)
    groups = keeper(v2, SYSTEMD, runner=systemd)
    await groups.prepare(pod_of(asks({}, FULL)))
    container = v2.root / "kubepods.slice/kubepods-podu_1.slice/docker-1.scope"
    container.mkdir()
    (container / "cgroup.procs").write_text("7\n")
    v2.undying = True
    await groups.remove("u-1")
    assert v2.killed == {7}
    assert await groups.sweep(tuple) == ()
    assert "kubepods-podu_1.slice" in systemd.units


async def test_slices_of_unknown_pods_are_swept_and_uids_found_by_their_slice(v2: Kernel) -> None:
    systemd = Systemd(v2.root)
    groups = keeper(v2, SYSTEMD, runner=systemd)
    for uid in ("a-1", "b-2"):
        await groups.prepare(pod_of(uid=uid))
    assert await groups.sweep(lambda: {"a-1"}) == ("kubepods-besteffort-podb_2.slice",)
    assert "kubepods-besteffort-poda_1.slice" in systemd.units


async def test_without_systemd_the_sentence_has_the_command(v2: Kernel) -> None:
    systemd = Systemd(v2.root)
    systemd.broken = True
    groups = keeper(v2, SYSTEMD, runner=systemd)
    assert "busctl" in await groups.check()
    assert await groups.prepare(pod_of()) == ""
    with pytest.raises(CommandError):
        await systemd.run(["busctl", "org.freedesktop.systemd1.Manager", "StopUnit", "ss", "x"])
