"""Values of services and endpoints for tests: one plain case, and what differs from it."""

from dataclasses import replace
from typing import Any

from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Frontend,
    Kind,
    Pool,
    Service,
    ServicePort,
)

WEB = Service(
    key="default/web",
    created=1.0,
    ports=(ServicePort("http", "tcp", 80),),
    cluster_ips=("10.0.0.7",),
)
DNS = Service(
    key="kube-system/dns",
    created=1.0,
    ports=(ServicePort("dns", "udp", 53),),
    cluster_ips=("10.0.0.10",),
)


def web(**changes: Any) -> Service:
    """default/web at 10.0.0.7:80, but for *changes*."""
    return replace(WEB, **changes)


def backed(
    service: str,
    *addresses: str | Endpoint,
    name: str = "http",
    protocol: str = "tcp",
    port: int = 8080,
) -> EndpointSlice:
    """A slice with one port; a plain address is a ready endpoint of node2."""
    endpoints = (Endpoint(one, "node2") if isinstance(one, str) else one for one in addresses)
    return EndpointSlice(service, (EndpointPort(name, protocol, port),), tuple(endpoints))


def frontend(**changes: Any) -> Frontend:
    """The frontend of default/web with endpoints on two nodes, one of them here."""
    pool = Pool(("10.1.1.2:8080", "10.1.2.2:8080"), ("10.1.1.2:8080",))
    plain = Frontend(Kind.CLUSTER, "10.0.0.7", "tcp", 80, "default/web", "http", pool)
    return replace(plain, **changes)
