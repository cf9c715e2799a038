"""Notices of changes in folders by the kernel: a small wrapper of inotify(7).

A notice says that something happened, never what is there now: who gets one looks. When the
kernel had to drop notices it says so by OVERFLOW, which means that anything may have changed.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# linux/inotify.h
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLYDIR = 0x0100_0000

ENTRIES = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | ATTRIB
"""What can happen to the entries of a folder, writes only when they are done."""
ITSELF = DELETE_SELF | MOVE_SELF
"""What can happen to the folder."""

_HEAD = struct.Struct("iIII")
_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to *name* in the folder with the number *watch* (-1 for OVERFLOW)."""

    watch: int
    mask: int
    name: str = ""


class Inotify:
    """One queue of notices; raises OSError when the kernel gives no more of them.

    ``fileno`` makes it usable with an event loop's ``add_reader``. A context manager.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # IN_NONBLOCK and IN_CLOEXEC have the values of O_NONBLOCK and O_CLOEXEC.
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify_init1: see the sysctl fs.inotify.max_user_instances")

    def __enter__(self) -> "Inotify":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, readable when there are notices; -1 once closed."""
        return self._fd

    def watch(self, folder: Path, mask: int = ENTRIES | ITSELF) -> int:
        """Watch *folder*, following a symbolic link; its number. Raises OSError."""
        path = os.fsencode(folder)
        number: int = self._libc.inotify_add_watch(self._fd, path, ctypes.c_uint32(mask | ONLYDIR))
        if number < 0:
            raise _error(str(folder))
        return number

    def unwatch(self, number: int) -> None:
        """Watch no longer; nothing when the folder is gone already."""
        self._libc.inotify_rm_watch(self._fd, number)

    def read(self) -> list[Notice]:
        """The notices that have come, without waiting."""
        found: list[Notice] = []
        while True:
            try:
                data = os.read(self._fd, _BUFFER)
            except BlockingIOError:
                return found
            found += _notices(data)

    def close(self) -> None:
        """Close the queue; all watches end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _notices(data: bytes) -> Iterator[Notice]:
    at = 0
    while at < len(data):
        watch, mask, _, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + size].rstrip(b"\0")
        at += size
        yield Notice(watch, mask, os.fsdecode(name))


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
