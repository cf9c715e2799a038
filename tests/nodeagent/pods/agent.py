"""One life of an agent on a fake Docker, and the cluster that outlives it.

The manager, workers, planner, observer and status builder are the real ones; the parts that need
files or an API server are as small as their protocols allow.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from hostkit.metrics import Metrics
from nodeagent.api.port import SecretData, ServiceLink
from nodeagent.docker.api import Image
from nodeagent.docker.labels import CONTAINER_NAME, POD_UID
from nodeagent.docker.observer import Observer
from nodeagent.errors import EngineNotFound, PodError
from nodeagent.pods.backoff import Delays
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host, Mount
from nodeagent.pods.manager import PodManager, Wanted
from nodeagent.pods.model import SOURCE, Meta, Pod, PodSpec
from nodeagent.pods.observed import SANDBOX, Seen
from nodeagent.pods.parts import Parts
from tests.fakes.docker import AgentKilled, FakeEngine
from tests.fakes.docker_world import FakeContainer, World

HOST = Host(name="node1", address="192.0.2.1", hostname="node1", root=Path("/nonexistent"))
IMAGE, OTHER = "app:1", "app:2"
CHANGES = frozenset({"create", "start", "kill", "remove"})


def make_pod(name: str, *containers: str, inits: Sequence[str] = (), **spec: Any) -> Pod:
    """A pod as a test wants it; its uid is its name."""
    spec.setdefault("termination_grace_period_seconds", 5)
    return Pod(
        Meta(name=name, namespace="default", uid=f"uid-{name}"),
        PodSpec(
            containers=tuple(Container(name=c, image=IMAGE) for c in containers or ("app",)),
            init_containers=tuple(Container(name=c, image=IMAGE) for c in inits),
            **spec,
        ),
    )


class StrictWorld(World):
    """A Docker in which each rule that an agent breaks is noted in *broken*."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.reported: Callable[[str, str], int] = lambda _uid, _name: -1

    def start(self, one: FakeContainer) -> None:
        """Start, and note what must not be."""
        uid, name = one.labels[POD_UID], one.labels[CONTAINER_NAME]
        if any(other.running for other in self.find(name, uid) if other is not one):
            self.broken.append(f"{uid} {name}: two instances run")
        super().start(one)
        attempt = int(one.labels["annotation.io.kubernetes.container.restartCount"])
        if attempt <= self.reported(uid, name) or one.starts > 1:
            self.broken.append(f"{uid} {name}: attempt {attempt} began twice")


@dataclass
class Cluster:
    """The API server's pods and the manifests, as one agent after the other finds them."""

    world: StrictWorld = field(default_factory=StrictWorld)
    api: dict[str, Pod] = field(default_factory=dict)
    static: dict[str, Pod] = field(default_factory=dict)
    away: bool = False
    known: dict[str, Pod] = field(default_factory=dict)
    unwritten: dict[str, tuple[Pod, dict[str, Any]]] = field(default_factory=dict)
    history: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    agent: "Agent | None" = None
    admit: Callable[[Pod, list[Pod]], tuple[str, str] | None] = lambda _pod, _others: None

    def __post_init__(self) -> None:
        self.world.reported = self._reported

    def _reported(self, uid: str, name: str) -> int:
        """The attempt of a container that was reported to have run, -1 for none."""
        pod = self.api.get(uid)
        entries = () if pod is None else (
            *pod.status.get("containerStatuses", ()), *pod.status.get("initContainerStatuses", ())
        )  # fmt: skip
        for entry in entries:
            if entry["name"] == name and entry.get("containerID"):
                return int(entry["restartCount"])
        return -1

    def tell(self) -> None:
        """The agent hears that something is wanted otherwise."""
        if self.agent is not None:
            self.agent.manager.changed()

    def go_away(self) -> None:
        """The API server answers nobody: what it showed last is what is known."""
        if not self.away:
            self.away, self.known = True, dict(self.api)

    def come_back(self) -> None:
        """It answers again, and hears what was to be written."""
        self.away = False
        unwritten, self.unwritten = self.unwritten, {}
        for uid, (target, status) in unwritten.items():
            self.write(uid, target, status)
        self.tell()

    def write(self, uid: str, target: Pod, status: dict[str, Any]) -> None:
        """A status comes in."""
        if self.away:
            self.unwritten[uid] = (target, status)
            return
        pod = self.api.get(uid)
        if pod is not None and pod.status != status:
            self.history.append((uid, status))
            self.put(msgspec.structs.replace(pod, status=status))

    def put(self, pod: Pod) -> None:
        """Bind a pod to the node, or change it."""
        self.api[pod.uid] = pod
        self.tell()

    def delete(self, uid: str, grace: int = 5) -> None:
        """``kubectl delete``."""
        pod = self.api.get(uid)
        if pod is not None:
            meta = msgspec.structs.replace(
                pod.metadata, deletion_timestamp="2026-01-01T00:00:00Z",
                deletion_grace_period_seconds=grace,
            )  # fmt: skip
            self.put(msgspec.structs.replace(pod, metadata=meta))

    def status(self, uid: str) -> dict[str, Any]:
        """What was reported last."""
        return self.api[uid].status

    def running(self, uid: str) -> list[str]:
        """Names of a pod's containers that run, the sandbox left out."""
        return sorted(
            one.labels[CONTAINER_NAME]
            for one in self.world.containers.values()
            if one.running and one.labels[POD_UID] == uid and one.labels[CONTAINER_NAME] != SANDBOX
        )


class _Api:
    """What an agent knows of the API server's pods."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._listed = False

    @property
    def listed(self) -> bool:
        self._listed = self._listed or not self._cluster.away
        return self._listed

    def wanted(self) -> Mapping[str, Wanted]:
        found = self._cluster.known if self._cluster.away else self._cluster.api
        return {uid: Wanted(pod, dict, checked=True) for uid, pod in found.items()}


class _Manifests:
    listed = True

    def __init__(self, pods: Mapping[str, Pod]) -> None:
        self._pods = pods

    def wanted(self) -> Mapping[str, Wanted]:
        return {uid: Wanted(pod, dict, checked=True) for uid, pod in self._pods.items()}


@dataclass(frozen=True)
class _Verdict:
    ready: bool = True
    started: bool = True
    failed: Any = ""
    message: str = ""
    grace: int | None = None


class Probes:
    """Everything that runs is ready, but for those in *failed*."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def sync(self, *_arguments: Any, **_more: Any) -> None:
        """As ``Probing``."""

    def verdict(self, container_id: str) -> _Verdict:
        """As ``Probing``."""
        return replace(_Verdict(), failed=self.failed.get(container_id, ""))

    def forget(self, uid: str) -> None:
        """As ``Probing``."""


class _Images:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def ensure(
        self, _pod: Pod, container: Container, _secrets: Sequence[SecretData]
    ) -> Image:
        found = await self._engine.image(container.image)
        if found is None:
            raise PodError("ErrImagePull", f"image {container.image} cannot be pulled")
        return found


async def _pause(_pod: Pod) -> None:
    return


class _Volumes:
    async def prepare(self, pod: Pod) -> None:
        return

    async def mounts(self, *_arguments: Any, **_more: Any) -> tuple[Mount, ...]:
        return ()

    async def refresh(self, _pod: Pod) -> bool:
        return False

    async def teardown(self, uid: str) -> None:
        return


class _Objects:
    services_listed = True

    def hold(self, *_arguments: Any) -> None:
        return

    def release(self, uid: str) -> None:
        return

    async def config_map(self, *_arguments: Any) -> Mapping[str, bytes] | None:
        return None

    async def secret(self, *_arguments: Any) -> SecretData | None:
        return None

    async def token(self, *_arguments: Any) -> tuple[str, float]:
        raise PodError("ObjectUnavailable", "no API server")

    async def get(self, path: str) -> Mapping[str, Any] | None:
        return None

    async def services(self) -> Sequence[ServiceLink]:
        return ()


class _Cgroups:
    async def prepare(self, _pod: Pod) -> str:
        return ""

    async def end_left(self, uid: str, container: str) -> None:
        return

    async def remove(self, uid: str) -> None:
        return


class _Recorder:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def pod(self, pod: Pod, _kind: str, reason: str, message: str, _container: str = "") -> None:
        self._cluster.events.append((reason, message))

    def node(self, _kind: str, reason: str, message: str) -> None:
        self._cluster.events.append((reason, message))


class _Statuses:
    """Writes to the cluster, and no more once the agent was killed."""

    def __init__(self, cluster: Cluster, engine: FakeEngine) -> None:
        self._cluster = cluster
        self._engine = engine

    def put(self, target: Pod, status: dict[str, Any]) -> None:
        if not self._engine.dead:
            self._cluster.write(target.uid, target, status)

    async def confirm_gone(self, target: Pod) -> bool:
        while self._cluster.away:  # noqa: ASYNC110 - as the real one, which asks again and again
            await asyncio.sleep(0.5)
        if self._engine.dead:
            return False
        left = [one for one in self._cluster.world.containers.values()
                if one.labels[POD_UID] == target.uid]  # fmt: skip
        assert not left, "a pod was confirmed gone while it has containers"
        self._cluster.api.pop(target.uid, None)
        asyncio.get_running_loop().call_soon(self._cluster.tell)
        return True


class Engine(FakeEngine):
    """The engine of one agent. Once that was killed its calls have no answer until *buried*."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.buried = asyncio.Event()
        self.closed = asyncio.Event()

    def successor(self) -> "Engine":
        """The engine of the next agent."""
        self.dead = True
        return Engine(self.world)

    def heal(self) -> None:
        """Nothing hangs, fails or is killed any more."""
        self._kill = None
        self._failures.clear()
        for call in tuple(self._gates):
            self.release(call)

    async def _call(self, name: str, subject: str, effect: Callable[[], Any]) -> Any:
        task = asyncio.ensure_future(super()._call(name, subject, effect))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda one: one.cancelled() or one.exception())
            # As with the real one: what has been begun goes on, and its end is waited for.
            while name in CHANGES and not task.done() and not self.closed.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            raise
        except AgentKilled:
            await self.buried.wait()
            raise

    async def close(self) -> None:
        """As ``DockerEngine.close``."""
        self.closed.set()


class Agent:
    """An agent that runs until it is stopped, or killed between two calls of its engine.

    *others* are parts to be used in place of the usual ones, by the names in ``Parts``.
    """

    def __init__(
        self, cluster: Cluster, engine: Engine, *, wall: float = 0.0,
        delays: Delays = Delays(first=0.5, most=2.0),  # noqa: B008 - a frozen value
        **others: Any,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self.cluster = cluster
        self.engine = engine
        self.probes = Probes()
        self.wall = wall
        metrics = Metrics("kubelet", registry=CollectorRegistry())
        self.observer = Observer(engine, self._observed, clock=loop.time, metrics=metrics)
        parts = Parts(
            host=HOST, engine=engine, observer=self.observer, images=_Images(engine),
            volumes=_Volumes(), probes=self.probes, objects=_Objects(),
            pause=_pause,
            recorder=_Recorder(cluster), statuses=_Statuses(cluster, engine),
            cgroups=_Cgroups(), clock=loop.time, wall=lambda: 1_700_000_000.0 + self.wall,
            delays=delays,
        )  # fmt: skip
        self.parts = replace(parts, **others)
        self.manager = PodManager(
            self.parts, self.observer, (_Manifests(cluster.static), _Api(cluster)),
            admit=lambda item, others: cluster.admit(item.pod, others),
            mirror=lambda _uid: None,
        )  # fmt: skip
        cluster.agent = self
        self._tasks = [
            asyncio.create_task(self._quietly(work))
            for work in (self.observer.run, self.manager.loop.run)
        ]

    def _observed(self, uid: str) -> None:
        self.manager.observed(uid)

    async def _quietly(self, work: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError, AgentKilled):
            await work()

    async def stop(self) -> None:
        """End it; what it began stays."""
        self.engine.dead = True
        self.engine.buried.set()
        await self.engine.close()
        await self.manager.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self, **more: Any) -> "Agent":
        """The agent that is started after this one."""
        await self.stop()
        return Agent(self.cluster, self.engine.successor(), **more)


def static_pod(name: str, content: str = "", **spec: Any) -> Pod:
    """A pod of a manifest; another *content* is another pod of the same name."""
    made = make_pod(name, **spec)
    meta = msgspec.structs.replace(
        made.metadata, uid=f"uid-{name}-{content}", annotations={SOURCE: "file"}
    )
    return msgspec.structs.replace(made, metadata=meta)


def new_cluster() -> Cluster:
    """A cluster whose node has the images that pods need."""
    cluster = Cluster()
    cluster.world.add_image(IMAGE)
    cluster.world.add_image(OTHER)
    cluster.world.add_image(HOST.pause_image)
    return cluster


def seen_in(world: World, container: str) -> Seen:
    """A container as the agent would see it."""
    from nodeagent.docker.labels import seen_of  # noqa: PLC0415 - for this alone

    if container not in world.containers:
        raise EngineNotFound(container)
    return seen_of(world.containers[container].document())
