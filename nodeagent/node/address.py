"""Which name and which IPv4 address this node has.

No packet is sent: connecting a UDP socket only makes the kernel look the route up, and the
socket's own address is then the one that packets would leave with.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from nodeagent.errors import NodeAgentError

ELSEWHERE = "192.0.2.1"
"""An address that is no host's (RFC 5737): the route to it is the default route."""

# RFC 1123 subdomain, what the API server takes as a name.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class AddressError(NodeAgentError):
    """This node's address cannot be told, or is none it can have."""


def node_name(override: str, hostname: str) -> str:
    """The Node's name: ``--hostname-override``, else the host's name, in small letters.

    Raises ValueError when the API server would refuse it.
    """
    source = "--hostname-override" if override.strip() else "the host's name"
    name = (override.strip() or hostname.strip()).lower()
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError(
            f"{source} {name!r} cannot name a node: use letters, digits, '-' and '.', "
            "at most 253, with a letter or digit at both ends"
        )
    return name


async def _resolve(name: str) -> list[str]:
    """The IPv4 addresses of *name*; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    return [str(entry[4][0]) for entry in found]


def _source(target: str) -> str:
    """The local address that packets to *target* leave with; raises OSError without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])


def _is_local(address: str) -> bool:
    """Whether an interface of this host has *address*."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Network:
    """The host's network; tests give another. All three raise OSError or answer."""

    resolve: Callable[[str], Awaitable[list[str]]] = field(default=_resolve)
    source: Callable[[str], str] = field(default=_source)
    is_local: Callable[[str], bool] = field(default=_is_local)


class NodeAddress:
    """Finds the node's address anew at each call, since DHCP may change it.

    The first of these that there is: ``--node-ip``; ``--hostname-override`` if it is an address;
    the address that reaches an API server of *servers* (URLs); that of the default route; what
    *hostname* resolves to. A loopback address only when it is the override itself.
    """

    def __init__(
        self,
        node_ip: str = "",
        override: str = "",
        servers: Sequence[str] = (),
        hostname: str = "",
        network: Network | None = None,
    ) -> None:
        self._node_ip = node_ip.strip()
        self._override = override.strip()
        self._servers = tuple(servers)
        self._hostname = hostname
        self._network = network or Network()

    async def find(self) -> str:
        """The address; raises AddressError with what to set."""
        if self._node_ip:
            return self._told(self._node_ip)
        if _address(self._override):
            if not _possible(self._override):
                raise AddressError(
                    f"--hostname-override {self._override} is no address that a host can have: "
                    "use this node's, or a name"
                )
            return self._override
        for host in (*map(_host, self._servers), ELSEWHERE):
            found = await self._towards(host)
            if found:
                return found
        for found in await self._lookup(self._hostname):
            if _usable(found):
                return found
        raise AddressError(
            "there is no default route and the host's name has no address other than loopback: "
            "set --node-ip"
        )

    def _told(self, text: str) -> str:
        if not _usable(text):
            raise AddressError(
                f"--node-ip {text} cannot be this node's address: use an IPv4 address of this "
                "host, not a loopback or multicast one"
            )
        if not self._network.is_local(text):
            raise AddressError(
                f"--node-ip {text} is not on any interface of this host: see 'ip address'"
            )
        return text

    async def _towards(self, host: str) -> str:
        """Our address towards *host*, "" when it is loopback or there is no route."""
        for target in [host] if _address(host) else await self._lookup(host):
            try:
                found = self._network.source(target)
            except OSError:
                continue
            if _usable(found):
                return found
        return ""

    async def _lookup(self, name: str) -> list[str]:
        try:
            return await self._network.resolve(name) if name else []
        # An over-long label fails in Python's own encoding, before any query.
        except (OSError, UnicodeError):
            return []


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _possible(text: str) -> bool:
    """Whether *text* is an address that some host has."""
    found = _address(text)
    return found is not None and not (
        found.is_unspecified or found.is_multicast or found.is_reserved
    )


def _usable(text: str) -> bool:
    """Whether others may reach a host at *text*."""
    found = _address(text)
    return found is not None and _possible(text) and not found.is_loopback
