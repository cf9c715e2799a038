"""Contents of a folder that change all at once, under the eyes of a running container.

    volume/..2026_11_21_10_00_00.abc/app.conf
    volume/..data -> ..2026_11_21_10_00_00.abc
    volume/app.conf -> ..data/app.conf

Renaming a new ``..data`` over the old is the one step that readers see. The names are those of
Kubernetes' own volumes: programs watch ``..data``. All calls block and raise OSError.
"""

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from nodeagent.volumes.payload import File, Payload

DATA = "..data"
_NEXT = "..data_tmp"


def write(folder: Path, payload: Payload, group: int | None) -> bool:
    """Make *payload* the contents of *folder*, whose files *group* may read; whether it changed.

    After an interruption at any point the next call ends in the same state.
    """
    if same(folder, payload, group):
        _tidy(folder, payload)
        return False
    # The name only tells a human how old the contents are.
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime())
    made = Path(tempfile.mkdtemp(prefix=stamp, dir=folder))
    try:
        for path, file in payload.items():
            _write_file(made, path, file, group)
        _open_folders(made, group)
        _link(folder, made.name)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    _tidy(folder, payload)
    return True


def written(folder: Path) -> bool:
    """Whether *folder* has contents, be they none."""
    return (folder / DATA).is_symlink()


def same(folder: Path, payload: Payload, group: int | None) -> bool:
    """Whether the contents of *folder* are *payload* already."""
    data = folder / DATA
    if not data.is_symlink() or not data.is_dir():
        return False
    there = {
        str(path.relative_to(data)): path
        for path in data.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    return there.keys() == payload.keys() and all(
        _is_file(path, payload[name], group) for name, path in there.items()
    )


def _is_file(path: Path, file: File, group: int | None) -> bool:
    facts = path.lstat()
    return (
        stat.S_ISREG(facts.st_mode)
        and facts.st_size == len(file.data)
        and stat.S_IMODE(facts.st_mode) == _mode(file, group)
        and facts.st_uid == (facts.st_uid if file.owner is None else file.owner)
        and facts.st_gid == (facts.st_gid if group is None else group)
        and path.read_bytes() == file.data
    )


def _mode(file: File, group: int | None) -> int:
    return file.mode & 0o777 | (0o440 if group is not None else 0)


def _write_file(made: Path, path: str, file: File, group: int | None) -> None:
    target = made / path
    target.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as opened:
        opened.write(file.data)
        # A change of owner clears bits of the mode, so it comes first.
        owner = -1 if file.owner is None else file.owner
        os.fchown(opened.fileno(), owner, -1 if group is None else group)
        os.fchmod(opened.fileno(), _mode(file, group))


def _open_folders(made: Path, group: int | None) -> None:
    for name, _, _ in os.walk(made):
        folder = Path(name)
        if group is not None:
            os.chown(folder, -1, group)
        folder.chmod(0o755 if group is None else 0o2755)


def _link(folder: Path, name: str) -> None:
    ahead = folder / _NEXT
    ahead.unlink(missing_ok=True)
    ahead.symlink_to(name)
    ahead.replace(folder / DATA)


def _tidy(folder: Path, payload: Payload) -> None:
    """Links for what is there and none for what is not; old contents go."""
    wanted = {path.partition("/")[0] for path in payload}
    current = (folder / DATA).readlink().name
    for entry in list(folder.iterdir()):
        if entry.name in (DATA, current):
            continue
        if entry.is_symlink():
            if entry.name not in wanted or str(entry.readlink()) != f"{DATA}/{entry.name}":
                entry.unlink()
        elif entry.name.startswith("..") and entry.is_dir():
            shutil.rmtree(entry)
    for name in sorted(wanted):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
