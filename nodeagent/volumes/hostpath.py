"""A path of the host, checked and made as its type says. Calls block."""

import os
import stat
from pathlib import Path

from nodeagent.errors import PodError
from nodeagent.volumes.backing import Backing
from nodeagent.volumes.payload import REASON

_TESTS = {
    "Directory": ("a directory", stat.S_ISDIR),
    "DirectoryOrCreate": ("a directory", stat.S_ISDIR),
    "File": ("a file", stat.S_ISREG),
    "FileOrCreate": ("a file", stat.S_ISREG),
    "Socket": ("a Unix socket", stat.S_ISSOCK),
    "CharDevice": ("a character device", stat.S_ISCHR),
    "BlockDevice": ("a block device", stat.S_ISBLK),
}


def ensure(backing: Backing, name: str) -> None:
    """Make what the type allows to be made; raises PodError when the path is not of the type.

    The empty type checks nothing: a path that is missing becomes a folder, since Docker cannot
    bind what is not there.
    """
    what, path = f"volume {name!r}: hostPath {backing.path}", Path(backing.path)
    if backing.type and backing.type not in _TESTS:
        raise PodError(
            REASON, f"{what}: type {backing.type!r} is not one of {', '.join(_TESTS)}", final=True
        )
    try:
        if not os.path.lexists(path):
            _make(path, backing.type)
        if not backing.type:
            return
        noun, test = _TESTS[backing.type]
        if not test(path.stat().st_mode):
            raise PodError(REASON, f"{what} is not {noun}, as its type {backing.type} asks for")
    except FileNotFoundError as error:
        raise PodError(REASON, f"{what} does not exist") from error
    except OSError as error:
        raise PodError(REASON, f"{what}: {error.strerror or error}") from error


def _make(path: Path, kind: str) -> None:
    # The modes are those that hostPath's documentation promises.
    if kind in ("", "DirectoryOrCreate"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(mode=0o644, exist_ok=True)
