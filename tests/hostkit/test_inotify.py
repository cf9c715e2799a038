"""Notices of the kernel, in folders of our own."""

import errno
import os
from pathlib import Path

import pytest

from hostkit import inotify
from hostkit.inotify import Inotify, Notice


def kinds(notices: list[Notice], name: str) -> int:
    found = 0
    for notice in notices:
        if notice.name == name:
            found |= notice.mask
    return found


def test_entries_that_come_change_and_go_are_told_by_name(tmp_path: Path) -> None:
    with Inotify() as queue:
        number = queue.watch(tmp_path)
        (tmp_path / "ä").write_text("1")
        (tmp_path / "ä").rename(tmp_path / "b")
        (tmp_path / "b").chmod(0o600)
        (tmp_path / "b").unlink()
        notices = queue.read()
        assert {one.watch for one in notices} == {number}
        assert kinds(notices, "ä") == inotify.CREATE | inotify.CLOSE_WRITE | inotify.MOVED_FROM
        assert kinds(notices, "b") == inotify.MOVED_TO | inotify.ATTRIB | inotify.DELETE
        assert queue.read() == []


def test_a_write_is_told_when_it_is_done(tmp_path: Path) -> None:
    with Inotify() as queue, (tmp_path / "a").open("w") as file:
        queue.watch(tmp_path)
        file.write("x")
        file.flush()
        assert queue.read() == []
        file.close()
        assert kinds(queue.read(), "a") == inotify.CLOSE_WRITE


def test_a_folder_that_goes_is_told_and_no_longer_watched(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with Inotify() as queue:
        queue.watch(folder)
        folder.rmdir()
        assert kinds(queue.read(), "") == inotify.DELETE_SELF | inotify.IGNORED


def test_after_unwatch_nothing_is_told_and_it_may_be_repeated(tmp_path: Path) -> None:
    with Inotify() as queue:
        number = queue.watch(tmp_path)
        queue.unwatch(number)
        queue.unwatch(number)
        (tmp_path / "a").touch()
        assert [one.mask for one in queue.read()] == [inotify.IGNORED]


@pytest.mark.parametrize(("name", "code"), [("none", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_what_is_no_folder_is_an_error_with_its_name(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "file").touch()
    with Inotify() as queue, pytest.raises(OSError, match=name) as caught:
        queue.watch(tmp_path / name)
    assert caught.value.errno == code


def test_it_is_readable_when_there_is_something_and_closed_once(tmp_path: Path) -> None:
    queue = Inotify()
    queue.watch(tmp_path)
    assert os.get_inheritable(queue.fileno()) is False
    for number in range(3000):
        (tmp_path / f"{number}{'x' * 100}").touch()
    assert len(queue.read()) > 3000
    queue.close()
    queue.close()
    assert queue.fileno() == -1
