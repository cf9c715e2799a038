"""What to do so that the API server shows this node's static pods, and nothing else of them. Pure.

A mirror is matched by name, and by the annotation that holds its static pod's UID. Writing to a
mirror changes nothing; one that was deleted or does not fit is made anew. A pod that is no
mirror is never touched, whatever its name is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodeagent.pods.model import MIRROR, Pod
from nodeagent.sources.manifests import StaticPod

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A pod at the API server, as far as mirrors are concerned; *mirror* is "" for a real pod."""

    uid: str
    mirror: str = ""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Bring one mirror about: delete the pod with the UID *delete*, then make one of *create*."""

    key: Key
    delete: str = ""
    create: StaticPod | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """*changes* to make, by key; *taken* are names that a real pod has."""

    changes: tuple[Change, ...] = ()
    taken: tuple[Key, ...] = ()


def plan(static: Mapping[str, StaticPod], seen: Mapping[Key, Seen]) -> Plan:
    """What to do so that the mirrors in *seen* become those of the *static* pods."""
    wanted = {(p.pod.metadata.namespace, p.pod.metadata.name): p for p in static.values()}
    changes, taken = [], []
    for key in sorted(wanted.keys() | seen.keys()):
        one, there = wanted.get(key), seen.get(key)
        if there is None:
            changes.append(Change(key, create=one))
        elif not there.mirror:
            if one is not None:
                taken.append(key)
        elif one is None or there.mirror != one.pod.uid or there.deleting:
            changes.append(Change(key, there.uid, one))
    return Plan(tuple(changes), tuple(taken))


def mirror_of(static: StaticPod, node: str, node_uid: str) -> dict[str, Any]:
    """The body of the mirror pod; NodeRestriction wants it to be owned by the Node."""
    raw, meta = static.raw, static.raw["metadata"]
    owner = {
        "apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": True,
    }  # fmt: skip
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if meta.get(key)}
    annotations = {**meta["annotations"], MIRROR: static.pod.uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**kept, "annotations": annotations, "ownerReferences": [owner]},
        "spec": raw["spec"],
    }


def seen_of(pod: Pod) -> Seen:
    """From a pod as the API server has it."""
    meta = pod.metadata
    return Seen(pod.uid, meta.annotations.get(MIRROR, ""), bool(meta.deletion_timestamp))
