"""docker0 in the kernel: look at it, and carry out what ``plan`` decided."""

import asyncio
import errno
import logging
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from netd.bridge.plan import Bridge, Refusal, Steps, Wanted, decide
from netd.errors import BridgeError
from netd.netlink.pyroute import AsyncIPRoute, NetlinkError

log = logging.getLogger(__name__)

_AF_INET = 2
_IFF_UP = 1


async def observe(netlink: AsyncIPRoute, name: str) -> Bridge | None:
    """The device *name* as the kernel has it; None when there is no such device.

    Without its ports: to find those takes a look at every device of the host.
    """
    try:
        (link,) = await netlink.link("get", ifname=name)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    addresses = []
    async for item in await netlink.get_addr(family=_AF_INET, index=link["index"]):
        addresses.append(_address(item))  # noqa: PERF401 - an asynchronous dump
    return _bridge(link, addresses, ())


async def with_ports(netlink: AsyncIPRoute, bridge: Bridge) -> Bridge:
    """*bridge* with the names of the devices that are attached to it."""
    ports = []
    async for link in await netlink.get_links():
        if link.get("master") == bridge.index:
            ports.append(link.get("ifname"))  # noqa: PERF401 - an asynchronous dump
    return replace(bridge, ports=tuple(sorted(ports)))


def _address(item: Any) -> IPv4Interface:
    return IPv4Interface(f"{item.get('local') or item.get('address')}/{item['prefixlen']}")


def _bridge(link: Any, addresses: Sequence[IPv4Interface], ports: Sequence[str]) -> Bridge:
    info = link.get("linkinfo")
    return Bridge(
        index=link["index"],
        kind=(info.get("kind") if info is not None else "") or "",
        up=bool(link["flags"] & _IFF_UP),
        mtu=link.get("mtu"),
        mac=link.get("address") or "",
        addresses=tuple(addresses),
        ports=tuple(sorted(ports)),
    )


async def bridges_with(netlink: AsyncIPRoute, subnet: IPv4Network) -> dict[str, Bridge]:
    """The bridges that have an address in *subnet*, by name, with their ports."""
    addresses: dict[int, list[IPv4Interface]] = {}
    async for item in await netlink.get_addr(family=_AF_INET):
        addresses.setdefault(item["index"], []).append(_address(item))
    ports: dict[int, list[str]] = {}
    links = []
    async for link in await netlink.get_links():
        links.append(link)
        ports.setdefault(link.get("master") or 0, []).append(link.get("ifname"))
    found = {
        link.get("ifname"): _bridge(link, addresses[link["index"]], ports.get(link["index"], ()))
        for link in links
        if any(one.network == subnet for one in addresses.get(link["index"], ()))
    }
    return {name: bridge for name, bridge in found.items() if bridge.kind == "bridge"}


async def carry_out(netlink: AsyncIPRoute, name: str, wanted: Wanted, steps: Steps) -> None:
    """Do *steps*; raises BridgeError."""
    try:
        if steps.create:
            await netlink.link("add", ifname=name, kind="bridge", address=wanted.mac)
        indexes = await netlink.link_lookup(ifname=name)
        if not indexes:
            raise BridgeError(f"{name} vanished while it was set up")
        index = indexes[0]
        if steps.set_mtu is not None:
            await netlink.link("set", index=index, mtu=steps.set_mtu)
        for one in steps.remove:
            await netlink.addr(
                "del", index=index, address=str(one.ip), prefixlen=one.network.prefixlen
            )
        for one in steps.add:
            await netlink.addr(
                "add", index=index, address=str(one.ip), prefixlen=one.network.prefixlen,
                broadcast=str(one.network.broadcast_address),
            )  # fmt: skip
        if steps.set_up:
            await netlink.link("set", index=index, state="up")
    except NetlinkError as error:
        raise BridgeError(f"{name}: {error}") from error


async def ensure(name: str, wanted: Wanted, docker_socket: Path) -> tuple[Steps, Bridge | None]:
    """Make docker0 as *wanted*; returns what was done and what was there before.

    Raises BridgeError, naming the containers when they are in the way.
    """
    try:
        async with AsyncIPRoute() as netlink:
            observed = await observe(netlink, name)
            if observed is not None and wanted.address not in observed.addresses:
                observed = await with_ports(netlink, observed)
            decision = decide(observed, wanted)
            if isinstance(decision, Refusal):
                raise BridgeError(await _refusal(name, decision, observed, docker_socket))
            if decision:
                await carry_out(netlink, name, wanted, decision)
            return decision, observed
    except NetlinkError as error:
        raise BridgeError(f"{name}: {error}") from error


async def _refusal(
    name: str, refusal: Refusal, observed: Bridge | None, docker_socket: Path
) -> str:
    text = f"{name} cannot be used: {refusal.why}"
    if refusal.in_use and observed is not None:
        users = await containers_on(docker_socket) or list(observed.ports)
        text += (
            f", and containers use it: {', '.join(users)}. Stop them and netd moves it, "
            "or keep the old subnet"
        )
    return text


async def remove(name: str, ours: IPv4Interface | None) -> str:
    """Delete the bridge if it carries our address; returns what was done, and why if nothing.

    Raises BridgeError when it is in use.
    """
    try:
        async with AsyncIPRoute() as netlink:
            observed = await observe(netlink, name)
            if observed is None:
                return "there was none"
            if observed.kind != "bridge" or ours is None or ours not in observed.addresses:
                return "stays: it does not carry our address"
            observed = await with_ports(netlink, observed)
            if observed.ports:
                raise BridgeError(f"{name} is in use by {', '.join(observed.ports)}")
            await netlink.link("del", index=observed.index)
    except NetlinkError as error:
        raise BridgeError(f"{name}: {error}") from error
    return "removed"


async def containers_on(docker_socket: Path) -> list[str]:
    """Names of the containers on Docker's default network; empty when Docker does not answer."""
    return await asyncio.to_thread(_ask_docker, docker_socket)


def _ask_docker(docker_socket: Path) -> list[str]:
    if not docker_socket.exists():
        return []
    # Needed only in this rare case, and it costs 0.2 s and 10 MB to import.
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        client = docker.DockerClient(base_url=f"unix://{docker_socket}", timeout=5)
        try:
            network = client.api.inspect_network("bridge")
        finally:
            client.close()
    except (DockerException, OSError) as error:
        log.debug("docker does not answer: %s", error)
        return []
    return sorted(item.get("Name", "?") for item in (network.get("Containers") or {}).values())
