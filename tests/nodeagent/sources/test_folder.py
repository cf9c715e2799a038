"""Looking at real files."""

import os
from pathlib import Path

import pytest

from hostkit.inotify import Inotify
from nodeagent.sources import folder
from nodeagent.sources.folder import FolderWatch, Look, being_written, is_manifest, look
from nodeagent.sources.manifests import MAX_BYTES


def data(found: Look) -> dict[str, bytes | None]:
    return {name: entry.data for name, entry in found.entries.items()}


def test_files_are_read_once_until_they_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = look(tmp_path, {})
    assert data(first) == {"a": b"1", "b": b"2"}
    known = {name: entry.signature for name, entry in first.entries.items()}
    (tmp_path / "b").write_text("3")
    assert data(look(tmp_path, known)) == {"a": None, "b": b"3"}


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    os.utime(path, ns=(0, 0))
    known = {"a": look(tmp_path, {}).entries["a"].signature}
    path.write_text("2")
    os.utime(path, ns=(0, 0))
    assert data(look(tmp_path, known)) == {"a": b"2"}


@pytest.mark.parametrize(
    "name", [".a.yaml", "a.yaml~", "#a#", ".a.swp", "a.swp", "a.tmp", "a.rpmnew", "a.dpkg-old"]
)
def test_hidden_files_and_what_was_left_behind_do_not_count(name: str) -> None:
    assert not is_manifest(name)


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 1))
    found = {name: entry.trouble for name, entry in look(tmp_path, {}).entries.items()}
    assert set(found) == {"fifo", "loop", "dangling", "null", "large"}
    assert "no regular file" in found["fifo"]
    assert "no regular file" in found["null"]
    assert "loop of symbolic links" in found["loop"]
    assert "symbolic link to nowhere" in found["dangling"]
    assert "bytes are more" in found["large"]


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "a").write_text("1")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a").symlink_to("..data/a")
    assert data(look(tmp_path, {})) == {"a": b"1"}


def test_a_file_with_a_writer_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w") as file:
        file.write("1")
        file.flush()
        assert look(tmp_path, {}).entries["a"].busy
    assert look(tmp_path, {}).entries["a"].busy is False


def test_asking_for_a_writer_disturbs_neither_reader_nor_writer(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    with path.open("rb") as file:
        for _ in range(100):
            assert being_written(file.fileno()) is False
            with path.open("a") as writer:
                assert being_written(file.fileno()) is True
                writer.write("2")
    assert len(path.read_text()) == 101


def test_where_the_kernel_gives_no_leases_it_is_not_known() -> None:
    with Path("/dev/null").open("rb") as file:
        assert being_written(file.fileno()) is None


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pods"
    path.write_text("1")
    assert data(look(path, {})) == {"pods": b"1"}
    assert look(path, {}).file
    path.unlink()
    assert look(path, {}).missing, "it may have been a folder"
    assert look(path, {}, was_file=True) == Look(file=True)
    assert look(tmp_path / "pods.yaml", {}) == Look(file=True)
    assert look(tmp_path / "no" / "pods.yaml", {}).missing


def test_what_cannot_be_looked_at_is_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    (tmp_path / "file").touch()
    assert "is not there" in look(tmp_path / "none", {}).missing
    assert "loop of symbolic links" in look(tmp_path / "loop", {}).missing
    assert "symbolic link to nowhere" in look(tmp_path / "dangling.yaml", {}).missing
    assert "no folder" in look(tmp_path / "file" / "x", {}).missing


def test_a_folder_with_too_many_files_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_FILES", 2)
    for name in "abcd":
        (tmp_path / name).touch()
    found = look(tmp_path, {})
    assert (set(found.entries), found.left_out) == ({"a", "b"}, 2)


def test_a_folder_is_watched_through_its_removal_return_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "manifests"
    with Inotify() as queue:
        watch = FolderWatch(path, queue)
        assert watch.arm() == ""
        path.mkdir()
        assert watch.news()
        watch.arm()
        (tmp_path / "other").touch()
        assert not watch.news(), "another entry of the parent"
        (path / "a").touch()
        assert watch.news()
        path.rename(tmp_path / "old")
        assert watch.news()
        path.mkdir()
        watch.news()
        watch.arm()
        (path / "a").touch()
        assert watch.news()
        (path / "a").unlink()
        path.rmdir()
        assert watch.news()
        watch.arm()
        path.mkdir()
        assert watch.news()
        watch.arm()
        (path / "b").touch()
        assert watch.news()
        assert not watch.news()


def test_a_folder_behind_a_symbolic_link_is_watched_where_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "manifests"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path.symlink_to("one")
    with Inotify() as queue:
        watch = FolderWatch(path, queue)
        watch.arm()
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(path)
        assert watch.news()
        watch.arm()
        watch.news()
        (tmp_path / "one" / "a").touch()
        assert not watch.news()
        (tmp_path / "two" / "a").touch()
        assert watch.news()


def test_a_file_is_watched_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    with Inotify() as queue:
        watch = FolderWatch(path, queue)
        watch.arm()
        path.write_text("1")
        assert watch.news()


class NoMoreWatches(Inotify):
    """A kernel whose limit of watches is reached."""

    def watch(self, folder: Path, mask: int = 0) -> int:
        raise OSError(28, "No space left on device", str(folder))


def test_what_cannot_be_watched_is_told(tmp_path: Path) -> None:
    with NoMoreWatches() as queue:
        assert FolderWatch(tmp_path, queue).arm() == "No space left on device"
