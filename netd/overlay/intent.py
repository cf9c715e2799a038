"""Which neighbours, FDB entries and routes this host should have, looked up by key.

Model: ``Intent`` holds this host, the underlay's facts and the peers, and answers "what should
be at this key" from indexes, so that one changed peer costs one peer's work. Each peer is
either reached through the tunnel, through its address as a gateway, or refused with a reason.

Invariants:

* our own subnet, and what is outside the overlay network, is never given to a peer;
* an FDB entry lives while any tunnelled peer with that MAC lives;
* of peers that claim one MAC with different PublicIPs those win that agree with the newest
  record (of equally old ones that of the lowest subnet): a host that changed its address keeps
  its MAC, and the record of its old address lives on for a day. The answer depends on the
  records alone, not on the order of events, so all hosts give the same one.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import NamedTuple

from netd.overlay.model import HostGwOptions, LocalNode, Peer, VxlanOptions

NEIGHBOUR, FDB, ROUTE = "neighbour", "fdb", "route"


class Key(NamedTuple):
    """One kernel entry: *data* is an IPv4 address (4 bytes) or a MAC (6); for routes the
    destination with its prefix length."""

    kind: str
    data: bytes
    prefixlen: int = 32


class RouteWish(NamedTuple):
    """A route of ours: *oif* is an ifindex."""

    gateway: bytes
    oif: int
    onlink: bool


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that carries the overlay; *onlink* are the prefixes reachable without a
    gateway, as (address, netmask) integers."""

    index: int
    up: bool
    mtu: int
    onlink: frozenset[tuple[int, int]]


class _Way(NamedTuple):
    """How a peer is reached: through the tunnel with *mac*, or by gateway (*mac* empty)."""

    mac: bytes
    ip: bytes


def parse_mac(text: str) -> bytes | None:
    """The six bytes of *text*, or None unless it is a unicast MAC that is not all zero."""
    try:
        mac = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return None
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        return None
    return mac


class Intent:
    """The desired entries; see the module. ``device`` is our VXLAN device's ifindex or 0."""

    def __init__(self) -> None:
        self.local: LocalNode | None = None
        self.underlay: Underlay | None = None
        self.device = 0
        self.peers: dict[IPv4Network, Peer] = {}
        self.refused: dict[IPv4Network, str] = {}
        # Each list is in order of precedence.
        self._ways: dict[IPv4Network, _Way] = {}
        self._by_mac: dict[bytes, list[IPv4Network]] = {}
        self._by_gateway: dict[bytes, list[IPv4Network]] = {}

    def set_place(self, local: LocalNode | None, underlay: Underlay | None, device: int) -> bool:
        """Set this host's facts; True when entries may have changed."""
        before = (self.local, self._relevant(self.underlay), self.device)
        self.local, self.underlay, self.device = local, underlay, device
        if before == (local, self._relevant(underlay), device):
            return False
        peers = tuple(self.peers.values())
        for index in (self.refused, self._ways, self._by_mac, self._by_gateway):
            index.clear()
        for peer in peers:
            self._enter(peer)
        self._settle(p.subnet for p in peers)
        return True

    def _relevant(self, underlay: Underlay | None) -> tuple[object, ...]:
        """What of the underlay decides entries: the MTU does not, and a pure tunnel needs none."""
        backend = self.local.backend if self.local else None
        if underlay is None or (isinstance(backend, VxlanOptions) and not backend.direct_routing):
            return ()
        return (underlay.index, underlay.up, underlay.onlink)

    def set_peer(self, subnet: IPv4Network, peer: Peer | None) -> set[Key]:
        """Enter, change or drop one peer; returns the keys whose answer may have changed."""
        if self.peers.get(subnet) == peer:
            return set()
        affected = self._mates(subnet) | {subnet}
        keys = self._keys_of(affected)
        self._leave(subnet)
        if peer is not None:
            self.peers[subnet] = peer
            self._enter(peer)
            affected |= self._mates(subnet)
        self._settle(affected)
        return keys | self._keys_of(affected)

    # --- answers ---

    def neighbour(self, ip: bytes) -> bytes | None:
        """The MAC that the neighbour *ip* on our device should have."""
        for subnet in self._by_gateway.get(ip, ()):
            if subnet not in self.refused:
                return self._ways[subnet].mac
        return None

    def fdb(self, mac: bytes) -> bytes | None:
        """The host behind *mac*."""
        for subnet in self._by_mac.get(mac, ()):
            if subnet not in self.refused:
                return self._ways[subnet].ip
        return None

    def route(self, dst: bytes, prefixlen: int) -> RouteWish | None:
        """The route to the subnet at *dst*; None too while its interface is down or missing."""
        subnet = IPv4Network((dst, prefixlen))
        way = self._ways.get(subnet)
        if way is None or subnet in self.refused:
            return None
        if way.mac:
            return RouteWish(dst, self.device, onlink=True) if self.device else None
        if self.underlay is None or not self.underlay.up:
            return None
        return RouteWish(way.ip, self.underlay.index, onlink=False)

    def keys(self) -> Iterator[Key]:
        """Every key with an answer, and some without."""
        yield from self._keys_of(self._ways)

    def owners(self, key: Key) -> tuple[IPv4Network, ...]:
        """The peers that *key* serves, lowest first."""
        if key.kind == FDB:
            return tuple(sorted(self._by_mac.get(key.data, ())))
        if key.kind == NEIGHBOUR:
            return tuple(self._by_gateway.get(key.data, ()))
        subnet = IPv4Network((key.data, key.prefixlen))
        return (subnet,) if subnet in self.peers else ()

    def problems(self) -> tuple[str, ...]:
        """Why peers are not programmed, in order of their subnets."""
        return tuple(f"peer {s}: {self.refused[s]}" for s in sorted(self.refused))

    # --- indexes ---

    def _enter(self, peer: Peer) -> None:
        way, reason = self._way(peer)
        if way is None:
            self.refused[peer.subnet] = reason
            return
        self._ways[peer.subnet] = way
        if way.mac:
            macs = self._by_mac.setdefault(way.mac, [])
            insort(macs, peer.subnet, key=self._precedence)
            insort(self._by_gateway.setdefault(_gateway(peer.subnet), []), peer.subnet)

    def _precedence(self, subnet: IPv4Network) -> tuple[int, IPv4Network]:
        return -self.peers[subnet].revision, subnet

    def _leave(self, subnet: IPv4Network) -> None:
        self.peers.pop(subnet, None)
        self.refused.pop(subnet, None)
        way = self._ways.pop(subnet, None)
        if way is not None and way.mac:
            _remove(self._by_mac, way.mac, subnet)
            _remove(self._by_gateway, _gateway(subnet), subnet)

    def _mates(self, subnet: IPv4Network) -> set[IPv4Network]:
        """The peers whose answers depend on *subnet*'s: same MAC or same gateway address."""
        way = self._ways.get(subnet)
        if way is None or not way.mac:
            return set()
        gateway = _gateway(subnet)
        return {*self._by_mac.get(way.mac, ()), *self._by_gateway.get(gateway, ())}

    def _keys_of(self, subnets: Iterable[IPv4Network]) -> set[Key]:
        keys: set[Key] = set()
        for subnet in subnets:
            gateway = _gateway(subnet)
            keys.add(Key(ROUTE, gateway, subnet.prefixlen))
            way = self._ways.get(subnet)
            if way is not None and way.mac:
                keys.add(Key(NEIGHBOUR, gateway))
                keys.add(Key(FDB, way.mac))
        return keys

    def _settle(self, subnets: Iterable[IPv4Network]) -> None:
        """Decide again which of *subnets* lose to another claim on their MAC or gateway."""
        for subnet in subnets:
            way = self._ways.get(subnet)
            if way is None:
                continue
            self.refused.pop(subnet, None)
            if not way.mac:
                continue
            first = self._by_mac[way.mac][0]
            gateway = _gateway(subnet)
            if self._ways[first].ip != way.ip:
                self.refused[subnet] = self._defeat(subnet, first)
            elif self._by_gateway[gateway][0] != subnet:
                self.refused[subnet] = f"it overlaps {self._by_gateway[gateway][0]}"

    def _defeat(self, loser: IPv4Network, winner: IPv4Network) -> str:
        lost, won = self.peers[loser], self.peers[winner]
        newer = ", whose record is newer" if won.revision > lost.revision else ""
        return (
            f"its VtepMAC {lost.vtep_mac} is the one of {winner} on another host, "
            f"{won.public_ip}{newer}"
        )

    def _way(self, peer: Peer) -> tuple[_Way | None, str]:
        """How to reach *peer*, or None and why not."""
        local = self.local
        if local is None:
            return None, "this host has no subnet"
        if not peer.subnet.subnet_of(local.network):
            return None, f"it is outside {local.network}"
        if peer.subnet.overlaps(local.subnet):
            return None, f"it overlaps this host's subnet {local.subnet}"
        if peer.public_ip == local.public_ip:
            return None, f"its PublicIP {peer.public_ip} is this host's"
        direct = isinstance(local.backend, HostGwOptions) or local.backend.direct_routing
        if direct and self._onlink(int(peer.public_ip)):
            return _Way(b"", peer.public_ip.packed), ""
        if isinstance(local.backend, HostGwOptions):
            if self.underlay is None:
                return None, f"interface {local.interface} is missing"
            return None, f"its PublicIP {peer.public_ip} is no direct neighbour, as host-gw needs"
        return _tunnel(local, peer)

    def _onlink(self, address: int) -> bool:
        return self.underlay is not None and any(
            address & mask == net for net, mask in self.underlay.onlink
        )


def _tunnel(local: LocalNode, peer: Peer) -> tuple[_Way | None, str]:
    if peer.vtep_mac is None:
        return None, "it published no VtepMAC"
    mac = parse_mac(peer.vtep_mac)
    if mac is None:
        return None, f"its VtepMAC {peer.vtep_mac!r} is no unicast MAC address"
    # The kernel drops what comes in with the device's own MAC as source.
    if mac == parse_mac(local.vtep_mac):
        return None, f"its VtepMAC {peer.vtep_mac} is this host's"
    return _Way(mac, peer.public_ip.packed), ""


def peer_changes(
    old: Mapping[IPv4Network, Peer], new: Mapping[IPv4Network, Peer]
) -> dict[IPv4Network, Peer | None]:
    """What turns *old* into *new*: None for the peers that left."""
    changes: dict[IPv4Network, Peer | None] = {s: None for s in old if s not in new}
    changes.update((s, p) for s, p in new.items() if old.get(s) != p)
    return changes


def _gateway(subnet: IPv4Network) -> bytes:
    return subnet.network_address.packed


def _remove(index: dict[bytes, list[IPv4Network]], at: bytes, subnet: IPv4Network) -> None:
    subnets = index[at]
    subnets.remove(subnet)
    if not subnets:
        del index[at]
