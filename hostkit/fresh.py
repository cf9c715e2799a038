"""A value that is made of files, made anew when one of them changes.

A file that cannot be used after a change (half of a renewed pair, or gone for a moment) leaves
what was read before in force; the change is tried again at the next use.
"""

import logging
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from hostkit.errors import HostkitError

log = logging.getLogger(__name__)
T = TypeVar("T")

# What tells two states of a file apart: inode, size and time of the last change in ns.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Fresh(Generic[T]):
    """What *read* makes of *paths*, of which "" stands for none.

    *what* names it in the log. Raises what *read* raises, a HostkitError, at the start only.
    """

    def __init__(self, what: str, paths: tuple[str, ...], read: Callable[[], T]) -> None:
        self._what = what
        self._paths = tuple(path for path in paths if path)
        self._read = read
        self._stamp = self._look()
        self._told = ""
        self.value = read()

    def get(self) -> T:
        """The value for the files as they are now."""
        stamp = self._look()
        if stamp != self._stamp:
            try:
                self.value = self._read()
            except HostkitError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("keeping the %s read before: %s", self._what, error)
            else:
                self._stamp, self._told = stamp, ""
        return self.value

    def forget(self) -> None:
        """Read again at the next use, whatever the files look like."""
        # Another length than any state of the files has.
        self._stamp = (*(None for _ in self._paths), None)

    def _look(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib's costs twice as much, before each request
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
