"""Files, state and locks of labs."""

import os
from pathlib import Path

import msgspec
import pytest

from lab.errors import BusyError, LabError
from lab.model import BootConfig, ProcessRef
from lab.plan import make_lab
from lab.store import Paths, Store, filesystem_type

SPEC = make_lab("x", 2, None, [])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of its own."""
    return Store(Paths(tmp_path / "run", tmp_path / "data", tmp_path / "cache"))


def test_what_is_saved_is_loaded(store: Store) -> None:
    """With the processes of the nodes."""
    spec = msgspec.structs.replace(SPEC, processes={"node1": ProcessRef(pid=5, started=6)})
    store.save(spec)
    assert store.load("x") == spec
    assert store.load("y") is None
    assert store.labs() == {"x"}


def test_a_damaged_state_file_is_named_with_the_way_out(store: Store) -> None:
    """No traceback, and down still works by name."""
    store.save(SPEC)
    store.paths.state("x").write_text('{"name": 3}')
    with pytest.raises(LabError, match="down --name x"):
        store.load("x")
    store.remove("x")
    assert store.load("x") is None


def test_a_lab_s_disk_alone_shows_that_it_is_there(store: Store) -> None:
    """/run is empty after the host's own reboot."""
    store.paths.disk("x", "node1").mkdir(parents=True)
    assert store.labs() == {"x"}
    store.remove("x")
    assert store.labs() == set()


def test_a_lab_that_is_kept_outlasts_run_and_forgets_its_processes(store: Store) -> None:
    """/run is empty after a reboot of the machine."""
    spec = msgspec.structs.replace(SPEC, processes={"node1": ProcessRef(pid=5, started=6)})
    store.save(spec)
    store.paths.disk("x", "node1").mkdir(parents=True)
    assert not store.is_kept("x")
    store.keep(spec)
    assert store.is_kept("x")
    assert not store.paths.state("x").exists()
    assert store.load("x") == SPEC
    assert store.labs() == {"x"}
    store.save(spec)
    assert not store.is_kept("x")
    assert store.load("x") == spec
    store.remove("x")
    assert store.load("x") is None
    assert store.labs() == set()


def test_commands_on_one_lab_exclude_each_other(store: Store) -> None:
    """The second is told who works there; another lab is not concerned."""
    with store.lock("x"):
        with pytest.raises(BusyError, match=str(os.getpid())), store.lock("x"):
            pytest.fail("two commands hold one lab")
        with store.lock("y"):
            pass
    with store.lock("x"):
        pass


def test_nothing_is_left_when_the_last_lab_is_gone(store: Store) -> None:
    """Neither lock files nor empty directories."""
    with store.lock("x"):
        store.save(SPEC)
        store.paths.disk("x", "node1").mkdir(parents=True)
        store.remove("x")
    assert not store.paths.run.exists()
    assert not store.paths.data.exists()


def test_a_lock_file_left_by_a_crash_does_not_lock(store: Store) -> None:
    """The kernel releases a dead process's lock."""
    path = store.paths.run / "locks" / "x"
    path.parent.mkdir(parents=True)
    path.write_text("4711\n")
    with store.lock("x"):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_the_deepest_mount_decides_the_file_system() -> None:
    """And a name that only begins like a mount point does not."""
    mountinfo = (
        "1 0 0:1 / / rw - overlay overlay rw\n"
        "2 1 0:2 / /var rw - ext4 /dev/a rw\n"
        "3 2 0:3 / /var/lib rw shared:1 - xfs /dev/b rw\n"
    )
    assert filesystem_type(mountinfo, "/var/lib/barenode") == "xfs"
    assert filesystem_type(mountinfo, "/var/library") == "ext4"
    assert filesystem_type(mountinfo, "/srv") == "overlay"


def test_directories_can_be_moved() -> None:
    """By the environment, to absolute paths."""
    paths = Paths.standard({"BARENODE_DATA": "/srv/labs"})
    assert paths.disk("x", "node1") == Path("/srv/labs/labs/x/node1")
    assert paths.cache == Path("/var/cache/barenode")


def test_disks_go_with_their_lab_wherever_they_were_made(store: Store, tmp_path: Path) -> None:
    """``down`` finds them without the BARENODE_DATA that ``up`` had."""
    earlier = Store(Paths(store.paths.run, tmp_path / "earlier", store.paths.cache))
    disk = earlier.paths.disk("x", "node1")
    earlier.save(SPEC)
    earlier.save_boot(
        BootConfig(
            lab="x", node="node1", netns="n", data=str(disk), cgroups=(), persistent=(),
            hosts=(), machine_id="0", services=(),
        )
    )  # fmt: skip
    store.remove("x")
    assert not disk.parent.exists()
    assert (tmp_path / "earlier").exists()
