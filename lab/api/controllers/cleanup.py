"""Deleting what nothing holds any more: objects without owner, and namespaces with all in them."""

from lab.api.controllers.world import Action, Delete, World
from lab.api.kinds import KINDS as ALL
from lab.api.kinds import NAMESPACE, POD, REPLICA_SET, Kind

KINDS: tuple[Kind, ...] = tuple(
    sorted(ALL, key=lambda k: (k is NAMESPACE, k is not POD, k is not REPLICA_SET))
)
"""All kinds, what is owned before its owners: an owner that a later list lacks is gone."""


def plan_orphans(world: World) -> list[Action]:
    """Delete every object whose owners, of kinds that are kept here, are all gone."""
    known = {kind.name for kind in KINDS}
    things = [(kind, thing) for kind in KINDS for thing in world.of(kind)]
    alive = {thing.metadata.uid for _, thing in things}
    return [
        Delete(kind, thing)
        for kind, thing in things
        if (owners := thing.metadata.owner_references)
        and not thing.leaving
        and all(owner.kind in known and owner.uid not in alive for owner in owners)
    ]


def plan_namespaces(world: World) -> list[Action]:
    """Empty the namespaces that are being deleted; delete those that are empty."""
    ending = {n.metadata.name: n for n in world.of(NAMESPACE) if n.leaving}
    inside = [
        (kind, thing)
        for kind in KINDS
        if ending and kind.namespaced
        for thing in world.of(kind)
        if thing.metadata.namespace in ending
    ]
    full = {thing.metadata.namespace for _, thing in inside}
    return [
        *(Delete(kind, thing) for kind, thing in inside if not thing.leaving),
        *(Delete(NAMESPACE, ending[name], grace=0) for name in ending.keys() - full),
    ]
