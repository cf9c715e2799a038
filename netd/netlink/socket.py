"""The two netlink sockets: one that asks and changes, one that listens.

Model: the kernel handles a whole ``send`` before it returns, so the replies are already there
when they are read; the sockets are therefore plain ones and never wait for longer than the
kernel's own lock. ``batch`` and ``dump`` give the event loop a turn between the pieces.

Invariants:

* ``batch`` says for each request whether it was refused. Only the last request of a piece asks
  for an acknowledgement; the others answer only when they fail;
* when replies were lost (ENOBUFS) the piece is sent again in halves, which is why requests must
  be idempotent: creations replace, and callers take "no such entry" for a deletion as done;
* a socket belongs to the network namespace of the thread that made it, for ever.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from netd.errors import NetdError
from netd.netlink import messages as nl
from netd.netlink.requests import Request, encode

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE = 33
# The kernel fills dumps up to 32 KiB a datagram when the reader offers as much.
_RECEIVE = 65536
_INTERRUPTED_DUMPS = 10

MONITOR_GROUPS = (
    nl.RTMGRP_LINK | nl.RTMGRP_NEIGH | nl.RTMGRP_IPV4_IFADDR | nl.RTMGRP_IPV4_ROUTE
)  # fmt: skip


class NetlinkError(NetdError):
    """The kernel refused a request or did not answer; ``errno`` is positive, 0 when unknown."""

    def __init__(self, text: str, code: int = 0) -> None:
        self.errno = code
        super().__init__(text)


class Transport(Protocol):
    """What the sockets need of socket.socket."""

    def send(self, data: bytes, /) -> int:
        """Send one datagram."""
        ...

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive one datagram; OSError(ENOBUFS) when some were lost.

        BlockingIOError when there is none, at once with MSG_DONTWAIT.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...

    def fileno(self) -> int:
        """The descriptor."""
        ...


def open_socket(groups: int, receive_buffer: int, *, timeout: float) -> socket.socket:
    """Open a route socket in the current namespace; *timeout* seconds, 0 for non-blocking.

    Raises NetlinkError when the kernel has none to give.
    """
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise NetlinkError(f"no netlink socket: {error.strerror}", error.errno or 0) from error
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        if timeout:
            # Not settimeout: that would make MSG_DONTWAIT wait, too.
            value = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        else:
            sock.setblocking(False)
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        raise NetlinkError(f"netlink socket: {error.strerror}", error.errno or 0) from error
    return sock


class NetlinkSocket:
    """Sends batches and reads dumps.

    *piece* is the number of requests per send, *receive_buffer* in bytes (an acknowledgement
    occupies about 1 KiB of it). *transport* replaces the kernel.
    """

    def __init__(
        self,
        *,
        piece: int = 300,
        receive_buffer: int = 4 << 20,
        timeout: float = 5.0,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport or open_socket(0, receive_buffer, timeout=timeout)
        self._piece = piece
        self._seq = 0
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()

    async def batch(self, requests: Sequence[Request]) -> list[nl.Failure | None]:
        """Carry out *requests* in order; one entry each, None for success.

        A refused request does not stop the following ones. Raises NetlinkError when the kernel
        does not answer at all; then nothing is known about any of them.
        """
        results: list[nl.Failure | None] = []
        async with self._lock:
            for start in range(0, len(requests), self._piece):
                if start:
                    await asyncio.sleep(0)
                results += self._send(requests[start : start + self._piece])
        return results

    def _send(self, requests: Sequence[Request]) -> list[nl.Failure | None]:
        first, last = self._seq + 1, self._seq + len(requests)
        self._seq = last
        data = b"".join(encode(r, first + n, ack=first + n == last) for n, r in enumerate(requests))
        results: list[nl.Failure | None] = [None] * len(requests)
        try:
            self._transport.send(data)
            while True:
                for message in nl.decode(self._transport.recv(_RECEIVE)):
                    if message.type == nl.NLMSG_ERROR and first <= message.seq <= last:
                        results[message.seq - first] = message.failure
                        if message.seq == last:
                            return results
        except BlockingIOError as error:
            raise NetlinkError("the kernel did not acknowledge a netlink batch") from error
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE):
                raise NetlinkError(f"netlink: {error.strerror}", error.errno or 0) from error
            self._discard()
            if len(requests) == 1:
                return [nl.Failure(error.errno, "replies lost")]
        half = len(requests) // 2
        return self._send(requests[:half]) + self._send(requests[half:])

    def _discard(self) -> None:
        """Read away what is waiting.

        After an overrun the kernel drops every further reply without a word until the queue has
        been empty once.
        """
        while True:
            try:
                self._transport.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return

    async def dump(self, request: Request, *, absent: Iterable[int] = ()) -> list[nl.Value]:
        """Read everything that answers *request*.

        A dump that changed under the reader is read again, at most ten times; the last one
        counts then. The errnos in *absent* mean an empty answer. Raises NetlinkError for
        others and when the kernel does not answer.
        """
        values: list[nl.Value] | None = None
        async with self._lock:
            for _attempt in range(_INTERRUPTED_DUMPS):
                try:
                    values, consistent = await self._read_dump(request)
                except NetlinkError as error:
                    if error.errno in absent:
                        return []
                    if error.errno != errno.ENOBUFS:
                        raise
                    continue
                if consistent:
                    break
        if values is None:
            raise NetlinkError("netlink: the answers to a dump keep being lost", errno.ENOBUFS)
        return values

    async def _read_dump(self, request: Request) -> tuple[list[nl.Value], bool]:
        self._seq += 1
        seq, consistent = self._seq, True
        values: list[nl.Value] = []
        try:
            self._transport.send(encode(request, seq))
            while True:
                for message in nl.decode(self._transport.recv(_RECEIVE)):
                    if message.seq != seq:
                        continue
                    if message.failure is not None:
                        raise _refusal(message.failure)
                    if message.flags & nl.NLM_F_DUMP_INTR:
                        consistent = False
                    if message.type == nl.NLMSG_DONE:
                        return values, consistent
                    if message.value is not None:
                        values.append(message.value)
                await asyncio.sleep(0)
        except BlockingIOError as error:
            raise NetlinkError("the kernel did not finish a netlink dump") from error
        except OSError as error:
            self._discard()
            raise NetlinkError(f"netlink: {error.strerror}", error.errno or 0) from error


def _refusal(failure: nl.Failure) -> NetlinkError:
    name = errno.errorcode.get(failure.errno, str(failure.errno))
    return NetlinkError(f"netlink: {failure.text or name}", failure.errno)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a monitor had to tell; *lost*: more than this happened, so dump again."""

    events: tuple[nl.Message, ...]
    lost: bool


class Monitor:
    """Listens to changes of links, IPv4 addresses and routes, neighbours and FDB entries.

    Never blocks; add ``fileno()`` to the loop and call ``drain`` when it is readable.
    """

    def __init__(
        self,
        *,
        groups: int = MONITOR_GROUPS,
        receive_buffer: int = 8 << 20,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport or open_socket(groups, receive_buffer, timeout=0)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._transport.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()

    def drain(self) -> Heard:
        """Read all that is waiting. Raises NetlinkError when the socket is broken."""
        events: list[nl.Message] = []
        lost = False
        while True:
            try:
                data = self._transport.recv(_RECEIVE)
            except BlockingIOError:
                return Heard(tuple(events), lost)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError(f"netlink: {error.strerror}", error.errno or 0) from error
                lost = True
                continue
            events.extend(m for m in nl.decode(data) if m.value is not None)
