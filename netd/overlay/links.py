"""Carrying out link plans, by pyroute2; and reading a device's MAC."""

import asyncio
from typing import Any, Protocol

from netd.errors import NetdError
from netd.netlink import messages as nl
from netd.netlink.pyroute import AsyncIPRoute, NetlinkError
from netd.netlink.requests import dump_links
from netd.netlink.socket import NetlinkSocket
from netd.overlay.model import device_name
from netd.overlay.plan import LinkPlan, LinkWish


class OverlayError(NetdError):
    """The overlay cannot be brought into its state; the message names device or peers."""


class RestlessError(OverlayError):
    """Somebody alters what was set as fast as it is set."""


class LinkWriter(Protocol):
    """Changes network devices in the namespace it was made in."""

    async def apply(self, plan: LinkPlan, wish: LinkWish, index: int) -> None:
        """Carry out *plan* for *wish*; *index* is the present device's, 0 when there is none.

        Raises OverlayError with the kernel's reason.
        """
        ...

    async def delete(self, index: int) -> None:
        """Delete the device *index*; one that is gone is fine. Raises OverlayError."""
        ...


class PyrouteLinks:
    """The LinkWriter for the real kernel."""

    async def apply(self, plan: LinkPlan, wish: LinkWish, index: int) -> None:
        """See LinkWriter."""
        try:
            async with AsyncIPRoute() as route:
                await _carry_out(route, plan, wish, index)
        except NetlinkError as error:
            raise OverlayError(
                f"device {wish.name}: {error.args[-1]}{_hint(error.code)}"
            ) from error

    async def delete(self, index: int) -> None:
        """See LinkWriter."""
        try:
            async with AsyncIPRoute() as route:
                await route.link("del", index=index)
        except NetlinkError as error:
            if error.code != 19:
                raise OverlayError(f"device {index}: {error.args[-1]}") from error


def _hint(code: int) -> str:
    if code == 17:
        return " (another VXLAN device may have this VNI and port)"
    return " (is the kernel module vxlan there?)" if code == 95 else ""


async def _carry_out(route: Any, plan: LinkPlan, wish: LinkWish, index: int) -> None:
    if plan.delete:
        await route.link("del", index=plan.delete)
    if plan.create:
        index = await _create(route, wish)
    changes: dict[str, Any] = {}
    if plan.mtu is not None:
        changes["mtu"] = plan.mtu
    if plan.mac is not None:
        changes["address"] = _mac_text(plan.mac)
    if plan.release:
        changes["master"] = 0
    if plan.up:
        changes["state"] = "up"
    if plan.arp:
        changes["arp"] = True
    if changes:
        await route.link("set", index=index, **changes)
    if plan.learning is not None:
        # The kernel refuses to see the port again, even the same one.
        tunnel = {"kind": "vxlan", "vxlan_id": wish.vni}
        await route.link("set", index=index, **tunnel, vxlan_learning=int(plan.learning))
    for address in plan.drop:
        await route.addr(
            "del", index=index, address=_ip_text(address.ip), prefixlen=address.prefixlen
        )
    if plan.add_address:
        await route.addr("replace", index=index, address=str(wish.address), prefixlen=32)


async def _create(route: Any, wish: LinkWish) -> int:
    attributes = _vxlan(wish) | {"mtu": wish.mtu}
    if wish.mac:
        attributes["address"] = _mac_text(wish.mac)
    await route.link("add", ifname=wish.name, **attributes)
    index: int = (await route.link_lookup(ifname=wish.name))[0]
    # Up by itself: a link that is created up announces itself before it has its address.
    await route.addr("replace", index=index, address=str(wish.address), prefixlen=32)
    await route.link("set", index=index, state="up")
    return index


def _vxlan(wish: LinkWish) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "kind": "vxlan",
        "vxlan_id": wish.vni,
        "vxlan_local": str(wish.local),
        "vxlan_link": wish.lower,
        "vxlan_port": wish.port,
        "vxlan_learning": int(wish.learning),
    }
    if wish.gbp:
        attributes["vxlan_gbp"] = True
    return attributes


def _mac_text(mac: bytes) -> str:
    return mac.hex(":")


def _ip_text(ip: bytes) -> str:
    return ".".join(map(str, ip))


def vtep_mac_in_kernel(vni: int = 1) -> str | None:
    """The MAC of the VXLAN device of *vni* in this namespace, None when there is no such device.

    Raises NetlinkError when the kernel cannot be asked. Must not run inside an event loop.
    """
    return asyncio.run(read_vtep_mac(vni))


async def read_vtep_mac(vni: int = 1) -> str | None:
    """vtep_mac_in_kernel for callers with a loop."""
    name = device_name(vni)
    socket = NetlinkSocket()
    try:
        links = await socket.dump(dump_links())
    finally:
        socket.close()
    for link in links:
        if isinstance(link, nl.Link) and link.name == name and link.kind == "vxlan":
            return link.mac.hex(":")
    return None
