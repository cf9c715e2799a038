"""Control groups as the kernel's folders, or as systemd's slices."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from hostkit.command import CommandError, Runner
from nodeagent.pods.cgroups import (
    Parts,
    folder_of,
    shares_of,
    slice_of,
    unit_properties,
    v1_files,
    v2_files,
)
from nodeagent.pods.host import Host
from nodeagent.pods.resources import CpuMemory

log = logging.getLogger(__name__)

_SYSTEMD = (
    "busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)  # fmt: skip
# As far as they are mounted, runc makes its groups in these and in all other hierarchies.
_V1_LIMITED = ("cpu", "memory")


class Groups(Protocol):
    """One way to keep groups; all raise OSError or CommandError."""

    async def apply(self, group: Parts, amounts: CpuMemory) -> None:
        """Make *group* with all above it, and give it *amounts*."""
        ...

    async def remove(self, group: Parts) -> None:
        """Remove *group*; nothing when it is not there. OSError EBUSY while it is in use."""
        ...


class FileGroups:
    """Groups as folders below *root*: one tree (cgroup v2), or one for each controller (v1)."""

    def __init__(
        self, host: Host, root: Path, remove_folder: Callable[[Path], None] = Path.rmdir
    ) -> None:
        self.root = root
        self._host = host
        self._remove_folder = remove_folder

    @property
    def unified(self) -> bool:
        """Whether it is cgroup v2 alone."""
        return (self.root / "cgroup.controllers").exists()

    async def apply(self, group: Parts, amounts: CpuMemory) -> None:
        """Make and limit a group; see Groups."""
        await asyncio.to_thread(self._apply, group, amounts)

    async def remove(self, group: Parts) -> None:
        """Remove a group from all hierarchies; see Groups."""
        await asyncio.to_thread(self._remove, group)

    def folders(self, group: Parts) -> tuple[Path, ...]:
        """The group in all hierarchies; not each may have it."""
        name = folder_of(group, self._host)
        return tuple(tree / name for tree in self._trees())

    def exists(self, group: Parts) -> bool:
        """Whether the group is in any hierarchy."""
        return any(folder.is_dir() for folder in self.folders(group))

    def is_empty(self, group: Parts) -> bool:
        """Whether no process is in the group or below it."""
        for folder in self.folders(group):
            for procs in folder.glob("**/cgroup.procs"):
                with contextlib.suppress(OSError):
                    if procs.read_bytes().strip():
                        return False
        return True

    def pods_below(self, level: Parts) -> tuple[str, ...]:
        """Names of the folders of pods directly below *level*."""
        prefix = slice_of((*level, "pod")).removesuffix(".slice")
        start = prefix if self._host.cgroup_driver == "systemd" else "pod"
        found: set[str] = set()
        for tree in self._trees():
            with contextlib.suppress(OSError):
                found |= {
                    one.name
                    for one in (tree / folder_of(level, self._host)).iterdir()
                    if one.name.startswith(start) and one.is_dir()
                }
        return tuple(sorted(found))

    def shares_below(self, level: Parts) -> dict[str, int]:
        """cpu.shares of the pods below *level*, by the name of their folder."""
        tree, name = (
            (self.root, "cpu.weight") if self.unified else (self.root / "cpu", "cpu.shares")
        )
        found = {}
        for pod in self.pods_below(level):
            path = tree / folder_of(level, self._host) / pod / name
            with contextlib.suppress(OSError, ValueError):
                number = int(path.read_text())
                found[pod] = shares_of(number) if self.unified else number
        return found

    def _trees(self) -> Iterator[Path]:
        if self.unified:
            yield self.root
            return
        with contextlib.suppress(OSError):
            for entry in sorted(self.root.iterdir()):
                # "cpu" is often a link to "cpu,cpuacct".
                if entry.is_dir() and not entry.is_symlink():
                    yield entry

    def _apply(self, group: Parts, amounts: CpuMemory) -> None:
        if self.unified:
            self._apply_unified(group, amounts)
            return
        files = v1_files(amounts)
        for controller in _V1_LIMITED:
            tree = self.root / controller
            if not tree.is_dir():
                raise FileNotFoundError(errno.ENOENT, "no such cgroup hierarchy", str(tree))
            folder = tree / folder_of(group, self._host)
            if not folder.is_dir():
                self._make_v1(tree, folder)
            for (owner, name), text in files.items():
                if owner == controller:
                    _write(folder / name, text)

    def _make_v1(self, tree: Path, folder: Path) -> None:
        missing = [folder, *folder.parents]
        for one in reversed(missing[: missing.index(tree)]):
            one.mkdir(exist_ok=True)
            switch = one / "memory.use_hierarchy"
            # Before Linux 5.11 a limit does not count what is below unless this says so.
            with contextlib.suppress(OSError):
                if switch.read_text().strip() == "0":
                    switch.write_text("1")

    def _apply_unified(self, group: Parts, amounts: CpuMemory) -> None:
        folder = self.root
        for part in folder_of(group, self._host).split("/"):
            control = folder / "cgroup.subtree_control"
            enabled = control.read_text().split() if control.exists() else []
            lacking = [name for name in ("cpu", "memory", "pids") if name not in enabled]
            if lacking:
                _write(control, " ".join(f"+{name}" for name in lacking))
            folder = folder / part
            folder.mkdir(exist_ok=True)
        for name, text in v2_files(amounts).items():
            _write(folder / name, text)

    def _remove(self, group: Parts) -> None:
        path = folder_of(group, self._host)
        for tree in self._trees():
            top = tree / path
            if not top.is_dir():
                continue
            inner = sorted((one for one in top.glob("**/") if one != top), reverse=True)
            for folder in (*inner, top):
                with contextlib.suppress(FileNotFoundError):
                    self._remove_folder(folder)


class SystemdGroups:
    """Groups as transient slices, by systemd's D-Bus calls through busctl(1)."""

    def __init__(self, host: Host, runner: Runner, files: FileGroups) -> None:
        self._host = host
        self._runner = runner
        self._files = files

    async def apply(self, group: Parts, amounts: CpuMemory) -> None:
        """Start the slice with its limits, or change these; see Groups."""
        name = slice_of(group)
        properties = unit_properties(amounts, v2=self._files.unified)
        count = str(len(properties) // 3)
        if not await asyncio.to_thread(self._files.exists, group):
            with contextlib.suppress(CommandError):
                await self._call(
                    "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", count,
                    *properties, "0",
                )  # fmt: skip
                return
        # It is there already, perhaps since a container made it.
        await self._call("SetUnitProperties", "sba(sv)", name, "true", count, *properties)

    async def remove(self, group: Parts) -> None:
        """Stop the slice, which removes it; see Groups."""
        if not await asyncio.to_thread(self._files.is_empty, group):
            raise OSError(errno.EBUSY, "processes are in it", slice_of(group))
        await self._call("StopUnit", "ss", slice_of(group), "replace")

    async def _call(self, method: str, *arguments: str) -> None:
        await self._runner.run([*_SYSTEMD, method, *arguments], timeout=10.0)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        if path.exists():
            raise
        # A kernel may lack some, such as cpu.cfs_quota_us without CONFIG_CFS_BANDWIDTH.
        log.debug("%s: %s", path, error.strerror)
