"""The etcd client: calls over etcd's HTTP/JSON gateway, with endpoint rotation and auth.

Model: the client stays with the endpoint that answered last and moves to the next one when it
fails; rounds over all endpoints are spaced by a growing back-off until the total deadline.

Invariants:

* a read is repeated freely; a write is repeated only when it certainly did not reach etcd.
  When that is not certain the caller gets ``EtcdUnavailable(maybe_applied=True)`` at once;
* writes that mean the same twice (lease grant with its own id, keep-alive, revoke) are
  repeated like reads;
* a refused token is renewed once per call; a second refusal is the caller's error.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import msgspec

from hostkit.etcd import codec, transport
from hostkit.etcd.codec import (
    Compare,
    Event,
    KeyValue,
    LeaseInfo,
    Op,
    OpResult,
    RangeResult,
    Status,
    TxnResult,
    absent,
    create_revision_is,
    delete,
    get,
    lease_is,
    mod_revision_is,
    put,
    value_is,
)
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import (
    EndpointFault,
    EtcdApiError,
    EtcdAuthError,
    EtcdError,
    EtcdTlsError,
    EtcdUnavailable,
)
from hostkit.etcd.faults import ENDPOINT_TROUBLE, Faults
from hostkit.reconcile import Backoff

__all__ = [
    "Compare",
    "EtcdClient",
    "EtcdConfig",
    "Event",
    "KeyValue",
    "LeaseInfo",
    "Op",
    "OpResult",
    "RangeResult",
    "Status",
    "TxnResult",
    "absent",
    "create_revision_is",
    "delete",
    "get",
    "lease_is",
    "mod_revision_is",
    "put",
    "value_is",
]

T = TypeVar("T")
# Told the errors of the endpoints so far while a call goes on.
OnTrouble = Callable[[Mapping[str, EtcdError]], None]

# Refusals that a fresh token cures; others (wrong password, no permission) it does not.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")

_RANGE = codec.decoder(codec.RangeReply)
_WRITE = codec.decoder(codec.WriteReply)
_TXN = codec.decoder(codec.TxnReply)
_LEASE = codec.decoder(codec.LeaseReply)
_KEEPALIVE = codec.decoder(codec.StreamedLeaseReply)
_STATUS = codec.decoder(codec.StatusReply)
_AUTH = codec.decoder(codec.AuthReply)


class EtcdClient:
    """A client for one etcd cluster, for use in one event loop.

    Every call raises EtcdUnavailable when no endpoint answered within ``total_timeout``,
    EtcdTlsError or EtcdVersionError when all endpoints fail that way, EtcdAuthError when
    credentials or permissions are refused, and EtcdApiError for any other refusal.
    """

    def __init__(
        self,
        config: EtcdConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self._clock = clock
        self._sleep = sleep
        self._transport = transport.Transport(config)
        self._backoff = Backoff(first=0.05, most=1.0)
        self._current = 0
        self._errors: dict[str, str] = {}
        self._token = ""

    @property
    def endpoint(self) -> str:
        """The endpoint in use: the last that answered, or the next to be tried."""
        return self.config.endpoints[self._current]

    @property
    def endpoint_errors(self) -> Mapping[str, str]:
        """The endpoints that failed when last used, with the cause."""
        return MappingProxyType(self._errors)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    # Keys

    async def range_prefix(self, prefix: str, *, limit: int = 0) -> RangeResult:
        """All keys that begin with *prefix* (at most *limit* of them, 0: all), sorted by key."""
        first, end = codec.prefix_range(prefix)
        body = {"key": first, "range_end": end, "limit": str(limit)}
        return await self.range(body)

    async def range(
        self, body: Mapping[str, object], *, on_trouble: OnTrouble | None = None
    ) -> RangeResult:
        """One range as the request *body* says.

        *on_trouble* is told each endpoint's error after every failed attempt, from when all
        endpoints have failed or half a ``call_timeout`` has passed, and always before this
        raises because of them.
        """
        reply = await self._call("kv/range", body, _RANGE, on_trouble=on_trouble)
        return codec.range_result(reply)

    async def get(self, key: str) -> KeyValue | None:
        """*key* as it is now, None when it does not exist."""
        reply = await self._call("kv/range", {"key": codec.key_bytes(key)}, _RANGE)
        return codec.key_value(reply.kvs[0]) if reply.kvs else None

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write *key*, on *lease* if not 0; returns the revision of the write."""
        body = codec.put_body(key, value, lease)
        reply = await self._call("kv/put", body, _WRITE, repeatable=False)
        return reply.header.revision

    async def delete(self, key: str) -> int:
        """Delete *key*; returns how many keys that were, 0 or 1."""
        body = {"key": codec.key_bytes(key)}
        return (await self._call("kv/deleterange", body, _WRITE, repeatable=False)).deleted

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        """Do *success* if all *compares* hold, else *failure*, in one revision."""
        body = codec.txn_body(compares, success, failure)
        writes = any("requestRange" not in op.body for op in (*success, *failure))
        return codec.txn_result(await self._call("kv/txn", body, _TXN, repeatable=not writes))

    async def compact(self, revision: int) -> None:
        """Drop the history before *revision*."""
        await self._call("kv/compaction", {"revision": str(revision)}, _WRITE, repeatable=False)

    # Leases

    async def lease_grant(self, ttl: int, *, lease_id: int = 0) -> tuple[int, int]:
        """Make a lease of *ttl* seconds; returns its id and the seconds etcd really gave.

        The id is chosen here when *lease_id* is 0, so that a repeated request cannot leave a
        second lease behind. Raises EtcdApiError when a given *lease_id* is in use.
        """
        chosen = lease_id or secrets.randbits(62) | 1 << 61
        try:
            reply = await self._call("lease/grant", {"TTL": str(ttl), "ID": str(chosen)}, _LEASE)
        except EtcdApiError as error:
            if lease_id or "lease already exists" not in error.message:
                raise
            # Only our own earlier attempt, whose reply was lost, can have taken a random id.
            return chosen, (await self.lease_time_to_live(chosen)).granted
        return reply.lease_id or chosen, reply.ttl

    async def lease_keepalive(self, lease_id: int) -> int:
        """Renew a lease; returns the seconds left, 0 when there is no such lease."""
        reply = await self._call("lease/keepalive", {"ID": str(lease_id)}, _KEEPALIVE)
        return max(reply.result.ttl, 0)

    async def lease_time_to_live(self, lease_id: int) -> LeaseInfo:
        """Seconds left and granted."""
        reply = await self._call("lease/timetolive", {"ID": str(lease_id)}, _LEASE)
        return LeaseInfo(reply.ttl, reply.granted)

    async def lease_revoke(self, lease_id: int) -> bool:
        """End a lease and delete its keys; False when there was no such lease."""
        try:
            await self._call("lease/revoke", {"ID": str(lease_id)}, _WRITE)
        except EtcdApiError as error:
            if error.code != transport.NOT_FOUND:
                raise
            return False
        return True

    # Cluster

    async def status(self) -> Status:
        """What the endpoint in use says about itself."""
        endpoint, reply = await self._call_any("maintenance/status", {}, _STATUS)
        header = reply.header
        return Status(
            endpoint,
            reply.version,
            header.cluster_id,
            header.member_id,
            reply.leader,
            reply.db_size,
            header.revision,
            header.raft_term,
        )

    # For watches: calls to a given endpoint

    async def range_at(
        self, endpoint: str, body: Mapping[str, object], timeout: float
    ) -> RangeResult:
        """One linearizable range by *endpoint* and no other, within *timeout* seconds."""
        return codec.range_result(await self._attempt(endpoint, "kv/range", body, _RANGE, timeout))

    async def open_stream(
        self, endpoint: str, path: str, body: Mapping[str, object], timeout: float
    ) -> transport.Stream:
        """Open a streaming call to *endpoint*; its answer has to begin within *timeout* seconds."""
        data = codec.encode(body)
        return await self._authenticated(
            endpoint,
            timeout,
            lambda token: self._transport.stream(
                endpoint, path, data, token=token, timeout=timeout
            ),
        )

    def answered(self, endpoint: str) -> None:
        """Note that *endpoint* works; it is used from now on."""
        self._current = self.config.endpoints.index(endpoint)
        self._errors.pop(endpoint, None)

    def failed(self, endpoint: str, error: EtcdError) -> None:
        """Note that *endpoint* failed with *error*; the next one is used if it was in use."""
        self._errors[endpoint] = error.cause if isinstance(error, EndpointFault) else str(error)
        if self.endpoint == endpoint:
            self._current = (self._current + 1) % len(self.config.endpoints)
        if isinstance(error, EtcdTlsError):
            # Certificates get renewed on disk while we run.
            self._transport.reload()

    def drop_token(self) -> None:
        """Authenticate again before the next call."""
        self._token = ""

    # The call itself

    async def _call(
        self,
        path: str,
        body: Mapping[str, object],
        reply: "msgspec.json.Decoder[T]",
        *,
        repeatable: bool = True,
        on_trouble: OnTrouble | None = None,
    ) -> T:
        _, answer = await self._call_any(
            path, body, reply, repeatable=repeatable, on_trouble=on_trouble
        )
        return answer

    async def _call_any(
        self,
        path: str,
        body: Mapping[str, object],
        reply: "msgspec.json.Decoder[T]",
        *,
        repeatable: bool = True,
        on_trouble: OnTrouble | None = None,
    ) -> tuple[str, T]:
        """Call endpoint after endpoint until one answers or the total deadline has passed."""
        started = self._clock()
        deadline = started + self.config.total_timeout
        faults = Faults(self.config.endpoints)
        tries = 0
        while True:
            endpoint = self.endpoint
            left = max(deadline - self._clock(), 0.01)
            try:
                answer = await self._attempt(
                    endpoint, path, body, reply, min(left, self.config.call_timeout)
                )
            except ENDPOINT_TROUBLE as error:
                self.failed(endpoint, error)
                faults.note(endpoint, error)
                last = error
                if isinstance(error, EndpointFault) and error.sent and not repeatable:
                    raise EtcdUnavailable({endpoint: error.cause}, maybe_applied=True) from error
            else:
                self.answered(endpoint)
                return endpoint, answer
            tries += 1
            rounds, rest = divmod(tries, len(self.config.endpoints))
            delay = 0.0 if rest else self._backoff.delay(rounds)
            now = self._clock()
            hopeless = faults.hopeless or now + delay >= deadline
            late = now - started >= self.config.call_timeout / 2
            if on_trouble is not None and (hopeless or late or faults.complete):
                on_trouble(faults.errors)
            if hopeless:
                raise faults.summary() from last
            if delay:
                await self._sleep(delay)

    async def _attempt(
        self,
        endpoint: str,
        path: str,
        body: Mapping[str, object],
        reply: "msgspec.json.Decoder[T]",
        timeout: float,
    ) -> T:
        """One call to one endpoint, with a fresh token if the old one is refused."""
        data = codec.encode(body)
        answer = await self._authenticated(
            endpoint,
            timeout,
            lambda token: self._transport.post(endpoint, path, data, token=token, timeout=timeout),
        )
        return codec.decode(reply, answer, endpoint)

    async def _authenticated(
        self, endpoint: str, timeout: float, send: Callable[[str], Awaitable[T]]
    ) -> T:
        if not self.config.username:
            return await send("")
        used = self._token or await self._authenticate(endpoint, timeout)
        try:
            return await send(used)
        except EtcdAuthError as error:
            if not any(text in error.message for text in _STALE_TOKEN):
                raise
        if self._token == used:
            self._token = ""
        return await send(self._token or await self._authenticate(endpoint, timeout))

    async def _authenticate(self, endpoint: str, timeout: float) -> str:
        """A token for the configured user; "" when etcd runs without authentication."""
        body = codec.encode({"name": self.config.username, "password": self.config.password})
        try:
            data = await self._transport.post(
                endpoint, "auth/authenticate", body, token="", timeout=timeout
            )
            token = codec.decode(_AUTH, data, endpoint).token
            if not token:
                raise EndpointFault(endpoint, "no etcd answer: a log-in without a token", sent=True)
        except EndpointFault as error:
            raise EndpointFault(endpoint, error.cause, sent=False) from error
        except EtcdApiError as error:
            if "authentication is not enabled" in error.message:
                return ""
            raise
        self._token = token
        return token
