"""Deployments: one replica set for each pod template, replaced a few pods at a time.

The set of the present template carries the template's hash; all other sets of the deployment
are old. A rolling update keeps at least ``replicas - maxUnavailable`` pods available and at
most ``replicas + maxSurge`` in all.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

import msgspec

from lab.api.controllers.replicas import owner_reference
from lab.api.controllers.views import Raw, Thing
from lab.api.controllers.world import Action, Create, Delete, SetStatus, Update, World
from lab.api.kinds import DEPLOYMENT, POD, REPLICA_SET

HASH = "pod-template-hash"
KINDS = (POD, REPLICA_SET, DEPLOYMENT)


def plan(world: World) -> list[Action]:
    """Make, scale and remove replica sets."""
    sets: dict[str, list[Thing]] = {}
    for found in world.of(REPLICA_SET):
        if not found.leaving:
            sets.setdefault(found.owner, []).append(found)
    holders = {pod.owner for pod in world.of(POD)}
    return world.each(
        DEPLOYMENT, lambda d: plan_deployment(d, sets.get(d.metadata.uid, []), holders, world.now)
    )


def plan_deployment(
    wanted: Thing, sets: Sequence[Thing], holders: set[str], now: str
) -> Iterator[Action]:
    """What one deployment needs; *sets* are its replica sets, *holders* all that have any pod."""
    if wanted.leaving:
        return
    template, replicas = wanted.spec["template"], int(wanted.spec["replicas"])
    digest = template_hash(template)
    ordered = sorted(sets, key=lambda s: (s.metadata.creation_timestamp, s.metadata.name))
    new = next((s for s in ordered if s.metadata.labels.get(HASH) == digest), None)
    old = [s for s in ordered if s is not new]
    surge, missing = bounds(wanted)
    if wanted.spec.get("strategy", {}).get("type") == "Recreate":
        running = any(s.metadata.uid in holders for s in old)
        count, missing = 0 if running else replicas, replicas
    else:
        room = max(0, replicas + surge - sum(size(s) for s in ordered))
        count = min(replicas, (size(new) if new else 0) + room)
    if not wanted.spec.get("paused"):
        if new is None:
            yield Create(REPLICA_SET, new_set(wanted, digest, count))
        elif size(new) != count:
            yield scale(new, count)
        yield from _shrink(old, new, replicas - missing)
        empty = [s for s in old if not size(s) and not s.status.replicas]
        surplus = len(empty) - int(wanted.spec.get("revisionHistoryLimit", 10))
        yield from (Delete(REPLICA_SET, s) for s in empty[: max(0, surplus)])
    status = _status(wanted, new, ordered, now)
    if status != wanted.raw.get("status"):
        yield SetStatus(DEPLOYMENT, {**wanted.raw, "status": status})


def _shrink(old: Sequence[Thing], new: Thing | None, leave: int) -> Iterator[Action]:
    """Scale *old* sets down while *leave* pods stay available; those that do not answer first."""
    known = [*old, new] if new else list(old)
    arriving = max(0, size(new) - new.status.available_replicas) if new else 0
    spare = sum(size(s) for s in known) - leave - arriving
    cuts = {}
    for found in old:
        cuts[found.metadata.uid] = max(0, min(spare, size(found) - found.status.available_replicas))
        spare -= cuts[found.metadata.uid]
    spare = min(spare, sum(s.status.available_replicas for s in known) - leave)
    for found in old:
        rest = size(found) - cuts[found.metadata.uid]
        more = rest if leave == 0 else max(0, min(spare, rest))
        spare -= more
        if rest - more != size(found):
            yield scale(found, rest - more)


def size(found: Thing) -> int:
    """The replicas asked of a set."""
    return int(found.spec["replicas"])


def bounds(wanted: Thing) -> tuple[int, int]:
    """maxSurge (percentages rounded up) and maxUnavailable (down) in pods, never both 0."""
    rolling = wanted.spec.get("strategy", {}).get("rollingUpdate", {})
    surge = _pods(rolling.get("maxSurge", "25%"), size(wanted), up=True)
    missing = _pods(rolling.get("maxUnavailable", "25%"), size(wanted), up=False)
    return surge, missing if surge else max(1, missing)


def _pods(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"\d{1,6}%", value):
        raise ValueError(f"strategy.rollingUpdate: {value!r} is neither a number nor a percentage")
    share = replicas * int(value[:-1])
    return -(-share // 100) if up else share // 100


def template_hash(template: Raw) -> str:
    """Ten hexadecimal digits that change with the template."""
    return hashlib.sha256(msgspec.json.encode(template, order="deterministic")).hexdigest()[:10]


def scale(found: Thing, replicas: int) -> Update:
    """Give a replica set another size."""
    return Update(REPLICA_SET, {**found.raw, "spec": {**found.raw["spec"], "replicas": replicas}})


def new_set(wanted: Thing, digest: str, replicas: int) -> Raw:
    """The replica set for the present template, of which *digest* is the hash."""
    template, selector = wanted.spec["template"], wanted.spec["selector"]
    labels = {**template["metadata"]["labels"], HASH: digest}
    match = {**selector.get("matchLabels", {}), HASH: digest}
    return {
        "apiVersion": REPLICA_SET.api_version,
        "kind": REPLICA_SET.name,
        "metadata": {
            "name": f"{wanted.metadata.name}-{digest}",
            "namespace": wanted.metadata.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(DEPLOYMENT, wanted)],
        },
        "spec": {
            "replicas": replicas,
            "selector": {**selector, "matchLabels": match},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def _status(wanted: Thing, new: Thing | None, sets: Sequence[Thing], now: str) -> Raw:
    total = sum(s.status.replicas for s in sets)
    available = sum(s.status.available_replicas for s in sets)
    updated = new.status.replicas if new else 0
    counts = {
        "replicas": total,
        "updatedReplicas": updated,
        "readyReplicas": sum(s.status.ready_replicas for s in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, total - available),
        "observedGeneration": wanted.metadata.generation,
    }
    enough = available >= size(wanted) - bounds(wanted)[1]
    done = updated == total == available == size(wanted)
    verdicts = (
        ("Available", enough, "MinimumReplicas" + ("Available" if enough else "Unavailable")),
        ("Progressing", True, "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"),
    )
    conditions = []
    for kind, holds, reason in verdicts:
        before = wanted.condition(kind)
        since = before.last_transition_time if before.status == str(holds) else now
        condition = {"type": kind, "status": str(holds), "reason": reason}
        conditions.append({**condition, "lastTransitionTime": since})
    return {**{k: v for k, v in counts.items() if v}, "conditions": conditions}
