"""What there is, kept fresh: events as hints, a periodic list that decides.

Invariants:

* a container that Docker lists is always in the records: one that cannot be inspected stays as it
  was seen last, or as its line in the list shows it, until an inspect succeeds;
* an answer never replaces one to a later question (``records``);
* ``on_change`` is called only when the pod's containers really differ.

Nothing here waits for one container: each is inspected by a task of its own.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from hostkit.metrics import Metrics
from hostkit.reconcile import Backoff
from nodeagent.docker.api import Engine, Entry
from nodeagent.docker.labels import seen_of_entry, state_of
from nodeagent.docker.records import Records
from nodeagent.errors import EngineError, EngineNotFound
from nodeagent.pods.observed import PodSeen

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds without a list after which Docker is in trouble."""
FIRST_LOOK = 15.0
"""Seconds for which the first list waits for its containers' inspects."""
AGAIN = 1.0
"""Seconds after the start of a stream of events to a list: by then nothing can fall between."""

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Observer:
    """The containers of pods, by UID. *relist* is the time between two lists in seconds.

    *on_change* hears the UID of a pod that differs, and "" when the first list is whole.
    """

    def __init__(
        self,
        engine: Engine,
        on_change: Callable[[str], None],
        *,
        relist: float = 10.0,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Metrics,
        backoff: Backoff | None = None,
    ) -> None:
        self._engine = engine
        self._on_change = on_change
        self._relist = relist
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._backoff = backoff or Backoff(first=0.5, most=5.0)
        self._records = Records()
        self._suspects: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._foreign: set[str] = set()
        # Containers of which Docker said that the kernel killed for memory in them.
        self._out_of_memory: set[str] = set()
        self._due = asyncio.Event()
        self._first = True
        self._listed_at = clock()
        self._last_began: float | None = None
        self._last_error = ""
        self.listed = False
        self._duration = metrics.histogram(
            "pleg_relist_duration_seconds", "How long a list of all containers took.", _BUCKETS
        )
        self._interval = metrics.histogram(
            "pleg_relist_interval_seconds", "From one list to the next.", (5, 10, 15, 30, 60, 180)
        )
        pods = metrics.gauge("running_pods", "Pods whose sandbox runs.")
        pods.set_function(lambda: float(self._running_pods()))
        containers = metrics.gauge("running_containers", "Containers.", "container_state")
        for state in ("created", "running", "exited"):
            containers.labels(state).set_function(self._counter(state))

    # --- what is there ---

    @property
    def pods(self) -> Mapping[str, PodSeen]:
        """Pods that have a container, by UID."""
        return self._records.pods

    def pod(self, uid: str) -> PodSeen:
        """The containers of a pod; none when it is not known."""
        return self._records.pods.get(uid) or PodSeen(uid)

    @property
    def trouble(self) -> str:
        """Why Docker is not to be relied on, "" when it is."""
        if self._clock() - self._listed_at <= self._patience:
            return ""
        return self._last_error or "Docker does not answer a question for its containers"

    async def refresh(self, uid: str) -> PodSeen:
        """The containers of a pod as they are now; raises EngineError when that cannot be told.

        ``on_change`` is not called for what the caller gets to know by this.
        """
        try:
            mark = self._records.mark()
            entries = await self._engine.containers(uid)
            self._records.retain(mark, {one.id for one in entries}, uid)
            wanted = self._unclear(entries, mark)
            # Even when one fails the others are to be taken note of.
            errors = await asyncio.gather(*map(self._inspect, wanted), return_exceptions=True)
        except BaseException:
            self._announce()
            raise
        for error in errors:
            if error is not None:
                self._announce()
                raise error
        self._records.changed.discard(uid)
        self._announce()
        return self.pod(uid)

    async def started(self, container: str) -> None:
        """Have the record of a container that was just started show it so; raises EngineError.

        One question at most: mostly the event of the start has asked it already.
        """
        while not self._shows_start(container) and (task := self._tasks.get(container)):
            await asyncio.wait((task,))
        if not self._shows_start(container):
            try:
                await self._inspect(container)
            finally:
                self._announce()

    def _shows_start(self, container: str) -> bool:
        known = self._records.get(container)
        return known is not None and known.inspected and known.state != "created"

    # --- the loop ---

    async def run(self) -> None:
        """Watch for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._list_for_ever())
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _list_for_ever(self) -> None:
        failures = 0
        while True:
            if await self.look():
                failures = 0
                wait = self._relist
            else:
                failures += 1
                wait = min(self._relist, self._backoff.delay(failures))
            await self._until_due(wait)
            self._due.clear()

    async def _until_due(self, wait: float) -> None:
        waits = [asyncio.ensure_future(self._sleep(wait)), asyncio.ensure_future(self._due.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def look(self) -> bool:
        """List all containers once, and have inspected what is not clear; False if it failed."""
        began = self._clock()
        mark = self._records.mark()
        try:
            entries = await self._engine.containers()
        except EngineError as error:
            level = logging.DEBUG if str(error) == self._last_error else logging.WARNING
            log.log(level, "containers cannot be listed, will retry: %s", error)
            self._last_error = str(error)
            return False
        if self._last_error:
            log.info("containers are listed again")
            self._last_error = ""
        listed = {one.id for one in entries}
        self._records.retain(mark, listed)
        self._suspects.intersection_update(self._records.ids)
        self._out_of_memory.intersection_update(self._records.ids)
        self._foreign &= listed
        tasks = [self._begin(one) for one in self._unclear(entries, mark)]
        self._announce()
        if self._first and tasks:
            await asyncio.wait(tasks, timeout=FIRST_LOOK)
        self._first = False
        first, self.listed = not self.listed, True
        self._listed_at = self._clock()
        if first:
            self._on_change("")
        self._measure(began)
        return True

    def _measure(self, began: float) -> None:
        self._duration.observe(self._clock() - began)
        if self._last_began is not None:
            self._interval.observe(began - self._last_began)
        self._last_began = began

    def _unclear(self, entries: Iterable[Entry], mark: int) -> list[str]:
        """Ids whose record does not agree with their line; those without one get one of it."""
        found = []
        for one in entries:
            try:
                known = self._records.get(one.id)
                if known is None:
                    if self._records.put(seen_of_entry(one), mark):
                        self._suspects.add(one.id)
                elif known.state != state_of(one.state):
                    self._suspects.add(one.id)
            except ValueError as error:
                if one.id not in self._foreign:
                    log.warning("left alone: %s", error)
                    self._foreign.add(one.id)
                continue
            if one.id in self._suspects:
                found.append(one.id)
        return found

    # --- single containers ---

    def _begin(self, container: str) -> "asyncio.Task[None]":
        """Have one container inspected, once more if that is under way."""
        task = self._tasks.get(container)
        if task is not None:
            self._again.add(container)
            return task
        task = asyncio.create_task(self._inspect_until_clear(container))
        self._tasks[container] = task
        return task

    async def _inspect_until_clear(self, container: str) -> None:
        try:
            while True:
                self._again.discard(container)
                try:
                    await self._inspect(container)
                except EngineError as error:
                    log.debug("container %s stays as it was seen last: %s", container[:12], error)
                self._announce()
                if container not in self._again:
                    return
        finally:
            self._tasks.pop(container, None)
            self._again.discard(container)

    async def _inspect(self, container: str) -> None:
        mark = self._records.mark()
        try:
            seen = await self._engine.inspect(container)
        except EngineNotFound:
            if self._records.drop(container, mark):
                self._suspects.discard(container)
        except ValueError as error:
            # Its line in the list stands for it, as long as that can be read.
            log.debug("container %s: %s", container[:12], error)
            self._suspects.discard(container)
        else:
            if container in self._out_of_memory:
                # Docker leaves it out of the state when it hears of it after the end.
                seen = replace(seen, oom_killed=True)
            if self._records.put(seen, mark):
                self._suspects.discard(container)

    def _announce(self) -> None:
        changed, self._records.changed = self._records.changed, set()
        for uid in sorted(changed):
            self._on_change(uid)

    # --- events ---

    async def _follow(self) -> None:
        failures = 0
        while True:
            began = self._clock()
            lists = asyncio.create_task(self._list_again())
            try:
                async with aclosing(self._engine.events()) as events:
                    async for event in events:
                        self._heard(event.action, event.id)
                log.info("the stream of Docker's events has ended, it is opened again")
            except EngineError as error:
                level = logging.DEBUG if failures else logging.WARNING
                log.log(level, "Docker's events are not heard, will retry: %s", error)
            finally:
                lists.cancel()
            failures = 0 if self._clock() - began > self._relist else failures + 1
            # What happened meanwhile is only to be seen in the containers themselves.
            self._suspects.update(self._records.ids)
            await self._sleep(self._backoff.delay(max(1, failures)))

    async def _list_again(self) -> None:
        """Two lists about the start of the stream: which moment it begins at is not told."""
        if self.listed:
            self._due.set()
        await self._sleep(AGAIN)
        self._due.set()

    def _heard(self, action: str, container: str) -> None:
        if container in self._foreign:
            return
        if action == "destroy":
            self._records.drop(container)
            self._suspects.discard(container)
            self._announce()
        else:
            if action == "oom":
                self._out_of_memory.add(container)
            self._suspects.add(container)
            self._begin(container)

    # --- figures ---

    def _running_pods(self) -> int:
        pods = self._records.pods.values()
        return sum(1 for pod in pods if any(one.running for one in pod.sandboxes))

    def _counter(self, state: str) -> Callable[[], float]:
        def count() -> float:
            records = map(self._records.get, self._records.ids)
            return float(sum(1 for one in records if one is not None and one.state == state))

        return count
