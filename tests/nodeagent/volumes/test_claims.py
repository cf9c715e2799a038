"""NFS exports and claims."""

from collections.abc import Mapping
from typing import Any

import pytest

from hostkit.command import CommandError
from nodeagent.errors import PodError
from nodeagent.pods.host import Mount
from nodeagent.pods.model import Pod
from tests.nodeagent.volumes.world import (
    NFS,
    World,
    bound,
    mounting,
    pod,
)


async def test_an_export_is_mounted_once(world: World) -> None:
    one = pod(NFS, **mounting({"name": "share", "mountPath": "/n"}))
    await world.volumes.prepare(one)
    world.restart()
    await world.volumes.prepare(one)
    folder = str(world.folder("nfs", "share"))
    assert world.runner.calls == [("mount.nfs", "nas:/export", folder, "-o", "ro")]
    assert (await bound(world, one))["/n"] == Mount(folder, "/n", True, "rprivate")


async def test_without_mount_nfs_the_package_is_named(world: World) -> None:
    error = CommandError(("mount.nfs",), None, "cannot start: No such file or directory")
    error.__cause__ = FileNotFoundError()
    world.runner.error = error
    with pytest.raises(PodError, match="nfs-common"):
        await world.volumes.prepare(pod(NFS))


async def test_a_failed_mount_says_what_mount_nfs_said(world: World) -> None:
    world.runner.error = CommandError(("mount.nfs",), 32, "access denied by server")
    with pytest.raises(PodError, match=r"nas:/export.*access denied"):
        await world.volumes.prepare(pod(NFS))


@pytest.mark.parametrize("server", ["", "-o", "a b"])
async def test_a_server_that_is_no_name_is_refused(world: World, server: str) -> None:
    with pytest.raises(PodError, match="server"):
        await world.volumes.prepare(pod({"name": "x", "nfs": {"server": server, "path": "/e"}}))
    assert world.runner.calls == []


def claim(world: World, spec: Mapping[str, Any], **changes: Any) -> Pod:
    """A pod with the volume ``data``, a claim bound to a PersistentVolume of this *spec*."""
    world.objects.documents["/api/v1/namespaces/shop/persistentvolumeclaims/c"] = {
        "metadata": {"uid": "cu", **changes.get("metadata", {})},
        "spec": {"volumeName": "pv"},
        "status": {"phase": changes.get("phase", "Bound")},
    }
    holder = {"namespace": "shop", "name": "c", "uid": changes.get("holder", "cu")}
    world.objects.documents["/api/v1/persistentvolumes/pv"] = {
        "metadata": {"name": "pv"},
        "spec": {"claimRef": holder, "accessModes": ["ReadWriteOnce"], **spec},
    }
    world.objects.documents["/api/v1/nodes/n1"] = {"metadata": {"labels": {"disk": "ssd"}}}
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    context = changes.get("context", {})
    return pod(volume, securityContext=context, **mounting({"name": "data", "mountPath": "/d"}))


async def test_a_claim_is_a_path_of_the_host(world: World) -> None:
    path = world.root / "disk"
    one = claim(world, {"hostPath": {"path": str(path), "type": "DirectoryOrCreate"}})
    await world.volumes.prepare(one)
    assert path.is_dir()
    assert (await bound(world, one))["/d"].source == str(path)


async def test_a_claim_is_an_export_with_the_volumes_options(world: World) -> None:
    spec = {"nfs": {"server": "fd00::1", "path": "/e"}, "mountOptions": ["vers=4.1", "soft"]}
    await world.volumes.prepare(claim(world, spec))
    assert world.runner.calls[0][1] == "[fd00::1]:/e"
    assert world.runner.calls[0][3:] == ("-o", "vers=4.1,soft")


async def test_a_claim_once_found_does_not_need_the_api_server_again(world: World) -> None:
    one = claim(world, {"hostPath": {"path": str(world.root)}})
    await world.volumes.prepare(one)
    world.restart()
    world.objects.away = True
    await world.volumes.prepare(one)
    assert (await bound(world, one))["/d"].source == str(world.root)


SELECTOR = {"nodeSelectorTerms": [{"matchExpressions": [
    {"key": "disk", "operator": "In", "values": ["hdd"]}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        ({}, {"phase": "Pending"}, "not bound"),
        ({}, {"holder": "other"}, "another claim"),
        ({}, {"metadata": {"deletionTimestamp": "x"}}, "being deleted"),
        ({"csi": {"driver": "x"}}, {}, "of kind csi"),
        ({"local": {"path": "/x"}, "volumeMode": "Block"}, {}, "volumeMode"),
        ({"local": {"path": "/x"}, "nodeAffinity": {"required": SELECTOR}}, {}, "nodeAffinity"),
        ({"local": {"path": "/does/not/exist"}}, {}, "does not exist"),
        ({"local": {"path": 7}}, {}, r"local\.path"),
        ({"local": {"path": "relative"}}, {}, "begin with '/'"),
        ({"local": {"path": "/x/../y"}}, {}, r"'\.\.'"),
    ],
)
async def test_a_claim_that_cannot_be_used_says_why(
    world: World, spec: Mapping[str, Any], changes: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(PodError, match=words):
        await world.volumes.prepare(claim(world, spec, **changes))


@pytest.mark.parametrize("missing", ["persistentvolumes/pv", "persistentvolumeclaims/c"])
async def test_a_missing_claim_or_volume_is_named(world: World, missing: str) -> None:
    one = claim(world, {"local": {"path": "/x"}})
    found = next(path for path in world.objects.documents if path.endswith(missing))
    del world.objects.documents[found]
    with pytest.raises(PodError, match="does not exist"):
        await world.volumes.prepare(one)


async def test_a_volume_without_a_kind_is_refused_for_good(world: World) -> None:
    with pytest.raises(PodError, match="emptyDir") as caught:
        await world.volumes.prepare(pod({"name": "odd"}))
    assert caught.value.final
