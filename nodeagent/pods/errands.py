"""What is done for a pod beside its operations: nothing of the pod waits for it but its end.

Dead containers are removed, and the contents of volumes brought up to date.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from hostkit.reconcile import Backoff
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.model import Pod
from nodeagent.pods.parts import Parts

log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.2, most=10.0)


class Errands:
    """The errands of one pod; *on_end* is called at the end of each."""

    def __init__(self, pod: Pod, parts: Parts, on_end: Callable[[], None]) -> None:
        self._pod = pod
        self._parts = parts
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._removing: set[str] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._failures = 0

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return bool(self._tasks)

    def remove(self, ids: Collection[str]) -> None:
        """Have dead containers removed; those that are being removed already are left out."""
        fresh = frozenset(ids) - self._removing
        if fresh:
            self._removing |= fresh
            task = self._begin(self._remove(fresh))
            task.add_done_callback(lambda _: self._removing.difference_update(fresh))

    @property
    def refreshing(self) -> bool:
        """Whether the contents of volumes are being looked at."""
        return self._refreshing is not None and not self._refreshing.done()

    def refresh(self, pod: Pod) -> None:
        """Have the contents of volumes brought up to date; not while that is ``refreshing``."""
        self._refreshing = self._begin(self._refresh(pod))

    def leave_volumes(self) -> None:
        """The contents of volumes are of no interest any more."""
        if self._refreshing is not None:
            self._refreshing.cancel()

    async def close(self) -> None:
        """End them all."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            text = f"a fault in the program: {type(error).__name__}: {error}"
            log.error("pod %s: %s", self._pod.key, text, exc_info=error)
        self._on_end()

    async def _refresh(self, pod: Pod) -> None:
        try:
            await self._parts.volumes.refresh(pod)
        except PodError as error:
            self._parts.recorder.pod(pod, "Warning", error.reason, error.message)

    async def _remove(self, ids: frozenset[str]) -> None:
        """Remove containers; when Docker does not, the next try is made after a while."""
        try:
            done = await asyncio.gather(
                *(self._parts.engine.remove(one) for one in ids), return_exceptions=True
            )
            await self._parts.observer.refresh(self._pod.uid)
            for error in done:
                if error is not None:
                    raise error
            self._failures = 0
        except EngineError as error:
            self._failures += 1
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
            log.log(level, "pod %s: a container is not removed yet: %s", self._pod.key, error)
            await asyncio.sleep(_BACKOFF.delay(self._failures))


async def tear_down(parts: Parts, uid: str) -> None:
    """Delete the files of a pod; raises PodError while that does not go."""
    try:
        await parts.volumes.teardown(uid)
    except PodError as error:
        # A UID that cannot be the name of a folder never had one.
        if not error.final:
            raise
