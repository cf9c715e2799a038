"""Following a prefix, or one key, without losing, repeating or reordering a change.

Model: a ``Snapshot`` at revision R, then ``Changes`` with every event after R, in order. The
cursor is the revision of the last event that the consumer has taken in full; a broken stream
is opened again, at the next endpoint, from the cursor + 1.

Invariants:

* the cursor moves only by events. The header revision of a watch answer can be ahead of events
  still to come while a watcher catches up, and so can a progress notice (etcd-io/etcd#15220);
* before the first event of a new stream is passed on, the endpoint has confirmed that its
  history contains our cursor: same cluster, and at the cursor's revision as many keys and the
  same newest one. Otherwise etcd was rebuilt, and the truth is a new ``Snapshot``;
* a compacted cursor also leads to a new ``Snapshot``: the consumer replaces all it knew;
* nothing ends the iteration but closing or cancelling it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict, Unpack

from hostkit.etcd import codec, transport
from hostkit.etcd.codec import Event, KeyValue, RangeResult
from hostkit.etcd.errors import (
    EndpointFault,
    EtcdApiError,
    EtcdAuthError,
    EtcdCompacted,
    EtcdError,
    EtcdUnavailable,
)
from hostkit.etcd.faults import Faults
from hostkit.etcd.gateway import EtcdClient
from hostkit.reconcile import Backoff
from hostkit.streams import Lines

__all__ = [
    "Changes",
    "Cursor",
    "Event",
    "KeyValue",
    "Snapshot",
    "WatchListener",
    "watch_key",
    "watch_prefix",
]

_LINE = codec.decoder(codec.WatchLine)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The full truth at ``revision``: it replaces everything known before."""

    revision: int
    kvs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """All ``events`` after the previous item, in order, up to ``revision``."""

    revision: int
    events: tuple[Event, ...]


class WatchListener(Protocol):
    """Is told when the watch gets or loses its connection, and when the cause of that changes."""

    def connected(self, endpoint: str) -> None:
        """Changes now come from *endpoint*."""
        ...

    def disconnected(self, error: EtcdError) -> None:
        """Changes do not come, because of *error*; the watch goes on trying.

        Told again while disconnected whenever the text of *error* is another one, and during
        the first attempt too when the endpoints do not answer at once.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the consumer is, and what a history that contains this point looks like.

    ``newest`` is the one key changed last among the ``count`` keys; None when that is unknown,
    or when one transaction changed several.
    """

    revision: int
    cluster_id: int
    count: int
    newest: KeyValue | None

    @classmethod
    def at(cls, result: RangeResult) -> "Cursor":
        """The cursor right after a full list."""
        return cls(result.revision, result.cluster_id, len(result.kvs), _newest(result.kvs))

    def after(self, changes: Changes) -> "Cursor":
        """The cursor after *changes*."""
        count = self.count
        for event in changes.events:
            if event.type == "delete":
                count -= 1
            else:
                count += event.kv.create_revision == event.kv.mod_revision
        last = [event for event in changes.events if event.kv.mod_revision == changes.revision]
        # After a delete the newest remaining key is unknown: telling would cost a copy of all.
        only_put = len(last) == 1 and last[0].type == "put"
        return replace(
            self,
            revision=changes.revision,
            count=count,
            newest=last[0].kv if only_put else None,
        )

    def is_in(self, history: RangeResult) -> bool:
        """Whether *history*, read at our revision with its newest key first, is ours."""
        if history.cluster_id != self.cluster_id or history.count != self.count:
            return False
        return self.newest is None or history.kvs[:1] == (self.newest,)


def _newest(kvs: Iterable[KeyValue]) -> KeyValue | None:
    newest, shared = None, False
    for kv in kvs:
        if newest is None or kv.mod_revision > newest.mod_revision:
            newest, shared = kv, False
        elif kv.mod_revision == newest.mod_revision:
            shared = True
    return None if shared else newest


class _RebuiltError(EtcdError):
    """The endpoint's history is not the one we followed."""


class WatchOptions(TypedDict, total=False):
    """How to watch. A stream that was silent for *probe_interval* seconds (5) is tested by a read
    from the same endpoint and left when that takes longer than *probe_timeout* seconds (2)."""

    probe_interval: float
    probe_timeout: float
    backoff: Backoff | None
    sleep: Callable[[float], Awaitable[None]]
    listener: WatchListener | None


def watch_prefix(
    client: EtcdClient, prefix: str, **options: Unpack[WatchOptions]
) -> AsyncGenerator[Snapshot | Changes, None]:
    """Follow all keys that begin with *prefix*: a Snapshot, then Changes or further Snapshots.

    Outages never raise; they are told to the listener. Close the iterator
    (``contextlib.aclosing``) to drop the connection at once.
    """
    first, end = codec.prefix_range(prefix)
    return _Watch(client, {"key": first, "range_end": end}, **options).items()


def watch_key(
    client: EtcdClient, key: str, **options: Unpack[WatchOptions]
) -> AsyncGenerator[Snapshot | Changes, None]:
    """Follow *key* and no other, otherwise like ``watch_prefix``; its Snapshot may be empty.

    A role that may read exactly *key* is enough: it would be denied a prefix.
    """
    return _Watch(client, {"key": codec.key_bytes(key)}, **options).items()


class _Watch:
    def __init__(
        self,
        client: EtcdClient,
        scope: Mapping[str, bytes],
        *,
        probe_interval: float = 5.0,
        probe_timeout: float = 2.0,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        listener: WatchListener | None = None,
    ) -> None:
        self._client = client
        self._scope = scope
        self._probe_interval = probe_interval
        self._probe_timeout = probe_timeout
        self._backoff = backoff or Backoff(first=0.05, most=2.0)
        self._sleep = sleep
        self._listener = listener
        self._connected = False
        self._told = ""
        self._faults = Faults(client.config.endpoints)
        self._failures = 0

    async def items(self) -> AsyncGenerator[Snapshot | Changes, None]:
        cursor: Cursor | None = None
        while True:
            endpoint = ""
            try:
                if cursor is None:
                    result = await self._client.range(self._scope, on_trouble=self._tell_faults)
                    yield Snapshot(result.revision, result.kvs)
                    cursor = Cursor.at(result)
                endpoint = self._client.endpoint
                stream = await self._open(endpoint, cursor)
                async with aclosing(self._changes(stream, cursor)) as received:
                    async for changes in received:
                        yield changes
                        cursor = cursor.after(changes)
            except (EtcdCompacted, _RebuiltError):
                cursor = None
                await self._pause()
            except EtcdError as error:
                if endpoint:
                    self._client.failed(endpoint, error)
                self._tell_error(endpoint, error)
                await self._pause()

    async def _open(self, endpoint: str, cursor: Cursor) -> transport.Stream:
        request = {
            **self._scope,
            "start_revision": str(cursor.revision + 1),
            "progress_notify": True,
        }
        return await self._client.open_stream(
            endpoint, "watch", {"create_request": request}, self._client.config.call_timeout
        )

    async def _changes(
        self, stream: transport.Stream, cursor: Cursor
    ) -> AsyncGenerator[Changes, None]:
        """The events of one stream, once its history is confirmed; closes it in the end."""
        lines = Lines()
        confirmed = False
        try:
            while True:
                for line in lines.feed(await self._read(stream)):
                    reply = self._decode(stream.endpoint, line)
                    if not confirmed:
                        await self._confirm(stream.endpoint, cursor)
                        confirmed = True
                        self._tell_connected(stream.endpoint)
                    if reply.events:
                        events = tuple([codec.event(wire) for wire in reply.events])
                        yield Changes(events[-1].kv.mod_revision, events)
        finally:
            stream.close()

    async def _read(self, stream: transport.Stream) -> bytes:
        """The next bytes of *stream*, for which its endpoint must stay able to answer."""
        while True:
            try:
                async with asyncio.timeout(self._probe_interval):
                    chunk = await stream.read()
            except TimeoutError:
                # A member that is stopped or cut off keeps its connections open and is silent.
                await self._client.range_at(
                    stream.endpoint,
                    {"key": self._scope["key"], "count_only": True},
                    self._probe_timeout,
                )
                continue
            if not chunk:
                raise EndpointFault(stream.endpoint, "watch ended", sent=True)
            return chunk

    def _decode(self, endpoint: str, line: bytes) -> codec.WatchReply:
        message = codec.decode(_LINE, line, endpoint)
        if message.error is not None:
            code = message.error.grpc_code or message.error.code
            raise transport.api_error(endpoint, code, message.error.message)
        reply = message.result
        if reply is None:
            raise EndpointFault(endpoint, "empty watch answer", sent=True)
        if reply.compact_revision:
            raise EtcdCompacted(reply.compact_revision)
        if reply.canceled:
            if "permission denied" in reply.cancel_reason or "auth" in reply.cancel_reason:
                self._client.drop_token()
                raise EtcdAuthError(transport.DENIED, reply.cancel_reason, endpoint)
            raise EndpointFault(endpoint, f"watch canceled: {reply.cancel_reason}", sent=True)
        return reply

    async def _confirm(self, endpoint: str, cursor: Cursor) -> None:
        """Raise _RebuiltError or EtcdCompacted unless *endpoint*'s history contains *cursor*."""
        request = {
            **self._scope,
            "revision": str(cursor.revision),
            "limit": "1",
            "sort_order": "DESCEND",
            "sort_target": "MOD",
        }
        try:
            history = await self._client.range_at(
                endpoint, request, self._client.config.call_timeout
            )
        except EtcdApiError as error:
            if "future revision" in error.message:
                raise _RebuiltError(
                    f"etcd {endpoint}: revision {cursor.revision} is yet to come"
                ) from error
            if "has been compacted" in error.message:
                raise EtcdCompacted(cursor.revision + 1) from error
            raise
        if not cursor.is_in(history):
            raise _RebuiltError(f"etcd {endpoint}: its history at {cursor.revision} is another one")

    async def _pause(self) -> None:
        """Wait before the next attempt: not at all until each endpoint has had one."""
        self._failures += 1
        beyond = self._failures - len(self._client.config.endpoints)
        if beyond > 0:
            await self._sleep(self._backoff.delay(beyond))

    def _tell_connected(self, endpoint: str) -> None:
        self._failures = 0
        self._faults.clear()
        self._told = ""
        self._client.answered(endpoint)
        if not self._connected:
            self._connected = True
            if self._listener is not None:
                self._listener.connected(endpoint)

    def _tell_error(self, endpoint: str, error: EtcdError) -> None:
        """*endpoint* failed, or no one endpoint in particular if it is ""."""
        endpoint = endpoint or getattr(error, "endpoint", "")
        if endpoint:
            self._tell_faults({endpoint: error})
        elif not isinstance(error, EtcdUnavailable):
            # The causes of EtcdUnavailable came by themselves, with their types.
            self._tell_disconnected(error)

    def _tell_faults(self, errors: Mapping[str, EtcdError]) -> None:
        for endpoint, error in errors.items():
            self._faults.note(endpoint, error)
        known = list(self._faults.errors.values())
        self._tell_disconnected(known[0] if len(known) == 1 else self._faults.summary())

    def _tell_disconnected(self, error: EtcdError) -> None:
        self._connected = False
        if str(error) != self._told:
            self._told = str(error)
            if self._listener is not None:
                self._listener.disconnected(error)
