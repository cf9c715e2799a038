"""Who writes which part of an object: what a client may change and what the server keeps."""

import uuid
from random import choices
from typing import Literal, cast

from lab.api.kinds import NAMESPACE, POD, Kind
from lab.api.mirror import Name
from lab.api.objects import FieldErrors, Json, bad_request, conflict, items, part, path, timestamp
from lab.api.validation import POD_CHANGES

# Fields of the metadata that the server alone writes.
_OWN_META = (
    "name", "namespace", "generateName", "uid", "resourceVersion", "generation",
    "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink",
    "managedFields",
)  # fmt: skip

# The characters of kube's generated names: no vowels, so no words.
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"

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
        if node(new) and node(new) != node(old):
            errors = FieldErrors()
            errors.forbidden("spec", POD_CHANGES)
            errors.raise_for(kind, str(was.get("name", "")))
        new["spec"] = part(new, "spec") | node(old)
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


def mark_leaving(kind: Kind, obj: Json, seconds: int, now: float) -> bool:
    """Mark *obj* as being deleted within *seconds*; False if it was, and as soon."""
    meta = obj["metadata"] = part(obj, "metadata")
    before = meta.get("deletionGracePeriodSeconds")
    if "deletionTimestamp" in meta and (before is None or before <= seconds):
        return False
    meta["deletionTimestamp"] = timestamp(now + seconds * (kind is POD))
    if kind is POD:
        meta["deletionGracePeriodSeconds"] = seconds
    elif kind is NAMESPACE:
        obj["status"] = {**part(obj, "status"), "phase": "Terminating"}
    return True


def new_meta(kind: Kind, namespace: str, new: Json, now: float) -> Json:
    """The metadata of a new object, *new* in *namespace*; raises 400."""
    meta: Json = new.get("metadata") or {}
    if meta.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    for name in ("selfLink", "managedFields", "deletionTimestamp", "resourceVersion"):
        meta.pop(name, None)
    prefix = meta.get("generateName")
    if prefix and not meta.get("name"):
        meta["name"] = prefix[:58] + "".join(choices(_SUFFIX, k=5))
    if kind.namespaced:
        if meta.setdefault("namespace", namespace) != namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on "
                "the request"
            )
    else:
        meta.pop("namespace", None)
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = timestamp(now)
    if kind.generation:
        meta["generation"] = 1
    return meta
