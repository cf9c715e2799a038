"""Ending one running container in good order: preStop, its stop signal, SIGKILL.

No thread waits here: Docker is asked to send signals, and the container's end is heard of.
"""

import asyncio
from collections.abc import Awaitable, Callable

from nodeagent.docker.api import Engine
from nodeagent.pods.observed import Seen

FLOOR = 2.0
"""Seconds that a process has after a preStop hook, however long that took (the kubelet's floor)."""
LOOK = 1.0
"""Seconds after which the container is looked at although nothing was heard of it."""


class Ending:
    """One container on its way out; the deadline can be brought forward, never put off."""

    def __init__(
        self,
        seen: Seen,
        grace: float,
        *,
        engine: Engine,
        hook: Callable[[float], Awaitable[None]] | None,
        runs: Callable[[], bool],
        look: Callable[[], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self.seen = seen
        self.failures = 0
        self._engine = engine
        self._hook = hook
        self._runs = runs
        self._look = look
        self._clock = clock
        self._deadline = clock() + grace
        self._signalled = False
        self._heard = asyncio.Event()

    def hasten(self, grace: float) -> None:
        """Allow *grace* seconds from now at most."""
        deadline = self._clock() + grace
        if deadline < self._deadline:
            self._deadline = deadline
            self._heard.set()

    def heard(self) -> None:
        """Something about the pod was observed."""
        self._heard.set()

    async def run(self) -> None:
        """End it; raises EngineError when Docker refuses, to be called again then."""
        if self._hook is not None and self._left() > 0:
            await self._until_heard(self._hook(self._left()))
            self._hook = None
            if self._left() > 0:
                self._deadline = max(self._deadline, self._clock() + FLOOR)
        if self._left() > 0 and self._runs():
            if not self._signalled:
                await self._engine.kill(self.seen.id, self.seen.stop_signal)
                self._signalled = True
            await self._wait_for_end()
        while self._runs():
            await self._engine.kill(self.seen.id, "SIGKILL")
            await self._look()
            if self._runs():
                # One that is stuck in the kernel ends when that lets go of it.
                await asyncio.sleep(LOOK)

    def _left(self) -> float:
        return self._deadline - self._clock()

    async def _until_heard(self, hook: Awaitable[None]) -> None:
        """Wait for *hook*, but not past the deadline nor the container's end."""
        task = asyncio.ensure_future(hook)
        heard = asyncio.create_task(self._heard.wait())
        try:
            while not task.done() and self._left() > 0 and self._runs():
                await asyncio.wait(
                    {task, heard}, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED
                )
                if heard.done():
                    self._heard.clear()
                    heard = asyncio.create_task(self._heard.wait())
        finally:
            task.cancel()
            heard.cancel()
            await asyncio.gather(task, heard, return_exceptions=True)

    async def _wait_for_end(self) -> None:
        while self._runs() and self._left() > 0:
            self._heard.clear()
            try:
                async with asyncio.timeout(min(self._left(), LOOK)):
                    await self._heard.wait()
            except TimeoutError:
                if self._left() > 0:
                    await self._look()
