"""The cgroups of labs: ``barenode-lab/LAB/NODE`` in every hierarchy this host has mounted.

Invariant: whatever a lab starts stays below its cgroup (a node's cgroup namespace is rooted
there), so the lab's processes can be found here when everything else is lost.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError, PrerequisiteError

TOP = "barenode-lab"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy; *version* is 1 or 2."""

    root: Path
    version: int


def _unescape(field: str) -> str:
    # proc(5): space, tab, newline and backslash are octal escapes in mountinfo.
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace(f"\\{code}", character)
    return field


def parse_hierarchies(mountinfo: str) -> tuple[Hierarchy, ...]:
    """The cgroup mounts in /proc/self/mountinfo that show a hierarchy from its root."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind and kind[0] in {"cgroup", "cgroup2"}:
            # One hierarchy can be mounted twice (device number, field 3): the first serves.
            hierarchy = Hierarchy(Path(_unescape(fields[4])), 2 if kind[0] == "cgroup2" else 1)
            found.setdefault(fields[2], hierarchy)
    return tuple(found.values())


class Cgroups:
    """The labs' cgroups in *hierarchies*."""

    def __init__(
        self,
        hierarchies: Iterable[Hierarchy],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        kill: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._hierarchies = tuple(hierarchies)
        self._clock = clock
        self._sleep = sleep
        self._kill = kill

    def require(self) -> None:
        """Raise PrerequisiteError when this host has no cgroups to find processes by."""
        if not self._hierarchies:
            raise PrerequisiteError("no cgroup hierarchy is mounted on this host: mount one first")

    def paths(self, lab: str, node: str) -> tuple[str, ...]:
        """The directories that a process of *node* joins."""
        return tuple(str(h.root / TOP / lab / node) for h in self._hierarchies)

    def labs(self) -> set[str]:
        """The labs that have a cgroup in any hierarchy."""
        tops = (h.root / TOP for h in self._hierarchies)
        return {d.name for top in tops if top.is_dir() for d in top.iterdir() if d.is_dir()}

    def create(self, lab: str, node: str) -> None:
        """Make the cgroups of *node*; raises LabError when the kernel refuses."""
        for hierarchy in self._hierarchies:
            directory = hierarchy.root
            for part in (TOP, lab, node):
                parent, directory = directory, directory / part
                try:
                    directory.mkdir(exist_ok=True)
                    if hierarchy.version == 1:
                        _inherit_cpuset(parent, directory)
                    elif part != node:
                        _delegate(directory)
                except OSError as error:
                    raise LabError(f"cannot make cgroup {directory}: {error.strerror}") from error

    def _trees(self, lab: str, node: str | None) -> list[Path]:
        parts = (TOP, lab, node) if node else (TOP, lab)
        return [h.root.joinpath(*parts) for h in self._hierarchies]

    def processes(self, lab: str, node: str | None = None) -> set[int]:
        """The processes of a lab or of one of its nodes, as numbered on the host."""
        found: set[int] = set()
        for tree in self._trees(lab, node):
            for directory, _, _ in os.walk(tree):
                try:
                    text = (Path(directory) / "cgroup.procs").read_text()
                except OSError:  # removed meanwhile, or a threaded v2 cgroup, listed by its parent
                    continue
                found.update(int(pid) for pid in text.split())
        # 0 stands for a process of a pid namespace that cannot be seen from here.
        return found - {0, os.getpid()}

    async def kill(self, lab: str, node: str | None = None, *, timeout: float = 30.0) -> int:
        """SIGKILL every process of a lab or node until none is left; returns how many there were.

        Raises LabError when some survive *timeout* seconds.
        """
        seen: set[int] = set()
        deadline = self._clock() + timeout
        while alive := self.processes(lab, node):
            if self._clock() > deadline:
                raise LabError(f"processes {sorted(alive)} of lab {lab!r} do not die")
            self._thaw(lab, node)
            for pid in alive:
                try:
                    self._kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            seen |= alive
            await self._sleep(0.02)
        return len(seen)

    def _thaw(self, lab: str, node: str | None) -> None:
        # A v1-frozen process (a paused container) does not act on SIGKILL before it is thawed.
        for tree in self._trees(lab, node):
            for directory, _, names in os.walk(tree):
                if "freezer.state" in names:
                    (Path(directory) / "freezer.state").write_text("THAWED")

    async def remove(self, lab: str, node: str | None = None, *, timeout: float = 10.0) -> None:
        """Remove the empty cgroups of a lab or node, deepest first.

        Raises LabError when one is still busy after *timeout* seconds.
        """
        deadline = self._clock() + timeout
        for tree in self._trees(lab, node):
            for directory, _, _ in os.walk(tree, topdown=False):
                await self._rmdir(Path(directory), deadline)
        if node is None:
            for hierarchy in self._hierarchies:
                try:
                    (hierarchy.root / TOP).rmdir()
                except OSError:  # other labs are in it, or it never was
                    continue

    async def _rmdir(self, directory: Path, deadline: float) -> None:
        # A killed process leaves its cgroup a moment after it has left cgroup.procs.
        while (error := _try_rmdir(directory)) is not None:
            if self._clock() > deadline:
                raise LabError(f"cannot remove cgroup {directory}: {error}") from error
            await self._sleep(0.02)


def _try_rmdir(directory: Path) -> OSError | None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _inherit_cpuset(parent: Path, child: Path) -> None:
    # A v1 cpuset starts empty and admits no process before it has CPUs and memory nodes.
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = parent / name
        if value.exists() and not (child / name).read_text().strip():
            (child / name).write_text(value.read_text())


def _delegate(directory: Path) -> None:
    controllers = (directory / "cgroup.controllers").read_text().split()
    if controllers:
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in controllers))
