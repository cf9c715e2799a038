"""One question or one change at a time over a socket that waits: for threads and short answers.

``NetlinkSocket`` is for the event loop and for batches; here the caller gets each answer's
bytes, whatever family of netlink they belong to.
"""

import os
import socket
import struct
from collections.abc import Callable

from netd.netlink import messages as nl
from netd.netlink.requests import Request, encode
from netd.netlink.socket import NetlinkError, Transport

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 10, 11
_RECEIVE = 65536

Take = Callable[[bytes, int, int], None]
"""Is given a datagram and where in it the body of one message begins and ends."""


def open_exchange(protocol: int, *, timeout: float = 5.0) -> socket.socket:
    """Open a socket for *protocol* in the current namespace; it waits at most *timeout* seconds.

    Raises NetlinkError when the kernel has none to give.
    """
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise NetlinkError(f"no netlink socket: {error.strerror}", error.errno or 0) from error
    try:
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        value = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        sock.bind((0, 0))
    except OSError as error:
        sock.close()
        raise NetlinkError(f"netlink socket: {error.strerror}", error.errno or 0) from error
    return sock


class Exchange:
    """Asks over *transport*, which it closes at the end of the ``with``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seq = 0

    def __enter__(self) -> "Exchange":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._transport.close()

    def dump(self, request: Request, take: Take) -> None:
        """Give *take* every message that answers *request*.

        Raises NetlinkError when the kernel refuses or does not finish.
        """
        failure = self._talk(request, take, ack=False)
        if failure is not None:
            raise NetlinkError(f"netlink: {failure.text}", failure.errno)

    def change(self, request: Request) -> nl.Failure | None:
        """Carry out *request*; the kernel's refusal if it has one, with a text in any case.

        Raises NetlinkError when the kernel does not answer.
        """
        return self._talk(request, _ignore, ack=True)

    def _talk(self, request: Request, take: Take, *, ack: bool) -> nl.Failure | None:
        self._seq += 1
        try:
            self._transport.send(encode(request, self._seq, ack=ack))
            while True:
                data = self._transport.recv(_RECEIVE)
                at, total = 0, len(data)
                while at + nl.HEADER_SIZE <= total:
                    size, kind, _flags, seq, _pid = nl.HEADER.unpack_from(data, at)
                    if size < nl.HEADER_SIZE or at + size > total:
                        break
                    if seq == self._seq:
                        if kind in (nl.NLMSG_ERROR, nl.NLMSG_DONE):
                            return _failure(data[at : at + size])
                        take(data, at + nl.HEADER_SIZE, at + size)
                    at += size + 3 & ~3
        except BlockingIOError as error:
            raise NetlinkError("the kernel did not finish a netlink answer") from error
        except OSError as error:
            raise NetlinkError(f"netlink: {error.strerror}", error.errno or 0) from error


def _ignore(_data: bytes, _at: int, _end: int) -> None:
    """A change has no answer but its acknowledgement."""


def _failure(message: bytes) -> nl.Failure | None:
    for one in nl.decode(message):
        if one.failure is not None:
            return one.failure._replace(text=one.failure.text or os.strerror(one.failure.errno))
    return None
