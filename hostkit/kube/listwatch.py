"""Following a collection: list, then watch from the list's version, for ever, without loss.

Model: the position is one resource version, that of the last list, event or bookmark that was
handed on whole. A watch that ends, is cut or falls silent is opened again at the position, on
whichever server is in use. The collection is listed anew when the position is of no use: the
server has forgotten it (410), its data are older than it, or it sent something that makes no
sense.

Invariants:

* an event is handed on once the server's data are known to contain the position, so nothing
  is missed when a server comes back with older data, from a backup or a new cluster: its watch
  would otherwise stay silent until its versions have grown past ours;
* a list asks for data not older than the position, so after a fail-over to a server that lags
  behind nothing goes back; it is asked without when the server cannot comply;
* a stream that is quiet proves nothing: its server has to answer others or probes, and a stream
  that outlives the time it was asked for is left. A server that is slow to answer is not left
  for that: a dead host is the kernel's to notice (``hostkit.sockets``), and sooner;
* attempts that fail, and watches that end soon after they began, are spaced by a growing pause.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, cast

import msgspec

from hostkit.errors import cut
from hostkit.kube.connections import Status
from hostkit.kube.errors import (
    Gone,
    KubeError,
    ServerFault,
    TooManyRequests,
    VersionTooLarge,
    api_error,
)
from hostkit.kube.transport import KubeClient, Params, Stream
from hostkit.reconcile import Backoff

Kind = Literal["ADDED", "MODIFIED", "DELETED"]
OnState = Callable[[bool, str], None]

# A watch is asked to end after 5 to 10 minutes, spread so that the nodes of a cluster do not
# come back together; GRACE seconds later it counts as lost.
WATCH_AT_LEAST, WATCH_AT_MOST, GRACE = 300, 600, 30
# A watch that lived for so many seconds was a good one.
STEADY = 5.0
# Seconds for which a busy server is left alone at most, however long it asks.
LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects, as of *version*; drop it soon: *items* share the bytes of the whole answer."""

    items: list[msgspec.Raw]
    version: str


@dataclass(frozen=True, slots=True)
class Changed:
    """One change; a deleted *object* is as it was last."""

    kind: Kind
    object: msgspec.Raw
    version: str


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta


class _List(msgspec.Struct):
    metadata: _Meta
    # A list without items is null in Go's JSON.
    items: list[msgspec.Raw] | None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_object = msgspec.json.Decoder(_Object)
_list = msgspec.json.Decoder(_List)
_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(Status)


class _Useless(ServerFault):
    """The position cannot be resumed at this server; ``plain`` asks for a list of any age."""

    def __init__(self, endpoint: str, cause: str, *, plain: bool = False) -> None:
        self.plain = plain
        super().__init__(endpoint, cause, sent=True)


class FollowOptions(TypedDict, total=False):
    """How to follow. *params* are a selector or the like. A stream is left when it and its server
    were quiet for *probe_every* seconds (5), to whomever, and the server then does not answer
    within *probe_timeout* seconds (5). *on_state* hears ``True`` and the server when a watch runs
    after trouble, and ``False`` and a sentence when the cause of trouble changes."""

    params: Params
    probe_every: float
    probe_timeout: float
    backoff: Backoff | None
    on_state: OnState | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


def follow(
    client: KubeClient, path: str, **options: Unpack[FollowOptions]
) -> AsyncGenerator[Listed | Changed, None]:
    """Follow the collection at *path*: Listed, then Changed or further Listed, without end.

    Outages and refusals never raise; they are told to *on_state*. Close the iterator
    (``contextlib.aclosing``) to drop the connection at once.
    """
    return _Follow(client, path, **options).items()


class _Follow:
    def __init__(
        self,
        client: KubeClient,
        path: str,
        *,
        params: Params = (),
        probe_every: float = 5.0,
        probe_timeout: float = 5.0,
        backoff: Backoff | None = None,
        on_state: OnState | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._path = path
        self._params = tuple(params)
        self._probe_every = probe_every
        self._probe_timeout = probe_timeout
        self._backoff = backoff or Backoff(first=0.1, most=5.0)
        self._on_state = on_state
        self._clock = clock
        self._sleep = sleep
        self._version = ""
        self._must_list = True
        self._plain = False
        # The server whose list gave the position, until its first watch.
        self._lister = ""
        self._failures = 0
        self._told: tuple[bool, str] | None = None

    async def items(self) -> AsyncGenerator[Listed | Changed, None]:
        while True:
            started, asked = self._clock(), 0.0
            try:
                if self._must_list:
                    yield await self._list()
                started = self._clock()
                async with aclosing(self._watch(started + WATCH_AT_MOST + GRACE)) as changes:
                    async for changed in changes:
                        yield changed
            except KubeError as error:
                self._note(error)
                if isinstance(error, TooManyRequests):
                    asked = min(error.retry_after, LONGEST_PAUSE)
            await self._pause(self._clock() - started, asked)

    async def _watch(self, ends: float) -> AsyncGenerator[Changed, None]:
        """The changes that one watch tells; it may end, and must have by the time *ends*."""
        params = (*self._params, *self._watch_params())
        async with self._client.stream(self._path, params) as stream:
            await self._confirm(stream)
            self._tell(True, stream.endpoint)
            while (lines := await self._read(stream, ends)) is not None:
                for line in lines:
                    changed = self._take(stream.endpoint, line)
                    if changed is not None:
                        yield changed
                if self._client.deserted(stream.endpoint):
                    return

    def _note(self, error: KubeError) -> None:
        """Decide what *error* means for the next attempt."""
        if isinstance(error, Gone | VersionTooLarge) and not self._must_list:
            # What the position is for; the list that follows is no trouble worth telling.
            self._must_list = True
            self._plain = isinstance(error, VersionTooLarge)
            return
        if isinstance(error, _Useless):
            self._must_list, self._plain = True, error.plain
        elif isinstance(error, ServerFault):
            self._client.failed(error.endpoint, error)
        self._tell(False, str(error))

    async def _list(self) -> Listed:
        # "0" is whatever the server has in memory, which spares etcd when all nodes start.
        version = "" if self._plain else self._version or "0"
        params = (*self._params, ("resourceVersion", version)) if version else self._params
        try:
            endpoint, data = await self._client.get_from(self._path, params)
        except (Gone, VersionTooLarge):
            if not version:
                raise
            endpoint, data = await self._client.get_from(self._path, self._params)
        try:
            reply = _list.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerFault(endpoint, f"no list: {_why(error)}", sent=True) from error
        self._version, self._lister = reply.metadata.resource_version, endpoint
        self._must_list = self._plain = False
        return Listed(reply.items or [], self._version)

    def _watch_params(self) -> Params:
        return (
            ("watch", "true"),
            ("resourceVersion", self._version),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(random.randint(WATCH_AT_LEAST, WATCH_AT_MOST))),
        )

    async def _confirm(self, stream: Stream) -> None:
        """Raise _Useless when the data behind *stream* are older than the position."""
        lister, self._lister = self._lister, ""
        if lister == stream.endpoint:
            return
        # Without a version this is read from etcd, not from the server's memory.
        data = await self._client.get_at(
            stream.endpoint, self._path, (*self._params, ("limit", "1"))
        )
        try:
            found = _object.decode(data).metadata.resource_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerFault(stream.endpoint, f"no list: {_why(error)}", sent=True) from error
        # Versions are etcd's revisions in all servers there are.
        known = found.isdecimal() and self._version.isdecimal()
        if known and int(found) < int(self._version):
            cause = f"its data went back from version {self._version} to {found}"
            raise _Useless(stream.endpoint, cause, plain=True)

    async def _read(self, stream: Stream, ends: float) -> list[bytes] | None:
        """The next lines of *stream*, for which its server must stay able to answer."""
        pause = self._probe_every
        while True:
            try:
                async with asyncio.timeout(pause):
                    return await stream.read()
            except TimeoutError:
                pass
            if self._client.deserted(stream.endpoint):
                return None
            if self._clock() > ends:
                raise ServerFault(stream.endpoint, "its watch outlived its time", sent=True)
            # All streams of a server share what is known of it: a node may have dozens of them.
            pause = self._probe_every - self._client.quiet_for(stream.endpoint)
            if pause <= 0:
                return await self._read_or_probe(stream)

    async def _read_or_probe(self, stream: Stream) -> list[bytes] | None:
        """The next lines, or none yet when the server answers a probe before they come."""
        # A server that is stopped keeps its connections open and is silent.
        reading = asyncio.create_task(stream.read())
        probing = asyncio.create_task(self._client.probe(stream.endpoint, self._probe_timeout))
        try:
            await asyncio.wait({reading, probing}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                probing.result()
        finally:
            reading.cancel()
            probing.cancel()
            await asyncio.gather(reading, probing, return_exceptions=True)
        return [] if reading.cancelled() else reading.result()

    def _take(self, endpoint: str, line: bytes) -> Changed | None:
        """What *line* says, None for a bookmark; moves the position."""
        try:
            event = _event.decode(line)
            if event.type == "ERROR":
                raise self._refused(endpoint, _status.decode(event.object))
            version = _object.decode(event.object).metadata.resource_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            shown = cut(line.decode(errors="replace"), 100)
            cause = f"its watch sent what is no event ({_why(error)}): {shown!r}"
            raise _Useless(endpoint, cause) from error
        self._version = version or self._version
        if event.type == "BOOKMARK":
            return None
        if event.type not in {"ADDED", "MODIFIED", "DELETED"}:
            raise _Useless(endpoint, f"its watch sent an event of type {cut(event.type, 40)!r}")
        return Changed(cast("Kind", event.type), event.object, self._version)

    @staticmethod
    def _refused(endpoint: str, status: Status) -> KubeError:
        """The error for an event of type ERROR."""
        if status.code == 410 or status.reason in {"Gone", "Expired"}:
            return api_error(410, status.reason, cut(status.message, 300), endpoint)
        text = cut(status.message or status.reason or "an error without text", 300)
        return _Useless(endpoint, f"its watch ended with: {text}")

    async def _pause(self, lived: float, asked: float) -> None:
        """Wait before the next attempt: not at all after a good watch or a first failure.

        *asked* is for how many seconds the server wants to be left alone.
        """
        self._failures = 0 if lived >= STEADY else self._failures + 1
        grown = self._backoff.delay(self._failures - 1) if self._failures > 1 else 0.0
        if grown or asked:
            await self._sleep(max(grown, asked))

    def _tell(self, connected: bool, text: str) -> None:
        if self._told != (connected, text):
            self._told = (connected, text)
            if self._on_state is not None:
                self._on_state(connected, text)


def _why(error: Exception) -> str:
    return cut(str(error), 200)
