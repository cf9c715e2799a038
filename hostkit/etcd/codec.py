"""Pure translation between values and the JSON of etcd's gateway.

etcd's JSON mapping is protobuf's: bytes are base64, int64 are strings, fields that are zero,
false or empty are absent. Keys are text here; bytes that are no UTF-8 survive a round trip
as surrogates, so that one odd key in a prefix cannot hide the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from hostkit.errors import cut
from hostkit.etcd.errors import EndpointFault

EventType = Literal["put", "delete"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as etcd stores it; revisions and ``version`` are 0 where etcd does not tell."""

    key: str
    value: bytes
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys as of ``revision``; ``count`` is how many there are, also beyond a limit."""

    kvs: tuple[KeyValue, ...]
    revision: int
    count: int = 0
    cluster_id: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One change; a delete carries the key and the revision of the delete only."""

    type: EventType
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class OpResult:
    """What one operation of a transaction gave: ``kvs`` of a get, ``deleted`` of a delete."""

    kvs: tuple[KeyValue, ...] = ()
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Which branch was taken, the revision after it, and one result per operation of it."""

    succeeded: bool
    revision: int
    responses: tuple[OpResult, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """Seconds: ``ttl`` left (-1: there is no such lease) and ``granted``."""

    ttl: int
    granted: int


@dataclass(frozen=True, slots=True)
class Status:
    """One member's word about itself; ``db_size`` in bytes, ``leader`` is 0 when it has none."""

    endpoint: str
    version: str
    cluster_id: int
    member_id: int
    leader: int
    db_size: int
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction, built by ``absent``, ``mod_revision_is`` and the like."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of a transaction, built by ``put``, ``delete`` and ``get``."""

    body: Mapping[str, object]


def key_bytes(key: str) -> bytes:
    """The bytes of *key*."""
    return key.encode(errors="surrogateescape")


def key_text(key: bytes) -> str:
    """The text of *key*."""
    return key.decode(errors="surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """First key and first key after all that begin with *prefix* ("" is every key)."""
    if not prefix:
        return b"\0", b"\0"
    first = key_bytes(prefix)
    head = first.rstrip(b"\xff")
    # etcd reads the end b"\0" as "no end".
    return first, head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def _compare(key: str, target: str, field: str, value: object) -> Compare:
    return Compare({"key": key_bytes(key), "target": target, "result": "EQUAL", field: value})


def absent(key: str) -> Compare:
    """True when *key* does not exist."""
    return _compare(key, "VERSION", "version", "0")


def mod_revision_is(key: str, revision: int) -> Compare:
    """True when *key* was last changed at *revision* (0: it does not exist)."""
    return _compare(key, "MOD", "mod_revision", str(revision))


def create_revision_is(key: str, revision: int) -> Compare:
    """True when *key* was created at *revision* (0: it does not exist)."""
    return _compare(key, "CREATE", "create_revision", str(revision))


def value_is(key: str, value: bytes) -> Compare:
    """True when *key* exists with *value*."""
    return _compare(key, "VALUE", "value", value)


def lease_is(key: str, lease_id: int) -> Compare:
    """True when *key* exists and hangs on *lease_id* (0: on none)."""
    return _compare(key, "LEASE", "lease", str(lease_id))


def put_body(key: str, value: bytes, lease: int) -> dict[str, object]:
    """The request that writes *key*."""
    return {"key": key_bytes(key), "value": value, "lease": str(lease)}


def put(key: str, value: bytes, lease: int = 0) -> Op:
    """Write *key*, on *lease* if it is not 0."""
    return Op({"requestPut": put_body(key, value, lease)})


def delete(key: str) -> Op:
    """Delete *key* if it is there."""
    return Op({"requestDeleteRange": {"key": key_bytes(key)}})


def get(key: str) -> Op:
    """Read *key*."""
    return Op({"requestRange": {"key": key_bytes(key)}})


def txn_body(
    compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op]
) -> dict[str, object]:
    """The request for one transaction."""
    return {
        "compare": [compare.body for compare in compares],
        "success": [op.body for op in success],
        "failure": [op.body for op in failure],
    }


class Header(msgspec.Struct):
    """The header that every answer has."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class WireKv(msgspec.Struct):
    """A key as the gateway writes it."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class RangeReply(msgspec.Struct):
    """Answer of ``kv/range``."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[WireKv] = []
    count: int = 0


class WriteReply(msgspec.Struct):
    """Answer of ``kv/put``, ``kv/deleterange``, ``lease/revoke`` and ``kv/compaction``."""

    header: Header = msgspec.field(default_factory=Header)
    deleted: int = 0


class TxnOpReply(msgspec.Struct):
    """One operation's part of a transaction's answer."""

    response_range: RangeReply | None = None
    response_put: WriteReply | None = None
    response_delete_range: WriteReply | None = None


class TxnReply(msgspec.Struct):
    """Answer of ``kv/txn``."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[TxnOpReply] = []


class LeaseReply(msgspec.Struct):
    """Answer of ``lease/grant`` and ``lease/timetolive``."""

    lease_id: int = msgspec.field(default=0, name="ID")
    ttl: int = msgspec.field(default=0, name="TTL")
    granted: int = msgspec.field(default=0, name="grantedTTL")


class StreamedLeaseReply(msgspec.Struct):
    """Answer of ``lease/keepalive``: a stream of one message."""

    result: LeaseReply = msgspec.field(default_factory=LeaseReply)


class StatusReply(msgspec.Struct):
    """Answer of ``maintenance/status``."""

    header: Header = msgspec.field(default_factory=Header)
    version: str = ""
    leader: int = 0
    db_size: int = msgspec.field(default=0, name="dbSize")


class AuthReply(msgspec.Struct):
    """Answer of ``auth/authenticate``."""

    token: str = ""


class ErrorReply(msgspec.Struct):
    """A refusal; etcd 3.4 and 3.5 fill ``error`` too, later ones only ``message``."""

    error: str = ""
    message: str = ""
    code: int = 2


class WireEvent(msgspec.Struct):
    """One event of a watch; an absent type is a put."""

    kv: WireKv
    type: str = "PUT"


class WatchReply(msgspec.Struct):
    """One message of a watch."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[WireEvent] = []


class StreamError(msgspec.Struct):
    """An error inside a stream; the field names differ between gateway versions."""

    message: str = ""
    grpc_code: int = 0
    code: int = 0


class WatchLine(msgspec.Struct):
    """One line of a watch stream."""

    result: WatchReply | None = None
    error: StreamError | None = None


def decoder(kind: type[T]) -> "msgspec.json.Decoder[T]":
    """A decoder that also reads etcd's int64 written as strings."""
    return msgspec.json.Decoder(kind, strict=False)


def decode(kind: "msgspec.json.Decoder[T]", data: bytes, endpoint: str) -> T:
    """The message that *endpoint* sent; raises EndpointFault when *data* is none."""
    try:
        return kind.decode(data)
    # RecursionError is what msgspec raises for JSON that is nested thousands deep.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"no etcd answer: {cut(str(error), 200)}"
        raise EndpointFault(endpoint, text, sent=True) from error


def encode(body: Mapping[str, Any]) -> bytes:
    """The JSON of a request; bytes become base64."""
    return msgspec.json.encode(body)


def key_value(wire: WireKv) -> KeyValue:
    """The value for callers."""
    return KeyValue(
        key_text(wire.key),
        wire.value,
        wire.create_revision,
        wire.mod_revision,
        wire.version,
        wire.lease,
    )


def event(wire: WireEvent) -> Event:
    """The value for callers."""
    return Event("delete" if wire.type == "DELETE" else "put", key_value(wire.kv))


def range_result(reply: RangeReply) -> RangeResult:
    """The value for callers."""
    return RangeResult(
        tuple([key_value(kv) for kv in reply.kvs]),
        reply.header.revision,
        reply.count,
        reply.header.cluster_id,
    )


def txn_result(reply: TxnReply) -> TxnResult:
    """The value for callers."""
    results: list[OpResult] = []
    for part in reply.responses:
        if part.response_range is not None:
            results.append(OpResult(kvs=tuple([key_value(kv) for kv in part.response_range.kvs])))
        elif part.response_delete_range is not None:
            results.append(OpResult(deleted=part.response_delete_range.deleted))
        else:
            results.append(OpResult())
    return TxnResult(reply.succeeded, reply.header.revision, tuple(results))
