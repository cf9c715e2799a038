"""Takes samples of all figures, at most one in a few seconds however often they are asked for."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nodeagent.errors import NodeAgentError
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen
from nodeagent.server.readings import Interface, Reader, Usage
from nodeagent.server.sample import ContainerSample, PodSample, Sample

log = logging.getLogger(__name__)

FRESH = 5.0
"""Seconds for which a sample holds."""


class Stats:
    """Samples of the pods that *observed* gives, and of this machine.

    *root_dir* and *image_dir* are on the file systems that the figures speak of.
    """

    def __init__(
        self,
        observed: Callable[[], Iterable[tuple[Pod, PodSeen]]],
        root_dir: Path,
        *,
        image_dir: Path = Path("/var/lib/docker"),
        reader: Reader | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.image_dir = image_dir
        self._observed = observed
        self._root_dir = root_dir
        self._reader = reader or Reader()
        self._clock = clock
        self._wall = wall
        self._lock = asyncio.Lock()
        self._last: tuple[float, Sample] | None = None
        self._before: dict[str, int] = {}

    async def sample(self) -> Sample:
        """The figures of now, or of a few seconds ago; raises NodeAgentError."""
        async with self._lock:
            if self._last is not None and self._clock() - self._last[0] < FRESH:
                return self._last[1]
            pods = list(self._observed())
            at = self._clock()
            try:
                # Some fifty pods make hundreds of small reads.
                taken = await asyncio.to_thread(self._take, pods, at)
            except (OSError, ValueError, IndexError) as error:
                raise NodeAgentError(f"this machine's figures cannot be read: {error}") from error
            self._last = at, taken
            self._before = {one.id: one.usage.cpu for p in taken.pods for one in p.containers}
            self._before[""] = taken.node.usage.cpu
            return taken

    def _take(self, pods: list[tuple[Pod, PodSeen]], at: float) -> Sample:
        node = self._reader.node(self._root_dir, self.image_dir)
        passed = 0.0 if self._last is None else at - self._last[0]
        found, failed = [], False
        for pod, seen in pods:
            one, missed = self._pod(pod, seen, passed)
            failed = failed or missed
            if one.containers:
                found.append(one)
        rate = self._rate("", node.usage, passed, node.uptime)
        return Sample(self._wall(), node, rate, tuple(found), failed)

    def _pod(self, pod: Pod, seen: PodSeen, passed: float) -> tuple[PodSample, bool]:
        sandbox = seen.sandbox
        running = [one for one in map(seen.newest, seen.containers) if one is not None]
        if sandbox is not None:
            running.append(sandbox)
        containers: list[ContainerSample] = []
        interfaces: tuple[Interface, ...] = ()
        missed = False
        for one in running:
            if not one.running or not one.pid:
                continue
            try:
                usage = self._reader.container(one.pid)
            except (OSError, ValueError, IndexError) as error:
                log.debug("figures of container %s: %s", one.id, error)
                missed = True
                continue
            if usage is not None:
                containers.append(self._container(one, usage, passed))
        if sandbox is not None and sandbox.running and sandbox.pid and not sandbox.host_network:
            interfaces = self._reader.network(sandbox.pid)
        meta = pod.metadata
        began = str(pod.status.get("startTime") or (sandbox.started_at if sandbox else ""))
        return (
            PodSample(meta.namespace, meta.name, meta.uid, began, tuple(containers), interfaces),
            missed,
        )

    def _container(self, seen: Seen, usage: Usage, passed: float) -> ContainerSample:
        rate = self._rate(seen.id, usage, passed, usage.age)
        return ContainerSample(seen.name, seen.id, seen.image, seen.started_at, usage, rate)

    def _rate(self, key: str, usage: Usage, passed: float, age: float) -> int:
        """Nanoseconds of CPU time a second since the last sample, or since the beginning."""
        before = self._before.get(key)
        if before is not None and passed > 0 and usage.cpu >= before:
            return int((usage.cpu - before) / passed)
        return int(usage.cpu / age) if age > 0 else 0
