"""Looks at memory, disks and process ids now and then, and follows the pressure they are under.

A file system that does not answer holds up one thread and nothing else: what could be read last
stays as it is, ``trouble`` says so, and no second thread is sent after it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path

from nodeagent.node.facts import Machine
from nodeagent.node.pressure import Level, Pressure

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two looks."""
PATIENCE = 5.0
"""Seconds after which a file system counts as hanging."""


class DiskReader:
    """Reads file systems in a thread; :meth:`read` answers within *patience* seconds."""

    def __init__(self, machine: Machine, patience: float = PATIENCE) -> None:
        self._machine = machine
        self._patience = patience
        self._pending: Future[dict[str, Level]] | None = None
        self._what = ""

    async def read(self, places: dict[str, Path]) -> dict[str, Level]:
        """The signals of the file systems at *places* (``nodefs``, ``imagefs``).

        Raises TimeoutError while a file system does not answer.
        """
        if self._pending is None or self._pending.done():
            self._pending = Future()
            # A pool's thread would be waited for at the end of the process.
            threading.Thread(
                target=self._fill, args=(self._pending, places), name="statvfs", daemon=True
            ).start()
            self._what = " or ".join(str(path) for path in places.values())
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(asyncio.wrap_future(self._pending))
        except TimeoutError:
            raise TimeoutError(
                f"the file system of {self._what} does not answer: see 'dmesg' and 'mount'"
            ) from None

    def _fill(self, answer: "Future[dict[str, Level]]", places: dict[str, Path]) -> None:
        answer.set_result(self._levels(places))

    def _levels(self, places: dict[str, Path]) -> dict[str, Level]:
        found = {}
        for name, path in places.items():
            disk = self._machine.disk(path)
            if disk is not None:
                found[f"{name}.available"] = Level(disk.free, disk.size)
                # btrfs and others make inodes as they need them and count none.
                found[f"{name}.inodesFree"] = Level(disk.inodes_free, disk.inodes)
        return found


class PressureWatch:
    """Keeps *pressure* as the machine is; *on_look* hears after each look whether it changed.

    *places* gives the paths of ``nodefs`` (``--root-dir``) and, once Docker has told where its
    data are, ``imagefs``.
    """

    def __init__(
        self,
        pressure: Pressure,
        machine: Machine,
        places: Callable[[], dict[str, Path]],
        *,
        on_look: Callable[[bool], None] = lambda _changed: None,
        every: float = EVERY,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pressure = pressure
        self.levels: dict[str, Level] = {}
        self.trouble = ""
        self._machine = machine
        self._places = places
        self._on_look = on_look
        self._every = every
        self._clock = clock
        self._sleep = sleep
        self._disks = DiskReader(machine, patience)

    async def look(self) -> None:
        """Look once."""
        levels = {
            signal: Level(*pair)
            for signal, pair in {
                "memory.available": self._machine.memory(),
                "pid.available": self._machine.pids(),
            }.items()
            if pair[1]
        }
        try:
            levels |= await self._disks.read(self._places())
            self.trouble = ""
        except TimeoutError as error:
            self.trouble = str(error)
        self.levels = levels
        before = self.pressure.active
        changed = self.pressure.observe(levels, self._clock())
        for condition in sorted(self.pressure.active - before):
            log.warning("%s: %s", condition, self.pressure.reasons[condition])
        for condition in sorted(before - self.pressure.active):
            log.info("%s is over", condition)
        self._on_look(changed)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await self._sleep(self._every)
