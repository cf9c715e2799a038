"""Mounts and volumes of pods as tests write them, and what a pod has of them on the node."""

from typing import Any

from tests.engine.pods import PodWorld, Raw
from tests.support.netns import eventually

FOLDERS = "/var/lib/kubelet/pods"


def at(path: str, name: str = "data", **fields: Any) -> Raw:
    """A mount of volume *name*."""
    return {"name": name, "mountPath": path, **fields}


def spec(*containers: Raw, volumes: list[Raw], **fields: Any) -> Raw:
    """The spec of a pod of these containers and volumes."""
    return {"containers": list(containers), "volumes": volumes, **fields}


def mounts_of(pods: PodWorld, uid: str) -> list[str]:
    """Lines of the node's table of mounts that belong to the pod."""
    table = pods.node_run("cat", "/proc/self/mountinfo")
    return [line for line in table.splitlines() if uid in line]


def removed(pods: PodWorld, name: str) -> None:
    """Delete the pod; none of its mounts and files may be left on the node."""
    uid = pods.get(name)["metadata"]["uid"]
    pods.delete(name, grace=0)
    pods.gone(name)
    eventually(lambda: not mounts_of(pods, uid), "the mounts gone", deadline=60, interval=0.1)
    eventually(
        lambda: uid not in pods.node_run("ls", "-a", FOLDERS), "the files gone", deadline=60,
        interval=0.1,
    )  # fmt: skip
