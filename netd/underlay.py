"""Which interface and address carry the overlay.

The choice is a pure function of what the kernel shows (``choose``); ``look`` reads that through
netlink. In order: ``--iface`` (a name or an address, the first that exists), ``--iface-regex``
(on names and addresses), ``--iface-can-reach``, else the interface of the default route.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from netd.arp import find_owner
from netd.errors import UnderlayError
from netd.netlink.pyroute import AsyncIPRoute, NetlinkError

log = logging.getLogger(__name__)

RETRY = 0.5
"""Seconds between looks while there is no usable interface."""

_AF_INET = 2
_SCOPE_UNIVERSE = 0


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the host with its IPv4 addresses of global scope, primary first."""

    name: str
    index: int
    mtu: int
    addresses: tuple[IPv4Interface, ...]
    mac: str = ""

    def reaches(self, address: IPv4Address) -> bool:
        """Whether *address* lies in a network of this interface."""
        return any(address in one.network for one in self.addresses)

    def holds(self, address: IPv4Address) -> bool:
        """Whether *address* is configured here."""
        return any(one.ip == address for one in self.addresses)


@dataclass(frozen=True, slots=True)
class Sight:
    """What the kernel shows: interfaces, and the outgoing interface index of two lookups."""

    interfaces: tuple[Interface, ...]
    default_index: int | None = None
    reach_index: int | None = None
    reach_source: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asked for; empty fields ask for nothing."""

    ifaces: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: str = ""
    public_ip: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface of the overlay's outer packets and the address that peers send them to."""

    interface: Interface
    public_ip: IPv4Address


def choose(sight: Sight, wish: Wish) -> Underlay:
    """Pick the underlay; raises UnderlayError naming the flag and what there is instead."""
    interface, address = _interface(sight, wish)
    if wish.public_ip is not None:
        return Underlay(interface, wish.public_ip)
    if address is not None:
        return Underlay(interface, address)
    if not interface.addresses:
        raise UnderlayError(
            f"interface {interface.name} has no IPv4 address: give it one, or name another "
            "interface with --iface, or the address with --public-ip"
        )
    return Underlay(interface, interface.addresses[0].ip)


def _interface(sight: Sight, wish: Wish) -> tuple[Interface, IPv4Address | None]:
    if wish.ifaces or wish.patterns:
        return _named(sight, wish)
    if wish.can_reach:
        found = _by_index(sight, sight.reach_index)
        if found is None:
            raise UnderlayError(
                f"--iface-can-reach {wish.can_reach}: there is no route to that address"
            )
        return found, sight.reach_source
    if wish.public_ip is not None:
        for one in sight.interfaces:
            if one.holds(wish.public_ip):
                return one, wish.public_ip
    found = _by_index(sight, sight.default_index)
    if found is None:
        raise UnderlayError(
            "there is no default route to tell the interface from: name it with --iface "
            f"({_names(sight)})"
        )
    return found, None


def _named(sight: Sight, wish: Wish) -> tuple[Interface, IPv4Address | None]:
    for word in wish.ifaces:
        for one in sight.interfaces:
            if one.name == word:
                return one, None
            for address in one.addresses:
                if str(address.ip) == word:
                    return one, address.ip
    for pattern in wish.patterns:
        found = _by_pattern(sight, pattern)
        if found is not None:
            return found
    raise UnderlayError(_nothing_matches(sight, wish))


def _by_pattern(sight: Sight, pattern: str) -> tuple[Interface, IPv4Address | None] | None:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UnderlayError(
            f"--iface-regex {pattern!r} is no regular expression: {error}"
        ) from error
    for one in sight.interfaces:
        for address in one.addresses:
            if expression.search(str(address.ip)):
                return one, address.ip
    for one in sight.interfaces:
        if expression.search(one.name):
            return one, None
    return None


def _by_index(sight: Sight, index: int | None) -> Interface | None:
    return next((one for one in sight.interfaces if one.index == index), None)


def _names(sight: Sight) -> str:
    return (
        ", ".join(
            f"{one.name} {'/'.join(str(a.ip) for a in one.addresses) or 'without address'}"
            for one in sight.interfaces
            if one.name != "lo"
        )
        or "there is no interface but lo"
    )


def _nothing_matches(sight: Sight, wish: Wish) -> str:
    asked = [f"--iface {one}" for one in wish.ifaces]
    asked += [f"--iface-regex {one}" for one in wish.patterns]
    return f"no interface matches {' or '.join(asked)}; there are: {_names(sight)}"


async def look(can_reach: str = "") -> Sight:
    """Ask the kernel of the current network namespace; raises UnderlayError."""
    reach: tuple[int | None, IPv4Address | None] = (None, None)
    async with AsyncIPRoute() as netlink:
        addresses: dict[int, list[IPv4Interface]] = {}
        async for item in await netlink.get_addr(family=_AF_INET):
            if item["scope"] != _SCOPE_UNIVERSE:
                continue
            local = item.get("local") or item.get("address")
            addresses.setdefault(item["index"], []).append(
                IPv4Interface(f"{local}/{item['prefixlen']}")
            )
        interfaces = []
        async for link in await netlink.get_links():
            index = link["index"]
            interfaces.append(
                Interface(
                    link.get("ifname"),
                    index,
                    link.get("mtu"),
                    tuple(addresses.get(index, ())),
                    link.get("address") or "",
                )
            )
        default = None
        best = None
        async for route in await netlink.route("dump", family=_AF_INET, table=254):
            if route["dst_len"] == 0 and route.get("oif") is not None:
                metric = route.get("priority") or 0
                if best is None or metric < best:
                    best, default = metric, route.get("oif")
        if can_reach:
            try:
                found = await netlink.route("get", dst=can_reach)
                reach = (found[0].get("oif"), IPv4Address(found[0].get("prefsrc")))
            except (NetlinkError, OSError, ValueError, IndexError):
                reach = (None, None)
    return Sight(tuple(interfaces), default, *reach)


async def ask_network(interface: str, address: IPv4Address) -> str | None:
    """The MAC of another host on *interface*'s network that has *address*. Raises OSError."""
    try:
        own = {one.mac for one in (await look()).interfaces}
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error
    return await find_owner(interface, address, own)


async def find(
    wish: Wish,
    missing: Callable[[str | None], None],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Underlay:
    """Look until there is an underlay: a cable or DHCP may be late.

    *missing* hears after each look why there is none, and None once there is one.
    """
    while True:
        try:
            found = choose(await look(wish.can_reach), wish)
        except (UnderlayError, OSError, NetlinkError) as error:
            missing(str(error))
            await sleep(RETRY)
            continue
        missing(None)
        log.info("overlay over %s, address %s", found.interface.name, found.public_ip)
        return found
