"""Running the controllers: list, plan, carry out.

Invariants: a plan sees complete lists, taken in the order in which its kinds are named; an
object that cannot be read is left out, named in the log once, and the others are served; every
write carries the version that the plan saw, so that a plan made on old facts is refused and
made again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from hostkit.errors import HostkitError
from hostkit.reconcile import Reconciler
from lab.api.controllers.world import (
    Action,
    Bind,
    Create,
    Delete,
    Plan,
    SetStatus,
    Update,
    World,
)
from lab.api.kinds import Kind
from lab.api.objects import StatusError
from lab.api.registry import Registry

log = logging.getLogger(__name__)

SETTLE = 0.02
"""Seconds for which changes are gathered before a pass."""


class Controller:
    """Makes *plan* true for the objects of *kinds*; plans every *resync* seconds if not 0."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        kinds: Sequence[Kind],
        plan: Plan,
        *,
        resync: float = 0.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.kinds = tuple(kinds)
        self._name = name
        self._registry = registry
        self._plan = plan
        self._now = now
        self._bad: dict[str, str] = {}
        self.reconciler = Reconciler(
            name,
            self._work,
            settle=SETTLE,
            resync=resync,
            tolerate=(StatusError, HostkitError, OSError),
        )

    async def _work(self) -> None:
        objects = {kind: await self._registry.list(kind) for kind in self.kinds}
        world = World(objects, self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        actions = self._plan(world)
        for key, text in world.bad.items() - self._bad.items():
            log.warning("%s leaves out %s: %s", self._name, key, text)
        self._bad = world.bad
        failure: StatusError | None = None
        for action in actions:
            try:
                await self._perform(action)
            except StatusError as error:
                # Deleted by another hand: nothing is left to do.
                failure = failure if error.code == 404 else failure or error
        if failure is not None:
            raise failure

    async def _perform(self, action: Action) -> None:
        match action:
            case Create(kind, thing):
                await self._registry.create(kind, thing["metadata"].get("namespace", ""), thing)
            case Update(kind, thing):
                await self._registry.update(kind, thing)
            case SetStatus(kind, thing):
                await self._registry.update_status(kind, thing)
            case Delete(kind, thing, grace):
                meta = thing.metadata
                await self._registry.delete(
                    kind, meta.namespace, meta.name, grace=grace, uid=meta.uid
                )
            case Bind(pod, node):
                await self._registry.bind(pod.metadata.namespace, pod.metadata.name, node)


async def run(registry: Registry, controllers: Sequence[Controller]) -> None:
    """Run *controllers* for ever on one watch of each kind."""

    async def follow(kind: Kind) -> None:
        concerned = [c.reconciler for c in controllers if kind in c.kinds]
        async for _ in registry.watch(kind):
            for reconciler in concerned:
                reconciler.trigger()

    async with asyncio.TaskGroup() as group:
        for kind in {kind for controller in controllers for kind in controller.kinds}:
            group.create_task(follow(kind))
        for controller in controllers:
            controller.reconciler.trigger()
            group.create_task(controller.reconciler.run())
