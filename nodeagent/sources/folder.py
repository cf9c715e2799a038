"""Looking at a manifest, or at a folder of them: what is there, read once per change. Blocking.

Only regular files are opened, and files whose stat(2) is as it was are not read again. Whether
somebody is writing a file is asked of the kernel: it grants a read lease (fcntl(2), F_SETLEASE)
only on a file that nobody has open for writing.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostkit import inotify
from hostkit.inotify import Inotify
from nodeagent.sources.manifests import MAX_BYTES

MOST_FILES = 1000
"""Files of a folder that are read; by name."""

Signature = tuple[int, ...]
"""Device, inode, size, and the times of content and inode in ns: compared for equality only."""

_MANIFESTS = (".yaml", ".yml", ".json", ".manifest")
# What editors and package managers leave beside a file.
_LEFT = ("~", ".swp", ".swx", ".tmp", ".rpmnew", ".rpmsave", ".dpkg-dist", ".dpkg-new",
         ".dpkg-old", ".dpkg-tmp", ".ucf-dist", ".ucf-old")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: *data* is None when it is as known, and when *trouble* says why it is not read.

    *busy* tells whether somebody has it open for writing, None when the kernel does not say.
    """

    signature: Signature = ()
    data: bytes | None = None
    busy: bool | None = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What is there: *entries* by file name. *missing* says why nothing could be looked at.

    *file* tells that the path is, or was, that of one file. *left_out* counts files beyond
    MOST_FILES.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    missing: str = ""
    file: bool = False
    left_out: int = 0


def look(path: Path, known: Mapping[str, Signature], *, was_file: bool = False) -> Look:
    """What is at *path* now; files whose signature is in *known* are not read.

    A *path* that named one file, or looks like it, and is gone is a removed manifest; a folder
    that is gone is missing.
    """
    try:
        kind = path.stat().st_mode
    except OSError as error:
        file = was_file or path.suffix in _MANIFESTS
        if error.errno == errno.ENOENT and file and path.parent.is_dir() and not path.is_symlink():
            return Look(file=True)
        return Look(missing=f"{path}: {_reason(path, error)}")
    if not stat.S_ISDIR(kind):
        try:
            alone = _entry(path, known.get(path.name))
        except FileNotFoundError:
            alone = None
        return Look({path.name: alone} if alone is not None else {}, file=True)
    try:
        return _look_into(path, known)
    except OSError as error:
        return Look(missing=f"{path}: {_reason(path, error)}")


def _look_into(path: Path, known: Mapping[str, Signature]) -> Look:
    """The files of a folder; raises OSError."""
    # A file that goes while we read may be there under another name: once more, then.
    for last in (False, False, False, True):
        names, whole = _names(path), True
        entries = {}
        for name in names[:MOST_FILES]:
            try:
                entry = _entry(path / name, known.get(name))
            except FileNotFoundError:
                whole = False
                continue
            if entry is not None:
                entries[name] = entry
        if whole or last:
            break
    return Look(entries, left_out=max(0, len(names) - MOST_FILES))


def is_manifest(name: str) -> bool:
    """Whether a file of this name counts: no hidden one, and nothing that was left behind."""
    return not name.startswith((".", "#")) and not name.endswith(_LEFT)


def _names(folder: Path) -> list[str]:
    """The names of a folder's files, read while nothing came or went."""
    # readdir(3) may show a file that is renamed meanwhile under both names or under none.
    for _ in range(5):
        before = folder.stat()
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if is_manifest(entry.name) and not entry.is_dir(follow_symlinks=False)
            ]
        after = folder.stat()
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            break
    return sorted(names)


def _entry(path: Path, known: Signature | None) -> Entry | None:
    """The file at *path*; None for a folder behind a symbolic link.

    Raises FileNotFoundError for one that was removed just now.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return None
        if not stat.S_ISREG(found.st_mode):
            return Entry(trouble="is no regular file: remove it, or put a file in its place")
        signature = _signature(found)
        if signature == known:
            return Entry(signature)
        if found.st_size > MAX_BYTES:
            text = f"{found.st_size} bytes are more than the {MAX_BYTES} that a manifest may have"
            return Entry(signature, trouble=f"{text}: it is not read")
        return _read(path)
    except OSError as error:
        if error.errno == errno.ENOENT and not path.is_symlink():
            raise
        return Entry(trouble=_reason(path, error))


def _read(path: Path) -> Entry:
    # Another kind of file may have taken its place: O_NONBLOCK never waits for a FIFO's writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return Entry(trouble="is no regular file: remove it, or put a file in its place")
        data = file.read(MAX_BYTES + 1)
        busy = being_written(descriptor)
        changed = _signature(os.fstat(descriptor)) != _signature(before)
        return Entry(_signature(before), data, True if changed else busy)


def being_written(descriptor: int) -> bool | None:
    """Whether a file that is open for reading is open for writing elsewhere; None: not known."""
    try:
        # A writer that comes while we hold the lease makes the kernel send a signal; SIGIO, the
        # default, would end us, SIGURG is ignored by default (signal(7)).
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        # Others: EACCES without CAP_LEASE, EINVAL on file systems without leases.
        return True if error.errno == errno.EAGAIN else None
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _signature(found: os.stat_result) -> Signature:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _reason(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a loop of symbolic links: remove it"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"is a symbolic link to {path.readlink()}, which is not there"
    if error.errno == errno.ENOENT:
        return "is not there"
    if error.errno == errno.ENOTDIR:
        return "a part of the path is no folder"
    return f"cannot be read: {error.strerror or error}"


class FolderWatch:
    """Notices about *path*, a file or a folder, wherever it moves to or comes from.

    The parent is watched too, to see the folder itself come and go. Watching is armed anew
    before each look, so that nothing is missed between them.
    """

    def __init__(self, path: Path, queue: Inotify) -> None:
        self._path = path
        self._queue = queue
        self._armed: dict[Path, tuple[int, int, int]] = {}

    def news(self) -> bool:
        """Take the notices that have come; whether any of them is about *path*."""
        about = False
        for notice in self._queue.read():
            if notice.mask & inotify.IGNORED:
                gone = [p for p, (number, *_) in self._armed.items() if number == notice.watch]
                for path in gone:
                    del self._armed[path]
            elsewhere = self._armed.get(self._path.parent, (0,))[0] == notice.watch
            # A folder has a watch of its own; a file has only that of its folder, in which a
            # symbolic link that it leads over may change.
            alone = self._path not in self._armed
            about = about or not elsewhere or alone or notice.name == self._path.name
        return about

    def arm(self) -> str:
        """Watch what is there now; why some of it cannot be watched, "" if all is."""
        trouble = ""
        for path in (self._path.parent, self._path):
            try:
                found = path.stat()
                if not stat.S_ISDIR(found.st_mode):
                    continue
                now = (found.st_dev, found.st_ino)
                old = self._armed.get(path)
                if old is not None and old[1:] == now:
                    continue
                if old is not None:
                    self._queue.unwatch(old[0])
                    del self._armed[path]
                self._armed[path] = (self._queue.watch(path), *now)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    trouble = error.strerror or str(error)
        return trouble
