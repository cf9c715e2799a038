"""Giving a volume to the pod's fsGroup. Calls block and raise OSError."""

import os
import stat
from pathlib import Path

_FILE = 0o660
_FOLDER = 0o770 | stat.S_ISGID


def give(folder: Path, group: int, *, policy: str = "Always") -> None:
    """Let *group* read and write all below *folder*, new files included (setgid).

    With *policy* OnRootMismatch nothing is done when *folder* itself is right already. Symlinks
    are neither followed nor changed, other file systems mounted below are left alone.
    """
    facts = folder.stat()
    if policy == "OnRootMismatch" and _is_right(facts, group, _FOLDER):
        return
    device = facts.st_dev
    for _, folders, files, number in os.fwalk(folder, topdown=True, follow_symlinks=False):
        for name in files:
            _give(name, number, group, device)
        folders[:] = [name for name in folders if _is_on(name, number, device)]
        # The folder itself comes last, so that an interrupted pass is seen as a mismatch.
        for name in folders:
            _give(name, number, group, device)
    own(folder, group)


def own(folder: Path, group: int) -> None:
    """Let *group* read and write *folder* itself, and own what is made in it."""
    facts = folder.stat()
    if not _is_right(facts, group, _FOLDER):
        os.chown(folder, -1, group)
        folder.chmod(stat.S_IMODE(facts.st_mode) | _FOLDER)


def _is_right(facts: os.stat_result, group: int, bits: int) -> bool:
    return facts.st_gid == group and facts.st_mode & bits == bits


def _is_on(name: str, number: int, device: int) -> bool:
    try:
        return os.stat(name, dir_fd=number, follow_symlinks=False).st_dev == device
    except FileNotFoundError:
        return False


def _give(name: str, number: int, group: int, device: int) -> None:
    try:
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=number)
    except FileNotFoundError:
        return
    try:
        facts = os.fstat(opened)
        bits = _FOLDER if stat.S_ISDIR(facts.st_mode) else _FILE
        if (
            (facts.st_dev != device and _mount_of(opened) != _mount_of(number))
            or not (stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode))
            or _is_right(facts, group, bits)
        ):
            return
        # chmod(2) has no form for O_PATH descriptors before Linux 6.6; this names the same file.
        path = f"/proc/self/fd/{opened}"
        os.chown(path, -1, group)
        Path(path).chmod(stat.S_IMODE(facts.st_mode) | bits)
    finally:
        os.close(opened)


def _mount_of(number: int) -> str:
    """The mount that a descriptor is in, the ``mnt_id`` of proc(5): a file that overlayfs has
    from a lower layer shows another device than its folder."""
    lines = Path(f"/proc/self/fdinfo/{number}").read_text(encoding="ascii").splitlines()
    return next((line for line in lines if line.startswith("mnt_id:")), "")
