"""Claims and the volumes that they are bound to.

A claim gets the volume that it names, one that was set aside for it, or the smallest free one
that is large enough, of the same class and with the access modes asked for. One step for each
object and pass: the volume names the claim, the claim the volume, then both say that they are
bound. A volume whose claim has gone is released, and taken by nobody else.
"""

from collections.abc import Iterator, Mapping, Sequence

from lab.api.controllers.views import Raw, Thing, selects
from lab.api.controllers.world import Action, SetStatus, Update, World
from lab.api.kinds import CLAIM, VOLUME
from nodeagent.pods import quantity

KINDS = (CLAIM, VOLUME)


def plan(world: World) -> list[Action]:
    """The next step for each claim and each volume."""
    volumes = {volume.metadata.name: volume for volume in world.of(VOLUME)}
    claims = {(c.metadata.namespace, c.metadata.name): c for c in world.of(CLAIM)}
    taken: set[str] = set()
    actions = world.each(CLAIM, lambda claim: _claim(claim, volumes, taken))
    return actions + world.each(
        VOLUME, lambda volume: () if volume.metadata.name in taken else _volume(volume, claims)
    )


def _claim(claim: Thing, volumes: Mapping[str, Thing], taken: set[str]) -> Iterator[Action]:
    if claim.leaving:
        return
    name = claim.spec.get("volumeName")
    if not name:
        mine = [v for v in volumes.values() if _held(v, claim)]
        if mine:
            spec = {**claim.spec, "volumeName": mine[0].metadata.name}
            yield Update(CLAIM, {**claim.raw, "spec": spec})
            return
        chosen = _choose(claim, [v for n, v in volumes.items() if n not in taken])
    else:
        chosen = volumes.get(name)
    if chosen is not None and _reserved(chosen, claim):
        taken.add(chosen.metadata.name)
        yield Update(VOLUME, {**chosen.raw, "spec": {**chosen.spec, "claimRef": _ref(claim)}})
    elif chosen is not None and _held(chosen, claim) and claim.status.phase != "Bound":
        status = {
            "phase": "Bound",
            "accessModes": chosen.spec.get("accessModes", []),
            "capacity": chosen.spec.get("capacity", {}),
        }
        yield SetStatus(CLAIM, {**claim.raw, "status": status})


def _volume(volume: Thing, claims: Mapping[tuple[str, str], Thing]) -> Iterator[Action]:
    ref: Raw = volume.spec.get("claimRef") or {}
    claim = claims.get((ref.get("namespace", ""), ref.get("name", "")))
    if not ref.get("uid"):
        phase = "Available"
    elif claim is None or claim.metadata.uid != ref["uid"]:
        phase = "Released"
    else:
        phase = "Bound"
    if volume.status.phase != phase:
        yield SetStatus(VOLUME, {**volume.raw, "status": {"phase": phase}})


def _held(volume: Thing, claim: Thing) -> bool:
    """Whether *volume* is bound to this very claim."""
    ref: Raw = volume.spec.get("claimRef") or {}
    return ref.get("uid") == claim.metadata.uid


def _reserved(volume: Thing, claim: Thing) -> bool:
    """Whether *volume* waits for *claim*, or for any."""
    ref: Raw = volume.spec.get("claimRef") or {}
    place = (claim.metadata.namespace, claim.metadata.name)
    return not ref or (not ref.get("uid") and (ref.get("namespace"), ref.get("name")) == place)


def _ref(claim: Thing) -> Raw:
    meta = claim.metadata
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
        "name": meta.name, "uid": meta.uid,
    }  # fmt: skip


def _choose(claim: Thing, volumes: Sequence[Thing]) -> Thing | None:
    fitting = [one for one in volumes if not one.leaving and _fits(claim, one)]
    return min(
        fitting,
        key=lambda v: (not v.spec.get("claimRef"), _size(v.spec.get("capacity")), v.metadata.name),
        default=None,
    )


def _fits(claim: Thing, volume: Thing) -> bool:
    asked = (claim.spec.get("resources") or {}).get("requests")
    selector = claim.spec.get("selector")
    return (
        _reserved(volume, claim)
        and (claim.spec.get("storageClassName") or "") == volume.spec.get("storageClassName", "")
        and set(claim.spec.get("accessModes", ())) <= set(volume.spec.get("accessModes", ()))
        and _size(volume.spec.get("capacity")) >= _size(asked)
        and (not selector or selects(selector, volume.metadata.labels))
    )


def _size(amounts: Raw | None) -> float:
    return float(quantity.parse((amounts or {}).get("storage", 0)))
