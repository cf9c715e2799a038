"""Names and addresses of a lab: pure decisions about what is free and what clashes.

Invariant: a lab's underlay, overlay and service range overlap no range in use, and a netns name
determines lab and node (the part after the last dash is the node), so labs named ``a`` and
``a-b`` never own each other's namespaces.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from lab.errors import UsageError
from lab.model import LabSpec, NodeSpec

FABRIC = "fabric"
DEFAULT_OVERLAY = IPv4Network("10.1.0.0/16")
MOST_NODES = 64
MOST_MASTERS = 5

# RFC 2544 benchmarking range: hosts that route it are rare. The private ranges are the reserve.
_UNDERLAYS = (IPv4Network("198.18.0.0/15"), IPv4Network("172.31.0.0/16"))
_OVERLAYS = IPv4Network("10.0.0.0/8")
# Below the first overlay; its first /24 is the range of Kubernetes' early documents.
_SERVICES = (IPv4Network("10.0.0.0/16"), IPv4Network("172.30.0.0/16"))
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")
_NETNS = re.compile(r"bn-(?P<lab>[a-z0-9-]+)-(?P<node>fabric|(?:master|node)[0-9]+)")


def check_name(name: str) -> str:
    """Return *name* if a lab can have it; raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"lab name {name!r}: use 1 to 20 of a-z, 0-9 and '-', not starting or ending with '-'"
        )
    return name


def check_count(nodes: int) -> int:
    """Return *nodes* if that many fit; raises UsageError."""
    if not 1 <= nodes <= MOST_NODES:
        raise UsageError(f"{nodes} nodes: a lab has 1 to {MOST_NODES}")
    return nodes


def check_masters(masters: int) -> int:
    """Return *masters* if a control plane can have that many; raises UsageError.

    etcd decides by majority: an even member more makes a cluster that survives no more losses.
    """
    if masters not in range(1, MOST_MASTERS + 1, 2):
        raise UsageError(f"--masters {masters}: etcd needs an odd number of members, 1, 3 or 5")
    return masters


def netns_name(lab: str, node: str) -> str:
    """The name in /run/netns."""
    return f"bn-{lab}-{node}"


def lab_of_netns(name: str) -> str | None:
    """The lab that owns the network namespace *name*, or None if it is not a lab's."""
    match = _NETNS.fullmatch(name)
    return match["lab"] if match else None


def parse_network(text: str) -> IPv4Network:
    """The overlay network the operator asked for; raises UsageError."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"--network {text}: {error}") from error
    if network.prefixlen > 22:
        raise UsageError(f"--network {text}: use a /22 or larger, each node leases a /24 of it")
    return network


def clashes(network: IPv4Network, used: Iterable[IPv4Network]) -> list[IPv4Network]:
    """The ranges of *used* that overlap *network*; default routes overlap nothing."""
    return sorted({u for u in used if u.prefixlen > 0 and u.overlaps(network)})


def choose_underlay(used: Sequence[IPv4Network]) -> IPv4Network:
    """The first free /24 for the hosts' own network; raises UsageError when none is."""
    for pool in _UNDERLAYS:
        for candidate in pool.subnets(new_prefix=24):
            if not clashes(candidate, used):
                return candidate
    raise UsageError("no free /24 for the lab's hosts in " + ", ".join(map(str, _UNDERLAYS)))


def choose_overlay(asked: IPv4Network | None, used: Sequence[IPv4Network]) -> IPv4Network:
    """The pods' network: what was *asked*, or the first free /16 from 10.1.0.0/16 on.

    Raises UsageError when the network asked for overlaps one in use, or nothing is free.
    """
    if asked is not None:
        if found := clashes(asked, used):
            raise UsageError(
                f"--network {asked} overlaps {', '.join(map(str, found))}, in use on this machine"
            )
        return asked
    for candidate in _OVERLAYS.subnets(new_prefix=16):
        if candidate >= DEFAULT_OVERLAY and not clashes(candidate, used):
            return candidate
    raise UsageError("no free /16 in 10.0.0.0/8 for the pods: give one with --network")


def choose_services(used: Sequence[IPv4Network]) -> IPv4Network:
    """The first free /24 from 10.0.0.0/24 on for cluster IPs; raises UsageError when none is."""
    for pool in _SERVICES:
        for candidate in pool.subnets(new_prefix=24):
            if not clashes(candidate, used):
                return candidate
    pools = ", ".join(map(str, _SERVICES))
    raise UsageError(f"no free /24 for services in {pools}: use --control-plane none")


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC that stays the same when the node is started again."""
    return "02:bd:" + address.packed.hex(":")


def machine_id(lab: str, node: str) -> str:
    """32 hexadecimal digits, stable for a node of a lab."""
    return hashlib.sha256(f"barenode {lab} {node}".encode()).hexdigest()[:32]


def make_lab(
    name: str,
    nodes: int,
    network: IPv4Network | None,
    used: Sequence[IPv4Network],
    *,
    control_plane: bool = True,
    masters: int = 0,
) -> LabSpec:
    """Plan a lab of *masters* and *nodes* beside the ranges *used*; raises UsageError."""
    check_name(name)
    check_count(nodes)
    overlay = choose_overlay(network, used)
    # flannel's default SubnetMin leaves the first /24 of the network unused.
    room = 2 ** (24 - overlay.prefixlen) - 1
    if nodes + masters > room:
        raise UsageError(
            f"{nodes + masters} nodes: {overlay} holds {room}, each node leases a /24 of it"
        )
    underlay = choose_underlay([*used, overlay])
    services = str(choose_services([*used, overlay, underlay])) if control_plane else ""

    def member(node: str, offset: int, *, master: bool = False) -> NodeSpec:
        address = underlay.network_address + offset
        return NodeSpec(
            name=node,
            address=str(address),
            mac=mac_of(address),
            netns=netns_name(name, node),
            master=master,
        )

    return LabSpec(
        name=name,
        underlay=str(underlay),
        overlay=str(overlay),
        fabric=member(FABRIC, 1),
        nodes=(
            *(member(f"master{i}", 1 + i, master=True) for i in range(1, masters + 1)),
            *(member(f"node{i}", 10 + i) for i in range(1, nodes + 1)),
        ),
        service_range=services,
    )


def suggest(wrong: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of *known*, or nothing."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
