"""What kube's API server fills in where an object leaves it open, kind by kind."""

import base64
from collections.abc import Callable
from typing import Any

from lab.api import services
from lab.api.kinds import (
    CLAIM,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SECRET,
    SERVICE,
    VOLUME,
    Kind,
)
from lab.api.objects import Json, items, part

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def fill(kind: Kind, obj: Json) -> None:
    """Complete *obj* in place."""
    filler = _FILLERS.get(kind)
    if filler is not None:
        filler(obj)


def first_status(kind: Kind, obj: Json) -> Json:
    """The status that a new object begins with."""
    if kind is POD:
        return {"phase": "Pending", "qosClass": _qos(obj["spec"])}
    if kind is SERVICE:
        return {"loadBalancer": {}}
    if kind is NAMESPACE:
        return {"phase": "Active"}
    if kind in {VOLUME, CLAIM}:
        return {"phase": "Pending"}
    if kind is NODE:
        return part(obj, "status")
    return {} if kind is DEPLOYMENT else {"replicas": 0}


def _set(holder: Json, **values: Any) -> None:
    for name, value in values.items():
        holder.setdefault(name, value)


def _pod_spec(spec: Json) -> None:
    _set(
        spec, restartPolicy="Always", dnsPolicy="ClusterFirst", terminationGracePeriodSeconds=30,
        schedulerName="default-scheduler", securityContext={},
    )  # fmt: skip
    for volume in items(spec, "volumes"):
        if volume.keys() <= {"name"}:
            volume["emptyDir"] = {}
        for source in ("secret", "configMap", "downwardAPI", "projected"):
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 0o644)
        if isinstance(volume.get("hostPath"), dict):
            volume["hostPath"].setdefault("type", "")
    for container in (*items(spec, "initContainers"), *items(spec, "containers")):
        _container(container, host_network=bool(spec.get("hostNetwork")))


def _container(container: Json, *, host_network: bool) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = tag in {"", "latest"} and "@" not in image
    _set(
        container, imagePullPolicy="Always" if latest else "IfNotPresent", resources={},
        terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File",
    )  # fmt: skip
    for port in items(container, "ports"):
        port.setdefault("protocol", "TCP")
        if host_network and "containerPort" in port:
            port.setdefault("hostPort", port["containerPort"])
    for probe in (container[name] for name in _PROBES if name in container):
        _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
        if "httpGet" in probe:
            _set(probe["httpGet"], path="/", scheme="HTTP")
    for env in items(container, "env"):
        reference = part(env, "valueFrom.fieldRef")
        if reference:
            reference.setdefault("apiVersion", "v1")


def _qos(spec: Json) -> str:
    containers = [*items(spec, "containers"), *items(spec, "initContainers")]
    wants = [(part(c, "resources.requests"), part(c, "resources.limits")) for c in containers]
    if not any(requests or limits for requests, limits in wants):
        return "BestEffort"
    limited = all({"cpu", "memory"} <= limits.keys() and r == limits for r, limits in wants)
    return "Guaranteed" if limited else "Burstable"


def _pod(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _pod_spec(spec)
    _set(spec, enableServiceLinks=True, priority=0)
    # In a template the requests stay open.
    for container in (*items(spec, "initContainers"), *items(spec, "containers")):
        resources = container["resources"]
        if isinstance(resources.get("limits"), dict):
            requests = resources.setdefault("requests", {})
            for name, amount in resources["limits"].items():
                requests.setdefault(name, amount)


def _workload(obj: Json) -> Json:
    spec: Json = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    template = spec.get("template")
    if template is not None:
        _pod_spec(template.setdefault("spec", {}))
    return spec


def _replication_controller(obj: Json) -> None:
    spec = _workload(obj)
    labels = part(spec, "template.metadata.labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not part(obj, "metadata.labels"):
            obj["metadata"]["labels"] = dict(labels)


def _deployment(obj: Json) -> None:
    spec = _workload(obj)
    _set(spec, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        _set(strategy.setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")


def _endpoints(obj: Json) -> None:
    for subset in items(obj, "subsets"):
        for port in items(subset, "ports"):
            port.setdefault("protocol", "TCP")


def _endpoint_slice(obj: Json) -> None:
    for port in items(obj, "ports"):
        _set(port, name="", protocol="TCP")


def _namespace(obj: Json) -> None:
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")


def _node(obj: Json) -> None:
    obj.setdefault("spec", {})
    status = part(obj, "status")
    if "capacity" in status:
        status.setdefault("allocatable", dict(status["capacity"]))


def _secret(obj: Json) -> None:
    obj.setdefault("type", "Opaque")
    for name, text in obj.pop("stringData", {}).items():
        obj.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _volume(obj: Json) -> None:
    _set(
        obj.setdefault("spec", {}), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem"
    )


def _claim(obj: Json) -> None:
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


_FILLERS: dict[Kind, Callable[[Json], object]] = {
    POD: _pod,
    SERVICE: services.fill,
    VOLUME: _volume,
    CLAIM: _claim,
    REPLICATION_CONTROLLER: _replication_controller,
    REPLICA_SET: _workload,
    DEPLOYMENT: _deployment,
    ENDPOINTS: _endpoints,
    ENDPOINT_SLICE: _endpoint_slice,
    NAMESPACE: _namespace,
    NODE: _node,
    SECRET: _secret,
}
