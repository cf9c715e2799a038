"""Keeps this node known to the API server: registration, heartbeats, status.

    facts, address, Docker, pressure --> view --> status --> PATCH when it says something new
                                                   ^         (or when a heartbeat is due)
    own Node --listwatch--> node ------------------+
    lease: renewed on its own, so that a slow write of the status never costs a heartbeat

Invariants:

* heartbeats go on whatever is wrong with Docker: it shows in the Ready condition only;
* a Node that was deleted is made again; what others set in it is never undone;
* all waiting is on a monotonic clock: the wall clock is written, never compared;
* a status that others keep changing is written at most every ten seconds.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from hostkit.kube.errors import Forbidden, KubeError, NotFound
from hostkit.kube.listwatch import Changed, Listed, follow
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.api.port import Recorder
from nodeagent.docker.api import EngineInfo, Image
from nodeagent.node.address import AddressError
from nodeagent.node.api import call, time_text
from nodeagent.node.facts import Facts
from nodeagent.node.lease import LeasesAbsent, NodeLease
from nodeagent.node.ownnode import Node, OwnNode, same_wishes
from nodeagent.node.registration import NODES, Registrar
from nodeagent.node.rival import Rival, is_stranger
from nodeagent.node.settings import NodeSettings
from nodeagent.node.status import (
    View,
    node_object,
    node_status,
    part,
    parts_changed,
    status_patch,
    transitions,
)

LOOK = 1.0
"""Seconds between two looks at what the status is made of: Ready flips within that time."""

REFRESH = 10.0
"""Seconds after which facts and address are read anew."""

LEASE_RETRY = 60.0
"""Seconds after which leases are tried again at a server that had none."""

BURST, REFILL = 10, 10.0
"""How many changes of the status are written at once, and seconds until one more may be."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the keeper gets what it reports; all but *address* answer at once.

    *trouble* is why no pods can be run, "" when they can. *engine* is None while Docker has not
    told about itself. *pressure* maps the conditions that are true to their causes. *address*
    raises AddressError.
    """

    facts: Callable[[], Facts]
    address: Callable[[], Awaitable[str]]
    engine: Callable[[], EngineInfo | None]
    trouble: Callable[[], str]
    images: Callable[[], Sequence[Image]] = field(default=tuple)
    pressure: Callable[[], Mapping[str, str]] = field(default=dict)


class NodeKeeper:
    """The node of *settings* at the API server of *client*; None runs without one.

    *on_node* hears the Node when its labels, annotations, spec or allocatable changed. Problems
    are kept under ``node``, ``node/address``, ``node/lease`` and ``node/rival``.
    """

    def __init__(
        self,
        client: KubeClient | None,
        settings: NodeSettings,
        sources: Sources,
        recorder: Recorder,
        problems: Problems,
        *,
        on_node: Callable[[Node], None] = lambda _node: None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._settings = settings
        self._sources = sources
        self._recorder = recorder
        self._problems = problems
        self._on_node = on_node
        self._backoff = backoff or Backoff(first=0.5, most=8.0)
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._facts: Facts | None = None
        self._address = ""
        self._refreshed: float | None = None
        self._own = OwnNode(settings.name, self._changed)
        self._posted: float | None = None
        # What the server changed of what it was sent: sending it again changes nothing.
        self._refused: dict[str, Any] = {}
        self._credit, self._credited = float(BURST), clock()
        self._failures = {"status": 0, "lease": 0}
        self._wakes = {"status": asyncio.Event(), "lease": asyncio.Event()}
        self._leased = False
        self._last_error = ""
        self._rival = Rival(clock)
        if client is not None:
            self._lease = NodeLease(client, settings.name, self._rival, wall=wall)
            self._registrar = Registrar(client, settings, self._lease.read, clock=clock)

    # --- for others ---

    @property
    def node(self) -> Node | None:
        """The Node as the API server has it, None while that is not known."""
        return self._own.node

    @property
    def registered(self) -> bool:
        """Whether the Node was made or adopted, and is there."""
        return self._own.node is not None

    @property
    def address(self) -> str:
        """The node's address, "" while it is not known."""
        return self._address

    def local(self) -> Node:
        """The Node as it would be registered: what admission goes by without an API server."""
        return self._own.node or node_object(self._settings, self.view(), self._now())

    def missing(self) -> str | None:
        """What is lacking before the control plane knows this node."""
        if self._client is None or self.registered:
            return None
        cause = f": {self._last_error}" if self._last_error else ""
        return f"node {self._settings.name} is not registered yet{cause}"

    def poke(self) -> None:
        """Look at the sources now: something that the status tells has changed."""
        # An API server that is in trouble is not to be asked sooner for that.
        if not self._failures["status"]:
            self._wakes["status"].set()

    def view(self) -> View:
        """What is so at this moment."""
        if self._facts is None:
            self._facts = self._sources.facts()
        return View(
            self._facts,
            self._address,
            self._sources.engine(),
            self._sources.images(),
            self._sources.pressure(),
            self._sources.trouble(),
        )

    async def run(self) -> None:
        """Keep the node known for ever."""
        self._recorder.node("Normal", "Starting", f"nodeagent {self._settings.version} starts")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop("status", self.turn))
            if self._client is not None:
                group.create_task(self._loop("lease", self.beat))
                group.create_task(self._follow(self._client))

    # --- status ---

    async def turn(self) -> float:
        """Do what is due for registration and status; seconds until the next turn."""
        try:
            await self._refresh()
            if self._client is not None:
                await self._converge(self._client)
        except (KubeError, AddressError) as error:
            self._last_error = str(error)
            self._problems.set("node", self._last_error)
            return self._failed("status")
        self._failures["status"] = 0
        self._last_error = ""
        self._problems.clear("node")
        self._problems.update("node/rival", self._rival.text)
        return LOOK if self._client is not None else REFRESH

    async def _refresh(self) -> None:
        """Read facts and address, if that was long ago; raises AddressError without any."""
        now = self._clock()
        if self._refreshed is not None and now - self._refreshed < REFRESH:
            return
        self._facts = self._sources.facts()
        try:
            self._address = await self._sources.address()
        except AddressError as error:
            # A route that is gone for a moment does not take the address from the pods' peers.
            if not self._address:
                raise
            self._problems.set("node/address", str(error))
        else:
            self._problems.clear("node/address")
        self._refreshed = now

    async def _converge(self, client: KubeClient) -> None:
        if self._own.stale:
            node = await self._registrar.read()
            if node is None:
                self._own.drop()
            else:
                self._own.put(node)
        if not self.registered:
            await self._register()
        await self._report(client)

    async def _register(self) -> None:
        view = self.view()
        node, made = await self._registrar.register(view, self._now())
        boot = part(part(node, "status"), "nodeInfo").get("bootID")
        self._posted = self._clock() if made else None
        self._own.put(node)
        self._wakes["lease"].set()
        if made:
            self._tell({}, node_status({}, self._settings, view, self._now()))
        if boot and view.facts.boot_id and boot != view.facts.boot_id:
            text = f"the host was started anew, its boot ID is {view.facts.boot_id} now"
            self._recorder.node("Warning", "Rebooted", text)

    async def _report(self, client: KubeClient) -> None:
        """Write the status if it says something new or a heartbeat is due."""
        previous = self._own.status
        wanted = node_status(previous, self._settings, self.view(), self._now())
        interval = self._settings.report if self._leased else self._settings.heartbeat
        due = self._posted is None or self._clock() - self._posted >= interval
        news = [
            name
            for name in parts_changed(previous, wanted)
            if name not in self._refused or self._refused[name] != wanted[name]
        ]
        if not due and not (news and self._afford()):
            return
        path = f"{self._registrar.path}/status"
        try:
            answer = await call(client, "PATCH", path, status_patch(previous, wanted))
        except NotFound:
            self._own.drop()
            self.poke()
            return
        self._posted = self._clock()
        found = part(answer, "status")
        self._refused = {name: wanted[name] for name in parts_changed(found, wanted)}
        self._own.put(answer)
        self._tell(previous, wanted)

    def _tell(self, previous: Node, wanted: Node) -> None:
        for reason, text in transitions(previous, wanted):
            self._recorder.node("Normal", reason, text)

    def _afford(self) -> bool:
        """Whether one more change may be written now."""
        now = self._clock()
        self._credit = min(BURST, self._credit + (now - self._credited) / REFILL)
        self._credited = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    # --- lease ---

    async def beat(self) -> float:
        """Renew the lease; seconds until the next time."""
        if not self.registered:
            return LOOK
        try:
            await self._lease.renew(self._own.uid)
        except (LeasesAbsent, Forbidden) as error:
            self._leased = False
            self._problems.set(
                "node/lease",
                f"{error}; the status is sent every {self._settings.heartbeat:g} s instead",
            )
            return LEASE_RETRY
        except KubeError as error:
            self._problems.set("node/lease", f"not renewed: {error}")
            return self._failed("lease")
        self._leased = True
        self._failures["lease"] = 0
        self._problems.clear("node/lease")
        # Nodes that were started together shall not stay together.
        return self._settings.heartbeat * random.uniform(0.9, 1.0)

    # --- the own Node ---

    async def _follow(self, client: KubeClient) -> None:
        params = (("fieldSelector", f"metadata.name={self._settings.name}"),)
        source = follow(client, NODES, params=params, on_state=self._connection)
        async with aclosing(source) as items:
            async for item in items:
                self.take(item)
                # A list holds on to its whole answer, and the next item may be long in coming.
                del item

    def _connection(self, connected: bool, _text: str) -> None:
        if connected:
            for wake in self._wakes.values():
                wake.set()

    def take(self, item: Listed | Changed) -> None:
        """Take what the watch of the own Node tells."""
        self._own.take(item)
        self.poke()

    def _changed(self, before: Node | None, node: Node) -> None:
        if self._facts is not None and self._posted is not None and is_stranger(node, self._facts):
            self._rival.seen("another machine reports the status of this node")
        if before is None or not same_wishes(before, node):
            self._on_node(node)
        cordoned = bool(part(node, "spec").get("unschedulable"))
        if before is not None and bool(part(before, "spec").get("unschedulable")) != cordoned:
            reason = "NodeNotSchedulable" if cordoned else "NodeSchedulable"
            text = "takes no new pods from now on" if cordoned else "takes new pods again"
            self._recorder.node("Normal", reason, f"node {self._settings.name} {text}")

    # --- loops ---

    def _failed(self, loop: str) -> float:
        self._failures[loop] += 1
        return self._backoff.delay(self._failures[loop])

    async def _loop(self, name: str, work: Callable[[], Awaitable[float]]) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            pause = await work()
            sleeping = asyncio.ensure_future(self._sleep(pause))
            waking = asyncio.ensure_future(wake.wait())
            try:
                await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()
                await asyncio.gather(sleeping, waking, return_exceptions=True)

    def _now(self) -> str:
        return time_text(self._wall())
