"""Which endpoints of a service port are used, and how many a service may have. Pure."""

from collections.abc import Iterable

from netd.services.values import Endpoint, Service

MOST_RULES = 20_000
"""Most DNAT rules of one service: the product of its places and endpoints has no other bound."""


def usable(found: Iterable[tuple[Endpoint, int]]) -> tuple[str, ...]:
    """``address:port`` of the ready ones, else of those that serve while they terminate
    (KEP-1669); sorted, without duplicates."""
    ready: set[tuple[str, int]] = set()
    leaving: set[tuple[str, int]] = set()
    for endpoint, port in found:
        if endpoint.ready:
            ready.add((endpoint.address, port))
        elif endpoint.serving and endpoint.terminating:
            leaving.add((endpoint.address, port))
    return tuple(f"{address}:{port}" for address, port in sorted(ready or leaving))


def place_count(service: Service) -> int:
    """At how many places *service* asks to answer."""
    addresses = len(service.cluster_ips) + len(service.external_ips) + len(service.balancer_ips)
    return len(service.ports) * addresses + sum(1 for port in service.ports if port.node_port)


def most_endpoints(service: Service) -> int:
    """How many endpoints each of its places may have."""
    return max(1, MOST_RULES // max(1, place_count(service)))
