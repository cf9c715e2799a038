"""The control groups around pods: made and limited before the sandbox, removed after the pod.

Invariants:

* what is there is read from the kernel, so a killed agent leaves nothing that is not found again;
* a group is only removed when no process is in it: the kernel refuses otherwise, and a slice is
  looked at before systemd is asked to stop it; nor is a process ended that Docker knows;
* where groups cannot be made, pods run in Docker's own group, and a problem says so.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from fractions import Fraction
from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.problems import Problems
from nodeagent.node.groups import FileGroups, Groups, SystemdGroups
from nodeagent.node.orphans import Kill, end_processes, is_unborn
from nodeagent.pods.cgroups import (
    LEVELS,
    Parts,
    folder_of,
    group_of,
    level_of,
    name_of,
    parent_of,
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
        kill: Kill = os.kill,
    ) -> None:
        self._host = host
        self._problems = problems
        self._sleep = sleep
        self._kill = kill
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
        """Remove the pod's group once Docker has none of its containers; processes are ended.

        A group that is in use even then is left for ``sweep``.
        """
        # A pod that was refused for its UID never had a group, and its UID may hold a path.
        if not self._host.cgroup_per_pod or not UID.fullmatch(uid):
            return
        for qos in LEVELS:
            group = group_of(uid, qos, self._host)
            self._shares.pop(self._folder_name(group), None)
            there = await asyncio.to_thread(self._files.exists, group)
            if there and not await self._remove(group) and await self._end(group):
                await self._remove(group)

    async def end_left(self, uid: str, container: str) -> None:
        """End what is left of a *container* of the pod that Docker has removed."""
        if self._host.cgroup_per_pod and UID.fullmatch(uid) and container:
            for qos in LEVELS:
                await self._end(group_of(uid, qos, self._host), container)

    async def _end(
        self, group: Parts, container: str = "", only: Callable[[int], bool] = lambda _pid: True
    ) -> int:
        folders = self._files.folders(group)
        return await asyncio.to_thread(end_processes, folders, container, only, kill=self._kill)

    async def sweep(self, known: Callable[[], Collection[str]]) -> tuple[str, ...]:
        """Remove groups of pods whose UIDs are not *known*; the names of what went."""
        if not self._host.cgroup_per_pod:
            return ()
        gone = []
        for qos in LEVELS:
            level = level_of(qos, self._host)
            names = await asyncio.to_thread(self._files.pods_below, level)
            # Asked after that: a pod that comes meanwhile must not lose its group.
            kept = {self._folder_name(group_of(uid, qos, self._host)) for uid in known()}
            for name in names:
                group = (*level, self._part(name))
                if name not in kept and await self._sweep(group):
                    gone.append(name)
        return tuple(gone)

    async def _sweep(self, group: Parts) -> bool:
        if await self._remove(group, tries=1):
            return True
        # Nobody's work is lost with these, whoever they are of.
        return bool(await self._end(group, only=is_unborn)) and await self._remove(group)

    async def clear(self) -> tuple[str, ...]:
        """Remove all groups that no process is in, those of the classes too; what stays."""
        await self.sweep(tuple)
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
