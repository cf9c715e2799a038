"""Events for ``kubectl describe``, sent one after the other and never waited for.

Model: ``eventbook`` decides what is to be sent, a queue keeps it, ``run`` sends it. An event that
is heard of again while it waits is sent once, with its count.

Invariants:

* nobody waits for an event, and none holds up a status;
* the queue is bounded, and shorter while no API server answers; the oldest go first, counted;
* each warning is in the log, too, once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

import msgspec

from hostkit.kube.errors import ApiError, Conflict, KubeUnavailable, NotFound
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.reconcile import Backoff
from nodeagent.api.eventbook import Bucket, Event, EventBook, Subject, document
from nodeagent.pods.model import MIRROR, Pod

log = logging.getLogger(__name__)

COMPONENT = "kubelet"
"""The source that dashboards and alerts filter a node's events by."""
STRATEGIC = "application/strategic-merge-patch+json"


class EventRecorder:
    """Records events of pods and of the node *node_name*; without *client* they are logged only.

    *qps* and *burst* bound all requests, *most* the queue, *most_waiting* the queue while no API
    server answers; an event is given up when it could not be sent for *give_up* seconds.
    """

    def __init__(
        self,
        client: KubeClient | None,
        node_name: str,
        metrics: Metrics,
        *,
        book: EventBook | None = None,
        qps: float = 50.0,
        burst: int = 100,
        most: int = 1000,
        most_waiting: int = 200,
        give_up: float = 600.0,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._book = book or EventBook()
        self._bucket = Bucket(burst, 1.0 / qps, float(burst), clock())
        self._most = most
        self._most_waiting = most_waiting
        self._give_up = give_up
        self._backoff = backoff or Backoff(first=0.5, most=10.0)
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._queue: deque[Event] = deque()
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._failures = 0
        self._results = metrics.counter(
            "events", "Events that were sent, or that were not and why", "result"
        )

    @property
    def waiting(self) -> int:
        """How many events wait to be sent."""
        return len(self._queue)

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        """An event about a pod, or about one of its containers."""
        meta = pod.metadata
        subject = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": meta.namespace,
            "name": meta.name,
            # kubectl looks for a mirror pod's events under the UID of the static pod.
            "uid": meta.annotations.get(MIRROR) or meta.uid,
        }
        if meta.resource_version:
            subject["resourceVersion"] = meta.resource_version
        if container:
            is_init = any(one.name == container for one in pod.spec.init_containers)
            group = "initContainers" if is_init else "containers"
            subject["fieldPath"] = f"spec.{group}{{{container}}}"
        self._record(subject, f"pod {pod.key}", kind, reason, message)

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """An event about this node."""
        name = self._node_name
        # Its name stands for its UID, as in the kubelet's events: kubectl looks for that.
        subject = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}
        self._record(subject, f"node {name}", kind, reason, message)

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._news.wait()
            await self.step()

    async def step(self) -> None:
        """Send the oldest event, or wait as long as that must wait."""
        if not self._queue:
            self._news.clear()
            self._empty.set()
            return
        pause = self._bucket.wait(self._clock())
        if pause:
            await self._sleep(pause)
            return
        self._bucket.take(self._clock())
        event = self._queue.popleft()
        event.queued = False
        if await self._send(event):
            self._failures = 0
            return
        self._failures += 1
        if self._clock() - event.since > self._give_up:
            self._results.labels("given_up").inc()
        elif not event.queued:
            event.queued = True
            self._queue.appendleft(event)
            self._trim()
        await self._sleep(self._backoff.delay(self._failures))

    async def drain(self, within: float) -> None:
        """Wait until all is sent, at most *within* seconds."""
        try:
            async with asyncio.timeout(within):
                await self._empty.wait()
        except TimeoutError:
            log.info("%d events are not sent", len(self._queue))

    # --- inside ---

    def _record(
        self, subject: Subject, about: str, kind: str, reason: str, message: str
    ) -> None:  # fmt: skip
        now = self._clock()
        stamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = self._book.record(subject, kind, reason, message, now=now, stamp=stamp)
        is_new = event is not None and event.count == 1
        level = logging.WARNING if kind == "Warning" else logging.DEBUG
        if kind == "Normal" and self._client is None:
            level = logging.INFO
        log.log(level if is_new else logging.DEBUG, "%s: %s: %s", about, reason, message)
        if event is None:
            self._results.labels("limited").inc()
        elif self._client is not None and not event.queued:
            event.queued = True
            self._queue.append(event)
            self._trim()
            self._empty.clear()
            self._news.set()

    def _trim(self) -> None:
        most = self._most_waiting if self._failures else self._most
        while len(self._queue) > most:
            self._queue.popleft().queued = False
            self._results.labels("dropped").inc()

    async def _send(self, event: Event) -> bool:
        """Send one event; False when it has to be tried again."""
        try:
            await self._write(event)
        except KubeUnavailable as error:
            log.debug("event %s not sent yet: %s", event.name, error)
            return False
        except ApiError as error:
            log.debug("event %s not taken: %s", event.name, error)
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status == 429:
                return False
            # Its namespace is going, or we may not: it will not be taken later either.
            self._results.labels("refused").inc()
            return True
        self._results.labels("sent").inc()
        return True

    async def _write(self, event: Event) -> None:
        """Create the event, or bring it up to date where the API server has it."""
        if event.made:
            try:
                await self._patch(event)
            except NotFound:
                # Events live for an hour there.
                event.made = False
                event.name = self._book.name_for(event.subject)
            else:
                return
        try:
            await self._create(event)
        except Conflict:
            # The answer to the same request was lost.
            await self._patch(event)
        event.made = True

    async def _create(self, event: Event) -> None:
        body = msgspec.json.encode(document(event, COMPONENT, self._node_name))
        await self._request("POST", self._path(event), body)

    async def _patch(self, event: Event) -> None:
        body = {"count": event.count, "lastTimestamp": event.last, "message": event.message}
        path = f"{self._path(event)}/{event.name}"
        await self._request("PATCH", path, msgspec.json.encode(body), STRATEGIC)

    async def _request(
        self, method: str, path: str, body: bytes, content_type: str = "application/json"
    ) -> None:
        if self._client is not None:
            await self._client.request(method, path, body=body, content_type=content_type)

    @staticmethod
    def _path(event: Event) -> str:
        return f"/api/v1/namespaces/{event.subject.get('namespace') or 'default'}/events"
