"""From what should be and what is to the least change, as values.

Model: ``plan_link`` compares the VXLAN device with the wish for it; ``plan_entries`` compares
neighbours, FDB entries and routes at given keys. Both return frozen plans; nothing here acts.

Invariants:

* additions come first and replace in place, in the order neighbour, FDB entry, route, so a route
  never leads to an unknown neighbour; deletions follow in the opposite order;
* deleted is only what is ours: everything permanent on our device, routes that carry our
  protocol number, routes on our device that nobody marked (``boot``, as flanneld and ``ip
  route`` do), and unmarked routes by gateway on the underlay that look like a lease. A route
  that another program or the administrator marked is left alone and reported when in the way;
* a plan made for a state that has it already is empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.overlay.intent import FDB, NEIGHBOUR, ROUTE, Intent, Key, RouteWish, Underlay, parse_mac
from netd.overlay.mirror import Mirror
from netd.overlay.model import ROUTE_PROTOCOL, VXLAN_OVERHEAD, LocalNode, VxlanOptions

_ORDER = {NEIGHBOUR: 0, FDB: 1, ROUTE: 2}
_UNMARKED = (ROUTE_PROTOCOL, nl.RTPROT_BOOT)


class Step(NamedTuple):
    """One request and the key it is for."""

    key: Key
    request: rq.Request


@dataclass(frozen=True, slots=True)
class Plan:
    """Entries to put, then entries to delete; *blocked* names keys held by somebody else."""

    puts: tuple[Step, ...] = ()
    deletes: tuple[Step, ...] = ()
    blocked: tuple[tuple[Key, str], ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All requests in the order in which they are safe."""
        return self.puts + self.deletes


def plan_entries(intent: Intent, mirror: Mirror, keys: Iterable[Key]) -> Plan:
    """What to do at *keys*."""
    puts: list[Step] = []
    deletes: list[Step] = []
    blocked: list[tuple[Key, str]] = []
    for key in keys:
        if key.kind == ROUTE:
            obstacle = _plan_route(intent, mirror, key, puts, deletes)
            if obstacle:
                blocked.append((key, obstacle))
        elif not mirror.device:
            continue
        elif key.kind == NEIGHBOUR:
            _plan_neighbour(intent, mirror, key, puts, deletes)
        else:
            _plan_fdb(intent, mirror, key, puts, deletes)
    puts.sort(key=lambda step: _ORDER[step.key.kind])
    deletes.sort(key=lambda step: -_ORDER[step.key.kind])
    return Plan(tuple(puts), tuple(deletes), tuple(blocked))


def _plan_neighbour(
    intent: Intent, mirror: Mirror, key: Key, puts: list[Step], deletes: list[Step]
) -> None:
    want, have = intent.neighbour(key.data), mirror.neighbours.get(key.data)
    if want is not None:
        if have is None or have.mac != want or have.state != nl.NUD_PERMANENT:
            puts.append(Step(key, rq.new_neighbour(mirror.device, key.data, want)))
    elif have is not None and have.state & nl.NUD_PERMANENT:
        deletes.append(Step(key, rq.del_neighbour(mirror.device, key.data)))


def _plan_fdb(
    intent: Intent, mirror: Mirror, key: Key, puts: list[Step], deletes: list[Step]
) -> None:
    want, have = intent.fdb(key.data), mirror.fdb.get(key.data)
    if want is not None:
        if have is None or have.dst != want or have.extra or not have.state & nl.NUD_PERMANENT:
            puts.append(Step(key, rq.new_fdb(mirror.device, key.data, want)))
    elif have is not None and have.state & nl.NUD_PERMANENT:
        # Entries that the device learned (Backend.Learning) are not permanent.
        deletes.append(Step(key, rq.del_fdb(mirror.device, key.data)))


def _plan_route(
    intent: Intent, mirror: Mirror, key: Key, puts: list[Step], deletes: list[Step]
) -> str:
    """Append what to do about one route; returns why it cannot be put, or nothing."""
    want = intent.route(key.data, key.prefixlen)
    have = mirror.routes.get((key.data, key.prefixlen), ())
    # What stays in its place: the route that fits, or the one that the put replaces, which is
    # the first with this prefix, priority and TOS.
    kept: nl.Route | None = None
    obstacle = ""
    if want is not None:
        kept = next((r for r in have if fits(r, want)), None)
        if kept is None:
            rivals = [r for r in have if r.priority == 0 and r.tos == 0]
            foreign = next((r for r in rivals if r.protocol not in _UNMARKED), None)
            if foreign is not None:
                obstacle = f"a route with protocol {foreign.protocol} is in its place"
            else:
                kept = rivals[0] if rivals else None
                puts.append(Step(key, _route_request(key, want)))
    deletes.extend(
        Step(key, rq.del_route(r)) for r in have if r is not kept and ours(r, intent, mirror)
    )
    return obstacle


def _route_request(key: Key, want: RouteWish) -> rq.Request:
    return rq.new_route(
        key.data,
        key.prefixlen,
        want.gateway,
        want.oif,
        protocol=ROUTE_PROTOCOL,
        onlink=want.onlink,
    )


def fits(route: nl.Route, want: RouteWish) -> bool:
    """Whether *route* is the one we would put."""
    return (
        route.gateway == want.gateway
        and route.oif == want.oif
        and bool(route.flags & nl.RTNH_F_ONLINK) == want.onlink
        and route.protocol == ROUTE_PROTOCOL
        and route.type == nl.RTN_UNICAST
        and not (route.priority or route.tos or route.extra)
    )


def ours(route: nl.Route, intent: Intent, mirror: Mirror) -> bool:
    """Whether *route* may be deleted when it is not wanted."""
    if route.protocol == ROUTE_PROTOCOL:
        return True
    if route.protocol != nl.RTPROT_BOOT or route.type != nl.RTN_UNICAST:
        return False
    if mirror.device and route.oif == mirror.device:
        return True
    local = intent.local
    if local is None or not mirror.underlay or route.oif != mirror.underlay or not route.gateway:
        return False
    dst = IPv4Network((route.dst, route.prefixlen))
    return route.prefixlen == local.subnet.prefixlen and dst.subnet_of(local.network)


# --- the device -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkWish:
    """The VXLAN device as it should be; *mac* is empty when any will do."""

    name: str
    vni: int
    local: IPv4Address
    lower: int
    port: int
    gbp: bool
    learning: bool
    mtu: int
    mac: bytes
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What to do to the device, in this order; None leaves an attribute alone.

    *delete* is the ifindex of a device that differs in what the kernel cannot change in place;
    *arp* means to have it resolve neighbours again, *release* to free it from its master.
    """

    delete: int = 0
    create: bool = False
    mtu: int | None = None
    mac: bytes | None = None
    learning: bool | None = None
    up: bool = False
    arp: bool = False
    release: bool = False
    drop: tuple[nl.Address, ...] = ()
    add_address: bool = False

    @property
    def repairs(self) -> tuple[str, ...]:
        """Each kind once; a device that is made anew counts as link alone."""
        if self.create or self.delete:
            return ("link",)
        kinds = []
        if self.up or self.arp or self.release or self.mac is not None or self.learning is not None:
            kinds.append("link")
        if self.mtu is not None:
            kinds.append("mtu")
        if self.drop or self.add_address:
            kinds.append("address")
        return tuple(kinds)

    @property
    def flushes(self) -> bool:
        """Whether the kernel forgets entries of the device on the way.

        It drops routes and neighbours of a device that goes down or loses its last address, and
        the neighbours of one that changes its MAC or whether it resolves neighbours.
        """
        return self.create or self.up or self.arp or self.mac is not None or self.add_address

    def __bool__(self) -> bool:
        return bool(self.repairs)


def overlay_mtu(local: LocalNode, underlay: Underlay) -> int:
    """The MTU in bytes for the overlay and its containers; never more than fits the underlay.

    The kernel does not give a VXLAN device more, and with host-gw what is larger gets lost.
    """
    room = _room(local, underlay)
    return min(local.backend.mtu or room, room)


def mtu_problems(local: LocalNode, underlay: Underlay) -> tuple[str, ...]:
    """Says that the configured MTU is not the one in use, in words."""
    wished, room = local.backend.mtu, _room(local, underlay)
    if wished <= room:
        return ()
    return (
        f"Backend.MTU: {wished} is more than the {room} that interface {local.interface} with "
        f"MTU {underlay.mtu} leaves to the overlay, so {room} is used; lower Backend.MTU or raise "
        "the interface's",
    )


def _room(local: LocalNode, underlay: Underlay) -> int:
    return underlay.mtu - (VXLAN_OVERHEAD if isinstance(local.backend, VxlanOptions) else 0)


def wish_link(local: LocalNode, underlay: Underlay) -> LinkWish | None:
    """The device for *local*, None with host-gw."""
    backend = local.backend
    if not isinstance(backend, VxlanOptions):
        return None
    return LinkWish(
        name=local.device,
        vni=backend.vni,
        local=local.local_ip or local.public_ip,
        lower=underlay.index,
        port=backend.port,
        gbp=backend.gbp,
        learning=backend.learning,
        mtu=overlay_mtu(local, underlay),
        mac=parse_mac(local.vtep_mac) or b"",
        address=local.subnet.network_address,
    )


def plan_link(wish: LinkWish, link: nl.Link | None, addresses: Iterable[nl.Address]) -> LinkPlan:
    """What makes *link* the device that *wish* describes."""
    if link is None:
        return LinkPlan(create=True, add_address=True)
    if not _same_tunnel(wish, link):
        return LinkPlan(delete=link.ifindex, create=True, add_address=True)
    packed = wish.address.packed
    held = [a for a in addresses if a.ifindex == link.ifindex]
    good = [a for a in held if (a.ip, a.prefixlen) == (packed, 32)]
    learning = link.vxlan.learning if link.vxlan else wish.learning
    return LinkPlan(
        mtu=wish.mtu if link.mtu != wish.mtu else None,
        mac=wish.mac if wish.mac and link.mac != wish.mac else None,
        learning=wish.learning if learning != wish.learning else None,
        up=not link.up,
        arp=not link.arp,
        release=bool(link.master),
        drop=tuple(sorted(a for a in held if a not in good)),
        add_address=not good,
    )


def _same_tunnel(wish: LinkWish, link: nl.Link) -> bool:
    vxlan = link.vxlan
    return vxlan is not None and (
        vxlan.vni,
        vxlan.local,
        vxlan.lower,
        vxlan.port,
        vxlan.gbp,
        vxlan.group,
    ) == (wish.vni, wish.local.packed, wish.lower, wish.port, wish.gbp, False)


def ground_problems(local: LocalNode, facts: Underlay | None, mirror: Mirror) -> tuple[str, ...]:
    """What is wrong with the interface under the overlay, in words."""
    name = local.interface
    if facts is None:
        return (f"interface {name} is missing",)
    link = mirror.links[facts.index]
    if not link.up:
        return (f"interface {name} is down",)
    if not link.carrier:
        return (f"interface {name} has no carrier",)
    source = local.local_ip or local.public_ip
    if isinstance(local.backend, VxlanOptions) and all(
        a.ip != source.packed for a in mirror.addresses.get(facts.index, ())
    ):
        return (f"{source} is no address of interface {name}",)
    return ()
