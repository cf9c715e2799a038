"""Which address of a host others reach, and whether the cluster's ranges are free there; pure.

Facts are those of ``ip -json -4 address`` and ``ip -json -4 route show table all``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from lab.errors import UsageError

SHARED_NAT = IPv4Network("10.0.2.0/24")
"""VirtualBox gives every machine behind its NAT the same address of this network."""

# Docker's bridges, containers' ends, overlays: no other host reaches these addresses.
_INNER = re.compile(r"lo|docker.*|br-[0-9a-f]{12}|veth.*|flannel.*|cni.*|virbr.*|kube-.*")
# What netd makes lies in the pods' network, on a host that is set up already.
_OURS = re.compile(r"docker0|flannel.*|cni0|veth.*")


@dataclass(frozen=True, slots=True)
class Reached:
    """An address of this host, on the interface *device*."""

    address: IPv4Interface
    device: str

    def __str__(self) -> str:
        return f"{self.address.ip} ({self.device})"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of this host to *destination* over the interface *device*, "" when it has none."""

    destination: IPv4Network
    device: str
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """The IPv4 addresses and routes of a host, of whatever interface, and its name servers."""

    addresses: tuple[Reached, ...]
    routes: tuple[Route, ...]
    nameservers: tuple[IPv4Network, ...] = ()


def read(
    links: Sequence[Mapping[str, Any]],
    routes: Sequence[Mapping[str, Any]],
    nameservers: Iterable[IPv4Network] = (),
) -> Facts:
    """The facts in what ``ip`` prints as JSON; raises ValueError and KeyError for other things."""
    return Facts(
        tuple(
            Reached(IPv4Interface(f"{info['local']}/{info['prefixlen']}"), str(link["ifname"]))
            for link in links
            for info in link.get("addr_info", ())
            if info.get("family") == "inet"
        ),
        tuple(
            Route(
                IPv4Network("0.0.0.0/0" if route["dst"] == "default" else route["dst"]),
                str(route.get("dev", "")),
                int(route.get("metric", 0)),
            )
            for route in routes
            if route.get("type", "unicast") == "unicast"
        ),
        tuple(nameservers),
    )


def choose(asked: str, facts: Facts) -> str:
    """The address by which the other hosts reach this one; raises UsageError.

    It is what is *asked* for by --address, else that of the default route's interface, else the
    only one that can be meant.
    """
    if asked:
        return _checked(asked, facts)
    candidates = [one for one in facts.addresses if _outward(one)]
    defaults = sorted(
        (route for route in facts.routes if route.destination.prefixlen == 0),
        key=lambda route: route.metric,
    )
    for route in defaults:
        if on_route := [one for one in candidates if one.device == route.device]:
            candidates = on_route
            break
    if len(candidates) == 1:
        return str(candidates[0].address.ip)
    if not candidates:
        raise UsageError(_none(facts))
    raise UsageError(
        f"this host has the addresses {', '.join(map(str, candidates))}: say by --address which"
        " of them the other hosts reach"
    )


def _outward(one: Reached) -> bool:
    ip = one.address.ip
    return not (_INNER.fullmatch(one.device) or _local(ip) or ip in SHARED_NAT)


def _local(ip: IPv4Address) -> bool:
    """Whether an address is one host's own business, or no host's."""
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast


def _none(facts: Facts) -> str:
    if shared := [one for one in facts.addresses if one.address.ip in SHARED_NAT]:
        return (
            f"this host has only {shared[0]}, which every machine behind VirtualBox's NAT has:"
            " give it a private network, or say by --address what the others reach"
        )
    return "this host has no address that others reach: configure its network, or give --address"


def _checked(asked: str, facts: Facts) -> str:
    try:
        wanted = IPv4Address(asked)
    except ValueError:
        raise UsageError(
            f"--address {asked}: this is no IPv4 address: write it like 10.0.0.1"
        ) from None
    if _local(wanted):
        raise UsageError(f"--address {wanted}: other hosts cannot reach it: give another one")
    if all(one.address.ip != wanted for one in facts.addresses):
        own = ", ".join(str(one) for one in facts.addresses if _outward(one)) or "none"
        raise UsageError(
            f"--address {wanted}: no interface of this host has it, so no server can listen there;"
            f" it has {own}"
        )
    return str(wanted)


def check_ranges(pods: IPv4Network, services: IPv4Network, facts: Facts) -> None:
    """Raise UsageError that names all clashes of the two ranges, with each other or the host."""
    found = []
    if pods.overlaps(services):
        found.append(f"--network {pods} and --service-range {services} overlap")
    for flag, wanted in (("--network", pods), ("--service-range", services)):
        found += [f"{flag} {wanted} overlaps {what}" for what in _in_use(wanted, facts)]
    if found:
        raise UsageError(f"{'; '.join(found)}: choose ranges that nobody uses")


def _in_use(wanted: IPv4Network, facts: Facts) -> list[str]:
    """What of this host lies in *wanted*, each network once."""
    found: dict[IPv4Network, str] = {}
    for one in facts.addresses:
        if not _OURS.fullmatch(one.device) and one.address.network.overlaps(wanted):
            text = f"the host's own {one.address.network} ({one.device})"
            found.setdefault(one.address.network, text)
    for route in facts.routes:
        ours = not route.destination.prefixlen or _OURS.fullmatch(route.device)
        if not ours and route.destination.overlaps(wanted):
            text = f"the route to {route.destination} ({route.device or 'no device'})"
            found.setdefault(route.destination, text)
    for server in facts.nameservers:
        if server.overlaps(wanted) and not server.network_address.is_loopback:
            found.setdefault(server, f"the name server {server.network_address}")
    return list(found.values())
