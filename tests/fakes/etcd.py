"""An etcd that keeps state and fails on demand, behind the real gateway's HTTP.

``Store`` is what a cluster has agreed on; each ``FakeEtcd`` is one member that serves it, so
several members of one store stand for a cluster. Message texts and status codes are those of
etcd 3.4.
"""

import asyncio
import base64
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

Json = dict[str, Any]
Fault = Literal["hang", "cut", "lose-reply"]


def _unb64(text: str) -> bytes:
    return base64.b64decode(text)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _slim(values: Json) -> Json:
    """Without the fields that protobuf's JSON leaves out."""
    return {name: value for name, value in values.items() if value not in ("0", "", 0, [], False)}


@dataclass(eq=False)
class Refused(Exception):  # noqa: N818 - an answer, not a failure of the fake
    """An error answer."""

    status: int
    code: int
    message: str


@dataclass
class Stored:
    """A key's value and history marks."""

    value: bytes
    created: int
    modified: int
    version: int
    lease: int

    def json(self, key: bytes) -> Json:
        """As the gateway writes it."""
        return _slim(
            {
                "key": _b64(key),
                "value": _b64(self.value),
                "create_revision": str(self.created),
                "mod_revision": str(self.modified),
                "version": str(self.version),
                "lease": str(self.lease),
            }
        )


@dataclass
class Lease:
    """A lease: seconds granted and when it ends."""

    granted: int
    ends: float


@dataclass
class Store:
    """The agreed state. ``clock`` gives seconds and ends leases; advance it to expire them."""

    clock: Callable[[], float] = time.monotonic
    cluster_id: int = 14841639068965178418
    revision: int = 1
    compacted: int = 0
    user: str = ""
    password: str = ""
    keys: dict[bytes, Stored] = field(default_factory=dict)
    past: dict[bytes, list[tuple[int, Stored | None]]] = field(default_factory=dict)
    history: list[tuple[int, bytes, Json]] = field(default_factory=list)
    leases: dict[int, Lease] = field(default_factory=dict)
    granted: list[int] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self) -> Json:
        """The header of every answer."""
        return {"cluster_id": str(self.cluster_id), "revision": str(self.revision)}

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write a key as another client would; returns the revision."""
        self._begin()
        self._put(key.encode(errors="surrogateescape"), value, lease)
        return self._commit()

    def delete(self, key: str) -> int:
        """Delete a key as another client would; returns the revision."""
        self._begin()
        self._delete(key.encode(errors="surrogateescape"), None)
        return self._commit()

    def compact(self, revision: int | None = None) -> None:
        """Forget the history before *revision* (default: the current one)."""
        self.compacted = revision or self.revision
        self.history = [entry for entry in self.history if entry[0] > self.compacted]

    def rebuild(self, *, cluster_id: int | None = None) -> None:
        """Become a new, empty cluster at revision 1."""
        self.cluster_id = cluster_id or self.cluster_id
        self.revision, self.compacted = 1, 0
        self.keys, self.past, self.history = {}, {}, []
        self.leases.clear()

    def expire(self) -> None:
        """End the leases whose time is over, with their keys."""
        for lease_id, lease in list(self.leases.items()):
            if lease.ends <= self.clock():
                self._end_lease(lease_id)

    def call(self, path: str, body: Json) -> Json:
        """The answer to one request; raises Refused."""
        self.expire()
        handler = getattr(self, "_do_" + path.replace("/", "_"), None)
        if handler is None:
            raise Refused(404, -1, "Not Found")
        answer: Json = handler(body)
        return answer

    def _begin(self) -> None:
        self._pending: list[tuple[bytes, Json]] = []

    def _commit(self) -> int:
        if self._pending:
            self.revision += 1
            for key, event in self._pending:
                self.past.setdefault(key, []).append((self.revision, self.keys.get(key)))
                self.history.append((self.revision, key, event))
            self.wake()
        return self.revision

    def wake(self) -> None:
        """Let the watches look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _as_of(self, revision: int) -> dict[bytes, Stored]:
        if revision == self.revision:
            return self.keys
        keys: dict[bytes, Stored] = {}
        for key, marks in self.past.items():
            before = [stored for at, stored in marks if at <= revision]
            if before and before[-1] is not None:
                keys[key] = before[-1]
        return keys

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        if lease and lease not in self.leases:
            raise Refused(404, 5, "etcdserver: requested lease not found")
        at, old = self.revision + 1, self.keys.get(key)
        made = old.created if old else at
        self.keys[key] = Stored(value, made, at, old.version + 1 if old else 1, lease)
        self._pending.append((key, {"kv": self.keys[key].json(key)}))

    def _delete(self, key: bytes, end: bytes | None) -> int:
        gone = [found for found in self.keys if _within(found, key, end)]
        for found in gone:
            del self.keys[found]
            mark = {"key": _b64(found), "mod_revision": str(self.revision + 1)}
            self._pending.append((found, {"type": "DELETE", "kv": mark}))
        return len(gone)

    def _end_lease(self, lease_id: int) -> None:
        del self.leases[lease_id]
        self._begin()
        for key in [key for key, stored in self.keys.items() if stored.lease == lease_id]:
            self._delete(key, None)
        self._commit()

    def _range(self, body: Json) -> Json:
        at = int(body.get("revision", 0)) or self.revision
        if at > self.revision:
            raise Refused(400, 11, "etcdserver: mvcc: required revision is a future revision")
        if at < self.compacted:
            raise Refused(400, 11, "etcdserver: mvcc: required revision has been compacted")
        end = _unb64(body["range_end"]) if body.get("range_end") else None
        keys = self._as_of(at)
        found = [key for key in sorted(keys) if _within(key, _unb64(body["key"]), end)]
        if body.get("sort_target") == "MOD":
            found.sort(key=lambda key: keys[key].modified, reverse=True)
        limit = int(body.get("limit", 0)) or len(found)
        kvs = [] if body.get("count_only") else [keys[key].json(key) for key in found[:limit]]
        return _slim({"header": self.header(), "kvs": kvs, "count": str(len(found))})

    def _do_kv_range(self, body: Json) -> Json:
        return self._range(body)

    def _do_kv_put(self, body: Json) -> Json:
        self._begin()
        self._put(_unb64(body["key"]), _unb64(body.get("value", "")), int(body.get("lease", 0)))
        self._commit()
        return {"header": self.header()}

    def _do_kv_deleterange(self, body: Json) -> Json:
        self._begin()
        deleted = self._delete(_unb64(body["key"]), None)
        self._commit()
        return _slim({"header": self.header(), "deleted": str(deleted)})

    def _do_kv_compaction(self, body: Json) -> Json:
        self.compact(int(body["revision"]))
        return {"header": self.header()}

    def _do_kv_txn(self, body: Json) -> Json:
        succeeded = all(self._holds(compare) for compare in body.get("compare", []))
        answers: list[Json] = []
        before = dict(self.keys)
        self._begin()
        try:
            ops = body.get("success" if succeeded else "failure", [])
            answers.extend(self._txn_op(op) for op in ops)
        except Refused:
            self.keys = before
            raise
        self._commit()
        return _slim({"header": self.header(), "succeeded": succeeded, "responses": answers})

    def _txn_op(self, op: Json) -> Json:
        ((kind, body),) = op.items()
        key = _unb64(body["key"])
        if kind == "requestPut":
            self._put(key, _unb64(body.get("value", "")), int(body.get("lease", 0)))
            return {"response_put": {}}
        if kind == "requestDeleteRange":
            deleted = self._delete(key, None)
            return {"response_delete_range": _slim({"deleted": str(deleted)})}
        kvs = [self.keys[key].json(key)] if key in self.keys else []
        return {"response_range": _slim({"kvs": kvs, "count": str(len(kvs))})}

    def _holds(self, compare: Json) -> bool:
        stored = self.keys.get(_unb64(compare["key"]))
        if compare["target"] == "VALUE":
            return stored is not None and stored.value == _unb64(compare.get("value", ""))
        wire, name = {
            "VERSION": ("version", "version"),
            "MOD": ("mod_revision", "modified"),
            "CREATE": ("create_revision", "created"),
            "LEASE": ("lease", "lease"),
        }[compare["target"]]
        have = getattr(stored, name) if stored is not None else 0
        return bool(have == int(compare.get(wire, 0)))

    def _do_lease_grant(self, body: Json) -> Json:
        lease_id, ttl = int(body["ID"]), int(body["TTL"])
        if lease_id in self.leases:
            raise Refused(412, 9, "etcdserver: lease already exists")
        self.leases[lease_id] = Lease(ttl, self.clock() + ttl)
        self.granted.append(lease_id)
        return {"header": self.header(), "ID": str(lease_id), "TTL": str(ttl)}

    def _do_lease_keepalive(self, body: Json) -> Json:
        lease = self.leases.get(int(body["ID"]))
        if lease is None:
            return {"result": {"header": self.header(), "ID": body["ID"]}}
        lease.ends = self.clock() + lease.granted
        return {"result": {"header": self.header(), "ID": body["ID"], "TTL": str(lease.granted)}}

    def _do_lease_timetolive(self, body: Json) -> Json:
        lease = self.leases.get(int(body["ID"]))
        if lease is None:
            return {"header": self.header(), "ID": body["ID"], "TTL": "-1"}
        left = str(int(lease.ends - self.clock()))
        return _slim({"ID": body["ID"], "TTL": left, "grantedTTL": str(lease.granted)})

    def _do_lease_revoke(self, body: Json) -> Json:
        if int(body["ID"]) not in self.leases:
            raise Refused(404, 5, "etcdserver: requested lease not found")
        self._end_lease(int(body["ID"]))
        return {"header": self.header()}

    def _do_maintenance_status(self, _: Json) -> Json:
        return {"header": self.header(), "version": "3.4.23", "leader": "7", "dbSize": "20480"}

    def _do_auth_authenticate(self, body: Json) -> Json:
        if not self.user:
            raise Refused(412, 9, "etcdserver: authentication is not enabled")
        if (body.get("name"), body.get("password")) != (self.user, self.password):
            text = "etcdserver: authentication failed, invalid user ID or password"
            raise Refused(400, 3, text)
        token = f"token.{len(self.tokens) + 1}"
        self.tokens.add(token)
        return {"header": self.header(), "token": token}


def _within(key: bytes, first: bytes, end: bytes | None) -> bool:
    if end is None:
        return key == first
    return key >= first and (end == b"\0" or key < end)


class FakeEtcd:
    """One member on 127.0.0.1; ``url`` is its endpoint. An async context manager.

    ``requests`` are the paths and bodies that arrived, in order.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.v2_only = False
        self.requests: list[tuple[str, Json]] = []
        self._faults: defaultdict[str, deque[Fault | Refused]] = defaultdict(deque)
        self._running = asyncio.Event()
        self._running.set()
        self._closing = asyncio.Event()
        self._streams: dict[int, web.Request] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.down()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def streams(self) -> int:
        """How many watches are open."""
        return len(self._streams)

    def count(self, path: str) -> int:
        """How many requests came for *path*."""
        return sum(1 for seen, _ in self.requests if seen == path)

    def fail(self, path: str, fault: Fault | Refused, times: int = 1) -> None:
        """Let the next *times* requests for *path* fail.

        "hang": no answer. "cut": closed unhandled. "lose-reply": handled, then closed.
        """
        self._faults[path].extend([fault] * times)

    def pause(self) -> None:
        """Become silent with open connections, like a stopped process."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    def cut_streams(self) -> None:
        """Cut all watches off."""
        streams, self._streams = self._streams, {}
        for request in streams.values():
            _cut(request)
        self.store.wake()

    async def up(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = int(self._runner.addresses[0][1])

    async def down(self) -> None:
        """Close all connections and refuse new ones."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._closing.set()
            self.cut_streams()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v3/")
        if self.v2_only:
            return web.Response(status=404, text="404 page not found\n")
        body: Json = json.loads(await request.read())
        self.requests.append((path, body))
        await self._wait_running()
        fault = self._faults[path].popleft() if self._faults[path] else None
        if fault == "hang":
            await self._closing.wait()
        if fault in {"hang", "cut"}:
            return _cut(request)
        try:
            if isinstance(fault, Refused):
                raise fault
            self._check_token(request, path)
            if path == "watch":
                return await self._watch(request, body["create_request"])
            answer = self.store.call(path, body)
        except Refused as refused:
            if refused.code < 0:
                return web.Response(status=refused.status, text=refused.message)
            text = refused.message
            return web.json_response(
                {"error": text, "message": text, "code": refused.code}, status=refused.status
            )
        if fault == "lose-reply":
            return _cut(request)
        return web.json_response(answer)

    def _check_token(self, request: web.Request, path: str) -> None:
        if not self.store.user or path == "auth/authenticate":
            return
        token = request.headers.get("Authorization", "")
        if not token:
            raise Refused(400, 3, "etcdserver: user name is empty")
        if token not in self.store.tokens:
            raise Refused(401, 16, "etcdserver: invalid auth token")

    async def _wait_running(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        running = asyncio.ensure_future(self._running.wait())
        try:
            await asyncio.wait({closing, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            running.cancel()

    async def _watch(self, request: web.Request, create: Json) -> web.StreamResponse:
        store = self.store
        first, end = _unb64(create["key"]), _unb64(create["range_end"])
        at = int(create["start_revision"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._streams[id(request)] = request
        try:
            await _send(response, {"header": store.header(), "created": True})
            if at <= store.compacted:
                gone = {"canceled": True, "compact_revision": str(store.compacted)}
                await _send(response, {"header": store.header(), **gone})
                return response
            while not self._closing.is_set() and id(request) in self._streams:
                changed = store.changed
                events = [
                    (revision, event)
                    for revision, key, event in store.history
                    if revision >= at and _within(key, first, end)
                ]
                if events:
                    at = events[-1][0] + 1
                    found = [event for _, event in events]
                    await _send(response, {"header": store.header(), "events": found})
                await changed.wait()
                await self._wait_running()
        except ConnectionError:
            return response
        finally:
            self._streams.pop(id(request), None)
        return response


async def _send(response: web.StreamResponse, result: Json) -> None:
    await response.write(json.dumps({"result": result}).encode() + b"\n")


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
