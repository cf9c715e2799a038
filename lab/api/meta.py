"""Who writes which part of an object: what a client may change and what the server keeps."""

from typing import Literal, cast

from lab.api.kinds import NAMESPACE, POD, Kind
from lab.api.mirror import Name
from lab.api.objects import Json, bad_request, conflict, items, part, path

# Fields of the metadata that the server alone writes.
_OWN_META = (
    "name", "namespace", "generateName", "uid", "resourceVersion", "generation",
    "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink",
    "managedFields",
)  # fmt: skip

Scope = Literal["wish", "spec", "status"]


def name_of(kind: Kind, obj: Json) -> Name:
    """Namespace and name that *obj* gives itself."""
    meta = part(obj, "metadata")
    return str(meta.get("namespace", "")) if kind.namespaced else "", str(meta.get("name", ""))


def wish(obj: Json) -> Json:
    """*obj* without metadata and status."""
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}}


def node(pod: Json) -> Json:
    """The part of a pod's spec that names its node."""
    node = path(pod, "spec.nodeName")
    return {"nodeName": node} if node else {}


def scheduled(pod: Json, now: str) -> None:
    """Note in a pod's status that it has a node now."""
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}
    others = [c for c in items(pod, "status.conditions") if c.get("type") != "PodScheduled"]
    pod["status"] = {**part(pod, "status"), "conditions": [*others, condition]}


def check_based_on(kind: Kind, name: str, old: Json, new: Json) -> None:
    """Raise 409 if *new* says that it was made from another state than *old*, 400 if renamed."""
    was, meta = part(old, "metadata"), cast("Json", new.setdefault("metadata", {}))
    if meta.get("name", name) != name:
        raise bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
        )
    if meta.get("uid", was.get("uid")) != was.get("uid"):
        raise conflict(kind, name, f"Precondition failed: UID in precondition: {meta['uid']}, "
                       f"UID in object meta: {was.get('uid')}")  # fmt: skip
    if meta.get("resourceVersion", was.get("resourceVersion")) != was.get("resourceVersion"):
        raise conflict(kind, name)


def carry_over(kind: Kind, old: Json, new: Json, scope: Scope) -> Json:
    """*new* with what a writer cannot change taken from *old*."""
    meta, was = new["metadata"], part(old, "metadata")
    for name in _OWN_META:
        meta.pop(name, None)
        if name in was:
            meta[name] = was[name]
    new = {"apiVersion": kind.api_version, "kind": kind.name, **new}
    if not kind.status:
        return new
    if scope == "status":
        return {**wish(old), "metadata": meta, "status": new.get("status", {})}
    if kind is POD and scope == "spec":
        spec = {name: value for name, value in part(new, "spec").items() if name != "nodeName"}
        new["spec"] = spec | node(old)
    return {**new, "status": old.get("status", {})}


def grace_of(kind: Kind, obj: Json, asked: int | None) -> int:
    """The seconds that the deletion of *obj* has to wait for someone; 0: it goes at once."""
    if kind is NAMESPACE:
        return 0 if asked == 0 and path(obj, "metadata.deletionTimestamp") else 1
    if kind is not POD or not path(obj, "spec.nodeName"):
        return 0
    if path(obj, "status.phase") in {"Succeeded", "Failed"}:
        return 0
    wished = path(obj, "spec.terminationGracePeriodSeconds")
    return asked if asked is not None else int(30 if wished is None else wished)
