"""Making volumes ready, and keeping their contents up to date."""

from typing import Any

import pytest

from nodeagent.errors import PodError
from tests.nodeagent.volumes.world import (
    MAP,
    SCRATCH,
    SECRET,
    TOKEN,
    World,
    mode,
    pod,
)


async def test_an_empty_dir_is_open_to_all_and_keeps_its_files_when_the_agent_starts_anew(
    world: World,
) -> None:
    one = pod(SCRATCH)
    await world.volumes.prepare(one)
    folder = world.folder("empty-dir", "scratch")
    assert mode(folder) == 0o777
    (folder / "data").write_text("x", encoding="utf-8")
    folder.chmod(0o700)
    world.restart()
    await world.volumes.prepare(one)
    assert (folder / "data").read_text(encoding="utf-8") == "x"
    assert mode(folder) == 0o700


async def test_an_empty_dir_in_memory_is_a_tmpfs_of_the_least_limit_mounted_once(
    world: World,
) -> None:
    memory = {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "10Mi"}}
    limits = {"resources": {"limits": {"memory": "4Mi"}}}
    one = pod(memory, containers=[{"name": "app", "image": "x", **limits}])
    await world.volumes.prepare(one)
    world.restart()
    await world.volumes.prepare(one)
    folder = str(world.folder("empty-dir", "m"))
    assert [call for call in world.mounts.done if call.startswith("mount")] == [
        f"mount tmpfs {folder}"
    ]
    assert world.mounts.options[folder] == f"mode=0777,size={4 << 20}"


async def test_a_tmpfs_that_a_reboot_took_is_made_again(world: World) -> None:
    one = pod({"name": "m", "emptyDir": {"medium": "Memory"}}, SECRET)
    await world.volumes.prepare(one)
    for mounted in list(world.mounts.mounted):
        world.mounts.unmount(mounted.target)
    world.restart()
    await world.volumes.prepare(one)
    assert len(world.mounts.mounted) == 2
    assert (world.folder("secret", "key") / "pw").read_bytes() == b"\x00\xff"


async def test_huge_pages_are_refused_for_good(world: World) -> None:
    with pytest.raises(PodError, match="HugePages") as caught:
        await world.volumes.prepare(pod({"name": "h", "emptyDir": {"medium": "HugePages"}}))
    assert caught.value.final


async def test_a_config_map_is_files_behind_one_link(world: World) -> None:
    await world.volumes.prepare(pod(MAP))
    folder = world.folder("configmap", "conf")
    assert (folder / "b.conf").read_bytes() == b"two"
    assert str((folder / "b.conf").readlink()) == "..data/b.conf"
    assert mode(folder / "b.conf") == 0o644


async def test_a_secret_is_in_memory_and_cannot_be_swapped_out(world: World) -> None:
    await world.volumes.prepare(pod(SECRET))
    folder = world.folder("secret", "key")
    assert mode(folder / "pw") == 0o400
    assert world.mounts.options[str(folder)] == "mode=0755,noswap"


async def test_a_kernel_without_noswap_still_has_secrets(world: World) -> None:
    world.mounts.no_swap_option = False
    await world.volumes.prepare(pod(SECRET))
    assert world.mounts.options[str(world.folder("secret", "key"))] == "mode=0755"


async def test_items_choose_keys_and_their_modes(world: World) -> None:
    items = [{"key": "a", "path": "x/y", "mode": 0o600}]
    await world.volumes.prepare(pod({"name": "c", "configMap": {"name": "m", "items": items}}))
    folder = world.folder("configmap", "c")
    assert mode(folder / "x/y") == 0o600
    assert not (folder / "b.conf").exists()


async def test_a_projected_volume_joins_its_sources(world: World) -> None:
    await world.volumes.prepare(pod(TOKEN))
    folder = world.folder("projected", "token")
    assert (folder / "token").read_text(encoding="utf-8") == "token-1--600"
    assert (folder / "ca/a.crt").read_bytes() == b"one"
    assert (folder / "ns").read_bytes() == b"shop"


async def test_a_token_is_asked_for_again_only_when_it_is_due(world: World) -> None:
    one = pod(TOKEN)
    await world.volumes.prepare(one)
    world.now += 59
    assert not await world.volumes.refresh(one)
    world.now += 2
    assert await world.volumes.refresh(one)
    assert world.objects.issued == 2
    token = world.folder("projected", "token") / "token"
    assert token.read_text(encoding="utf-8") == "token-2--600"


async def test_fields_are_files_and_follow_the_pod(world: World) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {
            "path": "cpu",
            "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"},
        },
    ]
    volume = {"name": "d", "downwardAPI": {"items": items}}
    await world.volumes.prepare(pod(volume))
    folder = world.folder("downward-api", "d")
    assert (folder / "labels").read_bytes() == b'app="web"'
    assert (folder / "cpu").read_bytes() == str(4 << 30).encode()


async def test_a_field_that_is_no_metadata_cannot_be_a_file(world: World) -> None:
    items = [{"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]
    with pytest.raises(PodError, match=r"status\.podIP"):
        await world.volumes.prepare(pod({"name": "d", "downwardAPI": {"items": items}}))


async def test_all_volumes_are_tried_and_all_that_fail_are_named(world: World) -> None:
    missing = {"name": "a", "configMap": {"name": "gone"}}
    lost = {"name": "b", "secret": {"secretName": "lost"}}
    with pytest.raises(PodError, match=r"'gone'.*'lost'") as caught:
        await world.volumes.prepare(pod(missing, lost, SCRATCH))
    assert (caught.value.reason, caught.value.final) == ("FailedMount", False)
    assert world.folder("empty-dir", "scratch").is_dir()


async def test_an_optional_source_that_is_missing_is_an_empty_folder_and_filled_later(
    world: World,
) -> None:
    one = pod({"name": "a", "configMap": {"name": "late", "optional": True}})
    await world.volumes.prepare(one)
    folder = world.folder("configmap", "a")
    assert not (folder / "k").exists()
    world.objects.config_maps["late"] = {"k": b"v"}
    assert await world.volumes.refresh(one)
    assert (folder / "k").read_bytes() == b"v"


async def test_refresh_follows_the_objects_and_says_whether_something_changed(
    world: World,
) -> None:
    one = pod(MAP, SECRET)
    await world.volumes.prepare(one)
    assert not await world.volumes.refresh(one)
    world.objects.config_maps["m"] = {"a": b"new"}
    assert await world.volumes.refresh(one)
    folder = world.folder("configmap", "conf")
    assert (folder / "a").read_bytes() == b"new"
    assert not (folder / "b.conf").is_symlink()


async def test_an_agent_that_starts_anew_refreshes_without_preparing(world: World) -> None:
    one = pod(MAP)
    await world.volumes.prepare(one)
    world.restart()
    assert not await world.volumes.refresh(one)
    world.objects.config_maps["m"] = {"a": b"new"}
    assert await world.volumes.refresh(one)


async def test_refresh_makes_nothing_that_was_not_prepared(world: World) -> None:
    assert not await world.volumes.refresh(pod(MAP, SECRET))
    assert not (world.root / "pods").exists()


async def test_contents_stay_when_their_object_goes_or_the_api_server_is_away(
    world: World,
) -> None:
    one = pod(MAP)
    await world.volumes.prepare(one)
    del world.objects.config_maps["m"]
    with pytest.raises(PodError):
        await world.volumes.refresh(one)
    world.objects.away = True
    world.restart()
    await world.volumes.prepare(one)
    assert (world.folder("configmap", "conf") / "a").read_bytes() == b"one"
    assert "does not answer" in world.recorder.events[-1]


async def test_a_new_pod_waits_for_the_api_server(world: World) -> None:
    world.objects.away = True
    with pytest.raises(PodError, match="does not answer"):
        await world.volumes.prepare(pod(MAP))


@pytest.mark.parametrize(
    ("data", "items", "words"),
    [
        ({"..": b""}, None, "no name of a file"),
        ({"..a": b""}, None, "no name of a file"),
        ({"a/b": b""}, None, "no name of a file"),
        ({"a": b""}, [{"key": "a", "path": "../x"}], r"without '\.\.'"),
        ({"a": b""}, [{"key": "a", "path": "/x"}], "relative"),
        ({"a": b""}, [{"key": "a", "path": "..x"}], r"begin with '\.\.'"),
        ({"a": b""}, [{"key": "b", "path": "x"}], "no key 'b'"),
        (
            {"a": b"", "b": b""},
            [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}],
            "is a file",
        ),
    ],
)
async def test_keys_and_paths_that_would_leave_the_volume_are_refused(
    world: World, data: dict[str, bytes], items: list[Any] | None, words: str
) -> None:
    world.objects.config_maps["m"] = data
    with pytest.raises(PodError, match=words):
        await world.volumes.prepare(
            pod({"name": "c", "configMap": {"name": "m", "items": items or []}})
        )
