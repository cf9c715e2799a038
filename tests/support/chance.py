"""Services by chance, for a real API server, and what their rules have to do to packets.

Objects of the API are read here in the plainest way, apart from netd's decoders.
"""

import random
from collections.abc import Iterator
from datetime import datetime

from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
)
from tests.support.answers import Answer
from tests.support.services import OUTSIDE, Json, Node, endpoint
from tests.support.walk import Fate, Packet

NAMES = ("", "http", "dns")
ADDRESSES = ("203.0.113.11", "203.0.113.12", "203.0.113.13")
RANGES = ("192.0.2.0/24", f"{OUTSIDE}/32", "10.1.0.0/16")


def chance_service(chance: random.Random) -> Json:
    """The spec of a service, of any kind that 1.20 takes."""
    kind = chance.choice(("ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"))
    one_protocol = chance.choice(("TCP", "UDP", "SCTP"))
    count = chance.choice((1, 1, 2, 3))
    spec: Json = {"type": kind, "ports": []}
    for index in range(count):
        # 1.20 lets a load balancer have one protocol only.
        several = ("TCP", "UDP", "SCTP") if kind != "LoadBalancer" else (one_protocol,)
        spec["ports"].append({
            "name": chance.choice(("http", "dns")) + str(index) if count > 1 else "",
            "port": chance.choice((80, 443, 8080)) + 1000 * index,
            "protocol": chance.choice(several),
        })  # fmt: skip
    if chance.random() < 0.4:
        spec["externalIPs"] = chance.sample(ADDRESSES, chance.randint(1, 2))
    if chance.random() < 0.3:
        seconds = {"clientIP": {"timeoutSeconds": chance.randint(1, 86400)}}
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": seconds}
    if kind != "ClusterIP" and chance.random() < 0.4:
        spec["externalTrafficPolicy"] = "Local"
    if kind == "LoadBalancer" and chance.random() < 0.6:
        spec["loadBalancerSourceRanges"] = chance.sample(RANGES, chance.randint(1, 2))
    return spec


def chance_ends(chance: random.Random, ports: list[Json]) -> tuple[list[Json], list[Json]]:
    """Endpoints, some not ready, and their ports, of which one may be missing."""
    ends = [
        endpoint(f"10.1.{node}.{last}", ready=chance.random() < 0.7) | {"nodeName": f"node{node}"}
        for node in (1, 2)
        for last in chance.sample(range(10, 20), chance.randint(0, 2))
    ]
    targets = [one | {"port": chance.choice((8080, 9000, 53))} for one in ports]
    return ends, targets[: len(targets) - (chance.random() < 0.1)]


def plain_service(obj: Json) -> Service:
    """What a Service of the API says, read in the plainest way."""
    meta, spec = obj["metadata"], obj["spec"]
    affinity = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 0)
    ingress = obj["status"].get("loadBalancer", {}).get("ingress", ())
    return Service(
        key=f"{meta['namespace']}/{meta['name']}",
        created=datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
        ports=tuple(
            ServicePort(one.get("name", ""), one["protocol"].lower(), one["port"],
                        one.get("nodePort", 0))
            for one in spec["ports"]
        ),
        cluster_ips=(spec["clusterIP"],),
        external_ips=tuple(spec.get("externalIPs", ())),
        balancer_ips=tuple(one["ip"] for one in ingress),
        source_ranges=tuple(spec.get("loadBalancerSourceRanges", ())),
        affinity=affinity,
        external_local=spec.get("externalTrafficPolicy") == "Local",
    )  # fmt: skip


def plain_slice(obj: Json) -> EndpointSlice:
    """The same for an EndpointSlice v1beta1."""
    meta = obj["metadata"]
    return EndpointSlice(
        service=f"{meta['namespace']}/{meta['labels']['kubernetes.io/service-name']}",
        ports=tuple(
            EndpointPort(one["name"], one["protocol"].lower(), one["port"])
            for one in obj.get("ports") or ()
        ),
        endpoints=tuple(
            Endpoint(end["addresses"][0], end.get("topology", {}).get("kubernetes.io/hostname", ""),
                     ready=end["conditions"].get("ready", True))
            for end in obj.get("endpoints") or ()
        ),
    )  # fmt: skip


def read_back(node: Node) -> dict[str, list[str]]:
    """The chains of the nat table that the kernel has, with their rules."""
    chains: dict[str, list[str]] = {}
    for line in node.rules():
        if line.startswith(":"):
            chains[line[1:].split()[0]] = []
        else:
            _, name, rule = line.split(" ", 2)
            chains[name].append(rule)
    return chains


def packets(services: list[Service], node: Node) -> Iterator[Packet]:
    """One from everywhere to every place of *services*, and to places that nobody has."""
    sources = (node.address, "10.1.1.9", "10.1.2.9", OUTSIDE, "192.0.2.7")
    places = {("10.0.255.254", "tcp", 80), (node.address, "tcp", 29_999), (OUTSIDE, "tcp", 80)}
    for one in services:
        for each in one.ports:
            for address in (*one.cluster_ips, *one.external_ips, *one.balancer_ips):
                places.add((address, each.protocol, each.port))
            for address in (node.address, node.second, "127.0.0.1") if each.node_port else ():
                places.add((address, each.protocol, each.node_port))
    for address, protocol, number in sorted(places):
        for source in sources:
            yield Packet(source, address, protocol, number, source == node.address)


def check(fates: dict[Fate, float], must: Answer, packet: Packet) -> None:
    """What happens to *packet* is what *must*, as likely as it must."""
    assert {one.endpoint for one in fates} == (must.endpoints or {""}), packet
    for chance in fates.values():
        assert abs(chance * len(fates) - 1) < 1e-6, packet
    if must.endpoints:
        if must.masqueraded is not None:
            assert {one.masqueraded for one in fates} == {must.masqueraded}, packet
    else:
        assert {one.refused for one in fates} == {must.refused}, packet
        assert {one.dropped for one in fates} == {must.dropped}, packet
