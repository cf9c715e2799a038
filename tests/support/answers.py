"""Who must answer: what the services promise, worked out in the plainest way from the objects.

It shares no code with netd's planner and looks at everything each time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netd.services.values import EndpointSlice, Service
from tests.support.walk import Packet


@dataclass(frozen=True, slots=True)
class Answer:
    """*endpoints* are equally likely; none of them and not refused or dropped: no service.

    *masqueraded* is None where both are allowed.
    """

    endpoints: frozenset[str] = frozenset()
    refused: bool = False
    dropped: bool = False
    masqueraded: bool | None = None


@dataclass(frozen=True)
class World:
    """All objects, and this host: its node name, its addresses, the pods' network if known."""

    services: Iterable[Service]
    slices: Iterable[EndpointSlice]
    node: str
    local: frozenset[str]
    cluster_cidr: str = ""
    masquerade_all: bool = False
    node_port_ranges: tuple[str, ...] = ()

    def answer(self, packet: Packet) -> Answer:
        """What must happen to *packet*."""
        for match in (self._address, self._node_port):
            found = match(packet)
            if found is not None:
                return found
        return Answer()

    def _address(self, packet: Packet) -> Answer | None:
        wanting = []
        for service in self.services:
            for index, port in enumerate(service.ports):
                if (port.protocol, port.port) != (packet.protocol, packet.port):
                    continue
                kinds = (service.cluster_ips, service.external_ips, service.balancer_ips)
                for rank, addresses in enumerate(kinds):
                    if packet.target in addresses:
                        wanting.append((service.created, service.key, rank, index, service))
        if not wanting:
            return None
        _, _, rank, index, service = min(wanting, key=lambda one: one[:4])
        port_name = service.ports[index].name
        if rank == 2 and service.source_ranges:
            source = IPv4Address(packet.source)
            own = packet.source == packet.target
            if not own and not any(source in IPv4Network(one) for one in service.source_ranges):
                return Answer(dropped=True)
        if rank:
            return self._outside(service, port_name, packet)
        masqueraded = packet.local or self.masquerade_all or (
            bool(self.cluster_cidr) and not self._is_pod(packet)
        )  # fmt: skip
        every, here = self._endpoints(service, port_name, packet.protocol)
        if not every:
            return Answer(refused=True)
        chosen = here if service.internal_local else every
        if not chosen:
            return Answer(dropped=True)
        return Answer(chosen, masqueraded=masqueraded)

    def _node_port(self, packet: Packet) -> Answer | None:
        if packet.target not in self.local or packet.target.startswith("127."):
            return None
        target = IPv4Address(packet.target)
        if self.node_port_ranges and not any(
            target in IPv4Network(one) for one in self.node_port_ranges
        ):
            return None
        wanting = [
            (service.created, service.key, index, service)
            for service in self.services
            for index, port in enumerate(service.ports)
            if port.node_port and (port.protocol, port.node_port) == (packet.protocol, packet.port)
        ]
        if not wanting:
            return None
        _, _, index, service = min(wanting, key=lambda one: one[:3])
        return self._outside(service, service.ports[index].name, packet)

    def _outside(self, service: Service, port_name: str, packet: Packet) -> Answer:
        every, here = self._endpoints(service, port_name, packet.protocol)
        if not every:
            return Answer(refused=True)
        if not service.external_local:
            return Answer(every, masqueraded=True)
        if packet.source in self.local:
            return Answer(every, masqueraded=True)
        if self._is_pod(packet):
            return Answer(every)
        return Answer(here, masqueraded=False) if here else Answer(dropped=True)

    def _is_pod(self, packet: Packet) -> bool:
        return bool(self.cluster_cidr) and IPv4Address(packet.source) in IPv4Network(
            self.cluster_cidr
        )

    def _endpoints(
        self, service: Service, port_name: str, protocol: str
    ) -> tuple[frozenset[str], frozenset[str]]:
        every: dict[str, set[str]] = {"ready": set(), "leaving": set()}
        here: dict[str, set[str]] = {"ready": set(), "leaving": set()}
        for one in self.slices:
            for port in one.ports:
                if (one.service, port.name, port.protocol) != (service.key, port_name, protocol):
                    continue
                for endpoint in one.endpoints:
                    text = f"{endpoint.address}:{port.port}"
                    if endpoint.ready:
                        state = "ready"
                    elif endpoint.serving and endpoint.terminating:
                        state = "leaving"
                    else:
                        continue
                    every[state].add(text)
                    if endpoint.node == self.node:
                        here[state].add(text)
        return _prefer(every), _prefer(here)


def _prefer(found: Mapping[str, set[str]]) -> frozenset[str]:
    return frozenset(found["ready"] or found["leaving"])
