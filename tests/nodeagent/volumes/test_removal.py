"""Deleting a pod's folder, and measuring what is in it."""

import os
from pathlib import Path

import pytest

from nodeagent.volumes import removal
from nodeagent.volumes.usage import size
from tests.fakes.mounts import FakeMounts


def test_symlinks_are_deleted_and_what_they_lead_to_is_not(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").touch()
    folder = tmp_path / "u1"
    (folder / "a").mkdir(parents=True)
    (folder / "a/folder").symlink_to(outside)
    (folder / "file").symlink_to(outside / "f")
    (folder / "dangling").symlink_to("/nowhere")
    os.mkfifo(folder / "a/pipe")
    removal.delete(folder, FakeMounts())
    assert not folder.exists()
    assert (outside / "f").exists()


def test_folders_of_any_depth_are_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "u1"
    folder.mkdir()
    number = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=number)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=number))
        below = os.open("deeper", os.O_RDONLY, dir_fd=number)
        os.close(number)
        number = below
    os.close(number)
    removal.delete(folder, FakeMounts())
    assert not folder.exists()


def test_a_folder_that_is_a_symlink_is_not_entered(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "f").touch()
    (tmp_path / "u1").symlink_to(real)
    with pytest.raises(OSError, match="u1"):
        removal.delete(tmp_path / "u1", FakeMounts())
    assert (real / "f").exists()


def test_nothing_is_deleted_while_something_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "u1/v").mkdir(parents=True)
    (tmp_path / "u1/f").touch()
    mounts = FakeMounts()
    mounts.add(tmp_path / "u1/v")
    with pytest.raises(OSError, match="still mounted"):
        removal.delete(tmp_path / "u1", mounts)
    assert (tmp_path / "u1/f").exists()


def test_a_folder_that_is_not_there_is_deleted(tmp_path: Path) -> None:
    removal.delete(tmp_path / "none", FakeMounts())


def test_size_counts_blocks_once_and_leaves_links_alone(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    (folder / "sub").mkdir(parents=True)
    empty = size(folder)
    data = folder / "sub/data"
    data.write_bytes(os.urandom(1 << 20))
    (folder / "same").hardlink_to(data)
    (folder / "link").symlink_to("/")
    sparse = folder / "sparse"
    sparse.touch()
    os.truncate(sparse, 1 << 30)
    assert 1 << 20 <= size(folder) - empty < 2 << 20
    assert size(tmp_path / "none") == 0
