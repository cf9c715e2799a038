"""Nodes that fall silent: they become NotReady, and later their pods are deleted.

How old a heartbeat is, is measured here from when it was first seen: the clocks of nodes do
not matter. A pod on a silent node stays, terminating, until its node confirms or is deleted;
replicas for it are made at once elsewhere.
"""

import time
from collections.abc import Callable, Iterator

from lab.api.controllers.taints import corrected, stays
from lab.api.controllers.views import Thing, with_condition
from lab.api.controllers.world import Action, Delete, SetStatus, Update, World
from lab.api.kinds import LEASE, NODE, POD

KINDS = (POD, LEASE, NODE)


class NodeLifecycle:
    """Plans from the age of heartbeats: renewals of the node's lease, or of its Ready condition.

    A node without any for *grace* seconds is NotReady; *eviction* seconds later its pods are
    deleted, but for those that bear it. Every node has the taints that its conditions call for.
    """

    def __init__(
        self, grace: float, eviction: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._grace = grace
        self._eviction = eviction
        self._clock = clock
        self._seen: dict[str, tuple[object, float]] = {}

    def plan(self, world: World) -> list[Action]:
        """Mark and taint nodes, and delete pods of nodes that are silent for long or gone."""
        ages = self._ages(world)
        pods: dict[str, list[Thing]] = {}
        for pod in world.of(POD):
            if name := pod.spec.get("nodeName"):
                pods.setdefault(name, []).append(pod)
        gone = [pod for name in pods.keys() - ages.keys() for pod in pods[name]]
        actions = world.each(
            NODE,
            lambda n: self._one(n, ages[n.metadata.name], pods.get(n.metadata.name, []), world.now),
        )
        return [*actions, *(Delete(POD, pod, grace=0) for pod in gone)]

    def _ages(self, world: World) -> dict[str, float]:
        now = self._clock()
        leases = {
            lease.metadata.name: lease.spec.get("renewTime")
            for lease in world.of(LEASE)
            if lease.metadata.namespace == "kube-node-lease"
        }
        seen = {}
        for node in world.of(NODE):
            name = node.metadata.name
            beat = (node.condition("Ready").last_heartbeat_time, leases.get(name))
            before = self._seen.get(name)
            seen[name] = before if before and before[0] == beat else (beat, now)
        self._seen = seen
        return {name: now - since for name, (_, since) in seen.items()}

    def _one(self, node: Thing, age: float, pods: list[Thing], now: str) -> Iterator[Action]:
        unknown = node.condition("Ready").status == "Unknown"
        silent = age > self._grace
        # One write to an object in a pass: the next one would be based on an older version.
        if (unknown or not silent) and (taints := corrected(node, now)) is not None:
            yield Update(NODE, {**node.raw, "spec": {**node.spec, "taints": taints}})
        if not silent:
            return
        if not unknown:
            fault = {"reason": "NodeStatusUnknown", "message": "the node sends no heartbeat"}
            yield SetStatus(NODE, with_condition(node.raw, "Ready", "Unknown", now, **fault))
        for pod in pods:
            if pod.ready:
                yield SetStatus(POD, with_condition(pod.raw, "Ready", "False", now))
            elif age > self._grace + self._eviction and not (pod.leaving or stays(pod)):
                yield Delete(POD, pod)
