"""Taking a pod's folder away, and nothing but it.

What is mounted below it is unmounted first, as the kernel's table has it, whoever mounted it.
Deleting then never enters a mount or a symlink: every folder is opened without following links,
and one that belongs to another mount than the pod's folder ends the deletion. All calls block and
raise OSError.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from hostkit.mounts import (
    MNT_DETACH,
    MS_PRIVATE,
    UMOUNT_NOFOLLOW,
    Mounted,
    Mounts,
    below,
)

log = logging.getLogger(__name__)

NETWORK = frozenset({"nfs", "nfs4", "cifs", "fuse.sshfs", "9p", "ceph", "fuse.glusterfs"})
"""File systems whose unmounting may wait for a server."""

DEEPEST = 50
"""Folders within each other that are open at once."""

_NO_MOUNT = (errno.EINVAL, errno.ENOENT)
"""What the kernel says of a place where nothing is mounted any more."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mounted_below(mounts: Mounts, folder: Path) -> list[Mounted]:
    """What is mounted on or below *folder*, what has to be unmounted first in front."""
    # The table knows real paths only, and the root folder may be reached by a link.
    return below(mounts.table(), os.path.realpath(folder))[::-1]


def isolate(mounts: Mounts, found: Iterable[Mounted]) -> None:
    """Make what is *found* private where something is mounted below it.

    Unmounting the lower one would else unmount it below the upper one's peers, too: in the folder
    of the host that was bound here, since systemd makes all mounts shared.
    """
    table = list(found)
    for one in table:
        if any(other.target.startswith(f"{one.target}/") for other in table):
            try:
                mounts.mount("none", one.target, flags=MS_PRIVATE)
            except OSError as error:
                if error.errno not in _NO_MOUNT:
                    raise


def unmount(mounts: Mounts, one: Mounted, *, lazily: bool = False) -> None:
    """Unmount *one*; *lazily* also when something still uses it.

    It may hang for a network file system, and is done in the table even then.
    """
    try:
        mounts.unmount(one.target, UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0))
    except OSError as error:
        if error.errno == errno.EBUSY and not lazily:
            log.warning("%s is still in use: unmounted all the same", one.target)
            mounts.unmount(one.target, UMOUNT_NOFOLLOW | MNT_DETACH)
        elif error.errno not in _NO_MOUNT:
            raise


def delete(folder: Path, mounts: Mounts) -> None:
    """Delete *folder* with all that is in it; nothing when it is not there.

    Raises OSError (EBUSY) when something is mounted on or below it, before or meanwhile.
    """
    left = mounted_below(mounts, folder)
    if left:
        raise OSError(errno.EBUSY, "still mounted", left[0].target)
    try:
        number = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return
    try:
        _Deletion(number, str(folder)).run()
    finally:
        os.close(number)
    folder.rmdir()


class _Deletion:
    """Empties a folder, however deep it is: what lies too deep is moved up first."""

    def __init__(self, top: int, shown: str) -> None:
        self._top = top
        self._shown = shown
        self._mount = _mount_of(top)
        self._moved = 0

    def run(self) -> None:
        while names := _names(self._top):
            for name in names:
                self._delete(name, self._top, f"{self._shown}/{name}", 0)

    def _delete(self, name: str, parent: int, shown: str, depth: int) -> None:
        try:
            kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(kind):
                os.unlink(name, dir_fd=parent)
            elif depth >= DEEPEST:
                self._moved += 1
                moved = f"..deep.{os.getpid()}.{self._moved}"
                os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=self._top)
            else:
                self._empty(name, parent, shown, depth)
                os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            # Calls with a descriptor know the last part of the name only.
            raise OSError(error.errno, error.strerror, shown) from error

    def _empty(self, name: str, parent: int, shown: str, depth: int) -> None:
        number = os.open(name, _FOLDER, dir_fd=parent)
        try:
            if _mount_of(number) != self._mount:
                raise OSError(errno.EBUSY, "something is mounted here: not deleted", shown)
            for entry in _names(number):
                self._delete(entry, number, f"{shown}/{entry}", depth + 1)
        finally:
            os.close(number)


def _names(number: int) -> list[str]:
    with os.scandir(number) as entries:
        return [entry.name for entry in entries]


def _mount_of(number: int) -> str:
    """The id of the mount that a descriptor was opened in (proc_pid_fdinfo(5)).

    A device number would not do: a folder of the same file system may be bound.
    """
    text = Path(f"/proc/thread-self/fdinfo/{number}").read_text(encoding="ascii")
    for line in text.splitlines():
        if line.startswith("mnt_id:"):
            return line.split()[1]
    raise OSError(errno.ENOTSUP, "the kernel does not say which mount a folder is in")
