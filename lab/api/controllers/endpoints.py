"""Endpoints and EndpointSlices: who answers for each service.

Both are made from the same targets. Endpoints of a service without selector are written by
hand and are mirrored into slices, so that a reader of slices misses nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab.api.controllers.replicas import owner_reference
from lab.api.controllers.views import Raw, Thing
from lab.api.controllers.world import Action, Create, Delete, Update, World
from lab.api.kinds import ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE

KINDS = (ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE)
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS = "service.kubernetes.io/headless"
CHANGED = "endpoints.kubernetes.io/last-change-trigger-time"
MANAGER = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"
MOST = 100
"""Endpoints in one slice, as in kube's own controller."""

Ports = tuple[tuple[str, int, str], ...]
"""Name, number and protocol of the ports that some targets share."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address behind a service; *about* are the fields that describe it further."""

    address: str
    ready: bool
    about: Raw
    serving: bool = True
    terminating: bool = False


Groups = dict[Ports, list[Target]]


def plan(world: World) -> list[Action]:
    """Bring Endpoints and slices of every service up to date."""
    pods = world.pods()
    written = {(e.metadata.namespace, e.metadata.name): e for e in world.of(ENDPOINTS)}
    slices: dict[tuple[str, str], dict[str, Thing]] = {}
    for found in world.of(ENDPOINT_SLICE):
        labels = found.metadata.labels
        if labels.get(MANAGER_LABEL) in {MANAGER, MIRROR}:
            key = (found.metadata.namespace, labels.get(SERVICE_LABEL, ""))
            slices.setdefault(key, {})[found.metadata.name] = found

    def one(service: Thing) -> Iterator[Action]:
        key = (service.metadata.namespace, service.metadata.name)
        present = written.get(key)
        if service.spec.get("type") == "ExternalName" or service.leaving:
            return
        if service.spec.get("selector"):
            groups, manager = groups_of(service, pods.get(key[0], [])), MANAGER
            yield from _change(present, endpoints_object(service, groups))
        elif present is None or SKIP_MIRROR in present.metadata.labels:
            return
        else:
            groups, manager = read_groups(present.raw), MIRROR
        rest = dict(slices.get(key, {}))
        for wanted in slice_objects(service, groups, manager, world.now):
            yield from _change(rest.pop(wanted["metadata"]["name"], None), wanted)
        yield from (Delete(ENDPOINT_SLICE, found) for found in rest.values())

    return world.each(SERVICE, one)


def _change(present: Thing | None, wanted: Raw) -> Iterator[Action]:
    kind = ENDPOINTS if wanted["kind"] == "Endpoints" else ENDPOINT_SLICE
    if present is None:
        yield Create(kind, wanted)
        return
    # The server leaves out what is empty.
    content = wanted.keys() & {"subsets", "endpoints", "ports"}
    same = all((present.raw.get(key) or []) == wanted[key] for key in content)
    if not same or present.metadata.labels != wanted["metadata"]["labels"]:
        metadata = {**present.raw["metadata"], **wanted["metadata"]}
        yield Update(kind, {**wanted, "metadata": metadata})


def groups_of(service: Thing, pods: Sequence[Thing]) -> Groups:
    """The targets among *pods*, grouped by the ports that the names of target ports lead to."""
    groups: Groups = {}
    early = bool(service.spec.get("publishNotReadyAddresses"))
    for pod in sorted(pods, key=lambda p: p.status.pod_ip):
        chosen = service.spec["selector"].items() <= pod.metadata.labels.items()
        ports = _ports(service, pod)
        if not chosen or not pod.status.pod_ip or pod.finished:
            continue
        if service.spec.get("ports") and not ports:
            continue
        meta = pod.metadata
        about: Raw = {k: v for k, v in pod.spec.items() if k in {"hostname", "nodeName"}}
        about["targetRef"] = {
            "kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid
        }  # fmt: skip
        ready = early or (pod.ready and not pod.leaving)
        target = Target(pod.status.pod_ip, ready, about, early or pod.ready, pod.leaving)
        groups.setdefault(ports, []).append(target)
    return {ports: groups[ports] for ports in sorted(groups)}


def _ports(service: Thing, pod: Thing) -> Ports:
    named = {
        (port.get("name"), port.get("protocol", "TCP")): port["containerPort"]
        for container in pod.spec.get("containers", ())
        for port in container.get("ports", ())
    }
    found = []
    for port in service.spec.get("ports", ()):
        protocol = port.get("protocol", "TCP")
        target = port.get("targetPort") or port["port"]
        number = named.get((target, protocol)) if isinstance(target, str) else target
        if number is not None:
            found.append((port.get("name", ""), number, protocol))
    return tuple(found)


def read_groups(endpoints: Raw) -> Groups:
    """The targets in an Endpoints object that somebody wrote."""
    groups: Groups = {}
    for subset in endpoints.get("subsets") or ():
        ports = tuple(
            (p.get("name", ""), p["port"], p.get("protocol", "TCP"))
            for p in subset.get("ports", ())
        )
        for key, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(key, ()):
                about = {k: v for k, v in address.items() if k != "ip"}
                groups.setdefault(ports, []).append(Target(address["ip"], ready, about, ready))
    return groups


def _metadata(service: Thing, name: str) -> Raw:
    headless = {HEADLESS: ""} if service.spec.get("clusterIP") == "None" else {}
    return {
        "name": name,
        "namespace": service.metadata.namespace,
        "labels": {**service.metadata.labels, **headless},
        "ownerReferences": [owner_reference(SERVICE, service)],
    }


def _port_list(ports: Ports) -> list[Raw]:
    return [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in ports]


def endpoints_object(service: Thing, groups: Groups) -> Raw:
    """The Endpoints of *service*; terminating pods are in it only if unready ones are wanted."""
    subsets = []
    for ports, targets in groups.items():
        lists: dict[str, list[Raw]] = {"addresses": [], "notReadyAddresses": []}
        for target in targets:
            if target.ready or not target.terminating:
                key = "addresses" if target.ready else "notReadyAddresses"
                lists[key].append({"ip": target.address, **target.about})
        if any(lists.values()):
            # Endpoints leave an empty name out, slices have it.
            lists["ports"] = [{k: v for k, v in p.items() if v} for p in _port_list(ports)]
            subsets.append({key: value for key, value in lists.items() if value})
    meta = _metadata(service, service.metadata.name)
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets}


def slice_objects(service: Thing, groups: Groups, manager: str, now: str) -> Iterator[Raw]:
    """The EndpointSlices of *service*: at least one, each named by its ports and number."""
    for ports, targets in (groups or {(): []}).items():
        for start in range(0, max(1, len(targets)), MOST):
            mark = hashlib.sha256(repr((ports, start)).encode()).hexdigest()[:5]
            meta = _metadata(service, f"{service.metadata.name}-{mark}")
            meta["labels"] |= {SERVICE_LABEL: service.metadata.name, MANAGER_LABEL: manager}
            meta["annotations"] = {CHANGED: now}
            yield {
                "apiVersion": ENDPOINT_SLICE.api_version,
                "kind": ENDPOINT_SLICE.name,
                "metadata": meta,
                "addressType": "IPv4",
                "endpoints": [_slice_endpoint(t) for t in targets[start : start + MOST]],
                "ports": _port_list(ports),
            }


def _slice_endpoint(target: Target) -> Raw:
    conditions = {
        "ready": target.ready,
        "serving": target.serving,
        "terminating": target.terminating,
    }
    return {"addresses": [target.address], "conditions": conditions, **target.about}
