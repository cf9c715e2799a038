"""The columns that ``kubectl get`` prints: kube's ``meta.k8s.io/v1`` Table.

A column whose name begins with ``+`` is shown with ``-o wide`` only. The texts are those of
kube's own printers (``pkg/printers/internalversion``), as a real server answers them.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.api import kinds
from lab.api.kinds import Kind
from lab.api.objects import Json, items, parse_time, part, path

NONE = "<none>"
UNKNOWN = "<unknown>"
Cells = list[Any]
Row = Callable[[Json, float], Cells]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Makes Tables for *kind*; their rows carry all ("Object"), "Metadata" or "None" of objects."""

    kind: Kind
    version: str = "v1"
    include: str = "Metadata"
    clock: Callable[[], float] = time.time

    @classmethod
    def asked_for(
        cls, kind: Kind, accept: str, include: str | None, clock: Callable[[], float]
    ) -> "Sheet | None":
        """The sheet for an ``Accept`` header; None if it does not ask for a Table first."""
        match = re.match(r"application/json;(?=[^,]*as=Table)[^,]*v=(v1beta1|v1)", accept)
        return cls(kind, match[1], include or "Metadata", clock) if match else None

    def of(self, objects: Iterable[Json], revision: str, *, columns: bool = True) -> Json:
        """A Table of *objects*; a watch leaves the *columns* out after the first."""
        names, row = _PRINTERS.get(self.kind, (("Name", "Age"), _plain))
        now, api = self.clock(), f"meta.k8s.io/{self.version}"
        rows = []
        for obj in objects:
            one: Json = {"cells": _cells(row, obj, now, len(names))}
            if self.include == "Object":
                one["object"] = obj
            elif self.include == "Metadata":
                meta = obj.get("metadata", {})
                one["object"] = {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": api,
                    "metadata": meta,
                }
            rows.append(one)
        return {
            "kind": "Table",
            "apiVersion": api,
            "metadata": {"resourceVersion": revision},
            "columnDefinitions": [_column(name) for name in names] if columns else None,
            "rows": rows,
        }


def _cells(row: Row, obj: Json, now: float, width: int) -> Cells:
    try:
        return row(obj, now)
    # An object that was stored unchecked is shown all the same.
    except (TypeError, ValueError, AttributeError, KeyError):
        return [_name(obj), *["<invalid>"] * (width - 1)]


def _column(name: str) -> Json:
    return {
        "name": name.lstrip("+"), "type": "string", "priority": int(name.startswith("+")),
        "format": "name" if name.endswith("Name") else "", "description": "",
    }  # fmt: skip


def duration(seconds: float) -> str:
    """An age as kube prints it: two units at most, coarser the older."""
    whole = max(int(seconds), 0)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 2920 else f"{days // 365}y"


def _two(first: int, unit: str, second: int, lesser: str) -> str:
    return f"{first}{unit}{second}{lesser}" if second else f"{first}{unit}"


def _since(obj: Json, dotted: str, now: float) -> str:
    then = parse_time(path(obj, dotted))
    return UNKNOWN if then is None else duration(now - then)


def _age(obj: Json, now: float) -> str:
    return _since(obj, "metadata.creationTimestamp", now)


def _name(obj: Json) -> str:
    return str(path(obj, "metadata.name") or "")


def _join(values: Iterable[object], most: int | None = None) -> str:
    texts = [str(value) for value in values if value not in {None, ""}]
    if most is not None and len(texts) > most:
        return f"{','.join(texts[:most])} + {len(texts) - most} more..."
    return ",".join(texts) or NONE


def _plain(obj: Json, now: float) -> Cells:
    return [_name(obj), _age(obj, now)]


def _pod(obj: Json, now: float) -> Cells:
    statuses = items(obj, "status.containerStatuses")
    ready = sum(bool(one.get("ready")) for one in statuses)
    restarts = sum(one.get("restartCount") or 0 for one in statuses)
    gates = len(path(obj, "spec.readinessGates") or [])
    return [
        _name(obj), f"{ready}/{len(items(obj, 'spec.containers'))}", _pod_status(obj, statuses),
        str(restarts), _age(obj, now), path(obj, "status.podIP") or NONE,
        path(obj, "spec.nodeName") or NONE, path(obj, "status.nominatedNodeName") or NONE,
        f"0/{gates}" if gates else NONE,
    ]  # fmt: skip


def _pod_status(obj: Json, statuses: Sequence[Json]) -> str:
    text = path(obj, "status.reason") or path(obj, "status.phase") or ""
    running = False
    for one in reversed(statuses):
        waiting, ended = part(one, "state.waiting"), part(one, "state.terminated")
        if waiting.get("reason"):
            text = waiting["reason"]
        elif ended:
            number = (
                f"Signal:{ended['signal']}"
                if ended.get("signal")
                else f"ExitCode:{ended.get('exitCode')}"
            )
            text = ended.get("reason") or number
        elif one.get("ready") and "running" in part(one, "state"):
            running = True
    if text == "Completed" and running:
        conditions = items(obj, "status.conditions")
        good = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        text = "Running" if good else "NotReady"
    if path(obj, "metadata.deletionTimestamp"):
        return "Unknown" if path(obj, "status.reason") == "NodeLost" else "Terminating"
    return str(text)


def _service(obj: Json, now: float) -> Cells:
    spec = part(obj, "spec")
    kind = spec.get("type", "")
    ports = [
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}"
        f"/{port.get('protocol')}"
        for port in items(spec, "ports")
    ]
    return [
        _name(obj), kind, spec.get("clusterIP") or NONE, _external_ip(obj, kind), _join(ports),
        _age(obj, now), _selector(spec.get("selector")),
    ]  # fmt: skip


def _external_ip(obj: Json, kind: str) -> str:
    outside = path(obj, "spec.externalIPs") or []
    if kind == "ExternalName":
        return path(obj, "spec.externalName") or NONE
    if kind != "LoadBalancer":
        return _join(outside)
    ingress = items(obj, "status.loadBalancer.ingress")
    given = [one.get("ip") or one.get("hostname") for one in ingress]
    return _join([*given, *outside]) if given or outside else "<pending>"


def _selector(selector: object) -> str:
    if not isinstance(selector, dict):
        return NONE
    pairs = [f"{key}={value}" for key, value in sorted(selector.items())]
    return ",".join(pairs) or NONE


def _label_selector(selector: Json) -> str:
    words = {"In": "in", "NotIn": "notin"}
    texts = [f"{key}={value}" for key, value in sorted(part(selector, "matchLabels").items())]
    for one in items(selector, "matchExpressions"):
        key, operator = one.get("key", ""), one.get("operator", "")
        if operator in words:
            texts.append(f"{key} {words[operator]} ({','.join(sorted(one.get('values', [])))})")
        else:
            texts.append(key if operator == "Exists" else f"!{key}")
    return ",".join(texts) or NONE


def _containers(obj: Json) -> Cells:
    containers = items(obj, "spec.template.spec.containers")
    return [_join(one.get(name) for one in containers) for name in ("name", "image")]


def _count(obj: Json, dotted: str) -> str:
    return str(path(obj, dotted) or 0)


def _replicas(obj: Json, now: float) -> Cells:
    selector = part(obj, "spec.selector")
    plain = obj.get("apiVersion") == "v1"
    return [
        _name(obj), _count(obj, "spec.replicas"), _count(obj, "status.replicas"),
        _count(obj, "status.readyReplicas"), _age(obj, now), *_containers(obj),
        _selector(selector) if plain else _label_selector(selector),
    ]  # fmt: skip


def _deployment(obj: Json, now: float) -> Cells:
    return [
        _name(obj), f"{_count(obj, 'status.readyReplicas')}/{_count(obj, 'spec.replicas')}",
        _count(obj, "status.updatedReplicas"), _count(obj, "status.availableReplicas"),
        _age(obj, now), *_containers(obj), _label_selector(part(obj, "spec.selector")),
    ]  # fmt: skip


def _endpoints(obj: Json, now: float) -> Cells:
    found: list[str] = []
    for subset in items(obj, "subsets"):
        addresses = [one.get("ip") for one in items(subset, "addresses")]
        ports = [one.get("port") for one in items(subset, "ports")]
        if not ports:
            found += [str(ip) for ip in addresses]
        found += [f"{ip}:{port}" for port in ports for ip in addresses]
    return [_name(obj), _join(found, 3), _age(obj, now)]


def _endpoint_slice(obj: Json, now: float) -> Cells:
    ports = path(obj, "ports")
    numbers = [port.get("port", "*") for port in items(obj, "ports")]
    ips = [ip for endpoint in items(obj, "endpoints") for ip in endpoint.get("addresses") or []]
    shown = "<unset>" if not ports else _join(numbers, 3)
    addresses = _join(ips, 3) if ips else "<unset>"
    return [_name(obj), obj.get("addressType", ""), shown, addresses, _age(obj, now)]


def _node(obj: Json, now: float) -> Cells:
    ready = [c for c in items(obj, "status.conditions") if c.get("type") == "Ready"]
    state = [("Ready" if c.get("status") == "True" else "NotReady") for c in ready] or ["Unknown"]
    if path(obj, "spec.unschedulable"):
        state.append("SchedulingDisabled")
    role = "node-role.kubernetes.io/"
    labels = part(obj, "metadata.labels")
    roles = sorted(label.removeprefix(role) for label in labels if label.startswith(role))
    info = part(obj, "status.nodeInfo")
    ips = {one.get("type"): one.get("address") for one in reversed(items(obj, "status.addresses"))}
    return [
        _name(obj), ",".join(state), _join(roles), _age(obj, now), info.get("kubeletVersion", ""),
        ips.get("InternalIP", NONE), ips.get("ExternalIP", NONE), info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN, info.get("containerRuntimeVersion") or UNKNOWN,
    ]  # fmt: skip


def _namespace(obj: Json, now: float) -> Cells:
    return [_name(obj), path(obj, "status.phase") or "", _age(obj, now)]


def _event(obj: Json, now: float) -> Cells:
    about = part(obj, "involvedObject")
    source = part(obj, "source")
    first = "firstTimestamp" if obj.get("firstTimestamp") else "eventTime"
    last = "lastTimestamp" if obj.get("lastTimestamp") else first
    parts = [source.get("component"), source.get("host")]
    return [
        _since(obj, last, now), obj.get("type", ""), obj.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""), ", ".join(filter(None, parts)),
        str(obj.get("message", "")).strip(), _since(obj, first, now), str(obj.get("count") or 1),
        _name(obj),
    ]  # fmt: skip


def _config_map(obj: Json, now: float) -> Cells:
    number = len(part(obj, "data")) + len(part(obj, "binaryData"))
    return [_name(obj), str(number), _age(obj, now)]


def _secret(obj: Json, now: float) -> Cells:
    return [_name(obj), obj.get("type", ""), str(len(part(obj, "data"))), _age(obj, now)]


def _service_account(obj: Json, now: float) -> Cells:
    return [_name(obj), str(len(items(obj, "secrets"))), _age(obj, now)]


def _lease(obj: Json, now: float) -> Cells:
    return [_name(obj), path(obj, "spec.holderIdentity") or "", _age(obj, now)]


_WORKLOAD = ("+Containers", "+Images", "+Selector")
_REPLICAS = ("Name", "Desired", "Current", "Ready", "Age", *_WORKLOAD)
_PRINTERS: dict[Kind, tuple[tuple[str, ...], Row]] = {
    kinds.POD: (
        ("Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node",
         "+Readiness Gates"),
        _pod,
    ),
    kinds.SERVICE: (
        ("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"), _service,
    ),
    kinds.REPLICATION_CONTROLLER: (_REPLICAS, _replicas),
    kinds.REPLICA_SET: (_REPLICAS, _replicas),
    kinds.DEPLOYMENT: (
        ("Name", "Ready", "Up-to-date", "Available", "Age", *_WORKLOAD), _deployment,
    ),
    kinds.ENDPOINTS: (("Name", "Endpoints", "Age"), _endpoints),
    kinds.ENDPOINT_SLICE: (
        ("Name", "AddressType", "Ports", "Endpoints", "Age"), _endpoint_slice,
    ),
    kinds.NODE: (
        ("Name", "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image",
         "+Kernel-Version", "+Container-Runtime"),
        _node,
    ),
    kinds.NAMESPACE: (("Name", "Status", "Age"), _namespace),
    kinds.EVENT: (
        ("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message",
         "+First Seen", "+Count", "+Name"),
        _event,
    ),
    kinds.CONFIG_MAP: (("Name", "Data", "Age"), _config_map),
    kinds.SECRET: (("Name", "Type", "Data", "Age"), _secret),
    kinds.SERVICE_ACCOUNT: (("Name", "Secrets", "Age"), _service_account),
    kinds.LEASE: (("Name", "Holder", "Age"), _lease),
}  # fmt: skip
