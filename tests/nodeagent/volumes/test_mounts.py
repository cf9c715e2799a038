"""What is bound into a container."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nodeagent.errors import PodError
from nodeagent.pods.host import Mount
from tests.nodeagent.volumes.world import (
    MAP,
    SCRATCH,
    World,
    bound,
    mode,
    mounting,
    pod,
    text_of,
)


async def test_a_container_gets_its_volumes_its_hosts_file_and_its_last_words(
    world: World,
) -> None:
    one = pod(
        SCRATCH,
        MAP,
        **mounting(
            {"name": "scratch", "mountPath": "/s", "mountPropagation": "HostToContainer"},
            {"name": "scratch", "mountPath": "/r", "readOnly": True},
            {"name": "conf", "mountPath": "/c"},
        ),
    )
    await world.volumes.prepare(one)
    found = await bound(world, one, attempt=3)
    scratch = str(world.folder("empty-dir", "scratch"))
    assert found["/s"] == Mount(scratch, "/s", False, "rslave")
    assert found["/r"] == Mount(scratch, "/r", True, "rprivate")
    assert found["/c"].read_only
    assert "10.1.2.3\tweb" in text_of(found["/etc/hosts"])
    log = found["/dev/termination-log"]
    assert log.source == str(world.root / "pods/u1/containers/app/3")
    assert (text_of(log), mode(Path(log.source))) == ("", 0o666)


async def test_a_container_that_brings_its_own_hosts_file_keeps_it(world: World) -> None:
    one = pod(SCRATCH, **mounting({"name": "scratch", "mountPath": "/etc/hosts"}))
    await world.volumes.prepare(one)
    assert (await bound(world, one))["/etc/hosts"].source.endswith("scratch")


async def test_what_a_container_adds_to_its_hosts_file_stays_until_the_pods_address_changes(
    world: World,
) -> None:
    one = pod()
    before = (await bound(world, one))["/etc/hosts"]
    _append(before, "192.0.2.5 extra\n")
    facts = _identity(before)
    await bound(world, one)
    assert "extra" in text_of(before)
    await world.volumes.mounts(one, one.spec.containers[0], 1, pod_ip="10.9.9.9", env={})
    assert "10.9.9.9\tweb" in text_of(before)
    assert "extra" not in text_of(before)
    assert _identity(before) == facts


def _append(mount: Mount, text: str) -> None:
    with Path(mount.source).open("a", encoding="utf-8") as file:
        file.write(text)


def _identity(mount: Mount) -> int:
    return Path(mount.source).stat().st_ino


async def test_in_the_hosts_network_the_hosts_file_is_the_nodes(world: World) -> None:
    found = (await bound(world, pod(hostNetwork=True)))["/etc/hosts"]
    assert text_of(found) == world.hosts.read_text(encoding="utf-8")


async def test_a_read_only_container_cannot_write_its_hosts_file(world: World) -> None:
    one = pod(**mounting(securityContext={"readOnlyRootFilesystem": True}))
    found = await bound(world, one)
    assert found["/etc/hosts"].read_only
    assert not found["/dev/termination-log"].read_only


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"mountPropagation": "Bidirectional"}, "privileged"),
        ({"mountPropagation": "Sideways"}, "Sideways"),
        ({"recursiveReadOnly": "Enabled"}, "recursiveReadOnly"),
        ({"subPathExpr": "$(MISSING)"}, "MISSING"),
        ({"subPathExpr": "$(EMPTY)"}, "empty"),
        ({"subPath": "../x"}, "subPath"),
        ({"subPath": "/x"}, "relative"),
        ({"name": "none"}, "spec.volumes"),
    ],
)
async def test_a_mount_that_cannot_be_is_refused(
    world: World, mount: Mapping[str, Any], words: str
) -> None:
    one = pod(SCRATCH, **mounting({"name": "scratch", "mountPath": "/s", **mount}))
    await world.volumes.prepare(one)
    with pytest.raises(PodError, match=words) as caught:
        await world.volumes.mounts(one, one.spec.containers[0], 0, pod_ip="", env={"EMPTY": ""})
    assert caught.value.reason == "CreateContainerConfigError"


async def test_a_path_from_an_annotation_that_leaves_the_volume_may_be_mended(
    world: World,
) -> None:
    one = pod(SCRATCH, **mounting({"name": "scratch", "mountPath": "/s", "subPathExpr": "$(A)"}))
    await world.volumes.prepare(one)
    app = one.spec.containers[0]
    for value in ("/out", "../out"):
        with pytest.raises(PodError) as caught:
            await world.volumes.mounts(one, app, 0, pod_ip="", env={"A": value})
        assert not caught.value.final
    assert await world.volumes.mounts(one, app, 0, pod_ip="", env={"A": "in"})


async def test_bidirectional_is_for_privileged_containers(world: World) -> None:
    one = pod(
        SCRATCH,
        **mounting(
            {"name": "scratch", "mountPath": "/s", "mountPropagation": "Bidirectional"},
            securityContext={"privileged": True},
        ),
    )
    await world.volumes.prepare(one)
    assert (await bound(world, one))["/s"].propagation == "rshared"


async def test_a_sub_path_is_made_and_bound_below_the_pods_folder(world: World) -> None:
    one = pod(
        SCRATCH,
        **mounting(
            {"name": "scratch", "mountPath": "/a", "subPath": "x/y"},
            {"name": "scratch", "mountPath": "/b", "subPathExpr": "$(NAME)"},
        ),
    )
    await world.volumes.prepare(one)
    found = await bound(world, one)
    folder = world.folder("empty-dir", "scratch")
    target = world.root / "pods/u1/volume-subpaths/scratch/app/0"
    assert found["/a"].source == str(target)
    assert target.resolve() == folder / "x/y"
    assert mode(folder / "x/y") == 0o777
    assert (target.parent / "1").resolve() == folder / "n"
    assert f"slave {target}" in world.mounts.done


async def test_a_sub_path_of_a_config_map_is_one_file_and_nothing_is_made_in_it(
    world: World,
) -> None:
    one = pod(MAP, **mounting({"name": "conf", "mountPath": "/a", "subPath": "a"}))
    await world.volumes.prepare(one)
    assert text_of((await bound(world, one))["/a"]) == "one"
    wrong = pod(MAP, **mounting({"name": "conf", "mountPath": "/a", "subPath": "typo"}))
    with pytest.raises(PodError, match="'typo' does not exist"):
        await bound(world, wrong)
    assert not (world.folder("configmap", "conf") / "typo").exists()


async def test_a_sub_path_of_an_optional_map_that_is_missing_is_an_empty_folder(
    world: World,
) -> None:
    one = pod(
        {"name": "a", "configMap": {"name": "late", "optional": True}},
        **mounting({"name": "a", "mountPath": "/a", "subPath": "k"}),
    )
    await world.volumes.prepare(one)
    await bound(world, one)
    target = world.root / "pods/u1/volume-subpaths/a/app/0"
    assert list(target.iterdir()) == []
    world.objects.config_maps["late"] = {"k": b"v"}
    await world.volumes.refresh(one)
    assert text_of((await bound(world, one, 1))["/a"]) == "v"
