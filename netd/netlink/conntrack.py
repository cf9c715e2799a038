"""What ctnetlink says of UDP over IPv4, as values, and what is asked of it.

Model: ``read_flow`` turns the body of one IPCTNL_MSG_CT_NEW message, as a dump returns them,
into a ``Flow``. A flow remembers the bytes that name it, so that a deletion names exactly this
entry: reply tuple, zone and id. The reply tuple, because it says who answers: the id and the
original tuple of an entry may be those of the next one, when the kernel puts that in its place.

Invariant: nothing here touches a socket; anything but UDP over IPv4 is no flow, never an error.
Layouts and constants are those of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
"""

import struct
from typing import NamedTuple

from netd.netlink.messages import AF_INET, NLM_F_DUMP
from netd.netlink.requests import Request

NETLINK_NETFILTER = 12

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
CT_NEW, CT_GET, CT_DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2

_UDP = 17
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_FILTER_BY_PROTOCOL = 1 << 3  # CTA_FILTER_F_CTA_PROTO_NUM, net/netfilter/nf_internals.h

_ATTR = struct.Struct("=HH")
_HEAD = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
_U32 = struct.Struct("=I")
_PORT = struct.Struct("!H")

_TUPLE = struct.Struct("=II4sI4sIIB3xI2s2xI2s2x")
"""A tuple of IPv4 as the kernel has always written it: CTA_TUPLE_IP with source and destination,
CTA_TUPLE_PROTO with number, source port and destination port; each word is a header."""


def _word(size: int, kind: int) -> int:
    word: int = _U32.unpack(_ATTR.pack(size, kind))[0]
    return word


_IP, _SRC, _DST = _word(20, 1 | _NESTED), _word(8, 1), _word(8, 2)
_PROTO, _NUMBER = _word(28, 2 | _NESTED), _word(5, 1)
_SRC_PORT, _DST_PORT = _word(6, 2), _word(6, 3)


class Flow(NamedTuple):
    """A UDP flow: who began it, the address and port it was sent to, and who answers.

    *source* and *target* are ``address:port``. *target* is the endpoint when the destination
    was translated, else the destination itself. *zone* is 0 unless a rule says otherwise.
    *handle* names the entry to the kernel.
    """

    source: str
    address: str
    port: int
    target: str
    zone: int
    handle: bytes

    @property
    def translated(self) -> bool:
        """Whether somebody else answers than who was addressed."""
        return self.target != f"{self.address}:{self.port}"


def read_flow(data: bytes, at: int, end: int) -> Flow | None:
    """The flow in a message body at *at*; None for another protocol or family."""
    if data[at] != AF_INET:
        return None
    at += _HEAD.size
    original = reply = None
    zone = 0
    handle = b""
    while at + 4 <= end:
        size, kind = _ATTR.unpack_from(data, at)
        if size < 4 or at + size > end:
            break
        kind &= 0x3FFF
        if kind in (_TUPLE_ORIG, _TUPLE_REPLY):
            ends = _read_tuple(data, at + 4, at + size)
            if ends is None:
                return None
            if kind == _TUPLE_ORIG:
                original = ends
            else:
                reply = ends
                handle += data[at : at + size]
        elif kind in (_ID, _ZONE):
            handle += data[at : at + size + (-size % 4)]
            if kind == _ZONE:
                zone = _PORT.unpack_from(data, at + 4)[0]
        at += size + 3 & ~3
    if original is None or reply is None:
        return None
    (source, source_port, address, port), (answers, answering_port, _, _) = original, reply
    return Flow(
        f"{_dotted(source)}:{source_port}",
        _dotted(address),
        port,
        f"{_dotted(answers)}:{answering_port}",
        zone,
        handle,
    )


def _dotted(address: bytes) -> str:
    a, b, c, d = address
    return f"{a}.{b}.{c}.{d}"


def _read_tuple(data: bytes, at: int, end: int) -> tuple[bytes, int, bytes, int] | None:
    """Source, its port, destination and its port; None when the tuple is not one of UDP."""
    if at + _TUPLE.size > end:
        return None
    ip, h1, src, h2, dst, proto, h3, number, h4, sport, h5, dport = _TUPLE.unpack_from(data, at)
    if number != _UDP or (ip, h1, h2, proto, h3, h4, h5) != (
        _IP, _SRC, _DST, _PROTO, _NUMBER, _SRC_PORT, _DST_PORT,
    ):  # fmt: skip
        return None
    return src, _PORT.unpack(sport)[0], dst, _PORT.unpack(dport)[0]


def _attr(kind: int, payload: bytes) -> bytes:
    size = len(payload)
    return _ATTR.pack(size + 4, kind) + payload + b"\0" * (-size % 4)


def dump_udp() -> Request:
    """Ask for the UDP entries of IPv4; kernels before 5.8 send all protocols all the same."""
    protocol = _attr(2 | _NESTED, _attr(1, bytes([_UDP])))
    body = (
        _HEAD.pack(AF_INET, 0, 0)
        + _attr(_TUPLE_ORIG | _NESTED, protocol)
        + _attr(_FILTER | _NESTED, _attr(1, _U32.pack(_FILTER_BY_PROTOCOL)))
    )
    return Request(CT_GET, NLM_F_DUMP, body)


def delete_flow(flow: Flow) -> Request:
    """Remove exactly *flow*: one that took its place meanwhile and leads elsewhere stays."""
    # Without a tuple the kernel would remove everything.
    assert flow.handle  # noqa: S101
    return Request(CT_DELETE, 0, _HEAD.pack(AF_INET, 0, 0) + flow.handle)
