"""All controllers and the scheduler, ready to run beside the API server."""

from collections.abc import Sequence
from functools import partial

from lab.api import scheduler
from lab.api.controllers import (
    accounts,
    cleanup,
    deployments,
    endpoints,
    nodes,
    replicas,
    volumes,
)
from lab.api.controllers.loop import Controller, run
from lab.api.controllers.world import Plan
from lab.api.kinds import POD, REPLICA_SET, REPLICATION_CONTROLLER, Kind
from lab.api.registry import Registry

NODE_GRACE = 40.0
EVICTION = 10.0
NODE_CHECK = 1.0
"""Seconds between two looks at the heartbeats."""


def make(
    registry: Registry, *, node_grace: float = NODE_GRACE, eviction: float = EVICTION
) -> list[Controller]:
    """Every controller; *node_grace* and *eviction* are in seconds, see nodes.NodeLifecycle."""
    lifecycle = nodes.NodeLifecycle(node_grace, eviction)
    sets = (REPLICATION_CONTROLLER, REPLICA_SET)

    def controller(name: str, kinds: Sequence[Kind], plan: Plan, resync: float = 0) -> Controller:
        return Controller(name, registry, kinds, plan, resync=resync)

    return [
        *(controller(f"{k.name} controller", (POD, k), partial(replicas.plan, k)) for k in sets),
        controller("deployment controller", deployments.KINDS, deployments.plan),
        controller("endpoints controller", endpoints.KINDS, endpoints.plan),
        controller("garbage collector", cleanup.KINDS, cleanup.plan_orphans),
        controller("namespace controller", cleanup.KINDS, cleanup.plan_namespaces),
        controller("service account controller", accounts.KINDS, accounts.plan),
        controller("volume controller", volumes.KINDS, volumes.plan),
        controller("node controller", nodes.KINDS, lifecycle.plan, NODE_CHECK),
        controller("scheduler", scheduler.KINDS, scheduler.plan),
    ]


async def run_controllers(
    registry: Registry, *, node_grace: float = NODE_GRACE, eviction: float = EVICTION
) -> None:
    """Run all controllers for ever."""
    await run(registry, make(registry, node_grace=node_grace, eviction=eviction))
