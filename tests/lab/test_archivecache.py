"""Large archives in the cache: whole or not there, not for ever, and only where there is room."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.archivecache import KEPT, SLACK, ArchiveCache
from lab.errors import PrerequisiteError

NOW = 1_000_000_000.0


def cache(directory: Path, *, now: float = NOW, free: int = 1 << 40) -> ArchiveCache:
    """The cache, at the time *now*."""
    return ArchiveCache(directory, "big-", clock=lambda: now, free=lambda _: free)


def test_what_was_written_is_found(tmp_path: Path) -> None:
    """By a pattern, when its exact name is not known."""
    made = cache(tmp_path / "new").write("v1-abc.tar", [b"1", b"2"])
    assert made.read_bytes() == b"12"
    assert cache(tmp_path / "new").find("v*-abc.tar") == made
    assert cache(tmp_path / "new").find("v*-abd.tar") is None
    assert cache(tmp_path / "none").find("v*") is None


def test_a_cache_that_can_only_be_read_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk may be mounted so: the kernel says EROFS then, to root as well."""
    made = cache(tmp_path).write("v1.tar", [b"1"])

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert cache(tmp_path).find("v*") == made


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """And nothing half-made beside it."""

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    old = cache(tmp_path).write("a.tar", [b"old"])
    with pytest.raises(OSError, match="No space left"):
        cache(tmp_path).write("a.tar", pieces())
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_what_nobody_asks_for_goes_when_another_comes(tmp_path: Path) -> None:
    """Asking keeps it; files of others are never touched."""
    other = tmp_path / "small-1.tar"
    other.write_bytes(b"")
    stale = cache(tmp_path).write("stale.tar", [b""])
    used = cache(tmp_path).write("used.tar", [b""])
    for path in (other, stale, used):
        os.utime(path, (NOW, NOW))
    later = cache(tmp_path, now=NOW + KEPT + 1)
    assert later.find("used.tar") == used
    later.write("new.tar", [b""])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "big-new.tar",
        "big-used.tar",
        "small-1.tar",
    ]


def test_an_archive_that_does_not_fit_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """With the numbers and the way out."""
    cache(tmp_path, free=SLACK + 300_000_000).reserve(300_000_000)
    with pytest.raises(PrerequisiteError, match="has 367 MB free and 467 are needed: make room"):
        cache(tmp_path, free=SLACK + 300_000_000).reserve(400_000_000)
