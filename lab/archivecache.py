"""A folder of large archives, each whole or not there, that does not grow for ever."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lab.errors import PrerequisiteError

KEPT = 7 * 24 * 3600.0
"""Seconds for which an archive that nobody asks for stays."""
SLACK = 64 << 20
"""Bytes that are to stay free beside an archive."""


def free_bytes(path: Path) -> int:
    """What is free on the disk of *path*. Raises OSError."""
    return shutil.disk_usage(path).free


class ArchiveCache:
    """The archives in *directory* whose names begin with *prefix*."""

    def __init__(
        self,
        directory: Path,
        prefix: str,
        *,
        clock: Callable[[], float] = time.time,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.directory = directory
        self._prefix = prefix
        self._clock = clock
        self._free = free

    def find(self, rest: str) -> Path | None:
        """The archive whose name is the prefix and then fits the pattern *rest*, if there is one.

        It stays for another while.
        """
        found = sorted(self.directory.glob(self._prefix + rest))
        if not found:
            return None
        now = self._clock()
        # Who may only read the cache, or has it mounted so, can use it all the same.
        with contextlib.suppress(OSError):
            os.utime(found[0], (now, now))
        return found[0]

    def reserve(self, size: int) -> None:
        """Raise PrerequisiteError unless an archive of *size* bytes finds room."""
        self.directory.mkdir(parents=True, exist_ok=True)
        free = self._free(self.directory)
        if free < size + SLACK:
            raise PrerequisiteError(
                f"{self.directory} has {free / 1e6:.0f} MB free and {(size + SLACK) / 1e6:.0f} are "
                "needed: make room, or name another folder by BARENODE_CACHE"
            )

    @contextlib.contextmanager
    def new(self, rest: str) -> Iterator[Path]:
        """A file to write, which becomes the archive PREFIX + *rest* at the end of the block.

        A block that fails leaves nothing. Removes first what nobody asked for in a while, and what
        a killed process left. Raises OSError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for old in self.directory.glob(f"{self._prefix}*"):
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < self._clock() - KEPT:
                    old.unlink()
        # Two who make the same archive write the same bytes; the rename makes either one whole.
        descriptor, name = tempfile.mkstemp(dir=self.directory, prefix=self._prefix, suffix=".new")
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(self.directory / (self._prefix + rest))
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, rest: str, pieces: Iterable[bytes]) -> Path:
        """Make the archive PREFIX + *rest* of *pieces*, safe on disk. Raises OSError."""
        with self.new(rest) as temporary, temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return self.directory / (self._prefix + rest)
