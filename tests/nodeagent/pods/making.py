"""Pods for tests, in the API's own words."""

from pathlib import Path
from typing import Any

from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod, decode

HOST = Host("n1", "192.0.2.1", "machine", Path("/var/lib/kubelet"), cpus=4, memory=8 * 2**30)


def container(name: str = "c", **fields: Any) -> dict[str, Any]:
    """A container in the API's words."""
    return {"name": name, "image": "busybox:1", **fields}


def spec_of(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A spec; without containers it has one that asks for nothing."""
    return {"containers": list(containers or (container(),)), **fields}


def pod_of(*containers: dict[str, Any], name: str = "p", uid: str = "u-1", **fields: Any) -> Pod:
    """A decoded pod; *fields* are those of its spec."""
    meta = {"name": name, "namespace": "shop", "uid": uid}
    meta |= {"annotations": fields.pop("annotations", {})}
    return decode({"metadata": meta, "spec": spec_of(*containers, **fields)})


def asks(
    requests: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, name: str = "c"
) -> dict[str, Any]:
    """A container with requests and limits."""
    return container(name, resources={"requests": requests or {}, "limits": limits or {}})
