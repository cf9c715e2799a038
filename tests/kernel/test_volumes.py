"""Volumes with the kernel's own mounts, each test in a private mount namespace."""

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hostkit.command import Completed
from hostkit.mounts import (
    MNT_DETACH,
    MS_BIND,
    MS_REC,
    MS_SHARED,
    KernelMounts,
    below,
    mount,
    unmount,
)
from nodeagent.api.port import SecretData
from nodeagent.errors import PodError
from nodeagent.pods.host import Mount
from nodeagent.pods.model import Pod
from nodeagent.volumes import ownership, removal, usage
from nodeagent.volumes.volumes import Volumes
from tests.nodeagent.volumes.world import (
    MAP,
    SCRATCH,
    SECRET,
    TOKEN,
    FakeObjects,
    FakeRecorder,
    bound_by,
    host,
    mode,
    mounting,
    pod,
    text_of,
)
from tests.support.mountns import isolated

PASSWD = Path("/etc/passwd")
PART = {"name": "scratch", "mountPath": "/p", "subPath": "part/x"}
Work = Callable[[], Coroutine[Any, Any, None]]


class NoRunner:
    """No command is expected."""

    async def run(self, argv: Any, **more: Any) -> Completed:
        raise AssertionError(argv)


class Stand:
    """Volumes below *root* with the real table of mounts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = FakeObjects()
        self.objects.config_maps["m"] = {"a": b"one", "b.conf": b"two"}
        self.objects.secrets["s"] = SecretData("Opaque", {"pw": b"x" * (1 << 20)})
        self.restart()

    def restart(self) -> None:
        """An agent that knows nothing."""
        self.volumes = Volumes(
            host(self.root), self.objects, FakeRecorder(), NoRunner(), clock=lambda: 0.0
        )

    def folder(self, kind: str, name: str) -> Path:
        return self.root / "pods/u1/volumes" / f"kubernetes.io~{kind}" / name

    async def mounts(self, one: Pod, attempt: int = 0) -> dict[str, Mount]:
        return await bound_by(self.volumes, one, attempt)

    async def part(self, one: Pod, attempt: int = 0) -> Path:
        """What is bound at ``/p``."""
        return Path((await self.mounts(one, attempt))["/p"].source)

    def mounted(self) -> list[str]:
        return [one.target for one in below(KernelMounts().table(), str(self.root.resolve()))]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_secrets_and_memory_are_mounted_once_and_all_is_gone_after_teardown(stand: Stand) -> None:
    memory = {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    one = pod(SECRET, TOKEN, memory, SCRATCH, MAP, **mounting(PART))

    async def work() -> None:
        await stand.volumes.prepare(one)
        before = stand.mounted()
        assert len(before) == 3
        stand.restart()
        await stand.volumes.prepare(one)
        assert stand.mounted() == before
        assert mode(stand.folder("empty-dir", "mem")) == 0o777
        assert os.statvfs(stand.folder("empty-dir", "mem")).f_blocks * 4096 == 1 << 20
        assert (stand.folder("secret", "key") / "pw").stat().st_size == 1 << 20
        await stand.mounts(one)
        assert len(stand.mounted()) == 4
        stand.restart()
        await stand.volumes.teardown("u1")
        assert stand.mounted() == []
        assert not (stand.root / "pods/u1").exists()

    isolated(work)


def test_fs_group_owns_what_is_made_and_reads_what_is_given(stand: Stand) -> None:
    memory = {"name": "mem", "emptyDir": {"medium": "Memory"}}
    volumes = (SCRATCH, memory, SECRET, TOKEN)
    one = pod(*volumes, securityContext={"fsGroup": 777}, **mounting(PART))

    async def work() -> None:
        await stand.volumes.prepare(one)
        for name in ("scratch", "mem"):
            folder = stand.folder("empty-dir", name)
            assert (folder.stat().st_gid, mode(folder)) == (777, 0o2777)
            (folder / "f").touch()
            assert (folder / "f").stat().st_gid == 777
        secret = stand.folder("secret", "key") / "pw"
        assert (secret.stat().st_gid, mode(secret)) == (777, 0o440)
        token = stand.folder("projected", "token") / "token"
        assert (token.stat().st_gid, mode(token)) == (777, 0o640)
        assert not await stand.volumes.refresh(one)
        stand.restart()
        assert not await stand.volumes.refresh(pod(SECRET, securityContext={"fsGroup": 777}))
        await stand.mounts(one)
        part = stand.folder("empty-dir", "scratch") / "part/x"
        assert (part.stat().st_gid, mode(part)) == (777, 0o2777)
        await stand.volumes.teardown("u1")

    isolated(work)


def test_a_token_is_private_to_the_one_user_of_the_pod(stand: Stand) -> None:
    one = pod(TOKEN, securityContext={"runAsUser": 1234})

    async def work() -> None:
        await stand.volumes.prepare(one)
        token = stand.folder("projected", "token") / "token"
        assert (token.stat().st_uid, mode(token)) == (1234, 0o600)
        await stand.volumes.teardown("u1")

    isolated(work)


def _local(stand: Stand, path: Path, policy: str) -> Pod:
    base = "/api/v1/"
    stand.objects.documents[f"{base}namespaces/shop/persistentvolumeclaims/c"] = {
        "spec": {"volumeName": "pv"},
        "status": {"phase": "Bound"},
    }
    stand.objects.documents[f"{base}persistentvolumes/pv"] = {
        "spec": {"local": {"path": str(path)}, "claimRef": {"namespace": "shop", "name": "c"}}
    }
    context = {"fsGroup": 777, "fsGroupChangePolicy": policy}
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    return pod(volume, securityContext=context)


@pytest.mark.parametrize("policy", ["Always", "OnRootMismatch"])
def test_a_local_volume_is_given_to_the_fs_group_when_a_pod_is_new(
    stand: Stand, policy: str
) -> None:
    disk = stand.root / "disk"
    file = disk / "sub" / "f"

    async def work() -> None:
        (disk / "sub").mkdir(parents=True)
        file.touch()
        file.chmod(0o600)
        (disk / "link").symlink_to(PASSWD)
        await stand.volumes.prepare(_local(stand, disk, policy))
        assert (file.stat().st_gid, mode(file)) == (777, 0o660)
        assert mode(file.parent) & 0o2070 == 0o2070
        assert mode(disk / "link") & 0o020 == 0, "what a link leads to is left alone"
        file.chmod(0o600)
        stand.restart()
        await stand.volumes.prepare(_local(stand, disk, policy))
        assert mode(file) == 0o600, "it is done once in a pod's life"
        await stand.volumes.teardown("u1")
        await stand.volumes.prepare(_local(stand, disk, policy))
        assert mode(file) == (0o660 if policy == "Always" else 0o600)

    isolated(work)


def test_files_of_overlayfs_are_given_and_counted_but_not_those_of_other_mounts(
    stand: Stand,
) -> None:
    """Files of overlayfs show devices other than their folder's."""

    async def work() -> None:
        lower, upper, disk = (stand.root / name for name in ("lower", "upper", "disk"))
        for folder in (lower, upper, disk):
            folder.mkdir()
        for folder in (lower, upper):
            mount("tmpfs", str(folder), "tmpfs")
        (upper / "files").mkdir()
        (upper / "work").mkdir()
        (lower / "old").write_bytes(b"x" * 8192)
        layers = f"lowerdir={lower},upperdir={upper}/files,workdir={upper}/work"
        mount("overlay", str(disk), "overlay", data=layers)
        (disk / "new").write_bytes(b"x" * 4096)
        (disk / "bound").touch()
        other = stand.root / "other"
        other.touch()
        mount(str(other), str(disk / "bound"), flags=MS_BIND)
        before = (other.stat().st_gid, mode(other))
        assert {(disk / name).stat().st_dev for name in ("old", "new")} != {disk.stat().st_dev}
        assert usage.size(disk) >= 8192 + 4096
        ownership.give(disk, 777)
        for name in ("old", "new"):
            facts = (disk / name).stat()
            assert (facts.st_gid, facts.st_mode & 0o060) == (777, 0o060)
        assert (other.stat().st_gid, mode(other)) == before

    isolated(work)


def test_a_sub_path_is_bound_and_used_again_until_it_is_another_folder(stand: Stand) -> None:
    one = pod(SCRATCH, **mounting(PART))

    async def work() -> None:
        await stand.volumes.prepare(one)
        target = await stand.part(one)
        inside = stand.folder("empty-dir", "scratch") / "part/x"
        (inside / "f").touch()
        assert (target / "f").exists()
        await stand.mounts(one, 1)
        assert len(stand.mounted()) == 1
        inside.rename(inside.parent / "old")
        await stand.mounts(one, 2)
        assert not (target / "f").exists()
        assert len(stand.mounted()) == 1
        await stand.volumes.teardown("u1")

    isolated(work)


def test_a_symlink_within_the_volume_is_followed_and_one_that_leaves_it_is_not(
    stand: Stand,
) -> None:
    one = pod(SCRATCH, **mounting(PART))

    async def work() -> None:
        await stand.volumes.prepare(one)
        folder = stand.folder("empty-dir", "scratch")
        (folder / "real").mkdir()
        (folder / "part").mkdir()
        (folder / "part/x").symlink_to("../real")
        target = await stand.part(one)
        (folder / "real/f").touch()
        assert (target / "f").exists()
        for wrong in ("/etc", "../../../../../../etc", "../../scratch/real", "x"):
            (folder / "part/x").unlink()
            (folder / "part/x").symlink_to(wrong)
            with pytest.raises(PodError, match="symlink"):
                await stand.mounts(one, 1)
        await stand.volumes.teardown("u1")

    isolated(work)


def test_a_symlink_put_there_at_any_moment_never_leads_out(stand: Stand) -> None:
    one = pod(SCRATCH, **mounting(PART))
    outside = stand.root / "outside"
    ended = threading.Event()

    async def work() -> None:
        await stand.volumes.prepare(one)
        outside.mkdir()
        folder = stand.folder("empty-dir", "scratch")
        (folder / "part/x").mkdir(parents=True)
        (folder / "link").symlink_to(outside)
        racer = threading.Thread(target=_swap, args=(folder / "part/x", folder / "link", ended))
        racer.start()
        refused = 0
        try:
            for attempt in range(200):
                try:
                    target = await stand.part(one, attempt)
                except PodError:
                    refused += 1
                    continue
                assert not target.samefile(outside)
        finally:
            ended.set()
            racer.join()
        assert refused < 200
        await stand.volumes.teardown("u1")
        assert outside.is_dir()

    isolated(work)


def _swap(place: Path, link: Path, ended: threading.Event) -> None:
    """Exchange a folder for a link and back, as fast as it goes."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(place), os.fsencode(link)
    while not ended.is_set():
        # renameat2(2) with AT_FDCWD and RENAME_EXCHANGE
        if libc.renameat2(-100, names[0], -100, names[1], 2) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")


def test_a_running_container_sees_new_contents_but_not_in_a_sub_path(stand: Stand) -> None:
    part = {"name": "conf", "mountPath": "/p", "subPath": "a"}
    one = pod(MAP, **mounting({"name": "conf", "mountPath": "/c"}, part))

    async def work() -> None:
        await stand.volumes.prepare(one)
        found = await stand.mounts(one)
        inside = stand.root / "container"
        inside.mkdir()
        mount(found["/c"].source, str(inside), flags=MS_BIND)
        stand.objects.config_maps["m"] = {"a": b"new"}
        assert await stand.volumes.refresh(one)
        assert (inside / "a").read_bytes() == b"new"
        assert text_of(found["/p"]) == "one"
        assert text_of((await stand.mounts(one, 1))["/p"]) == "new"
        unmount(str(inside))
        await stand.volumes.teardown("u1")

    isolated(work)


def test_teardown_leaves_what_is_mounted_in_a_bound_folder_of_the_host(stand: Stand) -> None:
    data = stand.root / "data"
    volume = {"name": "h", "hostPath": {"path": str(data)}}
    one = pod(volume, **mounting({"name": "h", "mountPath": "/h", "subPath": "sub"}))

    async def work() -> None:
        data.mkdir()
        mount("tmpfs", str(data), "tmpfs")
        mount("none", str(data), flags=MS_SHARED)
        (data / "sub/nested").mkdir(parents=True)
        mount("tmpfs", str(data / "sub/nested"), "tmpfs")
        (data / "sub/nested/precious").touch()
        await stand.volumes.prepare(one)
        target = Path((await stand.mounts(one))["/h"].source)
        assert (target / "nested/precious").exists()
        # An agent that was killed between two calls has left a binding that is still shared.
        stray = stand.root / "pods/u1/stray"
        stray.mkdir()
        mount(str(data), str(stray), flags=MS_BIND | MS_REC)
        assert (stray / "sub/nested/precious").exists()
        await stand.volumes.teardown("u1")
        assert (data / "sub/nested/precious").exists()
        assert not (stand.root / "pods/u1").exists()
        unmount(str(data), MNT_DETACH)

    isolated(work)


def test_deletion_stops_at_a_mount_even_one_of_the_same_file_system(stand: Stand) -> None:
    precious = stand.root / "precious"
    folder = stand.root / "pods/u1"

    async def work() -> None:
        precious.mkdir()
        (precious / "f").touch()
        (folder / "a/b").mkdir(parents=True)
        mount(str(precious), str(folder / "a/b"), flags=MS_BIND)

        class Blind(KernelMounts):
            """A table read before the mount was made."""

            def table(self) -> tuple[()]:
                return ()

        with pytest.raises(OSError, match="mounted here") as caught:
            removal.delete(folder, Blind())
        assert caught.value.errno == errno.EBUSY
        assert (precious / "f").exists()
        await stand.volumes.teardown("u1")
        assert not folder.exists()
        assert (precious / "f").exists()

    isolated(work)


def test_a_mount_that_a_process_still_uses_is_taken_away(stand: Stand) -> None:
    async def work() -> None:
        await stand.volumes.prepare(pod(SECRET))
        number = os.open(stand.folder("secret", "key") / "pw", os.O_RDONLY)
        try:
            await stand.volumes.teardown("u1")
            assert stand.mounted() == []
            assert os.read(number, 1) == b"x"
        finally:
            os.close(number)

    isolated(work)


def test_a_root_folder_behind_a_symlink_and_with_odd_characters_works(tmp_path: Path) -> None:
    real = tmp_path / "a b\\c\nd"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    stand = Stand(tmp_path / "link")

    async def work() -> None:
        await stand.volumes.prepare(pod(SECRET))
        await stand.volumes.prepare(pod(SECRET))
        assert len(stand.mounted()) == 1
        await stand.volumes.teardown("u1")
        assert stand.mounted() == []
        assert not (real / "pods/u1").exists()

    isolated(work)
