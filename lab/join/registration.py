"""What the cluster's nodes say of a host that joins: pure.

A name belongs to one host, and so does an address: two hosts with one name would overwrite each
other's status, two with one address would take each other's packets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any

import msgspec

from lab.errors import BusyError, LabError, UsageError
from lab.join.model import CONFIG_KEY, CONFIG_NAME, CONFIG_NAMESPACE, ClusterConfig, Record
from lab.master.plane import Plane

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Readiness:
    """A Node's condition Ready: *why* says why not, *seen* is the last heartbeat's time."""

    ready: bool = False
    why: str = "it is not registered yet"
    seen: float = 0.0


def readiness(node: Raw | None) -> Readiness:
    """The condition Ready of *node*, None when there is no such object."""
    if node is None:
        return Readiness()
    for one in (node.get("status") or {}).get("conditions") or ():
        if one.get("type") == "Ready":
            why = str(one.get("message") or one.get("reason") or "it does not say why")
            return Readiness(one.get("status") == "True", why, _time(one.get("lastHeartbeatTime")))
    return Readiness(why="it has told nothing of itself yet")


def address_of(node: Raw) -> str:
    """The node's InternalIP, "" when it has none."""
    for one in (node.get("status") or {}).get("addresses") or ():
        if one.get("type") == "InternalIP":
            return str(one.get("address", ""))
    return ""


def check_clash(nodes: Sequence[Raw], name: str, address: str, own: Record | None) -> str:
    """Raise BusyError when another host has this name or address.

    *own* is what this host remembers. Returns a warning, "" when nothing is odd.
    """
    warning = ""
    for node in nodes:
        called, at = str(node["metadata"]["name"]), address_of(node)
        mine = own is not None and called in {own.name, name}
        if called == name and not mine and at not in {"", address}:
            raise BusyError(
                f"the cluster has a node {name} already, at {at}, and this host is at {address}:"
                f" join with --node-name and another name; or, if that host is gone, 'kubectl"
                f" delete node {name}' first"
            )
        if at != address or called == name:
            continue
        if mine or not readiness(node).ready:
            warning = (
                f"node {called}, which is not Ready, has the address {address} too: if it is gone,"
                f" 'kubectl delete node {called}'"
            )
        else:
            raise BusyError(
                f"the node {called} has the address {address} already, and is Ready: give --address"
                f" another one of this host; or, if this host was {called}, 'barenode reset' here"
                f" and 'kubectl delete node {called}' first"
            )
    return warning


def cluster_config(found: Raw | None) -> ClusterConfig:
    """What the ConfigMap *found* says, None for none; raises LabError."""
    if found is None:
        raise LabError(
            f"the cluster has no ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}: it was not made by"
            " 'barenode init', or that is not done yet: repeat it on the master"
        )
    try:
        return msgspec.json.decode(found["data"][CONFIG_KEY], type=ClusterConfig)
    except (LookupError, TypeError, msgspec.MsgspecError) as error:
        raise LabError(
            f"the ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME} is damaged ({error}): 'barenode init'"
            " on the master writes it anew"
        ) from error


def check_member(own: Record | None, name: str, pin: str) -> None:
    """Raise BusyError on a host that is a node of another cluster, or by another name."""
    if own is None:
        return
    if own.ca_hash != pin:
        raise BusyError(
            f"this host is the node {own.name} of another cluster, at {own.server}:"
            " 'barenode reset' takes it out of that"
        )
    if own.name != name:
        raise BusyError(
            f"this host is the node {own.name} of this cluster: join with --node-name {own.name},"
            " or 'barenode reset' first"
        )


def check_place(plane: Plane, name: str, address: str) -> None:
    """Raise UsageError when a worker of *plane* cannot have this name or address."""
    for master in plane.masters:
        if name == master.name:
            raise UsageError(f"{name} is the name of a master: join with --node-name and another")
        if address == master.address:
            raise UsageError(
                f"{address} is the address of the master {master.name}: give --address one of"
                " this host"
            )
    for what, taken in (("pods'", plane.pods), ("services'", plane.services)):
        if IPv4Address(address) in taken:
            raise UsageError(
                f"this host's address {address} lies in the {what} network {taken} of the cluster:"
                " give --address another one, or make the cluster with another range"
            )


def _time(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
