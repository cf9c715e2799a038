"""Writing the statuses of pods to the API server: at once, the newest only, until it is done.

Model: for each object there is what is wanted and what the server is known to have, at first from
the watch, then from its answers. A task per object sends the difference while there is one.

Invariants:

* ``put`` never waits, and a status that says nothing new costs no request;
* an object has one write under way at most, and each write is of the newest status;
* after a write whose fate is not known the server is asked what it has;
* another object of the same name is never written to: each patch names the UID;
* who overwrites what is ours is corrected, at once at first, then ever more slowly.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from hostkit.kube.errors import ApiError, Conflict, KubeError, KubeUnavailable, NotFound
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.api.statuspatch import patch, same, unknown_field
from nodeagent.pods.model import Pod
from nodeagent.pods.status import changed

log = logging.getLogger(__name__)

STRATEGIC = "application/strategic-merge-patch+json"
SETTLED = 60.0
"""Seconds after a write in which older versions are echoes; later they are a rebuilt etcd's."""
PEACE = 300.0
"""Seconds without a foreign change after which the next one is a first one."""
MOST = 2000
"""Objects remembered; beyond that those with nothing to write are forgotten, the oldest first."""
# Trying the same again would be refused again.
_HOPELESS = {400, 405, 413, 415, 422}


class _Meta(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _Answer(msgspec.Struct):
    metadata: _Meta
    status: dict[str, Any] = {}


_answer = msgspec.json.Decoder(_Answer)


@dataclass(slots=True)
class _Entry:
    """One object. *known* is None when it is not sure what the server has."""

    pod: Pod
    known: Mapping[str, Any] | None
    version: int
    wanted: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0
    dirty: bool = False
    gone: bool = False
    task: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    answered: float = 0.0
    seen: Pod | None = None
    fights: int = 0
    fought: float = float("-inf")
    calming: float = 0.0


class StatusWriter:
    """Writes statuses; *in_flight* requests at most at a time, each of *deadline* seconds."""

    def __init__(
        self,
        client: KubeClient,
        problems: Problems,
        metrics: Metrics,
        *,
        in_flight: int = 8,
        deadline: float = 10.0,
        backoff: Backoff | None = None,
        calm: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._problems = problems
        self._deadline = deadline
        self._backoff = backoff or Backoff(first=0.2, most=10.0)
        self._calm = calm or Backoff(first=1.0, most=60.0)
        self._clock = clock
        self._sleep = sleep
        self._writing = asyncio.Semaphore(in_flight)
        self._deleting = asyncio.Semaphore(in_flight)
        self._entries: dict[str, _Entry] = {}
        self._without: set[str] = set()
        self._results = metrics.counter("status_writes", "Writes of pod statuses", "result")
        self._latency = metrics.histogram(
            "status_write_duration_seconds",
            "From a pod's change to the API server's answer",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
        )

    @property
    def pending(self) -> int:
        """How many objects have a status that is not written yet."""
        return sum(entry.dirty for entry in self._entries.values())

    def put(self, target: Pod, status: dict[str, Any]) -> None:
        """Have *status* written to *target*: a pod, or the mirror object of a static one."""
        entry = self._entries.get(target.uid)
        if entry is None:
            self._make_room()
            entry = _Entry(target, target.status, _version(target))
            self._entries[target.uid] = entry
        elif target is not entry.pod:
            self.observed(target)
        if status is entry.wanted or (entry.wanted and not changed(entry.wanted, status)):
            return
        entry.wanted = status
        self._want(entry)
        if entry.calming:
            entry.wake.set()

    def observed(self, pod: Pod) -> None:
        """Take note of an object as the watch shows it; what others overwrote is written again."""
        entry = self._entries.get(pod.uid)
        if entry is None:
            return
        entry.pod = pod
        if entry.task is not None and not entry.calming:
            entry.seen = pod
        else:
            self._judge(entry, pod)

    def hurry(self) -> None:
        """The API server answers again: try what waits."""
        for entry in self._entries.values():
            entry.wake.set()

    def forget(self, uid: str) -> None:
        """The object is gone."""
        if entry := self._entries.pop(uid, None):
            self._problems.clear(f"status of pod {entry.pod.key}")
            if entry.task is not None:
                entry.task.cancel()

    async def flush(self, uid: str) -> None:
        """Wait until the newest status of an object is written, or the server refused it."""
        entry = self._entries.get(uid)
        if entry is not None and entry.task is not None:
            entry.wake.set()
            await entry.settled.wait()

    async def confirm_gone(self, target: Pod) -> bool:
        """Delete *target* for good, after its last status; whether it is gone.

        Waits for as long as no API server answers; False when one refuses.
        """
        await self.flush(target.uid)
        failures = 0
        while (gone := await self._delete(target)) is None:
            failures += 1
            await self._sleep(self._backoff.delay(failures))
        if gone:
            self.forget(target.uid)
            self._problems.clear(f"status of pod {target.key}")
        return gone

    async def close(self) -> None:
        """Stop; what was not written is made anew by the next agent."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside ---

    async def _delete(self, target: Pod) -> bool | None:
        """Ask for the deletion once; None when it has to be asked for again."""
        meta = target.metadata
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": meta.uid},
        }
        body = msgspec.json.encode(options)
        try:
            async with self._deleting:
                await self._client.request(
                    "DELETE", _path(target), body=body, deadline=self._deadline
                )
        except (NotFound, Conflict):
            # A conflict is another pod of this name: the one of our UID is gone.
            return True
        except ApiError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status == 429:
                return None
            log.warning("pod %s: it cannot be deleted: %s", target.key, error)
            return False
        except KubeUnavailable as error:
            log.debug("pod %s: not deleted yet: %s", target.key, error)
            return None
        return True

    def _want(self, entry: _Entry, delay: float = 0.0) -> None:
        """Have the entry written, *delay* seconds from now if nothing else is waiting."""
        if entry.gone:
            return
        if not entry.dirty:
            entry.since = self._clock()
            entry.calming = delay
        entry.dirty = True
        if entry.task is None:
            if entry.known is not None and self._body(entry, entry.known) is None:
                entry.dirty = False
                return
            entry.settled.clear()
            entry.wake.clear()
            entry.task = asyncio.create_task(self._write(entry))

    def _body(self, entry: _Entry, known: Mapping[str, Any]) -> dict[str, Any] | None:
        return patch(entry.pod.uid, known, entry.wanted, self._without)

    async def _write(self, entry: _Entry) -> None:
        """Send what is wanted until the server has it."""
        failures = 0
        try:
            while entry.dirty and not entry.gone:
                if entry.calming:
                    await self._pause(entry, entry.calming)
                    entry.calming = 0.0
                failures = 0 if await self._send(entry) else failures + 1
                if failures:
                    await self._pause(entry, self._backoff.delay(failures))
        finally:
            entry.task = None
            entry.calming = 0.0
            entry.settled.set()

    async def _send(self, entry: _Entry) -> bool:
        """One write of the newest status; False when it has to be tried again."""
        try:
            async with self._writing:
                entry.settled.clear()
                if entry.known is None:
                    await self._reread(entry)
                known, entry.known = entry.known, None
                if known is None:
                    return entry.gone
                entry.dirty = False
                body = self._body(entry, known)
                if body is None:
                    entry.known = known
                    return True
                wanted, since = entry.wanted, entry.since
                data = await self._client.request(
                    "PATCH", f"{_path(entry.pod)}/status", body=msgspec.json.encode(body),
                    content_type=STRATEGIC, deadline=self._deadline,
                )  # fmt: skip
        except KubeUnavailable as error:
            entry.dirty = True
            if not error.maybe_applied:
                entry.known = known
            self._results.labels("unavailable").inc()
            log.debug("status of pod %s not written yet: %s", entry.pod.key, error)
            return False
        except ApiError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                entry.known = known
            return await self._refused(entry, error, wanted)
        self._results.labels("written").inc()
        self._latency.observe(max(0.0, self._clock() - since))
        self._written(entry, wanted, data)
        return True

    def _written(self, entry: _Entry, wanted: Mapping[str, Any], data: bytes) -> None:
        entry.answered = self._clock()
        entry.known = wanted
        entry.wake.clear()
        with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            answer = _answer.decode(data)
            entry.known = answer.status
            entry.version = max(entry.version, _number(answer.metadata.resource_version))
        self._problems.clear(f"status of pod {entry.pod.key}")
        seen, entry.seen = entry.seen, None
        if seen is not None:
            self._judge(entry, seen)

    async def _refused(self, entry: _Entry, error: ApiError, sent: Mapping[str, Any]) -> bool:
        """Decide what the refusal of *sent* means; False when the write has to be tried again."""
        entry.dirty = True
        if name := unknown_field(error.message):
            if name in self._without:
                return False
            log.info("the API server's pods have no %s yet: it is left out", name)
            self._without.add(name)
            return True
        if isinstance(error, NotFound):
            self._lose(entry)
            return True
        if isinstance(error, Conflict):
            await self._reread(entry)
            return entry.gone
        entry.settled.set()
        self._results.labels("refused").inc()
        self._problems.set(f"status of pod {entry.pod.key}", f"it cannot be written: {error}")
        if error.status in _HOPELESS:
            # What has come meanwhile may please the server better.
            entry.dirty = entry.wanted is not sent
            return True
        return False

    async def _reread(self, entry: _Entry) -> None:
        """Ask what the server has; there may be another pod of this name by now."""
        try:
            found = _answer.decode(await self._client.get(_path(entry.pod)))
        except NotFound:
            self._lose(entry)
        except (KubeError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            if isinstance(error, ApiError):
                entry.settled.set()
            log.debug("pod %s not read: %s", entry.pod.key, error)
        else:
            if found.metadata.uid != entry.pod.uid:
                self._lose(entry)
                return
            entry.known = found.status
            entry.version = max(entry.version, _number(found.metadata.resource_version))

    def _lose(self, entry: _Entry) -> None:
        """The object is not there any more; nothing is written until the watch shows it again."""
        self._results.labels("gone").inc()
        self._problems.clear(f"status of pod {entry.pod.key}")
        entry.gone, entry.dirty = True, False

    def _judge(self, entry: _Entry, pod: Pod) -> None:
        """Compare what the watch shows with what the server is known to have."""
        version = _version(pod)
        if version <= entry.version and self._clock() - entry.answered < SETTLED:
            return
        is_back = entry.gone or entry.known is None
        is_foreign = entry.known is not None and not same(entry.known, pod.status)
        entry.version, entry.gone, entry.known = version, False, pod.status
        # What the server left out of our last write is no reason to send it again.
        if not (is_back or is_foreign) or not entry.wanted or self._body(entry, pod.status) is None:
            return
        if not is_foreign:
            self._want(entry)
            return
        now = self._clock()
        entry.fights = 0 if now - entry.fought > PEACE else entry.fights + 1
        entry.fought = now
        log.info("status of pod %s was changed by another program: correcting it", pod.key)
        self._want(entry, self._calm.delay(entry.fights) if entry.fights else 0.0)

    async def _pause(self, entry: _Entry, seconds: float) -> None:
        """Wait, unless somebody hurries."""
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        waking = asyncio.create_task(entry.wake.wait())
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()
            entry.wake.clear()
            await asyncio.gather(sleeping, waking, return_exceptions=True)

    def _make_room(self) -> None:
        if len(self._entries) < MOST:
            return
        for uid in [uid for uid, one in self._entries.items() if one.task is None][: MOST // 10]:
            del self._entries[uid]


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"


def _version(pod: Pod) -> int:
    return _number(pod.metadata.resource_version)


def _number(version: str) -> int:
    # Versions are etcd's revisions in all servers there are.
    return int(version) if version.isascii() and version.isdigit() else 0
