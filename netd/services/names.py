"""Names of our chains, marks and addresses as numbers.

The four entry chains have the names of kube-proxy's first years, by which operators still look.
A chain's name has at most 28 characters (XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h).
"""

import hashlib
from ipaddress import IPv4Address

from netd.services.tree import ROOT, Node
from netd.services.values import PROTOCOLS

PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER"
PORTALS_HOST = "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODEPORT_HOST = "KUBE-NODEPORT-HOST"
PORTALS = "KUBE-PORTALS"
NODEPORTS = "KUBE-NODEPORT-TREE"
MASQUERADE = "KUBE-PORTALS-MASQ"
FILTER = "KUBE-PORTALS-FILTER"
FORWARD = "KUBE-PORTALS-FORWARD"

FILTER_CHAINS = (FILTER, FORWARD)

CANARY = "KUBE-NETD-CANARY"
"""An empty chain in each table, ours alone: where it is missing, somebody took all chains away."""

PREFIXES = ("KUBE-PORTALS", "KUBE-NODEPORT-", "KUBE-VIP-", "KUBE-NP-", CANARY)
"""A chain of nat or filter with one of these is ours. KUBE-NODEPORTS is a later kube-proxy's."""

REJECT_BIT = 12
DROP_BIT = 15
"""Marks of packets that the filter table refuses or drops. Bit 15 has that meaning also to a
kubelet's KUBE-FIREWALL; bit 14 marks what is masqueraded and can be chosen; bit 13 is that of the
CNI portmap plugin."""

ADDRESS_BITS = 32
PORT_BITS = 18
"""A node port's key is the protocol's index in two bits, then the port in sixteen."""


def address_key(address: str) -> int:
    """The key of a dotted IPv4 address."""
    return int(IPv4Address(address))


def address_of(key: int) -> str:
    """The dotted IPv4 address of a key."""
    return str(IPv4Address(key))


def port_key(protocol: str, port: int) -> int:
    """The key of a node port."""
    return PROTOCOLS.index(protocol) << 16 | port


def port_of(key: int) -> tuple[str, int]:
    """Protocol and port of a node port's key."""
    return PROTOCOLS[key >> 16], key & 0xFFFF


def address_chain(node: Node) -> str:
    """The chain of *node* in the tree of addresses."""
    return PORTALS if node == ROOT else f"KUBE-VIP-{address_of(node.value)}-{node.length}"


def port_chain(node: Node) -> str:
    """The chain of *node* in the tree of node ports."""
    if node == ROOT:
        return NODEPORTS
    protocol, low = port_of(node.value)
    high = low + (1 << (PORT_BITS - node.length)) - 1
    return f"KUBE-NP-{protocol}-{low}-{high}"


def affinity_list(service: str, port_name: str, protocol: str, endpoint: str) -> str:
    """The name of the list in which the kernel keeps the clients of *endpoint*.

    One list for all frontends of a service port, so that a client keeps its endpoint whichever
    address it uses. Names are files below /proc/net/xt_recent, so they hold no slash.
    """
    text = f"{service}:{port_name}/{protocol} {endpoint}"
    return "KUBE-AFF-" + hashlib.sha256(text.encode()).hexdigest()[:16]
