"""Keeping the hairpin flag on for the containers' ports of the bridge.

A container that reaches itself through its service gets the packet back out of the port it came
from, which a bridge does only where the port's hairpin flag is on. Docker sets it only with
``--userland-proxy=false``. Only veth ports get it: behind a network card that was put into the
bridge are other hosts, which would get every broadcast of theirs back.
"""

import errno
import logging
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hostkit.problems import Problems
from hostkit.reconcile import Reconciler
from netd.errors import NetdError
from netd.netlink import messages as nl
from netd.netlink.exchange import Exchange, open_exchange
from netd.netlink.notices import Notices
from netd.netlink.requests import Request, dump_links
from netd.netlink.socket import NetlinkError, Transport

log = logging.getLogger(__name__)

NETLINK_ROUTE = 0
RTM_SETLINK = 19

_PROBLEM = "hairpin"
# linux/if_link.h
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO = 3, 10, 12, 18
_INFO_KIND, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 4, 5
_BRPORT_MODE = 4
_NESTED = 0x8000
_HAIRPIN_ON = struct.pack("=HHHHB3x", 12, _IFLA_PROTINFO | _NESTED, 5, _BRPORT_MODE, 1)


class HairpinError(NetdError):
    """A port's hairpin flag could not be read or set."""


class Port(NamedTuple):
    """A device; *master* is the ifindex of its bridge, *hairpin* None when it is no bridge port."""

    ifindex: int
    name: str
    kind: str
    master: int
    hairpin: bool | None


def read_port(data: bytes, at: int, end: int) -> Port:
    """The device that the body of an RTM_NEWLINK message of a dump describes."""
    index: int = nl.IFINFO.unpack_from(data, at)[2]
    attrs = _attributes(data[at + nl.IFINFO.size : end])
    info = _attributes(attrs.get(_IFLA_LINKINFO, b""))
    hairpin = None
    if _text(info.get(_INFO_SLAVE_KIND)) == "bridge":
        hairpin = _attributes(info.get(_INFO_SLAVE_DATA, b"")).get(_BRPORT_MODE) == b"\1"
    master = attrs.get(_IFLA_MASTER)
    return Port(
        index,
        _text(attrs.get(_IFLA_IFNAME)),
        _text(info.get(_INFO_KIND)),
        nl.U32.unpack(master)[0] if master else 0,
        hairpin,
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = nl.ATTR.unpack_from(data, at)
        if size < 4 or at + size > len(data):
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def _text(payload: bytes | None) -> str:
    return payload.split(b"\0", 1)[0].decode(errors="replace") if payload else ""


def container_ports(devices: Iterable[Port], bridge: str) -> list[Port]:
    """The veth ports of the device *bridge*; none when there is no such bridge."""
    listed = list(devices)
    bridges = {one.ifindex for one in listed if one.name == bridge and one.kind == "bridge"}
    return [
        one
        for one in listed
        if one.master in bridges and one.kind == "veth" and one.hairpin is not None
    ]


def set_hairpin(port: Port) -> Request:
    """Switch the flag on for *port*."""
    head = nl.IFINFO.pack(nl.AF_BRIDGE, 0, port.ifindex, 0, 0)
    return Request(RTM_SETLINK, 0, head + _HAIRPIN_ON)


class HairpinKeeper:
    """Keeps the flag on for every container's port of *bridge*, which may come later.

    *repaired* is called with ``bridge`` for each port that somebody else switched off.
    *connect* opens a socket that asks, *listener* replaces the kernel's notices.
    """

    def __init__(
        self,
        bridge: str,
        problems: Problems,
        repaired: Callable[[str], None],
        *,
        connect: Callable[[], Transport] = lambda: open_exchange(NETLINK_ROUTE),
        listener: Transport | None = None,
    ) -> None:
        self._bridge = bridge
        self._problems = problems
        self._repaired = repaired
        self._connect = connect
        self.ports: frozenset[int] = frozenset()
        """The ifindex of every port whose flag is on."""
        self.loop = Reconciler(
            "hairpin", self.converge, settle=0.01, resync=60.0, tolerate=(HairpinError,)
        )
        self._notices = Notices(nl.RTMGRP_LINK, self.loop.trigger, transport=listener)

    async def run(self) -> None:
        """Keep them on for ever. Raises NetlinkError when the kernel gives no socket."""
        self._notices.open()
        self.loop.trigger()
        await self.loop.run()

    def close(self) -> None:
        """Stop listening; the flags stay."""
        self._notices.close()

    async def converge(self) -> None:
        """One pass. Raises HairpinError."""
        try:
            self._pass()
        except NetlinkError as error:
            text = f"cannot read the ports of {self._bridge}: {error}"
            self._problems.set(_PROBLEM, text)
            raise HairpinError(text) from error
        except HairpinError as error:
            self._problems.set(_PROBLEM, str(error))
            raise
        self._problems.clear(_PROBLEM)

    def _pass(self) -> None:
        devices: list[Port] = []
        refused: list[str] = []
        on = set()
        with Exchange(self._connect()) as kernel:
            kernel.dump(dump_links(), lambda *part: devices.append(read_port(*part)))
            for port in container_ports(devices, self._bridge):
                failure = None if port.hairpin else kernel.change(set_hairpin(port))
                if failure is None:
                    on.add(port.ifindex)
                    self._tell(port)
                # It went, or left the bridge, since it was listed.
                elif failure.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                    refused.append(f"{port.name}: {failure.text}")
        self.ports = frozenset(on)
        if refused:
            raise HairpinError(
                f"cannot switch hairpin on, so containers do not reach themselves through a"
                f" service: {', '.join(refused)}"
            )

    def _tell(self, port: Port) -> None:
        if port.hairpin:
            return
        if port.ifindex in self.ports:
            log.warning("repaired %s: hairpin was off for port %s", self._bridge, port.name)
            self._repaired("bridge")
        else:
            log.debug("hairpin is on for port %s of %s", port.name, self._bridge)
