"""Answers of the API server that are kept for a while."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """At most *size* answers, the least used go first; who asks for the same waits for one answer.

    *ttl* is for how many seconds an answer holds. At most *parallel* questions are open at once,
    since strangers choose how many different ones there are. A failure is not kept.
    """

    def __init__(
        self,
        ttl: Callable[[V], float],
        clock: Callable[[], float],
        *,
        size: int = 1024,
        parallel: int = 8,
    ) -> None:
        self._ttl = ttl
        self._clock = clock
        self._size = size
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._open: dict[K, asyncio.Task[V]] = {}
        self._limit = asyncio.Semaphore(parallel)

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer for *key*, by *ask* unless it is kept; raises what asking raises."""
        found = self._kept.get(key)
        if found is not None:
            if self._clock() < found[1]:
                self._kept.move_to_end(key)
                return found[0]
            del self._kept[key]
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(self._fetch(key, ask))
            task.add_done_callback(lambda done: self._close(key, done))
        # One who goes away must not take the answer from the others.
        return await asyncio.shield(task)

    async def _fetch(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        async with self._limit:
            answer = await ask()
        self._kept[key] = answer, self._clock() + self._ttl(answer)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return answer

    def _close(self, key: K, done: "asyncio.Task[V]") -> None:
        self._open.pop(key, None)
        if not done.cancelled():
            # Read, so that asyncio does not complain when everyone has gone away.
            done.exception()
