"""Removes unused images when the file system of Docker's data runs full (``imageplan``)."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from nodeagent.api.port import Recorder
from nodeagent.docker.api import Engine
from nodeagent.docker.imageplan import Marks, plan, unused_since
from nodeagent.errors import EngineConflict, EngineError

log = logging.getLogger(__name__)

PERIOD = 300.0
"""Seconds between two looks."""


class Disk(Protocol):
    """The part of ``os.statvfs``'s result that is used."""

    @property
    def f_blocks(self) -> int:
        """Blocks in all."""
        ...

    @property
    def f_bavail(self) -> int:
        """Blocks that users may have."""
        ...


class ImageGC:
    """Keeps the disk below the high mark; *in_use* gives ids or names of images in use.

    The images of all containers, dead ones too, and the pause image belong in *in_use*.
    """

    def __init__(
        self,
        engine: Engine,
        in_use: Callable[[], Iterable[str]],
        recorder: Recorder,
        *,
        marks: Marks | None = None,
        statvfs: Callable[[str], Disk] = os.statvfs,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._in_use = in_use
        self._recorder = recorder
        self._marks = marks or Marks()
        self._statvfs = statvfs
        self._clock = clock
        self._sleep = sleep
        self._unused: dict[str, float] = {}

    async def run(self) -> None:
        """Look every PERIOD seconds, for ever."""
        while True:
            await self.step()
            await self._sleep(PERIOD)

    async def step(self) -> None:
        """Look once, and remove what has to go; what fails is told as an event of the node."""
        try:
            root = (await self._engine.info()).root
            images = await self._engine.images()
            usage = self._usage(root)
        except (EngineError, OSError) as error:
            self._warn("ImageGCFailed", f"unused images cannot be looked for: {error}")
            return
        now = self._clock()
        self._unused = unused_since(images, self._in_use(), self._unused, now)
        if usage < self._marks.high or self._marks.high == 100:
            return
        ids = plan(images, self._unused, usage, now, self._marks)
        _, problems = await self._remove(root, ids, self._marks.low)
        usage = self._usage(root)
        young = any(now - since < self._marks.age for since in self._unused.values())
        if usage > self._marks.low and not young:
            why = f" ({'; '.join(problems[:3])})" if problems else ""
            self._warn(
                "FreeDiskSpaceFailed",
                f"the disk of {root} is {usage:.0f} % full, and no unused image is left to remove"
                f"{why}: free space there down to {self._marks.low} %",
            )

    async def reclaim(self) -> bool:
        """Remove all images that were unused for long enough, whatever the marks; whether any went.

        For a node under pressure, before pods have to go. A high mark of 100 forbids it.
        """
        if self._marks.high == 100:
            return False
        try:
            root = (await self._engine.info()).root
            images = await self._engine.images()
            now = self._clock()
            self._unused = unused_since(images, self._in_use(), self._unused, now)
            ids = plan(images, self._unused, 100.0, now, self._marks)
            removed, problems = await self._remove(root, ids, 0)
        except (EngineError, OSError) as error:
            log.warning("unused images cannot be removed: %s", error)
            return False
        for problem in problems:
            log.warning("%s", problem)
        return bool(removed)

    async def _remove(self, root: str, ids: Iterable[str], low: int) -> tuple[int, list[str]]:
        """Remove until the mark *low* is reached; how many went, and why some could not."""
        removed = 0
        problems = []
        for one in ids:
            # Images share layers: only the disk tells what a removal has brought.
            if self._usage(root) <= low:
                break
            if one in set(self._in_use()):
                continue
            try:
                await self._engine.remove_image(one)
            except EngineConflict as error:
                log.debug("image %s stays: %s", one, error)
            except EngineError as error:
                problems.append(f"image {one[:19]} cannot be removed: {error}")
            else:
                removed += 1
                self._unused.pop(one, None)
                log.info("removed the unused image %s: the disk of %s is full", one, root)
        return removed, problems

    def _usage(self, root: str) -> float:
        disk = self._statvfs(root)
        return 100.0 - 100.0 * disk.f_bavail / max(1, disk.f_blocks)

    def _warn(self, reason: str, text: str) -> None:
        log.warning("%s", text)
        self._recorder.node("Warning", reason, text)
