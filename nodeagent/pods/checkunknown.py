"""Fields that nodeagent does not carry out: which of them may be there, and why others may not.

A field that others act on (the scheduler, controllers) may be there. One that would change how
the pod runs is refused, and so is one that nobody knows: it may be a typing error.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nodeagent.pods.model import unknown_fields

IGNORED: Mapping[str, str] = {
    "spec.affinity": "the scheduler acts on it; required node affinity is checked at admission",
    "spec.schedulerName": "the scheduler acts on it",
    "spec.schedulingGates": "the scheduler acts on it",
    "spec.schedulingGroup": "the scheduler acts on it",
    "spec.workloadRef": "the scheduler acts on it",
    "spec.topologySpreadConstraints": "the scheduler acts on it",
    "spec.priorityClassName": "the API server has made spec.priority of it",
    "spec.preemptionPolicy": "the scheduler acts on it",
    "spec.securityContext.seLinuxChangePolicy": "it is about speed only",
    "spec.containers[].resizePolicy": "resources are not changed in place, the API defaults it",
    "spec.initContainers[].resizePolicy": "resources are not changed in place, the API defaults it",
}
"""What may be there without being known to ``model``, and why."""

_ONLY: Mapping[str, tuple[Any, str]] = {
    "spec.os": ({"name": "linux"}, "this node runs Linux: set spec.os.name to linux"),
    "spec.hostUsers": (True, "user namespaces are not supported: leave it out"),
}
"""What may be there with one value only."""

_REASONS: Mapping[str, str] = {
    "spec.ephemeralContainers": "debug containers are not supported: use docker exec on the node",
    "spec.overhead": "it goes with runtimeClassName, which is not supported: leave it out",
    "spec.resourceClaims": "devices by resource claims are not supported: leave it out",
    "spec.resources": "set resources of the containers instead",
    "spec.hostnameOverride": "use spec.hostname",
    "spec.securityContext.windowsOptions": "this node runs Linux: leave it out",
    "securityContext.windowsOptions": "this node runs Linux: leave it out",
    "resources.claims": "devices by resource claims are not supported: leave it out",
    "volumeDevices": "raw block devices are not supported: use volumeMounts",
    "restartPolicy": "containers have no restart policy of their own here (no sidecar containers): "
    "make it an ordinary container, or use spec.restartPolicy",
    "restartPolicyRules": "use spec.restartPolicy",
    "lifecycle.stopSignal": "use STOPSIGNAL of the image",
    "grpc": "probes by gRPC are not supported: use exec, httpGet or tcpSocket",
    "valueFrom.fileKeyRef": "use configMapKeyRef or secretKeyRef",
    "clusterTrustBundle": "mount a configMap with the certificates",
    "podCertificate": "mount a secret with the certificate",
}
"""What to do about the rest, by the path or its end below a container."""

_KINDS = (
    "emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected",
    "persistentVolumeClaim", "nfs",
)  # fmt: skip
_INDEX = re.compile(r"\[\d+\]")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_VOLUME = re.compile(r"spec\.volumes\[(\d+)\]\.([^.\[\]]+)")
_MISSING = object()


def unknown_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each field of the undecoded *spec* that is there and cannot be honoured."""
    for path in unknown_fields(spec):
        value = _at(spec, path)
        # Empty ones ask for nothing.
        if not (isinstance(value, str | list | dict) and not value):
            yield from _problem(path, value, spec)


def unknown_kinds(spec: Mapping[str, Any]) -> frozenset[int]:
    """The numbers of the volumes that are of a kind that nodeagent does not have."""
    found = map(_VOLUME.fullmatch, unknown_fields(spec))
    return frozenset(int(match[1]) for match in found if match)


def _problem(path: str, value: Any, spec: Mapping[str, Any]) -> Iterator[str]:
    general = _INDEX.sub("[]", path)
    if general in IGNORED:
        return
    if general == "spec.serviceAccount":
        if not spec.get("serviceAccountName"):
            yield "spec.serviceAccount is the old name: use spec.serviceAccountName"
        return
    if general in _ONLY:
        allowed, advice = _ONLY[general]
        if value != allowed:
            yield f"{path}: {advice}"
        return
    if found := _VOLUME.fullmatch(path):
        yield f"{path}: volumes of kind {found[2]} are not supported: use {', '.join(_KINDS)}"
        return
    advice = _REASONS.get(general, "")
    for end, text in _REASONS.items():
        if general.startswith(("spec.containers[]", "spec.initContainers[]", "spec.volumes[]")):
            advice = text if general.endswith(f".{end}") else advice
    yield f"{path}: {advice or 'nodeagent does not know this field: leave it out'}"


def _at(spec: Mapping[str, Any], path: str) -> Any:
    value: Any = {"spec": spec}
    for name, index in _STEP.findall(path):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return _MISSING  # its name has a dot or a bracket in it
    return value
