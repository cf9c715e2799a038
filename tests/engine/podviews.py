"""Containers as a pod's spec has them, and what a pod's status says of them."""

from typing import Any

Raw = dict[str, Any]

IMAGE = "barenode/busybox:lab"


def sleeper(name: str = "main", **fields: Any) -> Raw:
    """A container that does nothing until SIGTERM; *fields* are further ones of the API."""
    return shell("trap 'exit 0' TERM; while :; do sleep 1000 & wait; done", name, **fields)


def shell(script: str, name: str = "main", **fields: Any) -> Raw:
    """A container that runs a shell's *script*; *fields* are further ones of the API."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **fields}


def condition(pod: Raw, kind: str) -> str:
    """The status of a condition, "" when the pod has none of that *kind*."""
    found = pod["status"].get("conditions", ())
    return next((str(one["status"]) for one in found if one["type"] == kind), "")


def status_of(pod: Raw, container: str = "main") -> Raw:
    """The status of a container or init container, {"state": {}} when there is none yet."""
    for group in ("containerStatuses", "initContainerStatuses"):
        for one in pod["status"].get(group, ()):
            if one["name"] == container:
                found: Raw = one
                return found
    return {"state": {}}


def state(pod: Raw, container: str = "main") -> Raw:
    """The state of a container: {"running": ...}, {"waiting": ...}, {"terminated": ...} or {}."""
    found: Raw = status_of(pod, container)["state"]
    return found


def attempt_of(entry: Raw) -> int:
    """The attempt number of one of Docker's list entries."""
    return int(entry["Labels"]["annotation.io.kubernetes.container.restartCount"])
