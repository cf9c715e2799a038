"""mount(2), umount2(2) and the table of mounts, which Python 3.11 does not offer.

A call raises OSError with its own arguments as the file name, so that an operator sees which
mount failed. Flag values are those of <sys/mount.h>.
"""

import ctypes
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

TABLE = Path("/proc/thread-self/mountinfo")
"""A mount namespace belongs to a thread: ``/proc/self`` is the first thread's."""

_OCTAL = re.compile(rb"\\([0-7]{3})")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount *source* on *target*; empty *fstype* and *data* are passed as NULL."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() or None,
            flags,
            data.encode() or None,
        ),
        f"mount {fstype or 'bind'} {source} on {target}",
    )


def unmount(target: str, flags: int = 0) -> None:
    """Unmount what is on *target*."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo (proc_pid_mountinfo(5)).

    *root* is the folder of the file system that is mounted at *target*, *device* its
    ``major:minor``.
    """

    target: str
    root: str
    device: str
    fstype: str
    source: str


def parse_table(text: bytes) -> tuple[Mounted, ...]:
    """The mounts of a mountinfo file in its order, in which a later one may cover an earlier."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < 6 or len(kind) < 2:
            continue
        found.append(
            Mounted(
                target=_path(fields[4]),
                root=_path(fields[3]),
                device=fields[2].decode(),
                fstype=kind[0].decode(),
                source=_path(kind[1]),
            )
        )
    return tuple(found)


def _path(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def below(table: Iterable[Mounted], folder: str) -> list[Mounted]:
    """The mounts on *folder* or below it, in the order of the table; *folder* has no symlinks."""
    prefix = folder.rstrip("/") + "/"
    return [one for one in table if one.target == folder or one.target.startswith(prefix)]


class Mounts(Protocol):
    """What is mounted, and a hand on it; all calls may block and raise OSError."""

    def table(self) -> tuple[Mounted, ...]:
        """All mounts that this thread sees."""
        ...

    def mount(
        self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        """Mount *source* on *target*."""
        ...

    def unmount(self, target: str, flags: int = 0) -> None:
        """Unmount what is on *target*."""
        ...


class KernelMounts:
    """The Mounts of this thread's namespace."""

    def table(self) -> tuple[Mounted, ...]:
        """All mounts that this thread sees."""
        return parse_table(TABLE.read_bytes())

    def mount(
        self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        """Mount *source* on *target*."""
        mount(source, target, fstype, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        """Unmount what is on *target*."""
        unmount(target, flags)
