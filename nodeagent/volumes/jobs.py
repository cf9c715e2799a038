"""Calls that may hang, such as stat(2) below a dead NFS server, each in a thread with a deadline.

A thread in such a call cannot be ended. It is left behind: it holds back later work with its own
key, nobody else's, and as a daemon not the end of the process either.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Jobs:
    """Carries out calls, *most* at once beside those that hang, and one at a time per key."""

    def __init__(self, *, most: int = 8) -> None:
        self._room = asyncio.Semaphore(most)
        self._running: dict[str, asyncio.Future[None]] = {}

    @property
    def running(self) -> frozenset[str]:
        """The keys with a call under way, hanging ones too."""
        return frozenset(self._running)

    async def settle(self, prefix: str, *, within: float) -> bool:
        """Wait for calls whose key begins with *prefix*; whether all ended in *within* seconds."""
        waiting = [one for key, one in self._running.items() if key.startswith(prefix)]
        if not waiting:
            return True
        _, left = await asyncio.wait(waiting, timeout=within)
        return not left

    async def run(self, key: str, work: Callable[[], T], *, within: float) -> T:
        """The result of *work*, called after earlier calls of the same *key* have ended.

        Raises what *work* raises, and TimeoutError when it, or the one before it, has not ended
        after *within* seconds: it goes on all the same, as it does when the caller is cancelled.
        """
        async with asyncio.timeout(within):
            while (earlier := self._running.get(key)) is not None:
                await asyncio.wait((earlier,))
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._running[key] = ended
            try:
                await self._room.acquire()
            except BaseException:
                self._finish(key, ended)
                raise
        result = self._start(key, ended, work, within)
        done, _ = await asyncio.wait((result,), timeout=within)
        if not done:
            raise TimeoutError(f"no end after {within:g} s")
        return result.result()

    def _start(
        self, key: str, ended: asyncio.Future[None], work: Callable[[], T], within: float
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        # The error of a call that nobody waits for any more is no news.
        result.add_done_callback(lambda one: one.exception())
        place = _Place(self._room)
        timer = loop.call_later(within, place.leave)

        def arrive(set_outcome: Callable[[], None]) -> None:
            timer.cancel()
            place.leave()
            set_outcome()
            self._finish(key, ended)

        def body() -> None:
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                problem = error
                outcome: Callable[[], None] = lambda: result.set_exception(problem)  # noqa: E731
            else:
                outcome = lambda: result.set_result(value)  # noqa: E731
            try:
                loop.call_soon_threadsafe(arrive, outcome)
            except RuntimeError:
                # The loop is closed: nobody is left to hear of it.
                return

        threading.Thread(target=body, name=f"volume-{key}"[:40], daemon=True).start()
        return result

    def _finish(self, key: str, ended: asyncio.Future[None]) -> None:
        if self._running.get(key) is ended:
            del self._running[key]
        ended.set_result(None)


class _Place:
    """A place among those that run, given back once: at the end or when the call overruns."""

    def __init__(self, room: asyncio.Semaphore) -> None:
        self._room: asyncio.Semaphore | None = room

    def leave(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.release()
