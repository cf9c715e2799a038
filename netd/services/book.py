"""All services and endpoints that are known, and who may answer at which address and port.

The book is told one object at a time and says which addresses and node ports are affected since
it was last asked. Its content is a function of the objects alone, whatever the order in which
they came.

Two services may claim one address and port (external addresses are free text, and an etcd that
was written by hand holds anything). The older service wins, on every host alike; the younger
keeps its other frontends and is named.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netd.services.names import address_key, address_of, port_key
from netd.services.pools import MOST_RULES, most_endpoints, place_count, usable
from netd.services.values import (
    Endpoint,
    EndpointSlice,
    Frontend,
    Kind,
    Pool,
    Service,
    ServicePort,
    Trouble,
)


class Claim(NamedTuple):
    """A service's wish to answer at a place; the smallest claim of a place is granted."""

    created: float
    service: str
    rank: int
    port: int
    """Index in the service's ports."""


class Place(NamedTuple):
    """Where packets go to: *key* is the address' or node port's key."""

    key: int
    protocol: str
    port: int
    is_node_port: bool


_KINDS = (Kind.CLUSTER, Kind.EXTERNAL, Kind.BALANCER, Kind.NODE_PORT)


@dataclass(frozen=True, slots=True)
class Affected:
    """Keys of addresses and node ports whose frontends may have changed, and whether any of
    them, before or after, is UDP."""

    addresses: frozenset[int] = frozenset()
    node_ports: frozenset[int] = frozenset()
    udp: bool = False


class Book:
    """See the module. *node* is this node's name, by which local endpoints are known."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.services: dict[str, Service] = {}
        self._slices: dict[str, dict[str, EndpointSlice]] = {}
        self._service_of: dict[str, tuple[str, ...]] = {}
        self._claims: dict[Place, tuple[Claim, ...]] = {}
        self._at: dict[int, list[Place]] = {}
        self._at_port: dict[int, list[Place]] = {}
        self._contested: set[Place] = set()
        self._quarantined: dict[str, str] = {}
        self._health: dict[int, set[str]] = {}
        self._too_large: dict[str, str] = {}
        self.addresses: list[int] = []
        """Sorted keys of all addresses at which somebody answers."""
        self.node_ports: list[int] = []
        """Sorted keys of all node ports."""
        self._touched: set[int] = set()
        self._touched_ports: set[int] = set()
        self._touched_udp = False

    # --- what is told ---

    def put_service(self, key: str, service: Service | None) -> None:
        """The service *key* is now as given; None: there is none."""
        old = self.services.get(key)
        if old == service:
            return
        if old is not None and key not in self._quarantined:
            self._withdraw(old)
        self._note_health(key, old, service)
        if service is None:
            self._too_large.pop(key, None)
            self.services.pop(key, None)
            self._quarantined.pop(key, None)
            return
        self.services[key] = service
        # A changed service may be as it should be.
        self._quarantined.pop(key, None)
        self._claim(service)
        self._measure(key)

    def put_slices(self, key: str, slices: tuple[EndpointSlice, ...]) -> None:
        """The object *key*, a slice or an Endpoints object with its subsets, now holds *slices*."""
        before = {name: self.pools(name) for name in self._service_of.get(key, ())}
        after_names = tuple(sorted({one.service for one in slices}))
        for name in after_names:
            before.setdefault(name, self.pools(name))
        for name in self._service_of.pop(key, ()):
            held = self._slices[name]
            for part in [part for part in held if part.startswith(f"{key}#")]:
                del held[part]
            if not held:
                del self._slices[name]
        for index, one in enumerate(slices):
            self._slices.setdefault(one.service, {})[f"{key}#{index}"] = one
        if after_names:
            self._service_of[key] = after_names
        for name, pools in before.items():
            if self.pools(name) != pools:
                self._measure(name)
                self._touch(name)

    def release(self) -> bool:
        """Take back the services that were left out, for what the kernel refused it may take now;
        returns whether there were any."""
        released = list(self._quarantined)
        self._quarantined.clear()
        for key in released:
            self._claim(self.services[key])
        return bool(released)

    def quarantine(self, key: str, why: str) -> None:
        """Leave the service *key* out until it changes."""
        service = self.services.get(key)
        if service is not None and key not in self._quarantined:
            self._withdraw(service)
            self._quarantined[key] = why

    def touch_all(self) -> None:
        """Every frontend is to be looked at again."""
        self._touched.update(self.addresses)
        self._touched_ports.update(self.node_ports)

    def take_affected(self) -> Affected:
        """What may have changed since the last call."""
        taken = Affected(
            frozenset(self._touched), frozenset(self._touched_ports), self._touched_udp
        )
        self._touched.clear()
        self._touched_ports.clear()
        self._touched_udp = False
        return taken

    # --- what follows ---

    def at_address(self, key: int) -> list[Frontend]:
        """The frontends at an address, by protocol and port."""
        return [self._frontend(place) for place in sorted(self._at.get(key, ()))]

    def at_node_port(self, key: int) -> list[Frontend]:
        """The frontend at a node port; none or one."""
        return [self._frontend(place) for place in self._at_port.get(key, ())]

    def frontends_of(self, key: str) -> list[Frontend]:
        """The frontends that the service *key* was granted."""
        service = self.services.get(key)
        if service is None or key in self._quarantined:
            return []
        places = sorted({place for place, _ in _wishes(service)})
        return [self._frontend(p) for p in places if self._claims[p][0].service == key]

    @property
    def frontend_count(self) -> int:
        """How many places are served."""
        return len(self._claims)

    @property
    def endpoint_count(self) -> int:
        """How many endpoints the slices hold."""
        return sum(len(one.endpoints) for held in self._slices.values() for one in held.values())

    def pools(self, service: str) -> Mapping[tuple[str, str], Pool]:
        """The pools of a service by port name and protocol."""
        gathered: dict[tuple[str, str], list[tuple[Endpoint, int]]] = {}
        for one in self.slices_of(service):
            for port in one.ports:
                into = gathered.setdefault((port.name, port.protocol), [])
                into += [(endpoint, port.port) for endpoint in one.endpoints]
        return {name: self._pool(found) for name, found in gathered.items()}

    def local_endpoints(self, service: str) -> int:
        """How many ready endpoints of a service this node has; for healthCheckNodePort."""
        return len(
            {
                endpoint.address
                for one in self.slices_of(service)
                for endpoint in one.endpoints
                if endpoint.ready and self._is_here(endpoint)
            }
        )

    def slices_of(self, service: str) -> tuple[EndpointSlice, ...]:
        """All that is known of the endpoints of a service."""
        return tuple(self._slices.get(service, {}).values())

    def is_quarantined(self, service: str) -> bool:
        """Whether the service is left out."""
        return service in self._quarantined

    def troubles(self) -> list[Trouble]:
        """Conflicts, services that are left out, and those that are too large."""
        found = [Trouble(f"service {key}", why) for key, why in self._quarantined.items()]
        for place in self._contested:
            winner = self._claims[place][0]
            losers = {claim.service for claim in self._claims[place]} - {winner.service}
            found += [Trouble(f"service {loser}", _clash(place, winner)) for loser in losers]
        for port, keys in self._health.items():
            first = self._oldest(keys)
            text = f"healthCheckNodePort {port} belongs to the older service {first}: use another"
            found += [Trouble(f"service {key}", text) for key in keys if key != first]
        found += [Trouble(f"service {key}", text) for key, text in self._too_large.items()]
        return sorted(found, key=lambda one: (one.key, one.text))

    def health_checks(self) -> dict[int, tuple[str, int]]:
        """Each healthCheckNodePort with its service and how many endpoints it has here."""
        return {
            port: (key, self.local_endpoints(key))
            for port, keys in self._health.items()
            for key in [self._oldest(keys)]
        }

    # --- inside ---

    def _pool(self, found: Iterable[tuple[Endpoint, int]]) -> Pool:
        listed = list(found)
        return Pool(usable(listed), usable(one for one in listed if self._is_here(one[0])))

    def _pool_of(self, service: Service, port: ServicePort) -> Pool:
        pool = self._pool(
            (endpoint, one.port)
            for part in self.slices_of(service.key)
            for one in part.ports
            if (one.name, one.protocol) == (port.name, port.protocol)
            for endpoint in part.endpoints
        )
        most = most_endpoints(service)
        return Pool(pool.every[:most], pool.local[:most]) if len(pool.every) > most else pool

    def _measure(self, key: str) -> None:
        """Name the service *key* if it needs more rules than one may have."""
        service = self.services.get(key)
        self._too_large.pop(key, None)
        if service is None:
            return
        most = most_endpoints(service)
        if sum(len(one.endpoints) for one in self.slices_of(key)) <= most:
            return
        largest = max(len(pool.every) for pool in self.pools(key).values())
        if largest > most:
            self._too_large[key] = (
                f"it has {place_count(service)} addresses with ports and {largest} endpoints, "
                f"which needs more than {MOST_RULES} rules: {most} endpoints of each port are "
                "used, divide it into several services"
            )

    def _note_health(self, key: str, old: Service | None, new: Service | None) -> None:
        if old is not None and old.health_port:
            self._health[old.health_port].discard(key)
            if not self._health[old.health_port]:
                del self._health[old.health_port]
        if new is not None and new.health_port:
            self._health.setdefault(new.health_port, set()).add(key)

    def _oldest(self, keys: Iterable[str]) -> str:
        return min(keys, key=lambda key: (self.services[key].created, key))

    def _is_here(self, endpoint: Endpoint) -> bool:
        return bool(self.node) and endpoint.node == self.node

    def _frontend(self, place: Place) -> Frontend:
        claim = self._claims[place][0]
        service = self.services[claim.service]
        port = service.ports[claim.port]
        kind = _KINDS[claim.rank]
        internal = kind is Kind.CLUSTER
        return Frontend(
            kind=kind,
            address="" if place.is_node_port else address_of(place.key),
            protocol=place.protocol,
            port=place.port,
            service=service.key,
            port_name=port.name,
            pool=self._pool_of(service, port),
            local_only=service.internal_local if internal else service.external_local,
            affinity=service.affinity,
            source_ranges=service.source_ranges if kind is Kind.BALANCER else (),
        )

    def _claim(self, service: Service) -> None:
        for place, claim in _wishes(service):
            held = self._claims.get(place, ())
            if not held:
                self._open(place)
            self._claims[place] = tuple(sorted((*held, claim)))
            self._judge(place)

    def _withdraw(self, service: Service) -> None:
        for place, claim in _wishes(service):
            left = tuple(one for one in self._claims[place] if one != claim)
            if left:
                self._claims[place] = left
            else:
                del self._claims[place]
                self._close(place)
            self._judge(place)

    def _judge(self, place: Place) -> None:
        """Note who contests *place*, and that its frontend may be another one."""
        if len({claim.service for claim in self._claims.get(place, ())}) > 1:
            self._contested.add(place)
        else:
            self._contested.discard(place)
        self._touch_place(place)

    def _open(self, place: Place) -> None:
        at, keys = self._index(place)
        if place.key not in at:
            insort(keys, place.key)
        at.setdefault(place.key, []).append(place)

    def _close(self, place: Place) -> None:
        at, keys = self._index(place)
        at[place.key].remove(place)
        if not at[place.key]:
            del at[place.key]
            del keys[bisect_left(keys, place.key)]

    def _index(self, place: Place) -> tuple[dict[int, list[Place]], list[int]]:
        if place.is_node_port:
            return self._at_port, self.node_ports
        return self._at, self.addresses

    def _touch(self, name: str) -> None:
        service = self.services.get(name)
        if service is not None and name not in self._quarantined:
            for place, _ in _wishes(service):
                self._touch_place(place)

    def _touch_place(self, place: Place) -> None:
        (self._touched_ports if place.is_node_port else self._touched).add(place.key)
        self._touched_udp |= place.protocol == "udp"


def _wishes(service: Service) -> Iterator[tuple[Place, Claim]]:
    """Every place that *service* asks for; one place may be asked for in several ways."""
    for index, port in enumerate(service.ports):
        for rank, addresses in enumerate(
            (service.cluster_ips, service.external_ips, service.balancer_ips)
        ):
            for address in addresses:
                place = Place(address_key(address), port.protocol, port.port, is_node_port=False)
                yield place, Claim(service.created, service.key, rank, index)
        if port.node_port:
            yield _node_place(port), Claim(service.created, service.key, 3, index)


def _node_place(port: ServicePort) -> Place:
    key = port_key(port.protocol, port.node_port)
    return Place(key, port.protocol, port.node_port, is_node_port=True)


def _clash(place: Place, winner: Claim) -> str:
    if place.is_node_port:
        what, field = f"node port {place.port}/{place.protocol}", "nodePort"
    else:
        what = f"{address_of(place.key)}:{place.port}/{place.protocol}"
        field = "address"
    return f"{what} belongs to the older service {winner.service}: give this one another {field}"
