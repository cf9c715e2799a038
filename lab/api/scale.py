"""The subresource scale: how many replicas a workload has, and has to have (``autoscaling/v1``)."""

from lab.api.kinds import Kind
from lab.api.objects import Json, part, path
from lab.api.schema import conform

SCALE = Kind("autoscaling", "v1", "Scale", "scales")


def shown(kind: Kind, obj: Json) -> Json:
    """The Scale of a replication controller, replica set or deployment."""
    meta, selector = part(obj, "metadata"), part(obj, "spec.selector")
    fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    wanted = selector if kind.api_version == "v1" else part(selector, "matchLabels")
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in fields if name in meta},
        "spec": {"replicas": path(obj, "spec.replicas") or 0},
        "status": {
            "replicas": path(obj, "status.replicas") or 0,
            "selector": ",".join(f"{key}={value}" for key, value in sorted(wanted.items())),
        },
    }  # fmt: skip


def taken_over(obj: Json, scale: Json) -> Json:
    """*obj* with the replicas of *scale*, and the version on which *scale* is based."""
    scale, _ = conform(SCALE, scale)
    meta = part(scale, "metadata")
    based = {name: meta[name] for name in ("resourceVersion", "uid") if meta.get(name)}
    return {
        **obj,
        "metadata": {**part(obj, "metadata"), **based},
        "spec": {**part(obj, "spec"), "replicas": path(scale, "spec.replicas") or 0},
    }
