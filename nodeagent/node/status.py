"""The Node object: what is registered, and what its status says (``k8s.io/api/core/v1``).

Pure. Everything that others may have written into a Node is read with doubt, and stays: taints,
``unschedulable``, foreign labels, conditions and extended resources.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

from nodeagent.docker.api import EngineInfo, Image
from nodeagent.node.facts import Facts
from nodeagent.node.pressure import DISK, MEMORY, PIDS, Threshold
from nodeagent.node.settings import NodeSettings
from nodeagent.pods import quantity

Json = Mapping[str, Any]

MOST_IMAGES, MOST_NAMES = 50, 5
"""How many images a status lists, the largest ones, and how many names of each: etcd keeps it."""

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
HOSTNAME = "kubernetes.io/hostname"

READY = "Ready"
OURS = (MEMORY, DISK, PIDS, READY)
"""The conditions that a node agent sets, in the order that ``kubectl describe`` shows them."""

_CALM = {
    MEMORY: ("KubeletHasSufficientMemory", "there is enough memory"),
    DISK: ("KubeletHasNoDiskPressure", "there is enough disk space"),
    PIDS: ("KubeletHasSufficientPID", "there are enough process ids"),
}
_STRAINED = {
    MEMORY: "KubeletHasInsufficientMemory",
    DISK: "KubeletHasDiskPressure",
    PIDS: "KubeletHasInsufficientPID",
}
_EVENTS = {
    (MEMORY, "True"): "NodeHasInsufficientMemory",
    (MEMORY, "False"): "NodeHasSufficientMemory",
    (DISK, "True"): "NodeHasDiskPressure",
    (DISK, "False"): "NodeHasNoDiskPressure",
    (PIDS, "True"): "NodeHasInsufficientPID",
    (PIDS, "False"): "NodeHasSufficientPID",
    (READY, "True"): "NodeReady",
    (READY, "False"): "NodeNotReady",
}


@dataclass(frozen=True, slots=True)
class View:
    """What is so at this moment. *trouble* is why no pods can be run, "" when they can.

    *engine* is None while Docker has not answered yet. *pressure* maps each condition that is
    true to its cause.
    """

    facts: Facts
    address: str
    engine: EngineInfo | None = None
    images: Sequence[Image] = ()
    pressure: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""


def labels_of(settings: NodeSettings, facts: Facts) -> dict[str, str]:
    """The labels that this node has to have."""
    return {
        **settings.labels,
        HOSTNAME: settings.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.architecture,
        # What selectors of before 1.14 name.
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": facts.architecture,
    }


def node_object(settings: NodeSettings, view: View, now: str) -> dict[str, Any]:
    """The Node for the first registration; *now* is RFC 3339."""
    taints = list(settings.taints)
    spec: dict[str, Any] = {}
    if not settings.schedulable:
        spec["unschedulable"] = True
        if not any(taint["key"] == UNSCHEDULABLE for taint in taints):
            taints.append({"key": UNSCHEDULABLE, "effect": "NoSchedule"})
    if taints:
        spec["taints"] = taints
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": settings.name, "labels": labels_of(settings, view.facts)},
        "spec": spec,
        "status": node_status({}, settings, view, now),
    }


def adoption_patch(node: Json, settings: NodeSettings, facts: Facts) -> dict[str, Any] | None:
    """What puts the labels of an existing *node* right, None when they are.

    Spec and foreign labels are not in it: a cordon and taints outlive restarts.
    """
    found = part(part(node, "metadata"), "labels")
    wrong = {
        key: value for key, value in labels_of(settings, facts).items() if found.get(key) != value
    }
    return {"metadata": {"labels": wrong}} if wrong else None


def node_status(previous: Json, settings: NodeSettings, view: View, now: str) -> dict[str, Any]:
    """The status as it should be, in the parts that are ours, from the *previous* one.

    *now* is RFC 3339; it is the heartbeat's time, and the transition's where a condition changes.
    """
    facts = view.facts
    capacity = {**_extended(part(previous, "capacity")), **_capacity(settings, facts)}
    status: dict[str, Any] = {
        "capacity": capacity,
        "allocatable": {**capacity, **_allocatable(settings, facts)},
        "conditions": _conditions(previous, view, now),
        "addresses": _addresses(settings, view),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": settings.port}},
        "nodeInfo": _node_info(previous, settings, view),
    }
    # While Docker does not answer nobody knows its images: those told last stay.
    if view.engine is not None:
        status["images"] = image_list(view.images)
    return status


def parts_changed(previous: Json, wanted: Json) -> list[str]:
    """The parts of *wanted*, from ``node_status``, that say other things than *previous*.

    Times are no news; for conditions only ours count.
    """
    return [
        name
        for name, value in wanted.items()
        if (
            _essence(previous, wanted) != _essence(wanted, wanted)
            if name == "conditions"
            else not _says(previous.get(name), value)
        )
    ]


def status_patch(previous: Json, wanted: Json) -> dict[str, Any]:
    """The strategic merge patch of the Node that makes *previous* say *wanted*."""
    patch: dict[str, Any] = {"conditions": wanted["conditions"]}
    for name in parts_changed(previous, wanted):
        if name == "addresses":
            # This list is merged by type otherwise, and old addresses would stay.
            patch[name] = [*wanted[name], {"$patch": "replace"}]
        elif name in {"capacity", "allocatable"}:
            gone = part(previous, name).keys() - wanted[name].keys()
            patch[name] = {**wanted[name], **dict.fromkeys(sorted(gone))}
        else:
            patch[name] = wanted[name]
    return {"status": patch}


def transitions(previous: Json, wanted: Json) -> Iterator[tuple[str, str]]:
    """Reason and message of the event for each of our conditions that *wanted* changes."""
    before = conditions(previous)
    for condition in wanted["conditions"]:
        kind, status = condition["type"], condition["status"]
        if before.get(kind, {}).get("status") != status:
            yield _EVENTS[kind, status], f"{kind} is {status} now: {condition['message']}"


def conditions(status: Json) -> dict[str, Json]:
    """The conditions of a Node's *status* by type."""
    found = status.get("conditions")
    entries = found if isinstance(found, list) else []
    return {str(one.get("type", "")): one for one in entries if isinstance(one, Mapping)}


def part(value: Json, name: str) -> Json:
    """The object below *name*, empty when there is none."""
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


# --- amounts ---


def _capacity(settings: NodeSettings, facts: Facts) -> dict[str, str]:
    return {
        "cpu": quantity.format_cores(facts.cpus),
        "memory": quantity.format_bytes(facts.memory),
        "ephemeral-storage": quantity.format_bytes(facts.disk),
        "pods": str(settings.max_pods),
        **{_huge(size): quantity.format_bytes(amount) for size, amount in facts.hugepages.items()},
    }


def _allocatable(settings: NodeSettings, facts: Facts) -> dict[str, str]:
    """What pods may ask for: without reservations, and what would set off eviction."""
    kept = {one.signal: one for one in settings.eviction}
    cpus, memory = pod_share(settings.reserved, settings.eviction, facts)
    disk = facts.disk - settings.reserved.get("ephemeral-storage", Fraction(0))
    if "nodefs.available" in kept:
        disk -= kept["nodefs.available"].limit(facts.disk)
    return {
        "cpu": quantity.format_cores(cpus),
        "memory": quantity.format_bytes(memory),
        "ephemeral-storage": quantity.format_bytes(_kib(disk)),
    }


def pod_share(
    reserved: Mapping[str, Fraction], eviction: Iterable[Threshold], facts: Facts
) -> tuple[Fraction, int]:
    """Cores and bytes of memory that pods may ask for."""
    cpus = facts.cpus - reserved.get("cpu", Fraction(0))
    memory = facts.memory - sum(facts.hugepages.values()) - reserved.get("memory", Fraction(0))
    for one in eviction:
        if one.signal == "memory.available":
            memory -= one.limit(facts.memory)
    return Fraction(max(floor(cpus * 1000), 0), 1000), _kib(memory)


def _kib(amount: Fraction | int) -> int:
    # Plain bytes would be in tens for the API server, which then has another form for them.
    return max(floor(amount / 1024), 0) * 1024


def _extended(capacity: Json) -> dict[str, Any]:
    """What others advertise on this node, such as ``example.com/dongle``."""
    return {name: amount for name, amount in capacity.items() if "/" in name}


def _huge(size: int) -> str:
    return f"hugepages-{quantity.format_bytes(size)}"


# --- the rest ---


def _addresses(settings: NodeSettings, view: View) -> list[dict[str, str]]:
    found = [{"type": "Hostname", "address": settings.name}]
    if view.address:
        found.insert(0, {"type": "InternalIP", "address": view.address})
    return found


def _node_info(previous: Json, settings: NodeSettings, view: View) -> dict[str, str]:
    facts = view.facts
    told = str(part(previous, "nodeInfo").get("containerRuntimeVersion") or "docker://Unknown")
    return {
        "machineID": facts.machine_id,
        "systemUUID": facts.system_uuid,
        "bootID": facts.boot_id,
        "kernelVersion": facts.kernel,
        "osImage": facts.os_image,
        "containerRuntimeVersion": f"docker://{view.engine.version}" if view.engine else told,
        "kubeletVersion": settings.version,
        # kube-proxy's place is taken by netd, which is of the same release.
        "kubeProxyVersion": settings.version,
        "operatingSystem": "linux",
        "architecture": facts.architecture,
    }


def image_list(images: Sequence[Image]) -> list[dict[str, Any]]:
    """``status.images``: the largest, with their names by digest and tag."""
    named = [
        (image.size, [*image.digests, *image.tags])
        for image in images
        if image.digests or image.tags
    ]
    named.sort(key=lambda one: (-one[0], one[1]))
    return [{"names": names[:MOST_NAMES], "sizeBytes": size} for size, names in named[:MOST_IMAGES]]


def _conditions(previous: Json, view: View, now: str) -> list[dict[str, str]]:
    before = conditions(previous)
    return [_condition(kind, before.get(kind, {}), view, now) for kind in OURS]


def _condition(kind: str, before: Json, view: View, now: str) -> dict[str, str]:
    if kind == READY:
        status = "False" if view.trouble else "True"
        reason = "KubeletNotReady" if view.trouble else "KubeletReady"
        message = view.trouble or "nodeagent runs pods"
    elif kind in view.pressure:
        status, reason, message = "True", _STRAINED[kind], view.pressure[kind]
    else:
        status, (reason, message) = "False", _CALM[kind]
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since if isinstance(since, str) else now,
        "reason": reason,
        "message": message,
    }


def _essence(status: Json, wanted: Json) -> list[list[Any]]:
    """What the conditions say that *wanted* has, without their times."""
    found = conditions(status)
    return [
        [kind, *(found.get(kind, {}).get(name) for name in ("status", "reason", "message"))]
        for kind in conditions(wanted)
    ]


def _says(found: Any, value: Any) -> bool:
    # An empty list is left out of Go's JSON.
    if value == [] and found is None:
        return True
    if isinstance(value, Mapping) and isinstance(found, Mapping) and "machineID" in value:
        # Later API servers know more of nodeInfo than we tell.
        return all(found.get(name, "") == one for name, one in value.items())
    return bool(found == value)
