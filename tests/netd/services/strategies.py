"""Small worlds of services and endpoints, small enough that they clash and share."""

from hypothesis import strategies as st

from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
)
from tests.support.walk import Packet

NODE = "node1"
LOCAL = frozenset({"198.18.0.11", "172.17.0.1", "127.0.0.1"})
CLUSTER_CIDR = "10.1.0.0/16"

KEYS = [f"default/s{i}" for i in range(5)]
CLUSTER_IPS = [f"10.0.0.{i}" for i in range(1, 7)] + ["10.0.99.1"]
OTHER_IPS = ["203.0.113.1", "203.0.113.2", "10.0.0.1"]
SOURCES = ["10.1.1.9", "198.18.0.12", "192.0.2.7", "198.18.0.11"]
PORTS = [80, 443]
NODE_PORTS = [0, 30061, 30062, 31000]
RANGES = ["192.0.2.0/24", "198.18.0.0/24", "10.1.0.0/16", "0.0.0.0/0"]

service_ports = st.builds(
    ServicePort,
    name=st.sampled_from(["", "http", "dns"]),
    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
    port=st.sampled_from(PORTS),
    node_port=st.sampled_from(NODE_PORTS),
)


def _some(values: list[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


services = st.builds(
    Service,
    key=st.sampled_from(KEYS),
    created=st.sampled_from([1.0, 2.0, 3.0]),
    ports=st.lists(
        service_ports, min_size=1, max_size=3, unique_by=lambda one: (one.protocol, one.port)
    ).map(tuple),
    cluster_ips=st.sampled_from(CLUSTER_IPS).map(lambda one: (one,)),
    external_ips=_some(OTHER_IPS, 2),
    balancer_ips=_some(OTHER_IPS, 2),
    source_ranges=_some(RANGES, 2),
    affinity=st.sampled_from([0, 0, 600]),
    external_local=st.booleans(),
    internal_local=st.booleans(),
)

endpoints = st.builds(
    Endpoint,
    address=st.sampled_from([f"10.1.{i}.2" for i in range(1, 6)]),
    node=st.sampled_from(["", NODE, "node2"]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)

slices = st.builds(
    EndpointSlice,
    service=st.sampled_from(KEYS),
    ports=st.lists(
        st.builds(
            EndpointPort,
            name=st.sampled_from(["", "http", "dns"]),
            protocol=st.sampled_from(["tcp", "udp", "sctp"]),
            port=st.sampled_from([8080, 53]),
        ),
        max_size=3,
        unique=True,
    ).map(tuple),
    endpoints=st.lists(endpoints, max_size=4, unique_by=lambda one: one.address).map(tuple),
)

packets = st.builds(
    Packet,
    source=st.sampled_from(SOURCES),
    target=st.sampled_from([*CLUSTER_IPS, *OTHER_IPS, *sorted(LOCAL), "192.0.2.99"]),
    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
    port=st.sampled_from([*PORTS, *NODE_PORTS[1:]]),
).map(
    # Only this host's own processes send with its addresses.
    lambda one: Packet(one.source, one.target, one.protocol, one.port, one.source in LOCAL)
)
