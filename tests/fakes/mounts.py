"""A kernel's table of mounts that keeps state and fails or hangs on demand."""

import errno
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from hostkit.mounts import (
    MNT_DETACH,
    MS_BIND,
    MS_PRIVATE,
    MS_SLAVE,
    Mounted,
)


@dataclass
class FakeMounts:
    """A tmpfs is the folder itself, emptied when it is unmounted; a bind is a symlink.

    *busy* targets are unmounted lazily only; unmounting one of *hanging* waits for *answer* when
    it is not done lazily. *failures* are raised by the next mounts, one each. *done* are the
    calls that changed something. *no_swap_option* says that tmpfs knows ``noswap``.
    """

    busy: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    answer: threading.Event = field(default_factory=threading.Event)
    failures: list[OSError] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    no_swap_option: bool = True
    mounted: list[Mounted] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    def table(self) -> tuple[Mounted, ...]:
        return tuple(self.mounted)

    def add(self, target: Path, fstype: str = "tmpfs", source: str = "none") -> None:
        """Something that others mounted."""
        self.mounted.append(Mounted(os.path.realpath(target), "/", "0:99", fstype, source))

    def mount(
        self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if flags & (MS_PRIVATE | MS_SLAVE):
            self.done.append(f"{'private' if flags & MS_PRIVATE else 'slave'} {target}")
            return
        real = os.path.realpath(target)
        if not Path(real).exists():
            raise OSError(errno.ENOENT, "no such place", target)
        if "noswap" in data.split(",") and not self.no_swap_option:
            raise OSError(errno.EINVAL, "unknown option", target)
        if flags & MS_BIND:
            source = str(Path(source).readlink())
            place = Path(real)
            place.rmdir() if place.is_dir() else place.unlink()
            place.symlink_to(source)
        self.done.append(f"mount {fstype or 'bind'} {real}")
        self.options[real] = data
        self.mounted.append(Mounted(real, "/", "0:99", fstype or "bind", source))

    def unmount(self, target: str, flags: int = 0) -> None:
        found = [one for one in self.mounted if one.target == target]
        if not found:
            raise OSError(errno.EINVAL, "not mounted", target)
        if target in self.busy and not flags & MNT_DETACH:
            raise OSError(errno.EBUSY, "busy", target)
        if target in self.hanging and not flags & MNT_DETACH:
            self.answer.wait()
            return
        self.mounted.remove(found[-1])
        self.done.append(f"umount {target}")
        place = Path(target)
        if place.is_symlink():
            source = place.resolve()
            place.unlink()
            place.mkdir() if source.is_dir() else place.touch()
        elif place.is_dir() and found[-1].fstype == "tmpfs":
            for entry in place.iterdir():
                shutil.rmtree(
                    entry
                ) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
