"""Who used the xtables lock, told by the real kernel (fanotify needs CAP_SYS_ADMIN)."""

import os
import subprocess
from pathlib import Path

import pytest

from hostkit.command import SubprocessRunner
from netd.iptables.generation import LockFile
from netd.iptables.table import Iptables
from tests.support.netns import Fabric, Inside


def use(path: Path) -> None:
    """Take the lock file and give it back, as iptables-legacy does."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))


def use_by_other(path: Path) -> None:
    """The same by a process of its own, which has ended."""
    subprocess.run(["flock", str(path), "true"], check=True)


def test_each_process_that_used_the_lock_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "xtables.lock"
    lock = LockFile(path)
    assert lock.take() == frozenset()
    use(path)
    use(path)
    assert lock.take() == {os.getpid()}
    use(path)
    use_by_other(path)
    use_by_other(path)
    use(path)
    users = lock.take()
    assert len(users) == 3
    assert os.getpid() in users
    assert lock.take() == frozenset()
    lock.close()
    lock.close()


def test_no_descriptor_is_left_open_by_what_is_told(tmp_path: Path) -> None:
    path = tmp_path / "xtables.lock"
    lock = LockFile(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        use_by_other(path)
    assert len(lock.take()) == 20
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    lock.close()


def test_a_lock_file_that_is_deleted_is_made_and_watched_again(tmp_path: Path) -> None:
    path = tmp_path / "xtables.lock"
    lock = LockFile(path)
    path.unlink()
    assert len(lock.take()) > 1
    use(path)
    assert lock.take() == {os.getpid()}
    path.unlink()
    use(path)
    assert len(lock.take()) > 1, "deleted and made anew by somebody else"
    use(path)
    assert lock.take() == {os.getpid()}
    assert not lock.is_lost
    lock.close()


def test_a_lock_file_that_cannot_be_made_again_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "run" / "xtables.lock"
    path.parent.mkdir()
    lock = LockFile(path)
    path.unlink()
    path.parent.rmdir()
    assert len(lock.take()) > 1
    assert lock.is_lost
    assert lock.take() == frozenset()
    lock.close()


def test_a_lock_file_in_no_directory_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LockFile(tmp_path / "nowhere" / "xtables.lock")


def test_the_timer_is_slow_where_the_lock_is_watched_and_as_asked_where_it_is_not(
    fabric: Fabric, tmp_path: Path
) -> None:
    space = fabric.namespace("host")
    inside = Inside(space)
    path = tmp_path / "run" / "xtables.lock"
    path.parent.mkdir()
    shared = Iptables(SubprocessRunner(), "legacy", resync=5, lock_file=path)
    inside.wait(shared.open())
    assert shared.watch.timer == 60
    path.unlink()
    path.parent.rmdir()
    assert inside.call(shared.watch.poll) == 1
    assert shared.watch.timer == 5
    inside.call(shared.close)
    inside.close()
