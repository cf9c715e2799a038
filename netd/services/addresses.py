"""The IPv4 addresses of this host, kept current by the kernel's own notices, and its ports."""

import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from socket import inet_ntoa

from hostkit.problems import Problems
from hostkit.reconcile import Reconciler
from netd.netlink import messages as nl
from netd.netlink.notices import Notices
from netd.netlink.requests import dump_addresses
from netd.netlink.socket import NetlinkError, NetlinkSocket, Transport

log = logging.getLogger(__name__)

_PROBLEM = "addresses"
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class LocalAddresses:
    """All IPv4 addresses of the host; *on_change* is called after they changed, not at first.

    *transport* and *listener* replace the kernel.
    """

    def __init__(
        self,
        problems: Problems,
        *,
        on_change: Callable[[frozenset[str]], None] = lambda _current: None,
        transport: Transport | None = None,
        listener: Transport | None = None,
    ) -> None:
        self._problems = problems
        self._on_change = on_change
        self._transport = transport
        self._socket: NetlinkSocket | None = None
        self.current: frozenset[str] | None = None
        """Dotted addresses, loopback's too; None until they were listed once."""
        self.loop = Reconciler("local addresses", self.look, resync=60.0, tolerate=(NetlinkError,))
        self._notices = Notices(nl.RTMGRP_IPV4_IFADDR, self.loop.trigger, transport=listener)

    def in_ranges(self, ranges: Iterable[IPv4Network]) -> frozenset[str]:
        """Where node ports answer: the addresses in *ranges*, all when there are none.

        Loopback never counts (CVE-2020-8558).
        """
        networks = tuple(ranges)
        return frozenset(
            text
            for text in self.current or ()
            if not (address := IPv4Address(text)).is_loopback
            and (not networks or any(address in network for network in networks))
        )

    async def run(self) -> None:
        """Keep ``current`` true for ever. Raises NetlinkError when the kernel gives no socket."""
        self._notices.open()
        self.loop.trigger()
        await self.loop.run()

    def close(self) -> None:
        """Stop listening."""
        self._notices.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def look(self) -> None:
        """Read the addresses once. Raises NetlinkError."""
        try:
            if self._socket is None:
                self._socket = NetlinkSocket(transport=self._transport)
            values = await self._socket.dump(dump_addresses())
        except NetlinkError as error:
            self._problems.set(_PROBLEM, f"cannot list this host's addresses: {error}")
            raise
        self._problems.clear(_PROBLEM)
        seen = frozenset(inet_ntoa(one.ip) for one in values if isinstance(one, nl.Address))
        before, self.current = self.current, seen
        if before is not None and seen != before:
            log.debug("local addresses: +%s -%s", sorted(seen - before), sorted(before - seen))
            self._on_change(seen)


def ephemeral_range(path: Path = _PORT_RANGE) -> tuple[int, int]:
    """The first and last port that the kernel gives to outgoing connections, ip-sysctl(7).

    (0, -1), an empty range, when it cannot be read.
    """
    try:
        first, last = map(int, path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return 0, -1
    return first, last
