"""Replication controllers and replica sets: as many pods as were asked for.

A pod belongs to the set whose controller reference it carries. One without any that the
selector means is taken over; one that the selector no longer means is let go.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from lab.api.controllers.views import Raw, Thing, selects
from lab.api.controllers.world import Action, Create, Delete, SetStatus, Update, World
from lab.api.kinds import POD, Kind


def owner_reference(kind: Kind, owner: Thing) -> Raw:
    """The reference that makes *owner* the manager of an object."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def plan(kind: Kind, world: World) -> list[Action]:
    """Make, delete, take over and let go of pods; *kind* is one of the two kinds of sets."""
    pods = world.pods()
    return world.each(kind, lambda s: plan_set(kind, s, pods.get(s.metadata.namespace, [])))


def plan_set(kind: Kind, owner: Thing, pods: Sequence[Thing]) -> Iterator[Action]:
    """What one set needs; *pods* are all of its namespace."""
    if owner.leaving:
        return
    mine = []
    reference = owner_reference(kind, owner)
    for pod in pods:
        meant = selects(owner.spec["selector"], pod.metadata.labels)
        if not pod.owner and meant and pod.active:
            yield _with_owners(
                pod, [*(pod.raw["metadata"].get("ownerReferences") or ()), reference]
            )
        elif pod.owner != owner.metadata.uid:
            continue
        elif not meant:
            references = pod.raw["metadata"]["ownerReferences"]
            yield _with_owners(pod, [r for r in references if r["uid"] != pod.owner])
            continue
        if pod.active:
            mine.append(pod)
    surplus = len(mine) - int(owner.spec["replicas"])
    for _ in range(-surplus):
        yield Create(POD, _new_pod(owner, reference))
    if surplus > 0:
        yield from (Delete(POD, pod) for pod in _least_useful_first(mine)[:surplus])
    status = _status(owner, mine)
    if status != owner.raw.get("status"):
        yield SetStatus(kind, {**owner.raw, "status": status})


def _with_owners(pod: Thing, references: list[Raw]) -> Update:
    metadata = {**pod.raw["metadata"], "ownerReferences": references}
    return Update(POD, {**pod.raw, "metadata": metadata})


def _new_pod(owner: Thing, reference: Raw) -> Raw:
    template = owner.spec["template"]
    metadata = {
        "generateName": f"{owner.metadata.name}-",
        "namespace": owner.metadata.namespace,
        "ownerReferences": [reference],
    }
    kept = {k: v for k, v in template.get("metadata", {}).items() if k in {"labels", "annotations"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**kept, **metadata},
        "spec": template["spec"],
    }


def _least_useful_first(pods: Sequence[Thing]) -> list[Thing]:
    # kube's order: without a node, not running, not ready, on a crowded node, the youngest.
    crowd = Counter(pod.spec.get("nodeName") for pod in pods)
    youngest = sorted(pods, key=lambda p: (p.metadata.creation_timestamp, p.metadata.name))[::-1]
    return sorted(
        youngest,
        key=lambda p: (
            "nodeName" in p.spec,
            p.status.phase == "Running",
            p.ready,
            -crowd[p.spec.get("nodeName")],
        ),
    )


def _status(owner: Thing, pods: Sequence[Thing]) -> Raw:
    labels = owner.spec["template"].get("metadata", {}).get("labels", {}).items()
    ready = sum(pod.ready for pod in pods)
    counts = {
        "fullyLabeledReplicas": sum(labels <= pod.metadata.labels.items() for pod in pods),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "observedGeneration": owner.metadata.generation,
    }
    return {"replicas": len(pods), **{name: count for name, count in counts.items() if count}}
