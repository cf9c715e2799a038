"""nodeagent cleanup: every step by itself, and nothing that a container may still use."""

from collections.abc import Collection
from pathlib import Path

import pytest

from nodeagent.cleanup import Cleanup, NoDocker, Step
from nodeagent.docker.api import EngineInfo
from nodeagent.docker.pause import PAUSE
from nodeagent.errors import EngineError, EngineUnavailable, PodError
from tests.fakes.docker import FakeEngine
from tests.nodeagent.server.stand import FakeParts, pod_of
from tests.nodeagent.test_config import read


class Files:
    """Folders of pods, some of which are busy."""

    def __init__(self, *uids: str) -> None:
        self.uids = list(uids)
        self.busy: set[str] = set()

    async def orphans(self, known: Collection[str]) -> list[str]:
        """As Volumes.orphans."""
        return [uid for uid in self.uids if uid not in known]

    async def teardown(self, uid: str) -> None:
        """As Volumes.teardown."""
        if uid in self.busy:
            raise PodError("FailedUnMount", f"cannot remove /r/pods/{uid}: busy")
        self.uids.remove(uid)


class Groups:
    """Groups of which some are in use."""

    def __init__(self) -> None:
        self.stays: tuple[str, ...] = ()
        self.cleared: list[str] = []

    def of(self, info: EngineInfo) -> "Groups":
        """The keeper for one driver."""
        self.cleared.append(info.cgroup_driver)
        return self

    async def clear(self) -> tuple[str, ...]:
        """As PodCgroups.clear."""
        return self.stays


class Host:
    """A host on which nodeagent ran one pod."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = FakeParts()
        pod = pod_of("web", "nginx")
        for name in ("POD", "nginx"):
            self.parts.container(pod, name)
        self.engine: FakeEngine = self.parts.engine
        self.engine.world.add_image(PAUSE)
        self.files = Files("uid-web", "uid-old")
        self.groups = Groups()
        for name in ("root/pki/kubelet.crt", "root/pki/kubelet.key", "run/nodeagent.sock",
                     "run/nodeagent.lock", "root/static-pods.json", "root/.static-pods.json.x1",
                     "root/pods/.keep", "proc/1/comm"):  # fmt: skip
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("init\n")
        (folder / "root/pods/.keep").unlink()

    async def clean(self, *flags: str) -> dict[str, Step]:
        """One ``nodeagent cleanup``; its steps by name."""
        settings = read(f"--root-dir={self.folder}/root", f"--run-dir={self.folder}/run", *flags)
        proc = self.folder / "proc"
        work = Cleanup(settings, self.engine, self.files, self.groups.of, proc=proc)
        return {step.what: step for step in await work.run()}

    def left(self) -> set[str]:
        """Files and folders of ours that are still there."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")} - {
            "proc", "proc/1", "proc/1/comm",
        }  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with everything in place."""
    return Host(tmp_path)


async def test_everything_of_ours_goes_and_each_step_says_what_it_did(host: Host) -> None:
    steps = await host.clean("--api-servers=http://a", "--hostname-override=n1")
    assert all(step.ok for step in steps.values()), steps
    assert list(steps) == ["containers", "image", "volumes", "cgroups", "files", "node"]
    assert steps["containers"].result == "2 removed"
    assert steps["volumes"].result == "those of 2 pods removed"
    assert steps["node"].result == "stays at the API server: kubectl delete node n1"
    assert (host.engine.world.containers, host.files.uids, host.left()) == ({}, [], set())
    assert [one.tags for one in host.engine.world.images.values()] == [("pod:1",), ("nginx:1",)]


async def test_the_sandbox_goes_after_those_that_share_its_network(host: Host) -> None:
    sandbox, other = host.engine.world.find("POD")[0].id, host.engine.world.find("nginx")[0].id
    await host.clean()
    removed = [subject for name, subject in host.engine.world.history if name == "remove"]
    assert removed == [other, sandbox]


async def test_foreign_containers_and_files_stay(host: Host) -> None:
    world = host.engine.world
    foreign = world.create("mine", {"Image": "nginx:1"})
    (host.folder / "root" / "kubeconfig").write_text("x")
    steps = await host.clean()
    assert all(step.ok for step in steps.values())
    assert list(world.containers) == [foreign]
    assert host.left() == {"root", "root/kubeconfig"}
    assert "node" not in steps


async def test_a_second_cleanup_finds_nothing_and_is_content(host: Host) -> None:
    await host.clean()
    steps = await host.clean()
    assert {step.what: step.result for step in steps.values()} == {
        "containers": "none", "image": "none of ours", "volumes": "none",
        "cgroups": "none is left", "files": "none",
    }  # fmt: skip


@pytest.mark.parametrize("call", ["containers", "remove"])
async def test_while_a_container_stays_its_volumes_and_cgroups_do_too(
    host: Host, call: str
) -> None:
    host.engine.fail_next(call, EngineUnavailable("Docker does not answer"))
    steps = await host.clean()
    assert not steps["containers"].ok
    assert "Docker does not answer" in steps["containers"].result
    for what in ("volumes", "cgroups"):
        assert (steps[what].ok, "may still use" in steps[what].result) == (False, True)
    assert host.files.uids == ["uid-web", "uid-old"]
    assert host.groups.cleared == []
    assert steps["files"].ok
    assert host.left() == {"root", "root/static-pods.json"}
    assert all(step.ok for step in (await host.clean()).values())
    assert host.left() == set()


async def test_one_pods_files_that_are_busy_do_not_keep_the_others(host: Host) -> None:
    host.files.busy.add("uid-web")
    steps = await host.clean()
    assert steps["volumes"] == Step("volumes", "cannot remove /r/pods/uid-web: busy", ok=False)
    assert host.files.uids == ["uid-web"]
    assert steps["cgroups"].ok


async def test_a_kubelet_that_runs_keeps_its_volumes(host: Host) -> None:
    (host.folder / "proc" / "1" / "comm").write_text("kubelet\n")
    steps = await host.clean()
    assert "a kubelet runs" in steps["volumes"].result
    assert host.files.uids == ["uid-web", "uid-old"]


async def test_cgroups_are_those_of_dockers_driver_and_used_ones_are_named(host: Host) -> None:
    host.groups.stays = ("/kubepods/besteffort",)
    steps = await host.clean()
    assert host.groups.cleared == ["cgroupfs"]
    assert steps["cgroups"] == Step("cgroups", "still in use: /kubepods/besteffort", ok=False)


async def test_our_image_stays_where_somebody_uses_it_and_a_given_certificate_too(
    host: Host,
) -> None:
    host.engine.world.create("mine", {"Image": PAUSE})
    steps = await host.clean("--tls-cert-file=/c", "--tls-private-key-file=/k")
    assert steps["image"].ok
    assert "stays" in steps["image"].result
    assert {"root/pki/kubelet.crt", "root/pki/kubelet.key"} < host.left()


async def test_many_failures_are_counted_rather_than_listed(host: Host) -> None:
    pod = pod_of("many", "nginx")
    for attempt in range(8):
        host.parts.container(pod, "nginx", attempt)
    host.engine.fail_next("remove", EngineError("no", 500), times=10)
    result = (await host.clean())["containers"].result
    assert result.count("no") == 3 + result.count("nodeagent")
    assert result.endswith("and 7 more")


async def test_a_host_whose_docker_was_removed_is_cleaned_all_the_same(host: Host) -> None:
    """Its containers went with Docker; volumes and groups are still there."""
    settings = read(f"--root-dir={host.folder}/root", f"--run-dir={host.folder}/run")
    work = Cleanup(settings, NoDocker(), host.files, host.groups.of, proc=host.folder / "proc")
    steps = {step.what: step for step in await work.run()}
    assert all(step.ok for step in steps.values()), steps
    assert steps["containers"].result == "none"
    assert host.files.uids == []


@pytest.mark.parametrize(("v2", "driver"), [(True, "systemd"), (False, "cgroupfs")])
async def test_without_docker_the_groups_are_where_it_would_put_them(
    tmp_path: Path, v2: bool, driver: str
) -> None:
    """dockerd's own default depends on the version of control groups."""
    if v2:
        (tmp_path / "cgroup.controllers").touch()
    info = await NoDocker(tmp_path).info()
    assert (info.cgroup_driver, info.cgroup_version) == (driver, "2" if v2 else "1")
