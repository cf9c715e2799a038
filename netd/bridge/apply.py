"""docker0 in the kernel: look at it, and carry out what ``plan`` decided."""

import asyncio
import logging
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from netd.bridge.plan import Bridge, Refusal, Steps, Wanted, decide
from netd.errors import BridgeError
from netd.netlink.pyroute import AsyncIPRoute, NetlinkError

log = logging.getLogger(__name__)

_AF_INET = 2
_IFF_UP = 1


async def observe(netlink: AsyncIPRoute, name: str) -> Bridge | None:
    """The device *name* as the kernel has it; None when there is no such device."""
    return (await _look(netlink)).get(name)


async def bridges_with(netlink: AsyncIPRoute, subnet: IPv4Network) -> dict[str, Bridge]:
    """The bridges that have an address in *subnet*, by name."""
    return {
        name: bridge
        for name, bridge in (await _look(netlink)).items()
        if bridge.kind == "bridge" and any(one.network == subnet for one in bridge.addresses)
    }


async def _look(netlink: AsyncIPRoute) -> dict[str, Bridge]:
    """Every device, with its addresses and with the devices attached to it."""
    addresses: dict[int, list[IPv4Interface]] = {}
    async for item in await netlink.get_addr(family=_AF_INET):
        local = item.get("local") or item.get("address")
        addresses.setdefault(item["index"], []).append(
            IPv4Interface(f"{local}/{item['prefixlen']}")
        )
    links = [link async for link in await netlink.get_links()]
    found = {}
    for link in links:
        info = link.get("linkinfo")
        found[link.get("ifname")] = Bridge(
            index=link["index"],
            kind=(info.get("kind") if info is not None else "") or "",
            up=bool(link["flags"] & _IFF_UP),
            mtu=link.get("mtu"),
            mac=link.get("address") or "",
            addresses=tuple(addresses.get(link["index"], ())),
            ports=tuple(
                sorted(one.get("ifname") for one in links if one.get("master") == link["index"])
            ),
        )
    return found


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
    async with AsyncIPRoute() as netlink:
        observed = await observe(netlink, name)
        decision = decide(observed, wanted)
        if isinstance(decision, Refusal):
            text = f"{name} cannot be used: {decision.why}"
            if decision.in_use:
                assert observed is not None  # noqa: S101 - in_use says that it was seen
                users = await containers_on(docker_socket) or list(observed.ports)
                text += (
                    f", and containers use it: {', '.join(users)}. Stop them and netd moves it, "
                    "or keep the old subnet"
                )
            raise BridgeError(text)
        if decision:
            await carry_out(netlink, name, wanted, decision)
        return decision, observed


async def remove(name: str, ours: IPv4Interface | None) -> str | None:
    """Delete the bridge if it carries our address and no port; returns why it stays, if it does."""
    async with AsyncIPRoute() as netlink:
        observed = await observe(netlink, name)
        if observed is None:
            return None
        if observed.kind != "bridge" or ours is None or ours not in observed.addresses:
            return "it does not carry our address"
        if observed.ports:
            return f"it is in use by {', '.join(observed.ports)}"
        try:
            await netlink.link("del", index=observed.index)
        except NetlinkError as error:
            raise BridgeError(f"{name}: {error}") from error
    return None


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
