"""Taking the overlay down, from what the kernel shows and without any earlier state.

Invariant: only what is ours goes: the named device if it is a VXLAN one, with its neighbours, FDB
entries and routes, and the routes of the main table that carry our protocol number.
"""

import errno
from ipaddress import IPv4Address, IPv4Network

from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.netlink.socket import NetlinkSocket
from netd.overlay.entries import GONE
from netd.overlay.links import LinkWriter, OverlayError
from netd.overlay.model import ROUTE_PROTOCOL


async def take_down(
    socket: NetlinkSocket, links: LinkWriter, network: IPv4Network | None, device: str
) -> list[str]:
    """Delete *device* and our routes, those inside *network* only if it is given; what was there.

    Routes over the device end with it and are not counted. Raises OverlayError or NetlinkError.
    """
    gone: list[str] = []
    for value in await socket.dump(rq.dump_links()):
        if isinstance(value, nl.Link) and value.name == device and value.kind == "vxlan":
            await links.delete(value.ifindex)
            gone.append(device)
    routes = [
        value
        for value in await socket.dump(rq.dump_routes(), absent=(errno.ENOENT,))
        if isinstance(value, nl.Route)
        and value.protocol == ROUTE_PROTOCOL
        and (network is None or IPv4Network((value.dst, value.prefixlen)).subnet_of(network))
    ]
    results = await socket.batch([rq.del_route(route) for route in routes])
    for route, failure in zip(routes, results, strict=True):
        if failure is not None and failure.errno not in GONE:
            where = f"{IPv4Address(route.dst)}/{route.prefixlen}"
            raise OverlayError(f"route {where} stays: {failure.text or failure.errno}")
    if routes:
        gone.append(f"{len(routes)} route{'s' * (len(routes) > 1)}")
    return gone
