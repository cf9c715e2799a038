"""The scheduler: a node for every pod that has none.

A pod goes to a ready node that takes new pods and carries the labels of its nodeSelector; among
those to the one with the fewest pods of the same owner, then with the fewest pods.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from lab.api.controllers.views import Raw, Thing, with_condition
from lab.api.controllers.world import Action, Bind, Create, SetStatus, World
from lab.api.kinds import EVENT, NODE, POD

KINDS = (POD, NODE)


def plan(world: World) -> list[Action]:
    """Bind what fits; say of the rest why it does not."""
    nodes = sorted(
        (node for node in world.of(NODE) if not node.leaving), key=lambda n: n.metadata.name
    )
    placed = [pod for pod in world.of(POD) if pod.active and pod.spec.get("nodeName")]
    load = Counter(pod.spec["nodeName"] for pod in placed)
    kin = Counter((pod.spec["nodeName"], pod.owner) for pod in placed)

    def one(pod: Thing) -> Iterator[Action]:
        if not pod.active or pod.spec.get("nodeName"):
            return
        fitting = [node.metadata.name for node in nodes if not refusal(pod, node)]
        if not fitting:
            yield from _unschedulable(pod, nodes, world.now)
            return
        chosen = min(fitting, key=lambda name: (kin[name, pod.owner], load[name]))
        load[chosen] += 1
        kin[chosen, pod.owner] += 1
        yield Bind(pod, chosen)

    return world.each(POD, one)


def refusal(pod: Thing, node: Thing) -> str:
    """Why *pod* cannot run on *node*, in kube's words; empty if it can."""
    if not node.ready:
        return "node(s) were not ready"
    if node.spec.get("unschedulable"):
        return "node(s) were unschedulable"
    if not pod.spec.get("nodeSelector", {}).items() <= node.metadata.labels.items():
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def _unschedulable(pod: Thing, nodes: Sequence[Thing], now: str) -> Iterator[Action]:
    reasons = Counter(refusal(pod, node) for node in nodes)
    text = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    message = f"0/{len(nodes)} nodes are available: {text or 'there is none'}."
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
