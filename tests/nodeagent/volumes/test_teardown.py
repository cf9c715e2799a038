"""The end of a pod's files, what is left of others, and how much they take."""

import asyncio
import os
from pathlib import Path

import pytest

from nodeagent.errors import PodError
from tests.nodeagent.volumes.world import (
    MAP,
    NFS,
    SCRATCH,
    SECRET,
    TOKEN,
    World,
    bound,
    pod,
)


@pytest.mark.parametrize("uid", ["", "..", "a/b", ".x"])
async def test_a_uid_that_is_no_name_never_reaches_the_disk(world: World, uid: str) -> None:
    (world.root / "pods" / "other").mkdir(parents=True)
    with pytest.raises(PodError, match=r"metadata\.uid"):
        await world.volumes.teardown(uid)
    with pytest.raises(PodError, match=r"metadata\.uid"):
        await world.volumes.prepare(pod(SCRATCH, uid=uid))
    assert (world.root / "pods" / "other").is_dir()


async def test_orphans_are_folders_of_pods_that_nobody_knows(world: World) -> None:
    assert await world.volumes.orphans(()) == []
    for uid in ("u1", "u2"):
        await world.volumes.prepare(pod(SCRATCH, uid=uid))
    assert await world.volumes.orphans({"u1"}) == ["u2"]


async def test_usage_names_what_exceeds_its_limit_and_looks_again_after_a_while(
    world: World,
) -> None:
    small = {"name": "small", "emptyDir": {"sizeLimit": "64Ki"}}
    limits = {"resources": {"limits": {"ephemeral-storage": "128Ki"}}}
    one = pod(small, SCRATCH, containers=[{"name": "app", "image": "x", **limits}])
    await world.volumes.prepare(one)
    assert await world.volumes.usage(one) == ()
    (world.folder("empty-dir", "small") / "f").write_bytes(os.urandom(100 << 10))
    (world.folder("empty-dir", "scratch") / "f").write_bytes(os.urandom(100 << 10))
    assert await world.volumes.usage(one) == ()
    world.now += 10
    found = await world.volumes.usage(one)
    assert [(one.volume, one.limit) for one in found] == [("small", 64 << 10), ("", 128 << 10)]
    assert all(one.used > one.limit for one in found)
    assert "64Ki" in found[0].message


async def test_an_unlimited_pod_is_not_walked(world: World) -> None:
    one = pod(SCRATCH)
    await world.volumes.prepare(one)
    (world.folder("empty-dir", "scratch") / "f").write_bytes(b"x" * 100_000)
    assert await world.volumes.usage(one) == ()


async def test_teardown_unmounts_and_deletes_all_of_a_pod_and_nothing_else(world: World) -> None:
    one = pod(SECRET, NFS, SCRATCH, MAP)
    other = pod(SECRET, uid="u2")
    await world.volumes.prepare(one)
    await world.volumes.prepare(other)
    await bound(world, one)
    await world.volumes.teardown("u1")
    assert not (world.root / "pods" / "u1").exists()
    assert [mounted.target for mounted in world.mounts.mounted] == [
        str(world.folder("secret", "key", "u2"))
    ]
    await world.volumes.teardown("u1")


async def test_teardown_finds_what_a_killed_agent_left(world: World) -> None:
    await world.volumes.prepare(pod(SECRET))
    nested = world.folder("secret", "key") / "nested"
    nested.mkdir()
    world.mounts.add(nested)
    world.restart()
    await world.volumes.teardown("u1")
    assert world.mounts.mounted == []
    targets = [call.split()[1] for call in world.mounts.done if call.startswith("umount")]
    assert targets == [str(nested), str(nested.parent)]
    assert world.mounts.done.index(f"private {nested.parent}") < world.mounts.done.index(
        f"umount {nested}"
    )


async def test_a_mount_in_use_is_taken_away_all_the_same(world: World) -> None:
    await world.volumes.prepare(pod(SECRET))
    world.mounts.busy.add(str(world.folder("secret", "key")))
    await world.volumes.teardown("u1")
    assert not (world.root / "pods" / "u1").exists()


async def test_a_server_that_does_not_answer_is_left_behind(tmp_path: Path) -> None:
    world = World(tmp_path, within=0.5)
    await world.volumes.prepare(pod(NFS))
    world.mounts.hanging.add(str(world.folder("nfs", "share")))
    try:
        await world.volumes.teardown("u1")
    finally:
        world.mounts.answer.set()
    assert not (world.root / "pods" / "u1").exists()


async def test_a_mount_that_cannot_be_undone_keeps_the_folder(world: World) -> None:
    await world.volumes.prepare(pod(SECRET, SCRATCH))
    world.mounts.add(world.root / "pods")
    busy = world.folder("secret", "key")
    world.mounts.unmount = lambda target, flags=0: (_ for _ in ()).throw(  # type: ignore[method-assign]
        OSError(5, "input/output error", target)
    )
    with pytest.raises(PodError, match="input/output") as caught:
        await world.volumes.teardown("u1")
    assert caught.value.reason == "FailedUnMount"
    assert (busy / "pw").exists()


async def test_prepare_and_teardown_may_be_cancelled_anywhere_and_done_again(
    world: World,
) -> None:
    one = pod(SECRET, NFS, SCRATCH, MAP, TOKEN)
    for turns in range(12):
        task = asyncio.create_task(world.volumes.prepare(one))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await world.volumes.prepare(one)
    targets = [mounted.target for mounted in world.mounts.mounted]
    assert len(targets) == len(set(targets)) == 3
    for turns in range(12):
        task = asyncio.create_task(world.volumes.teardown("u1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await world.volumes.teardown("u1")
    assert world.mounts.mounted == []
    assert not (world.root / "pods" / "u1").exists()
