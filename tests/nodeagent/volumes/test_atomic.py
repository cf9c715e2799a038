"""Contents that change all at once."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.errors import PodError
from nodeagent.volumes import atomic
from nodeagent.volumes.payload import File, check_path, check_tree

PATHS = ["a", "b", "dir/a", "dir/b", "dir/sub/c", "e.conf", ".hidden"]
payloads = st.dictionaries(
    st.sampled_from(PATHS),
    st.builds(File, st.binary(max_size=20), st.sampled_from([0o644, 0o400, 0o777])),
)


def seen(folder: Path) -> dict[str, bytes]:
    """What a program in a container can open, but for the names that belong to the swapping."""
    found = {}
    for name, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not one.startswith("..")]
        for file in files:
            path = Path(name, file)
            if file.startswith("..") or not path.exists():
                continue
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def plain(payload: Mapping[str, File]) -> dict[str, bytes]:
    return {path: file.data for path, file in payload.items()}


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(payloads, max_size=4))
def test_after_each_write_the_folder_has_the_payload_and_nothing_of_the_old(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, File]]
) -> None:
    folder = tmp_path_factory.mktemp("v")
    before: dict[str, File] | None = None
    for payload in changes:
        assert atomic.write(folder, payload, None) == (payload != before)
        assert seen(folder) == plain(payload)
        assert len([one for one in folder.iterdir() if one.name.startswith("..")]) == 2
        for path, file in payload.items():
            assert (folder / path).stat().st_mode & 0o777 == file.mode
        before = payload


@pytest.mark.parametrize("call", ["symlink", "replace", "unlink", "mkdir", "rmdir", "rename"])
@pytest.mark.parametrize("number", range(4))
def test_a_write_that_is_interrupted_is_mended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    old = {"a": File(b"1", 0o644), "gone": File(b"2", 0o644), "d/x": File(b"3", 0o644)}
    new = {"a": File(b"9", 0o644), "d/y": File(b"8", 0o644), "new": File(b"7", 0o644)}
    atomic.write(tmp_path, old, None)
    real = getattr(os, call)
    count = 0

    def failing(*args: object, **more: object) -> object:
        nonlocal count
        count += 1
        if count == number + 1:
            raise OSError(5, "interrupted")
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        try:
            atomic.write(tmp_path, new, None)
        except OSError:
            there = seen(tmp_path)
            assert there.get("a") in (b"1", b"9")
            if there.get("a") == b"1":
                assert there == plain(old)
    atomic.write(tmp_path, new, None)
    assert seen(tmp_path) == plain(new)
    assert len([one for one in tmp_path.iterdir() if one.name.startswith("..")]) == 2


def test_an_unwritten_folder_is_told_from_an_empty_one(tmp_path: Path) -> None:
    assert not atomic.written(tmp_path)
    assert atomic.write(tmp_path, {}, None)
    assert atomic.written(tmp_path)
    assert not atomic.write(tmp_path, {}, None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "..", ".", "", "..x", "x..", "\0", "é" * 200]), max_size=4))
def test_a_path_that_is_accepted_stays_within_and_never_hides_the_link(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        check_path(path, "x")
    except PodError:
        return
    assert os.path.normpath(f"/v/{path}") == f"/v/{path}"
    assert not path.startswith("..")
    assert "\0" not in path


def test_a_file_cannot_be_a_folder_too() -> None:
    check_tree(["a/b", "a/c", "ab"], "x")
    with pytest.raises(PodError, match="'a/b' is a file"):
        check_tree(["a/b/c/d", "a/b"], "x")
