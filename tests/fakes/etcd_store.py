"""What a fake etcd cluster has agreed on: keys with history, leases, users.

Message texts and status codes are those of etcd 3.4.
"""

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


def b64(data: bytes) -> str:
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
                "key": b64(key),
                "value": b64(self.value),
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
        gone = [found for found in self.keys if within(found, key, end)]
        for found in gone:
            del self.keys[found]
            mark = {"key": b64(found), "mod_revision": str(self.revision + 1)}
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
        end = unb64(body["range_end"]) if body.get("range_end") else None
        keys = self._as_of(at)
        found = [key for key in sorted(keys) if within(key, unb64(body["key"]), end)]
        if body.get("sort_target") == "MOD":
            found.sort(key=lambda key: keys[key].modified, reverse=True)
        limit = int(body.get("limit", 0)) or len(found)
        kvs = [] if body.get("count_only") else [keys[key].json(key) for key in found[:limit]]
        return _slim({"header": self.header(), "kvs": kvs, "count": str(len(found))})

    def _do_kv_range(self, body: Json) -> Json:
        return self._range(body)

    def _do_kv_put(self, body: Json) -> Json:
        self._begin()
        self._put(unb64(body["key"]), unb64(body.get("value", "")), int(body.get("lease", 0)))
        self._commit()
        return {"header": self.header()}

    def _do_kv_deleterange(self, body: Json) -> Json:
        self._begin()
        deleted = self._delete(unb64(body["key"]), None)
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
        key = unb64(body["key"])
        if kind == "requestPut":
            self._put(key, unb64(body.get("value", "")), int(body.get("lease", 0)))
            return {"response_put": {}}
        if kind == "requestDeleteRange":
            deleted = self._delete(key, None)
            return {"response_delete_range": _slim({"deleted": str(deleted)})}
        kvs = [self.keys[key].json(key)] if key in self.keys else []
        return {"response_range": _slim({"kvs": kvs, "count": str(len(kvs))})}

    def _holds(self, compare: Json) -> bool:
        stored = self.keys.get(unb64(compare["key"]))
        if compare["target"] == "VALUE":
            return stored is not None and stored.value == unb64(compare.get("value", ""))
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


def within(key: bytes, first: bytes, end: bytes | None) -> bool:
    if end is None:
        return key == first
    return key >= first and (end == b"\0" or key < end)
