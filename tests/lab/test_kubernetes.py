"""A real Kubernetes on masters of a lab: what a host that starts can wait for."""

import asyncio
import os
import threading
from pathlib import Path

import msgspec
import pytest

from lab import firstboot, probe
from lab.errors import LabError
from lab.images import ImageCache
from lab.kubernetes import renew, require_disk, without_majority
from lab.model import KubernetesSpec, LabSpec, ProcessRef
from lab.plan import make_lab
from lab.store import Paths

ALIVE = probe.process_ref(os.getpid())
GONE = ProcessRef(pid=os.getpid(), started=1)
THREE = make_lab("x", 2, None, [], masters=3)
ONE = make_lab("x", 2, None, [], masters=1)


def running(spec: LabSpec, *names: str) -> LabSpec:
    """*spec* of which these hosts run; the others did once."""
    assert ALIVE is not None
    processes = {node.name: ALIVE if node.name in names else GONE for node in spec.nodes}
    return msgspec.structs.replace(spec, processes=processes)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (running(ONE, "master1"), ""),
        (running(ONE, "node1"), "1 of master1 run"),
        (running(THREE, "master1", "master3"), ""),
        (running(THREE, "master2"), "1 of master1, master3 run"),
        (running(THREE), "2 of master1, master2, master3 run"),
        (make_lab("x", 2, None, []), ""),
    ],
)
def test_who_starts_without_a_majority_is_told_which_masters_are_missing(
    spec: LabSpec, text: str
) -> None:
    """Waiting would be in vain, and would keep the operator from starting them."""
    assert without_majority(spec) == text


def test_a_host_that_lost_its_disk_is_not_started_to_wait_for_ever(tmp_path: Path) -> None:
    """Its settings are put there once, before the first boot."""
    paths = Paths(tmp_path / "run", tmp_path / "data", tmp_path / "cache")
    with pytest.raises(LabError, match="node1 has lost its disk"):
        require_disk(paths, ONE, ONE.nodes[1])
    settings = paths.disk("x", "node1") / "etc/netd/conf.d/50-cluster.toml"
    settings.parent.mkdir(parents=True)
    settings.touch()
    require_disk(paths, ONE, ONE.nodes[1])
    bare = make_lab("x", 2, None, [])
    require_disk(paths, bare, bare.nodes[1])


def test_a_kept_lab_of_an_earlier_version_is_prepared_again(tmp_path: Path) -> None:
    """Its settings name an etcd that does not take them any more; others keep what was edited."""
    paths = Paths(tmp_path / "run", tmp_path / "data", tmp_path / "cache")
    real = KubernetesSpec(
        version="v1.20", hyperkube_image="h", etcd_image="e", pki=str(paths.pki("x"))
    )
    spec = msgspec.structs.replace(ONE, kubernetes=real)
    master = paths.disk("x", "master1")
    settings = master / "etc/netd/conf.d/50-cluster.toml"
    manifest = master / "etc/kubernetes/manifests/etcd.yaml"
    renew(paths, spec)
    assert settings.is_file() and manifest.is_file()
    for path in (settings, manifest):
        path.write_text("edited")
    renew(paths, spec)
    assert {settings.read_text(), manifest.read_text()} == {"edited"}


async def test_who_is_interrupted_has_written_the_last_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that goes on would write to disks that are being removed."""
    begun, go, done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def provision(*_: object) -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(60)
        done.append(True)

    monkeypatch.setattr("lab.kubernetes.provision", provision)
    paths = Paths(tmp_path, tmp_path, tmp_path)
    images = ImageCache(None, tmp_path)  # type: ignore[arg-type]  # nothing is run
    first = firstboot.FirstBoot(paths, images, lambda _subject, _text: None, None)
    work = asyncio.ensure_future(first.provision(ONE))
    await begun.wait()
    work.cancel()
    loop.call_later(0.05, go.set)
    with pytest.raises(asyncio.CancelledError):
        await work
    assert done
