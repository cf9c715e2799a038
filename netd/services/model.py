"""Service objects of the API as values of which every part was checked.

A part that is wrong is left out, or the whole service when it makes no sense without it; each
time a sentence says which field and what to write instead. IPv6 addresses are left out without
a word: a service with both families is normal, and netd carries IPv4.

Fields: k8s.io/api/core/v1, ServiceSpec and LoadBalancerIngress.
"""

from typing import Any

import msgspec

from netd.services import fields
from netd.services.fields import Faults, Meta, Shape, shown
from netd.services.values import Service, ServicePort, Trouble

DEFAULT_AFFINITY = 10_800
"""Seconds that a client keeps its endpoint (DefaultClientIPServiceAffinitySeconds)."""

MOST_AFFINITY = 86_400
"""Seconds (MaxClientIPServiceAffinitySeconds)."""

MOST_PLACES = 10_000
"""Most pairs of a port with an address or node port that one service may have."""


class _Labels(Shape):
    proxy: Any = msgspec.field(default=None, name="service.kubernetes.io/service-proxy-name")
    headless: Any = msgspec.field(default=None, name="service.kubernetes.io/headless")


class _Meta(Meta):
    labels: _Labels | None = None


class _Port(Shape):
    name: Any = None
    protocol: Any = None
    port: Any = None
    node_port: Any = None


class _ClientIP(Shape):
    timeout_seconds: Any = None


class _Affinity(Shape):
    client_ip: _ClientIP | None = None


class _Spec(Shape):
    type: Any = None
    cluster_ip: Any = None
    cluster_ips: Any = None
    external_ips: Any = None
    load_balancer_source_ranges: Any = None
    session_affinity: Any = None
    session_affinity_config: _Affinity | None = None
    external_traffic_policy: Any = None
    internal_traffic_policy: Any = None
    health_check_node_port: Any = None
    ports: list[_Port | None] | None = None


class _Ingress(Shape):
    ip: Any = None
    ip_mode: Any = None


class _Balancer(Shape):
    ingress: list[_Ingress | None] | None = None


class _Status(Shape):
    load_balancer: _Balancer | None = None


class _Service(Shape):
    metadata: _Meta | None = None
    spec: _Spec | None = None
    status: _Status | None = None


_DECODER = msgspec.json.Decoder(_Service)


def decode_service(
    raw: bytes | msgspec.Raw,
) -> tuple[str, Service | None, tuple[Trouble, ...]]:
    """The key ``namespace/name`` of a Service, its value, and what was wrong with it.

    The value is None when netd has nothing to do: headless and ExternalName services, those
    without an address, those that another proxy serves, and those that had to be skipped.
    Raises ValueError when it has no key.
    """
    faults = Faults()
    found = fields.read(_DECODER, raw, faults)
    meta, spec = found.metadata, found.spec or _Spec()
    key, named = fields.object_key(meta, "service", faults)
    about = f"service {key}"
    clusters = _cluster_ips(spec, faults)
    if not named or _is_for_others(meta, spec, clusters):
        return key, None, faults.troubles(about)
    ranges, closed = _source_ranges(spec, faults)
    balancers = _balancer_ips(found.status)
    if closed and balancers:
        faults.add(
            "spec.loadBalancerSourceRanges admits no IPv4 client, so the load-balancer addresses "
            "are left out: name an IPv4 network or remove the field"
        )
        balancers = []
    local = _is_local(spec.external_traffic_policy, "spec.externalTrafficPolicy", faults)
    externals = fields.items(spec.external_ips, "spec.externalIPs", faults)
    service = Service(
        key=key,
        created=_created(meta, faults),
        ports=_ports(spec, faults),
        cluster_ips=_addresses(clusters, faults, link_local=True),
        external_ips=_addresses(_numbered("spec.externalIPs", externals), faults),
        balancer_ips=_addresses(balancers, faults),
        source_ranges=ranges,
        affinity=_affinity(spec, faults),
        external_local=local,
        internal_local=_is_local(
            spec.internal_traffic_policy, "spec.internalTrafficPolicy", faults
        ),
        health_port=_health_port(spec, faults) if local else 0,
    )
    whole = _is_whole(service, spec, clusters, faults)
    return key, service if whole else None, faults.troubles(about)


_Found = list[tuple[str, Any]]
"""Values, each with the name of its field."""


def _numbered(where: str, values: list[Any]) -> _Found:
    return [(f"{where}[{index}]", value) for index, value in enumerate(values)]


def _cluster_ips(spec: _Spec, faults: Faults) -> _Found:
    """What stands for cluster addresses; servers before 1.20 know only the single one."""
    several = fields.items(spec.cluster_ips, "spec.clusterIPs", faults)
    if several:
        return _numbered("spec.clusterIPs", several)
    return [("spec.clusterIP", spec.cluster_ip)] if spec.cluster_ip not in (None, "") else []


def _is_for_others(meta: _Meta | None, spec: _Spec, clusters: _Found) -> bool:
    """Whether the service is whole but not for netd to serve."""
    labels = meta.labels if meta else None
    if labels is not None and not (labels.proxy is None and labels.headless is None):
        return True
    if spec.type == "ExternalName" or any(value == "None" for _, value in clusters):
        return True
    return not clusters and not any(
        port is not None and port.node_port for port in spec.ports or ()
    )


def _created(meta: _Meta | None, faults: Faults) -> float:
    value = meta.creation_timestamp if meta else None
    return fields.timestamp(value, "metadata.creationTimestamp", faults)


def _ports(spec: _Spec, faults: Faults) -> tuple[ServicePort, ...]:
    """The ports, of which the first counts where two share a place or a name."""
    made: list[ServicePort] = []
    places: set[tuple[str, int]] = set()
    names: set[str] = set()
    node_places: set[tuple[str, int]] = set()
    for index, one in enumerate(spec.ports or ()):
        where = f"spec.ports[{index}]"
        if one is None:
            faults.add(f"{where} is no object: give it a port")
            continue
        name = fields.port_name(one.name, f"{where}.name", faults)
        protocol = fields.protocol(one.protocol, f"{where}.protocol", faults)
        number = fields.port_number(one.port, f"{where}.port", faults)
        if name is None or protocol is None or not number:
            continue
        if (protocol, number) in places:
            faults.add(f"{where} is {number}/{protocol} again: remove it")
            continue
        if name in names:
            faults.add(f"{where}.name is {shown(name)} again: give each port a name of its own")
            continue
        node_port = 0
        if one.node_port not in (None, 0):
            node_port = fields.port_number(one.node_port, f"{where}.nodePort", faults)
        if node_port and (protocol, node_port) in node_places:
            faults.add(f"{where}.nodePort is {node_port}/{protocol} again: use another")
            node_port = 0
        places.add((protocol, number))
        names.add(name)
        node_places.add((protocol, node_port))
        made.append(ServicePort(name, protocol, number, node_port))
    return tuple(made)


def _addresses(found: _Found, faults: Faults, *, link_local: bool = False) -> tuple[str, ...]:
    """The IPv4 addresses of *found*, sorted."""
    made = [
        fields.ipv4(value, where, faults, link_local=link_local)
        for where, value in found
        if not fields.is_ipv6(value)
    ]
    return tuple(sorted({one for one in made if one is not None}))


def _balancer_ips(status: _Status | None) -> _Found:
    """The addresses under which a load balancer sends packets on; entries with a host name or
    with mode Proxy send them to nodes or pods instead (KEP-1860)."""
    listed = status.load_balancer.ingress if status and status.load_balancer else None
    return [
        (f"status.loadBalancer.ingress[{index}].ip", one.ip)
        for index, one in enumerate(listed or ())
        if one is not None and one.ip not in (None, "") and one.ip_mode in (None, "", "VIP")
    ]


def _source_ranges(spec: _Spec, faults: Faults) -> tuple[tuple[str, ...], bool]:
    """The networks of clients, and whether some were asked for but none is left."""
    where = "spec.loadBalancerSourceRanges"
    if spec.load_balancer_source_ranges in (None, []):
        return (), False
    listed = fields.items(spec.load_balancer_source_ranges, where, faults)
    made = [fields.network(value, name, faults) for name, value in _numbered(where, listed)]
    ranges = tuple(sorted({one for one in made if one is not None}))
    return ranges, not ranges


def _affinity(spec: _Spec, faults: Faults) -> int:
    where = "spec.sessionAffinity"
    if fields.choice(spec.session_affinity, "None", ("ClientIP",), where, faults) == "None":
        return 0
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return DEFAULT_AFFINITY
    if type(seconds) is int and 1 <= seconds <= MOST_AFFINITY:
        return seconds
    faults.add(
        f"{where}Config.clientIP.timeoutSeconds is {shown(seconds)}, so {DEFAULT_AFFINITY} is "
        f"taken: use 1 to {MOST_AFFINITY}"
    )
    return DEFAULT_AFFINITY


def _is_local(value: object, where: str, faults: Faults) -> bool:
    return fields.choice(value, "Cluster", ("Local",), where, faults) == "Local"


def _health_port(spec: _Spec, faults: Faults) -> int:
    """Only load-balancer services have one."""
    if spec.type != "LoadBalancer" or spec.health_check_node_port in (None, 0):
        return 0
    return fields.port_number(spec.health_check_node_port, "spec.healthCheckNodePort", faults)


def _is_whole(service: Service, spec: _Spec, clusters: _Found, faults: Faults) -> bool:
    """Whether there is something to serve, and not too much of it."""
    if clusters and all(fields.is_ipv6(value) for _, value in clusters):
        faults.add("spec.clusterIPs has IPv6 addresses only: netd carries IPv4, add that family")
        return False
    if not service.ports:
        if not spec.ports:
            faults.add("spec.ports is empty: give it a port")
        return False
    addresses = len(service.cluster_ips) + len(service.external_ips) + len(service.balancer_ips)
    node_ports = sum(1 for one in service.ports if one.node_port)
    places = len(service.ports) * addresses + node_ports
    if places > MOST_PLACES:
        faults.add(
            f"spec.ports and the addresses make {places} places to answer at: use at most "
            f"{MOST_PLACES}"
        )
    return 0 < places <= MOST_PLACES
