"""The control groups around pods: made and limited before the sandbox, removed after the pod.

Invariants:

* what is there is read from the kernel, so a killed agent leaves nothing that is not found again;
* a group is only removed when no process is in it: the kernel refuses otherwise, and a slice is
  looked at before systemd is asked to stop it;
* where groups cannot be made, pods run in Docker's own group, and a problem says so.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from hostkit.command import CommandError, Runner
from hostkit.problems import Problems
from nodeagent.pods.cgroups import (
    LEVELS,
    Parts,
    folder_of,
    group_of,
    level_of,
    name_of,
    parent_of,
    shares_of,
    slice_of,
    unit_properties,
    v1_files,
    v2_files,
)
from nodeagent.pods.checknames import UID
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import (
    MIN_SHARES,
    CpuMemory,
    Qos,
    cpu_shares,
    pod_cpu_memory,
    qos_class,
)

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
TRIES = 20
PAUSE = 0.05
"""Seconds between tries to remove a group: containers leave theirs a little after they end."""

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


class PodCgroups:
    """A group for each pod, within one for its QoS class; ``parts.CgroupKeeping``."""

    def __init__(
        self,
        host: Host,
        runner: Runner,
        problems: Problems,
        *,
        root: Path = ROOT,
        remove_folder: Callable[[Path], None] = Path.rmdir,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._host = host
        self._problems = problems
        self._sleep = sleep
        self._files = FileGroups(host, root, remove_folder)
        self._groups: Groups = (
            SystemdGroups(host, runner, self._files)
            if host.cgroup_driver == "systemd"
            else self._files
        )
        self._shares: dict[str, int] = {}
        self._levels: dict[Qos, int] = {}
        self._changing = asyncio.Lock()

    async def check(self) -> str:
        """Why pods cannot have groups of their own; "" when they can, or shall not have any."""
        if not self._host.cgroup_per_pod:
            return ""
        try:
            async with self._changing:
                await self._keep_levels()
        except (OSError, CommandError) as error:
            return self._sentence(error)
        return ""

    async def prepare(self, pod: Pod) -> str:
        """Make the pod's group with its limits; the parent for its containers, "" for Docker's."""
        if not self._host.cgroup_per_pod:
            return parent_of(pod, self._host)
        qos, amounts = qos_class(pod), pod_cpu_memory(pod)
        group = group_of(pod.uid, qos, self._host)
        try:
            async with self._changing:
                if qos == "Burstable":
                    self._shares[self._folder_name(group)] = amounts.shares
                await self._keep_levels()
            await self._groups.apply(group, amounts)
        except (OSError, CommandError) as error:
            self._problems.set("cgroups", self._sentence(error))
            return ""
        self._problems.clear("cgroups")
        return name_of(group, self._host)

    async def remove(self, uid: str) -> None:
        """Remove the pod's group, of whatever class; one that is in use is left for ``sweep``."""
        # A pod that was refused for its UID never had a group, and its UID may hold a path.
        if not self._host.cgroup_per_pod or not UID.fullmatch(uid):
            return
        for qos in LEVELS:
            group = group_of(uid, qos, self._host)
            self._shares.pop(self._folder_name(group), None)
            if await asyncio.to_thread(self._files.exists, group):
                await self._remove(group)

    async def sweep(self, known: Collection[str]) -> tuple[str, ...]:
        """Remove groups of pods whose UIDs are not among *known*; the names of what went."""
        if not self._host.cgroup_per_pod:
            return ()
        gone = []
        for qos in LEVELS:
            level = level_of(qos, self._host)
            kept = {self._folder_name(group_of(uid, qos, self._host)) for uid in known}
            for name in await asyncio.to_thread(self._files.pods_below, level):
                group = (*level, self._part(name))
                if name not in kept and await self._remove(group, tries=1):
                    gone.append(name)
        return tuple(gone)

    async def clear(self) -> tuple[str, ...]:
        """Remove all groups that no process is in, those of the classes too; what stays."""
        await self.sweep(())
        stays = []
        for qos in tuple(LEVELS)[::-1]:
            group = level_of(qos, self._host)
            there = await asyncio.to_thread(self._files.exists, group)
            if there and not await self._remove(group, tries=1):
                stays.append(name_of(group, self._host))
        self._levels.clear()
        return tuple(stays)

    async def _remove(self, group: Parts, tries: int = TRIES) -> bool:
        for left in reversed(range(tries)):
            try:
                await self._groups.remove(group)
            except (OSError, CommandError) as error:
                busy = isinstance(error, OSError) and error.errno == errno.EBUSY
                if busy and left:
                    await self._sleep(PAUSE)
                    continue
                log.debug("control group %s stays: %s", "/".join(group), error)
                return False
            else:
                return True
        return False

    async def _keep_levels(self) -> None:
        """The groups of the classes: idle pods yield to those with requests, these to nobody."""
        if not self._levels:
            # Pods that a former agent began are not prepared again.
            level = level_of("Burstable", self._host)
            self._shares = await asyncio.to_thread(self._files.shares_below, level) | self._shares
        wanted: dict[Qos, int] = {
            "Guaranteed": cpu_shares(Fraction(self._host.cpus)),
            "Burstable": max(MIN_SHARES, sum(self._shares.values())),
            "BestEffort": MIN_SHARES,
        }
        for qos, shares in wanted.items():
            if self._levels.get(qos) != shares:
                await self._groups.apply(level_of(qos, self._host), CpuMemory(shares))
                self._levels[qos] = shares

    def _folder_name(self, group: Parts) -> str:
        return folder_of(group, self._host).rpartition("/")[2]

    def _part(self, name: str) -> str:
        """The last part of a group out of its folder's name."""
        if self._host.cgroup_driver != "systemd":
            return name
        return name.removesuffix(".slice").rpartition("-")[2]

    def _sentence(self, error: Exception) -> str:
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        return (
            f"pods run without control groups of their own ({text}): make {self._files.root} "
            "writable for nodeagent, or set --cgroups-per-qos=false"
        )


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

    def exists(self, group: Parts) -> bool:
        """Whether the group is in any hierarchy."""
        folder = folder_of(group, self._host)
        return any((tree / folder).is_dir() for tree in self._trees())

    def is_empty(self, group: Parts) -> bool:
        """Whether no process is in the group or below it."""
        folder = folder_of(group, self._host)
        for tree in self._trees():
            for procs in (tree / folder).glob("**/cgroup.procs"):
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
