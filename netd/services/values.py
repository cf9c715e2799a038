"""The values that the service planner works on.

    API objects --model--> Service, EndpointSlice --book--> Frontend with its Pool --rules--> text

All are frozen, hold only what a rule needs, and were validated: an address is canonical dotted
IPv4, a port is 1 to 65535, a name is a DNS label or subdomain, so nothing here can break out of
a line of iptables-restore.
"""

from dataclasses import dataclass
from enum import Enum

PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service; *name* may be empty, *node_port* is 0 for none."""

    name: str
    protocol: str
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """What netd keeps of a Service. *key* is ``namespace/name``.

    *created* is the creationTimestamp in Unix seconds; with *key* it decides conflicts: the
    oldest wins. *affinity* is the ClientIP affinity's timeout in seconds, 0 for none.
    *health_port* is the healthCheckNodePort, 0 for none. *source_ranges* are canonical networks
    that load-balancer addresses accept, empty for all.
    """

    key: str
    created: float
    ports: tuple[ServicePort, ...]
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity: int = 0
    external_local: bool = False
    internal_local: bool = False
    health_port: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address behind a service; *node* is the name of its node, empty when unknown."""

    address: str
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port that all endpoints of a slice serve; *name* pairs it with the Service's port."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints of one service that share ports. *service* is its ``namespace/name``.

    An Endpoints object becomes one slice for each of its subsets.
    """

    service: str
    ports: tuple[EndpointPort, ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Who may answer for one service port: sorted ``address:port``, without duplicates.

    *every* are the endpoints of all nodes, *local* those of this node, each chosen as KEP-1669
    says: the ready ones, or, when none is ready, those that are serving while they terminate.
    """

    every: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


class Kind(Enum):
    """How a frontend came about, which decides masquerading and policies."""

    CLUSTER = "cluster IP"
    EXTERNAL = "external IP"
    BALANCER = "load-balancer IP"
    NODE_PORT = "node port"


@dataclass(frozen=True, slots=True)
class Frontend:
    """One place where a service answers: *address* (empty for a node port), protocol and port.

    *service* is ``namespace/name``, *port_name* may be empty. *local_only* is the policy Local
    of this kind of frontend. *source_ranges* is empty unless the frontend is a balancer's.
    """

    kind: Kind
    address: str
    protocol: str
    port: int
    service: str
    port_name: str
    pool: Pool
    local_only: bool = False
    affinity: int = 0
    source_ranges: tuple[str, ...] = ()

    @property
    def comment(self) -> str:
        """What stands in the rule's comment, as kube-proxy always had it."""
        return f"{self.service}:{self.port_name}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something about one object that had to be skipped or cut: *key* names the object (such as
    ``service default/web``), *text* is a sentence with field and fix."""

    key: str
    text: str
