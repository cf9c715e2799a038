"""Files that others read while they are written: whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from hostkit.files import remove, write_atomic


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    """What lies in *folder*, hidden files too."""
    return [one.name for one in folder.iterdir()]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("content", ["text\n", b"\x00\xff", ""])
def test_the_content_is_there_with_its_mode_and_its_parents(
    tmp_path: Path, content: str | bytes, sync: bool
) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    assert write_atomic(path, content, mode=0o640, sync=sync)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert mode_of(path) == 0o640
    assert names_in(path.parent) == ["subnet.env"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomic(tmp_path / "f", "x")
    finally:
        os.umask(old)
    assert mode_of(tmp_path / "f") == 0o644


def test_an_unchanged_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "x")
    before = path.stat()
    assert not write_atomic(path, "x")
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert write_atomic(path, "y")


@pytest.mark.parametrize(("was", "wanted"), [(0o600, 0o644), (0o666, 0o600), (0o4755, 0o644)])
def test_an_unchanged_file_gets_the_right_mode_and_nothing_else(
    tmp_path: Path, was: int, wanted: int
) -> None:
    path = tmp_path / "f"
    write_atomic(path, "x", mode=was)
    before = path.stat()
    assert mode_of(path) == was
    assert not write_atomic(path, "x", mode=wanted)
    after = path.stat()
    assert mode_of(path) == wanted
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = {"a" * 100_000, "b" * 100_000}
    write_atomic(path, "a" * 100_000)
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_atomic(path, ("a" if number % 2 else "b") * 100_000)
    stop.set()
    reader.join()
    assert seen
    assert seen <= contents


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "child").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(path, "x")
    assert names_in(tmp_path) == ["folder"]
    assert (path / "child").is_dir()


def test_a_parent_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(OSError, match="f"):
        write_atomic(tmp_path / "f" / "g", "x")


def test_removing_tells_whether_there_was_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    assert remove(path)
    assert not remove(path)
    assert not path.exists()
