"""The daemon: the node and its server at once, the pods as soon as Docker can be asked.

    settings --> node keeper, events, server          (from the start)
    Docker's facts + address --> PodHalf              (once both are known)

The node is reported, NotReady, while Docker is away; pods begin when it comes.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.service import Heartbeat, Service
from nodeagent import config, kubeletflags, statusview
from nodeagent.api.recorder import EventRecorder
from nodeagent.control import control_socket
from nodeagent.docker.api import Engine, EngineInfo, Image
from nodeagent.docker.engine import DockerEngine
from nodeagent.errors import EngineError, NodeAgentError
from nodeagent.malloc import use_few_arenas
from nodeagent.node.address import AddressError, NodeAddress
from nodeagent.node.facts import Machine
from nodeagent.node.keeper import NodeKeeper, Sources
from nodeagent.node.pressure import DISK, MEMORY, Pressure, victims
from nodeagent.node.settings import NodeSettings, kubelet_version
from nodeagent.node.signals import PressureWatch
from nodeagent.podhalf import PodHalf, make_host
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen
from nodeagent.server.parts import server_settings
from nodeagent.server.server import KubeletServer

log = logging.getLogger(__name__)

DOCKER_WITHIN = 5.0
"""Seconds that Docker has for its first answer before the node is reported without it."""
FACTS = 60.0
"""Seconds between two readings of Docker's facts and images."""
FAREWELL = 5.0
"""Seconds that Docker gets, when the agent ends, for the calls that are under way."""
MOST_EVICTION = 30
"""Seconds that a pod that was given up gets to free what is scarce (the kubelet's)."""
ADDRESS_WITHIN = 5.0
"""Seconds for which the server waits for the node's address."""
RETRY = 1.0
"""Seconds between two tries while Docker or the address cannot be had."""


class NodeAgentApp:
    """One nodeagent process; raises ConfigError for settings that cannot be used."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        use_few_arenas()
        self.settings = settings
        self._runner = runner
        self._started = time.time()
        self._version = version("barenode")
        self._wanted = config.sources(settings)
        self.problems = Problems()
        self.metrics = Metrics("nodeagent")
        self._kubelet = self.metrics.under("kubelet")
        kube = config.api_config(settings)
        self.name = config.node_name(settings)
        self._user_agent = f"nodeagent/{self._version}"
        self.client = None if kube is None else KubeClient(kube, user_agent=self._user_agent)
        servers = () if kube is None else kube.servers
        socket_path = config.docker_socket(settings)
        self.engine = DockerEngine(
            f"unix://{socket_path}", metrics=self._kubelet,
            change=settings["runtime-request-timeout"],
        )  # fmt: skip
        self.info: EngineInfo | None = None
        self._images: tuple[Image, ...] = ()
        self._engine_trouble = "Docker was not reached yet"
        self.machine = Machine(Path(settings["root-dir"]))
        self._address = NodeAddress(
            settings["node-ip"], settings["hostname-override"], servers,
            self.machine.facts().hostname,
        )  # fmt: skip
        self.recorder = EventRecorder(
            self.client, self.name, self.metrics,
            qps=float(settings["event-qps"] or 1_000_000), burst=settings["event-burst"],
        )  # fmt: skip
        self.pressure = Pressure(
            config.eviction(settings), settings["eviction-pressure-transition-period"]
        )
        self.pressure_watch = PressureWatch(
            self.pressure, self.machine, self._places, on_look=self._pressed
        )
        self.own_address = ""
        self._scarce = asyncio.Event()
        self._asked = asyncio.Event()
        self._known = asyncio.Event()
        self.keeper = self._make_keeper()
        self.pods: PodHalf | None = None
        self.server = KubeletServer(
            AppParts(self), server_settings(settings), client=self.client, runner=runner,
            problems=self.problems,
        )  # fmt: skip
        self._beat = Heartbeat("the main loop", 20.0)
        self.service = self._make_service()
        self._kubelet.gauge("node_name", "The node's name; always 1.", "node").labels(
            self.name
        ).set(1)

    def _make_keeper(self) -> NodeKeeper:
        settings = self.settings
        node = NodeSettings(
            name=self.name,
            labels=config.node_labels(settings),
            taints=config.node_taints(settings),
            schedulable=settings["register-schedulable"],
            register=settings["register-node"],
            max_pods=settings["max-pods"],
            reserved=config.reserved(settings),
            eviction=config.eviction(settings),
            port=settings["port"],
            version=kubelet_version(self._version),
            heartbeat=settings["node-status-update-frequency"],
        )
        sources = Sources(
            facts=self.machine.facts,
            address=self._address.find,
            engine=lambda: self.info,
            trouble=self.trouble,
            images=lambda: self._images,
            pressure=lambda: self.pressure.reasons,
        )
        return NodeKeeper(self.client, node, sources, self.recorder, self.problems)

    def _make_service(self) -> Service:
        settings = self.settings
        listen = []
        if settings["healthz-port"]:
            listen.append((settings["healthz-bind-address"], settings["healthz-port"]))
        service = Service(
            "nodeagent",
            problems=self.problems,
            metrics=self.metrics,
            status=self.status,
            socket_path=control_socket(settings["run-dir"]),
            listen=listen,
        )
        service.add_live_check("loop", self._beat)
        service.add_ready_check("docker", lambda: self.trouble() or None)
        # The API server may be a pod of this very node.
        service.add_ready_check("node", self.keeper.missing, holds_start=False)
        service.add_ready_check("pods", self._missing, holds_start=False)
        return service

    # --- what others ask ---

    def trouble(self) -> str:
        """Why no pods can be run, "" when they can."""
        if self.info is None:
            return self._engine_trouble
        return "" if self.pods is None else self.pods.observer.trouble

    def _missing(self) -> str | None:
        if self.pods is None:
            return "waiting for Docker and for this node's address"
        return None if self.pods.manager.all_listed else "not all sources of pods are listed yet"

    def _places(self) -> dict[str, Path]:
        found = {"nodefs": Path(self.settings["root-dir"])}
        if self.info is not None:
            found["imagefs"] = Path(self.info.root)
        return found

    def status(self) -> dict[str, Any]:
        """The status document; times are Unix seconds, absent things null."""
        return {
            "version": self._version,
            "pid": os.getpid(),
            "started": self._started,
            **statusview.sections(self),
        }

    # --- the loops ---

    async def run(self) -> int:
        """Run until a signal; returns the exit status, or hostkit.service.AGAIN."""
        for note in kubeletflags.notes(self.settings):
            log.info("%s", note)
        workers = {
            "node": self._keep_node(),
            "events": self.recorder.run(),
            "pressure": self.pressure_watch.run(),
            "server": self._serve(),
            "pods": self._run_pods(),
            "docker": self._keep_facts(),
            "evictions": self._relieve(),
            "main loop": self._tick(),
        }
        try:
            return await self.service.run(workers)
        finally:
            await self._close()

    async def _close(self) -> None:
        closing = asyncio.create_task(self._close_pods())
        await asyncio.wait([closing], timeout=FAREWELL)
        with contextlib.suppress(TimeoutError):
            await self.recorder.drain(1.0)
        await self.server.close()
        if self.client is not None:
            await self.client.close()
        await self.engine.close()
        await closing

    async def _close_pods(self) -> None:
        if self.pods is not None:
            await self.pods.close()

    async def _serve(self) -> None:
        """Serve, once there is the address that the certificate has to name or hope of it ends."""
        with contextlib.suppress(TimeoutError, AddressError):
            async with asyncio.timeout(ADDRESS_WITHIN):
                self.own_address = await self._address.find()
        await self.server.run()

    async def _keep_node(self) -> None:
        """Report the node, once Docker has said something or is slow to.

        A nodeagent that only begins is no reason to call its node NotReady, which takes the pods
        on it out of their services.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DOCKER_WITHIN):
                await self._asked.wait()
        await self.keeper.run()

    async def _tick(self) -> None:
        while True:
            self._beat.beat()
            await asyncio.sleep(0.5)

    async def _keep_facts(self) -> None:
        """Know what Docker is and which images it has."""
        while True:
            try:
                info = await self.engine.info()
                self._images = tuple(await self.engine.images())
            except EngineError as error:
                self._engine_trouble = str(error)
                self._asked.set()
                await asyncio.sleep(RETRY)
                continue
            fresh, self.info = self.info is None, info
            self._asked.set()
            self._known.set()
            if fresh:
                self.keeper.poke()
            await asyncio.sleep(FACTS)

    async def _run_pods(self) -> None:
        """Begin with the pods once it is known what to begin with."""
        address = await self._find_address()
        await self._known.wait()
        info = self.info or await self.engine.info()
        self.pods = PodHalf(
            self.settings,
            make_host(self.settings, self.machine.facts(), info, address),
            info,
            self.engine,
            self.client,
            recorder=self.recorder,
            runner=self._runner,
            problems=self.problems,
            metrics=self.metrics,
            node=self.keeper.local,
            node_uid=self._node_uid,
            pressure=lambda: self.pressure.active,
        )
        async with asyncio.TaskGroup() as group:
            for name, work in self.pods.workers().items():
                group.create_task(work, name=name)

    async def _find_address(self) -> str:
        while True:
            try:
                return await self._address.find()
            except AddressError as error:
                self.problems.set("node/address", str(error), blocking=True)
                await asyncio.sleep(RETRY)

    def _node_uid(self) -> str | None:
        node = self.keeper.node
        return None if node is None else (node.get("metadata") or {}).get("uid")

    def _pressed(self, changed: bool) -> None:
        if changed:
            self.keeper.poke()
        if self.pressure.breaches:
            self._scarce.set()

    async def _relieve(self) -> None:
        """Give up pods while something is scarce, one at a time."""
        while True:
            self._scarce.clear()
            await self._scarce.wait()
            if self.pods is not None and self.pressure.breaches:
                await self._evict(self.pods)

    async def _evict(self, pods: PodHalf) -> None:
        """Give up unused images, or one pod, for what is scarce; the next look shows whether that
        was enough."""
        breach = self.pressure.breaches[0]
        if breach.condition == DISK and await pods.image_gc.reclaim():
            return
        usage: dict[str, int] = {}
        if breach.condition == MEMORY:
            with contextlib.suppress(NodeAgentError):
                for pod in (await self.server.stats.sample()).pods:
                    usage[pod.uid] = sum(one.usage.working_set for one in pod.containers)
        candidates = [
            (worker.pod, usage.get(uid, 0))
            for uid, worker in pods.manager.workers.items()
            if worker.mode == "run" and not worker.orphan
        ]
        for uid in victims(breach.threshold.signal, candidates)[:1]:
            worker = pods.manager.workers[uid]
            # A threshold without a grace period leaves the pods none either (kubelet).
            worker.give_up("Evicted", breach.text, most_grace=0)
            for _ in range(MOST_EVICTION):
                if not pods.runs(uid):
                    break
                await asyncio.sleep(1.0)


class AppParts:
    """``ServerParts``: what the server shows of the agent."""

    def __init__(self, app: NodeAgentApp) -> None:
        self._app = app

    @property
    def engine(self) -> Engine:
        """Docker."""
        return self._app.engine

    @property
    def node_name(self) -> str:
        """The Node object's name."""
        return self._app.name

    def names(self) -> tuple[str, ...]:
        """Names and addresses of this node, its own name first."""
        hostname = self._app.machine.facts().hostname
        address = self._app.keeper.address or self._app.own_address
        found = (self._app.name, hostname, address, "localhost", "127.0.0.1")
        return tuple(dict.fromkeys(filter(None, found)))

    def pods(self) -> list[dict[str, Any]]:
        """All pods as API objects."""
        half = self._app.pods
        if half is None:
            return []
        found = []
        for worker in half.manager.workers.values():
            if not worker.orphan:
                document = msgspec.to_builtins(worker.pod)
                found.append({**document, "status": worker.status})
        return found

    def find(self, namespace: str, name: str) -> tuple[Pod, PodSeen] | None:
        """A pod by namespace and name."""
        for pod, seen in self.observed():
            if (pod.metadata.namespace, pod.metadata.name) == (namespace, name):
                return pod, seen
        return None

    def observed(self) -> Iterable[tuple[Pod, PodSeen]]:
        """All pods with their containers."""
        return () if self._app.pods is None else self._app.pods.running()

    def healthz(self) -> list[str]:
        """What hangs."""
        return self._app.service.not_alive()

    def metrics(self) -> bytes:
        """The agent's own metrics."""
        return self._app.metrics.render()
