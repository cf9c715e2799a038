"""What rtnetlink says, as values: links, addresses, neighbours, FDB entries, routes, refusals.

Model: ``decode`` turns what one ``recv`` returned into ``Message`` tuples whose ``value`` is one
of the named tuples below, or None for kinds nobody here asks about. IPv4 addresses are 4 bytes
and MACs 6 bytes in network order, because that is how they travel and how they are compared.

Invariant: nothing here touches a socket, and an unknown attribute is skipped, never an error.
Layouts and constants are those of linux/netlink.h, rtnetlink.h, neighbour.h and if_link.h.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

AF_UNSPEC, AF_INET, AF_BRIDGE = 0, 2, 7

NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_ACK_TLVS = 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40

IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x80, 0x10000
NUD_PERMANENT, NTF_SELF = 0x80, 0x02
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_NOWHERE = 0, 255
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC = 2, 3, 4
RTNH_F_ONLINK = 4

HEADER = struct.Struct("=IHHII")
ATTR = struct.Struct("=HH")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
RTMSG = struct.Struct("=BBBBBBBBI")
U32 = struct.Struct("=I")
ERRNO = struct.Struct("=i")
HEADER_SIZE = HEADER.size

# Metrics, preferred source, multipath, encapsulation, nexthop object: a route of ours has none.
_ROUTE_EXTRAS = frozenset({7, 8, 9, 22, 30})
# Another port, VNI, interface or nexthop object than the device's own.
_FDB_EXTRAS = frozenset({6, 7, 8, 13})


class Vxlan(NamedTuple):
    """The attributes of a VXLAN device; *local* is empty when unset, *lower* an ifindex or 0."""

    vni: int
    local: bytes
    lower: int
    port: int
    learning: bool
    gbp: bool
    group: bool


class Link(NamedTuple):
    """A network device; *mac* is empty when it has none, *kind* empty for physical ones.

    *master* is the ifindex of the bridge, bond or VRF that it is a port of, or 0.
    """

    ifindex: int
    name: str
    flags: int
    mtu: int
    mac: bytes
    kind: str
    vxlan: Vxlan | None
    master: int = 0

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def arp(self) -> bool:
        """Whether it resolves neighbours."""
        return not self.flags & IFF_NOARP

    @property
    def carrier(self) -> bool:
        """Whether its lower layer is up."""
        return bool(self.flags & IFF_LOWER_UP)


class Address(NamedTuple):
    """An IPv4 address of a device, prefix length 0..32."""

    ifindex: int
    ip: bytes
    prefixlen: int
    scope: int


class Neighbour(NamedTuple):
    """An IPv4 neighbour entry; *state* is an NUD_* mask, *mac* may be empty."""

    ifindex: int
    ip: bytes
    mac: bytes
    state: int


class FdbEntry(NamedTuple):
    """A forwarding entry of a device; *extra*: it names another port, VNI or interface."""

    ifindex: int
    mac: bytes
    dst: bytes
    state: int
    flags: int
    extra: bool


class Route(NamedTuple):
    """An IPv4 route; *gateway* may be empty; *extra*: it has metrics, source or nexthops."""

    dst: bytes
    prefixlen: int
    gateway: bytes
    oif: int
    protocol: int
    flags: int
    type: int
    priority: int
    tos: int
    table: int
    extra: bool


class Failure(NamedTuple):
    """The kernel's refusal: a positive errno and its explanation, which is often empty."""

    errno: int
    text: str


Value = Link | Address | Neighbour | FdbEntry | Route


class Message(NamedTuple):
    """A decoded message; *failure* is set for refusals only."""

    type: int
    flags: int
    seq: int
    value: Value | None
    failure: Failure | None


# --- replies and notifications ----------------------------------------------------------------


def _attributes(data: bytes, at: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + 4 <= end:
        size, kind = ATTR.unpack_from(data, at)
        if size < 4 or at + size > end:
            break
        # The upper two bits are NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def _u32(payload: bytes | None) -> int:
    if payload is None:
        return 0
    value: int = U32.unpack(payload)[0]
    return value


def _text(payload: bytes | None) -> str:
    return payload.split(b"\0", 1)[0].decode(errors="replace") if payload else ""


def _vxlan(payload: bytes) -> Vxlan:
    info = _attributes(payload, 0, len(payload))
    port = info.get(15)
    return Vxlan(
        vni=_u32(info.get(1)),
        local=info.get(4, b""),
        lower=_u32(info.get(3)),
        port=int.from_bytes(port, "big") if port else 0,
        learning=info.get(7, b"\0") != b"\0",
        gbp=23 in info,
        group=2 in info or 16 in info,
    )


def _link(data: bytes, at: int, end: int) -> Link | None:
    family, _type, index, flags, _change = IFINFO.unpack_from(data, at)
    # A bridge port's changes come with AF_BRIDGE; there RTM_DELLINK only says "left the bridge".
    if family != AF_UNSPEC:
        return None
    attrs = _attributes(data, at + IFINFO.size, end)
    kind, vxlan = "", None
    if 18 in attrs:
        info = _attributes(attrs[18], 0, len(attrs[18]))
        kind = _text(info.get(1))
        if kind == "vxlan" and 2 in info:
            vxlan = _vxlan(info[2])
    return Link(
        index,
        _text(attrs.get(3)),
        flags,
        _u32(attrs.get(4)),
        attrs.get(1, b""),
        kind,
        vxlan,
        _u32(attrs.get(10)),
    )


def _address(data: bytes, at: int, end: int) -> Address | None:
    family, prefixlen, _flags, scope, index = IFADDR.unpack_from(data, at)
    attrs = _attributes(data, at + IFADDR.size, end)
    # IFA_LOCAL is our end; IFA_ADDRESS is the other one on point-to-point links.
    ip = attrs.get(2) or attrs.get(1)
    if family != AF_INET or ip is None:
        return None
    return Address(index, ip, prefixlen, scope)


def _neighbour(data: bytes, at: int, end: int) -> Neighbour | FdbEntry | None:
    family, index, state, flags, _type = NDMSG.unpack_from(data, at)
    attrs = _attributes(data, at + NDMSG.size, end)
    if family == AF_INET:
        ip = attrs.get(1)
        return Neighbour(index, ip, attrs.get(2, b""), state) if ip is not None else None
    if family == AF_BRIDGE and flags & NTF_SELF:
        extra = not _FDB_EXTRAS.isdisjoint(attrs)
        return FdbEntry(index, attrs.get(2, b""), attrs.get(1, b""), state, flags, extra)
    return None


def _route(data: bytes, at: int, end: int) -> Route | None:
    family, prefixlen, _src, tos, table, protocol, _scope, kind, flags = RTMSG.unpack_from(data, at)
    if family != AF_INET:
        return None
    attrs = _attributes(data, at + RTMSG.size, end)
    return Route(
        dst=attrs.get(1, b"\0\0\0\0"),
        prefixlen=prefixlen,
        gateway=attrs.get(5, b""),
        oif=_u32(attrs.get(4)),
        protocol=protocol,
        flags=flags,
        type=kind,
        priority=_u32(attrs.get(6)),
        tos=tos,
        table=_u32(attrs.get(15)) or table,
        extra=not _ROUTE_EXTRAS.isdisjoint(attrs),
    )


_PARSERS = {
    RTM_NEWLINK: _link,
    RTM_DELLINK: _link,
    RTM_NEWADDR: _address,
    RTM_DELADDR: _address,
    RTM_NEWROUTE: _route,
    RTM_DELROUTE: _route,
    RTM_NEWNEIGH: _neighbour,
    RTM_DELNEIGH: _neighbour,
}


def _failure(data: bytes, at: int, end: int, *, quoted: int, tlvs: bool) -> Failure | None:
    code = -ERRNO.unpack_from(data, at)[0]
    if code == 0:
        return None
    text = _text(_attributes(data, at + 4 + quoted, end).get(1)) if tlvs else ""
    return Failure(code, text)


def decode(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram; a truncated last one is dropped."""
    at, total = 0, len(data)
    while at + HEADER_SIZE <= total:
        size, kind, flags, seq, _pid = HEADER.unpack_from(data, at)
        end = at + size
        if size < HEADER_SIZE or end > total:
            return
        body = at + HEADER_SIZE
        parser = _PARSERS.get(kind)
        if parser is not None:
            yield Message(kind, flags, seq, parser(data, body, end), None)
        elif kind == NLMSG_ERROR or (kind == NLMSG_DONE and size >= HEADER_SIZE + 4):
            # A dump that fails half-way says so in the status word of its DONE. An error quotes
            # the refused message: only its header, because the socket asks for capped errors.
            quoted = HEADER_SIZE if kind == NLMSG_ERROR else 0
            tlvs = bool(flags & NLM_F_ACK_TLVS)
            failure = _failure(data, body, end, quoted=quoted, tlvs=tlvs)
            yield Message(kind, flags, seq, None, failure)
        else:
            yield Message(kind, flags, seq, None, None)
        at = end + 3 & ~3
