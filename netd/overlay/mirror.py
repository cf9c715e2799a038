"""What the kernel has, as far as the overlay cares: a copy fed by dumps and notifications.

Model: ``load_*`` replaces a part with a dump, ``absorb`` applies notifications in their order and
returns the entry keys they touched. Only what the kernel said gets in; our own changes come back
as notifications like everybody's.

Invariant: after absorbing everything that was sent, the copy equals the kernel, or ``stale`` is
set. It is set when the copy cannot know: a link of ours went down or away (the kernel removes
its IPv4 routes without a word), a replaced route had namesakes, or messages were lost.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from typing import TypeVar

from netd.netlink import messages as nl
from netd.overlay.intent import FDB, NEIGHBOUR, ROUTE, Key, Underlay
from netd.overlay.model import ROUTE_PROTOCOL

_V = TypeVar("_V")


class Mirror:
    """The kernel's links, addresses, and the entries of our device and network.

    ``device`` and ``underlay`` are ifindexes, 0 while missing.
    """

    def __init__(self) -> None:
        self.stale = True
        self.device = 0
        self.underlay = 0
        self.links: dict[int, nl.Link] = {}
        self.addresses: dict[int, set[nl.Address]] = {}
        self.neighbours: dict[bytes, nl.Neighbour] = {}
        self.fdb: dict[bytes, nl.FdbEntry] = {}
        self.routes: dict[tuple[bytes, int], tuple[nl.Route, ...]] = {}
        self._network = (0, 0xFFFFFFFF)

    # --- what it watches ---

    def watch(self, network: IPv4Network) -> None:
        """Care for the routes inside *network*; makes the copy stale when that is new."""
        wanted = (int(network.network_address), int(network.netmask))
        if wanted != self._network:
            self._network = wanted
            self.stale = True

    def point(self, device: int, underlay: int) -> None:
        """Care for these interfaces; makes the copy stale when they are others than before."""
        if (device, underlay) != (self.device, self.underlay):
            self.device, self.underlay = device, underlay
            self.stale = True

    def point_at(self, device: str, underlay: str) -> None:
        """``point`` by name; *device* is empty when there is none to care for."""
        found = self.by_name(device) if device else None
        below = self.by_name(underlay)
        self.point(found.ifindex if found else 0, below.ifindex if below else 0)

    def by_name(self, name: str) -> nl.Link | None:
        """The link called *name*."""
        return next((link for link in self.links.values() if link.name == name), None)

    def entries(self) -> Iterator[Key]:
        """The keys of all neighbours and FDB entries of our device, and of the routes."""
        for ip in self.neighbours:
            yield Key(NEIGHBOUR, ip)
        for mac in self.fdb:
            yield Key(FDB, mac)
        for dst, prefixlen in self.routes:
            yield Key(ROUTE, dst, prefixlen)

    def facts(self, name: str) -> Underlay | None:
        """The facts of the underlay interface *name*, None while it is missing."""
        link = self.by_name(name)
        if link is None:
            return None
        prefixes = {
            (a.ip, a.prefixlen) for a in self.addresses.get(link.ifindex, ()) if a.prefixlen < 32
        }
        prefixes |= {
            at
            for at, routes in self.routes.items()
            for r in routes
            if r.oif == link.ifindex
            and not r.gateway
            and r.type == nl.RTN_UNICAST
            # A default route without gateway says nothing about who is a neighbour.
            and r.prefixlen
        }
        onlink = frozenset(_masked(ip, prefixlen) for ip, prefixlen in prefixes)
        return Underlay(link.ifindex, link.up, link.mtu, onlink)

    # --- dumps ---

    def load_links(self, values: Iterable[nl.Value]) -> None:
        """Replace the links."""
        self.links = {v.ifindex: v for v in values if isinstance(v, nl.Link)}

    def load_addresses(self, values: Iterable[nl.Value]) -> None:
        """Replace the addresses."""
        self.addresses = {}
        for v in values:
            if isinstance(v, nl.Address):
                self.addresses.setdefault(v.ifindex, set()).add(v)

    def load_entries(self, values: Iterable[nl.Value]) -> None:
        """Replace neighbours, FDB entries and routes."""
        self.neighbours, self.fdb, self.routes = {}, {}, {}
        for v in values:
            if isinstance(v, nl.Neighbour) and v.ifindex == self.device:
                self.neighbours[v.ip] = v
            elif isinstance(v, nl.FdbEntry) and v.ifindex == self.device:
                self.fdb[v.mac] = v
            elif isinstance(v, nl.Route) and self._relevant(v):
                at = (v.dst, v.prefixlen)
                self.routes[at] = (*self.routes.get(at, ()), v)

    # --- notifications ---

    def absorb(self, events: Iterable[nl.Message]) -> tuple[set[Key], bool]:
        """Apply *events*; returns the keys touched and whether links or addresses were."""
        touched: set[Key] = set()
        ground = False
        for event in events:
            value = event.value
            if isinstance(value, nl.Route):
                if self._relevant(value):
                    touched.add(self._route(event, value))
                    ground = ground or (value.oif == self.underlay and not value.gateway)
            elif isinstance(value, nl.Neighbour):
                if value.ifindex == self.device:
                    _put(self.neighbours, value.ip, value, gone=event.type == nl.RTM_DELNEIGH)
                    touched.add(Key(NEIGHBOUR, value.ip))
            elif isinstance(value, nl.FdbEntry):
                if value.ifindex == self.device:
                    _put(self.fdb, value.mac, value, gone=event.type == nl.RTM_DELNEIGH)
                    touched.add(Key(FDB, value.mac))
            elif isinstance(value, nl.Link):
                ground = self._link(event, value) or ground
            elif isinstance(value, nl.Address):
                ground = self._address(event, value) or ground
        return touched, ground

    def _route(self, event: nl.Message, route: nl.Route) -> Key:
        at = (route.dst, route.prefixlen)
        have = list(self.routes.get(at, ()))
        if event.type == nl.RTM_DELROUTE:
            have = [r for r in have if not _same(r, route)]
        elif event.flags & nl.NLM_F_REPLACE:
            rivals = [r for r in have if (r.tos, r.priority) == (route.tos, route.priority)]
            # The kernel replaced the first one of them, but did not say which that was.
            self.stale = self.stale or len(rivals) > 1
            have = [r for r in have if r not in rivals] + [route]
        elif route not in have:
            have.append(route)
        if have:
            self.routes[at] = tuple(have)
        else:
            self.routes.pop(at, None)
        return Key(ROUTE, *at)

    def _link(self, event: nl.Message, link: nl.Link) -> bool:
        ours = link.ifindex in (self.device, self.underlay)
        if event.type == nl.RTM_DELLINK:
            self.links.pop(link.ifindex, None)
            self.addresses.pop(link.ifindex, None)
            self.stale = self.stale or ours
            return ours
        before = self.links.get(link.ifindex)
        self.links[link.ifindex] = link
        if before == link:
            return False
        if ours and not link.up:
            self.stale = True
        # Any new or renamed link may be the one that is waited for.
        return ours or before is None or before.name != link.name

    def _address(self, event: nl.Message, address: nl.Address) -> bool:
        held = self.addresses.setdefault(address.ifindex, set())
        if event.type == nl.RTM_DELADDR:
            held.discard(address)
            # Routes that used it as their source, or lay in its prefix, go without a word.
            self.stale = self.stale or address.ifindex == self.underlay
        else:
            held.add(address)
        return address.ifindex in (self.device, self.underlay)

    def _relevant(self, route: nl.Route) -> bool:
        if route.table != nl.RT_TABLE_MAIN:
            return False
        if route.protocol == ROUTE_PROTOCOL or (route.oif and route.oif == self.device):
            return True
        if route.oif and route.oif == self.underlay and not route.gateway:
            return True
        base, mask = self._network
        return int.from_bytes(route.dst, "big") & mask == base


def _put(table: dict[bytes, _V], at: bytes, value: _V, *, gone: bool) -> None:
    if gone:
        table.pop(at, None)
    else:
        table[at] = value


def _same(a: nl.Route, b: nl.Route) -> bool:
    """The same route; the flags in a notification may lag behind (linkdown, dead)."""
    return a._replace(flags=0) == b._replace(flags=0)


def _masked(ip: bytes, prefixlen: int) -> tuple[int, int]:
    mask = (0xFFFFFFFF << (32 - prefixlen)) & 0xFFFFFFFF
    return int.from_bytes(ip, "big") & mask, mask
