"""The scheduler: a node for every pod that has none.

A pod goes to a node that takes it: ready, without taints that the pod does not bear, with the
labels of its nodeSelector and with room for one more pod and its requests of cpu and memory.
Among those to the one with the fewest pods of the same owner, then with the fewest pods.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

from lab.api.controllers.taints import NOT_READY, UNREACHABLE, UNSCHEDULABLE, all_of, tolerates
from lab.api.controllers.views import Raw, Thing, with_condition
from lab.api.controllers.world import Action, Bind, Create, SetStatus, World
from lab.api.kinds import EVENT, NODE, POD
from nodeagent.pods import quantity

KINDS = (POD, NODE)

Amounts = dict[str, Fraction]

_WORDS = {
    NOT_READY: "node(s) were not ready",
    UNREACHABLE: "node(s) were not ready",
    UNSCHEDULABLE: "node(s) were unschedulable",
}
_SHORT = {"pods": "Too many pods", "cpu": "Insufficient cpu", "memory": "Insufficient memory"}


def plan(world: World) -> list[Action]:
    """Bind what fits; say of the rest why it does not."""
    nodes = sorted(
        (node for node in world.of(NODE) if not node.leaving), key=lambda n: n.metadata.name
    )
    placed = [pod for pod in world.of(POD) if pod.spec.get("nodeName")]
    load = Counter(pod.spec["nodeName"] for pod in placed if pod.active)
    kin = Counter((pod.spec["nodeName"], pod.owner) for pod in placed if pod.active)
    used: dict[str, Amounts] = {node.metadata.name: {} for node in nodes}
    for pod in placed:
        if not pod.finished and pod.spec["nodeName"] in used:
            _add(used[pod.spec["nodeName"]], _needs_of_any(pod))

    def one(pod: Thing) -> Iterator[Action]:
        if not pod.active or pod.spec.get("nodeName"):
            return
        needed = needs(pod)
        reasons = {n.metadata.name: refusal(pod, n, needed, used[n.metadata.name]) for n in nodes}
        fitting = [name for name, reason in reasons.items() if not reason]
        if not fitting:
            yield from _unschedulable(pod, list(reasons.values()), world.now)
            return
        chosen = min(fitting, key=lambda name: (kin[name, pod.owner], load[name]))
        load[chosen] += 1
        kin[chosen, pod.owner] += 1
        _add(used[chosen], needed)
        yield Bind(pod, chosen)

    return world.each(POD, one)


def refusal(pod: Thing, node: Thing, needed: Amounts, used: Amounts) -> str:
    """Why *pod* cannot run on *node*, in kube's words; empty if it can."""
    for taint in all_of(node):
        if taint["effect"] != "PreferNoSchedule" and not tolerates(pod, taint):
            shown = f"{{{taint['key']}: {taint.get('value', '')}}}"
            return _WORDS.get(taint["key"], f"node(s) had untolerated taint {shown}")
    if not pod.spec.get("nodeSelector", {}).items() <= node.metadata.labels.items():
        return "node(s) didn't match Pod's node affinity/selector"
    room: Mapping[str, str | int] = (node.raw.get("status") or {}).get("allocatable") or {}
    for name, words in _SHORT.items():
        if name in room and needed.get(name, 0) + used.get(name, 0) > _amount(room[name]):
            return words
    return ""


def needs(pod: Thing) -> Amounts:
    """What *pod* requests: of all containers together, or more if an init container wants it.

    Raises ValueError for what is no quantity.
    """
    together: Amounts = {"pods": Fraction(1)}
    for container in pod.spec.get("containers", ()):
        _add(together, _requests(container))
    for container in pod.spec.get("initContainers", ()):
        for name, amount in _requests(container).items():
            together[name] = max(amount, together.get(name, Fraction(0)))
    return together


def _needs_of_any(pod: Thing) -> Amounts:
    # One that was stored past all checks must not keep the others from being placed.
    try:
        return needs(pod)
    except (AttributeError, TypeError, ValueError):
        return {"pods": Fraction(1)}


def _requests(container: Raw) -> Amounts:
    asked = (container.get("resources") or {}).get("requests") or {}
    return {name: _amount(asked[name]) for name in ("cpu", "memory") if name in asked}


@lru_cache(maxsize=1024)
def _amount(value: str | int) -> Fraction:
    return quantity.parse(value)


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


def _unschedulable(pod: Thing, refusals: Sequence[str], now: str) -> Iterator[Action]:
    reasons = Counter(refusals)
    text = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    message = f"0/{len(refusals)} nodes are available: {text or 'there is none'}."
    if pod.condition("PodScheduled").message == message:
        return
    why = {"reason": "Unschedulable", "message": message}
    yield SetStatus(POD, with_condition(pod.raw, "PodScheduled", "False", now, **why))
    yield Create(EVENT, _event(pod, message, now))


def _event(pod: Thing, message: str, now: str) -> Raw:
    meta = pod.metadata
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta.name}.", "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid,
        },
        "reason": "FailedScheduling",
        "message": message,
        "type": "Warning",
        "source": {"component": "scheduler"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }  # fmt: skip
