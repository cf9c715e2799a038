"""A static pod of the control plane, as the text of its manifest.

Pure. Layout and labels are kubeadm's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Raw = dict[str, Any]

KUBERNETES = "/etc/kubernetes"
PKI = f"{KUBERNETES}/pki"

_SYSTEM_NODE_CRITICAL = 2_000_001_000
_FILES = (".conf", ".crt", ".key")
"""What ends so is a file of the host, anything else a folder."""


def text(pod: Raw) -> str:
    """The manifest of *pod*, with who made it on top."""
    head = f"# {pod['metadata']['name']} of a control plane; made by barenode\n"
    return head + yaml.safe_dump(pod, sort_keys=False, width=100)


def static_pod(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    mounts: Mapping[str, bool],
    liveness: Raw,
    cpu: str,
    readiness: Raw | None = None,
) -> Raw:
    """A pod on the host's network. *mounts*: paths of the host, and whether they are read-only."""
    volumes, places = [], []
    for path, read_only in mounts.items():
        label = path.strip("/").replace("/", "-").replace(".", "-")
        kind = "File" if path.endswith(_FILES) else "DirectoryOrCreate"
        volumes.append({"name": label, "hostPath": {"path": path, "type": kind}})
        places.append({"name": label, "mountPath": path, "readOnly": read_only})
    container: Raw = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "resources": {"requests": {"cpu": cpu}},
        "startupProbe": _probe(liveness, 24),
        "livenessProbe": _probe(liveness, 8),
        "volumeMounts": places,
    }
    if readiness is not None:
        container["readinessProbe"] = {**_probe(readiness, 3), "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {"component": name, "tier": "control-plane"},
        },
        "spec": {
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "priority": _SYSTEM_NODE_CRITICAL,
            "containers": [container],
            "volumes": volumes,
        },
    }


def _probe(check: Raw, tries: int) -> Raw:
    # Dicts of its own each time: YAML would point to the first by an anchor.
    return {
        **{kind: dict(asked) for kind, asked in check.items()},
        "timeoutSeconds": 15,
        "periodSeconds": 10,
        "failureThreshold": tries,
    }


def flags(settings: Mapping[str, object]) -> list[str]:
    """*settings* as flags, in their order."""
    return [f"--{name}={value}" for name, value in settings.items()]
