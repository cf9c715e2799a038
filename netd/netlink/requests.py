"""What is asked of rtnetlink, as values.

Model: a ``Request`` is everything of a message but its sequence number, which the socket adds.

Invariant: every creation replaces what is there, so sending a request twice does no harm.
"""

from typing import NamedTuple

from netd.netlink import messages as nl

_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS


class Request(NamedTuple):
    """One message without sequence number: type, flags besides REQUEST and ACK, body."""

    type: int
    flags: int
    body: bytes


def encode(request: Request, seq: int, *, ack: bool = False) -> bytes:
    """Render *request* with its header."""
    flags = request.flags | nl.NLM_F_REQUEST | (nl.NLM_F_ACK if ack else 0)
    return (
        nl.HEADER.pack(nl.HEADER_SIZE + len(request.body), request.type, flags, seq, 0)
        + request.body
    )


def _attr(kind: int, payload: bytes) -> bytes:
    size = len(payload)
    return nl.ATTR.pack(size + 4, kind) + payload + b"\0" * (-size % 4)


def new_neighbour(index: int, ip: bytes, mac: bytes) -> Request:
    """Put a permanent neighbour, replacing what is there."""
    body = nl.NDMSG.pack(nl.AF_INET, index, nl.NUD_PERMANENT, 0, 0) + _attr(1, ip) + _attr(2, mac)
    return Request(nl.RTM_NEWNEIGH, nl.NLM_F_CREATE | nl.NLM_F_REPLACE, body)


def del_neighbour(index: int, ip: bytes) -> Request:
    """Remove a neighbour."""
    return Request(nl.RTM_DELNEIGH, 0, nl.NDMSG.pack(nl.AF_INET, index, 0, 0, 0) + _attr(1, ip))


def new_fdb(index: int, mac: bytes, dst: bytes) -> Request:
    """Put a permanent forwarding entry of the device itself, replacing what is there."""
    body = (
        nl.NDMSG.pack(nl.AF_BRIDGE, index, nl.NUD_PERMANENT, nl.NTF_SELF, 0)
        + _attr(2, mac)
        + _attr(1, dst)
    )
    return Request(nl.RTM_NEWNEIGH, nl.NLM_F_CREATE | nl.NLM_F_REPLACE, body)


def del_fdb(index: int, mac: bytes) -> Request:
    """Remove a forwarding entry with all its destinations."""
    body = nl.NDMSG.pack(nl.AF_BRIDGE, index, nl.NUD_PERMANENT, nl.NTF_SELF, 0) + _attr(2, mac)
    return Request(nl.RTM_DELNEIGH, 0, body)


def new_route(
    dst: bytes, prefixlen: int, gateway: bytes, oif: int, *, protocol: int, onlink: bool
) -> Request:
    """Put a route into the main table with priority 0, replacing the one of the same prefix."""
    flags = nl.RTNH_F_ONLINK if onlink else 0
    body = (
        nl.RTMSG.pack(
            nl.AF_INET,
            prefixlen,
            0,
            0,
            nl.RT_TABLE_MAIN,
            protocol,
            nl.RT_SCOPE_UNIVERSE,
            nl.RTN_UNICAST,
            flags,
        )
        + _attr(1, dst)
        + _attr(4, nl.U32.pack(oif))
        + _attr(5, gateway)
    )
    return Request(nl.RTM_NEWROUTE, nl.NLM_F_CREATE | nl.NLM_F_REPLACE, body)


def del_route(route: nl.Route) -> Request:
    """Remove exactly *route*."""
    head = nl.RTMSG.pack(
        nl.AF_INET,
        route.prefixlen,
        0,
        route.tos,
        route.table,
        route.protocol,
        nl.RT_SCOPE_NOWHERE,
        route.type,
        0,
    )
    body = head + _attr(1, route.dst)
    if route.oif:
        body += _attr(4, nl.U32.pack(route.oif))
    if route.gateway:
        body += _attr(5, route.gateway)
    if route.priority:
        body += _attr(6, nl.U32.pack(route.priority))
    return Request(nl.RTM_DELROUTE, 0, body)


def dump_links() -> Request:
    """Ask for all devices, without their counters."""
    body = nl.IFINFO.pack(nl.AF_UNSPEC, 0, 0, 0, 0) + _attr(29, nl.U32.pack(_SKIP_STATS))
    return Request(nl.RTM_GETLINK, nl.NLM_F_DUMP, body)


def dump_addresses(index: int = 0) -> Request:
    """Ask for the IPv4 addresses of device *index*, 0 for all."""
    return Request(nl.RTM_GETADDR, nl.NLM_F_DUMP, nl.IFADDR.pack(nl.AF_INET, 0, 0, 0, index))


def dump_neighbours(index: int) -> Request:
    """Ask for the IPv4 neighbours of device *index*."""
    body = nl.NDMSG.pack(nl.AF_INET, 0, 0, 0, 0) + _attr(8, nl.U32.pack(index))
    return Request(nl.RTM_GETNEIGH, nl.NLM_F_DUMP, body)


def dump_fdb(index: int) -> Request:
    """Ask for the forwarding entries of device *index*."""
    return Request(nl.RTM_GETNEIGH, nl.NLM_F_DUMP, nl.NDMSG.pack(nl.AF_BRIDGE, index, 0, 0, 0))


def dump_routes(table: int = nl.RT_TABLE_MAIN) -> Request:
    """Ask for the IPv4 routes of *table*."""
    head = nl.RTMSG.pack(nl.AF_INET, 0, 0, 0, table, 0, 0, 0, 0)
    return Request(nl.RTM_GETROUTE, nl.NLM_F_DUMP, head)
