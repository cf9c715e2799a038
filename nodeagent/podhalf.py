"""Everything that runs pods, made once Docker and this node's address are known.

manifests --+                                +--> Docker
API server -+--> PodManager --> PodWorker ---+--> statuses, events
Docker -----+                                +--> volumes, cgroups
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from nodeagent import config
from nodeagent.api.objects import ApiObjects, NoObjects
from nodeagent.api.port import Recorder
from nodeagent.api.statuses import StatusWriter
from nodeagent.docker.api import EngineInfo
from nodeagent.docker.engine import DockerEngine
from nodeagent.docker.imagegc import ImageGC
from nodeagent.docker.imageplan import Marks
from nodeagent.docker.images import Images
from nodeagent.docker.keychain import Keychain
from nodeagent.docker.observer import Observer
from nodeagent.docker.pause import PAUSE, ensure_pause
from nodeagent.errors import EngineError, NodeAgentError, PodError
from nodeagent.node.cgroups import PodCgroups
from nodeagent.node.facts import Facts, process_age
from nodeagent.node.status import pod_share
from nodeagent.pods.admission import NodeView, admit
from nodeagent.pods.backoff import Delays
from nodeagent.pods.check import problems_of
from nodeagent.pods.container import Container
from nodeagent.pods.containerstatus import text_of
from nodeagent.pods.host import Host
from nodeagent.pods.manager import PodManager, Source, Wanted
from nodeagent.pods.model import MIRROR, Pod
from nodeagent.pods.observed import SANDBOX, PodSeen
from nodeagent.pods.parts import Parts, StatusSink
from nodeagent.pods.worker import PodWorker
from nodeagent.probes.manager import Probes
from nodeagent.sources.apipods import ApiPods
from nodeagent.sources.files import ManifestSource
from nodeagent.sources.mirrors import Mirrors
from nodeagent.sources.wanted import BoundPods, ManifestPods
from nodeagent.volumes.volumes import Volumes

log = logging.getLogger(__name__)

SWEEP = 300.0
"""Seconds between two looks for files and cgroups of pods that are gone."""
USAGE = 15.0
"""Seconds between two looks at how much the volumes of pods with limits hold."""


class NoStatuses:
    """``StatusSink`` of an agent without an API server."""

    def put(self, target: Pod, status: dict[str, Any]) -> None:
        """Nobody asks."""

    async def confirm_gone(self, target: Pod) -> bool:
        """There is no object."""
        return True


def make_host(settings: Settings, facts: Facts, info: EngineInfo, address: str) -> Host:
    """This node as the pure parts want to know it."""
    cpus, memory = pod_share(config.reserved(settings), config.eviction(settings), facts)
    return Host(
        name=config.node_name(settings),
        address=address,
        hostname=facts.hostname,
        root=Path(settings["root-dir"]),
        cpus=facts.cpus,
        memory=facts.memory,
        pod_cpus=cpus,
        pod_memory=memory,
        pause_image=settings["pod-infra-container-image"] or PAUSE,
        cluster_dns=settings["cluster-dns"],
        cluster_domain=settings["cluster-domain"],
        cgroup_driver=info.cgroup_driver,
        cgroups_v2=info.cgroup_version == "2",
        cgroup_root=settings["cgroup-root"],
        cgroup_per_pod=settings["cgroups-per-qos"],
        log_max_size=config.log_max_size(settings),
        log_max_files=settings["container-log-max-files"],
        allowed_unsafe_sysctls=settings["allowed-unsafe-sysctls"],
        seccomp_root=config.seccomp_root(settings),
        resolv_conf=Path(settings["resolv-conf"] or "/dev/null"),
        max_pods=settings["max-pods"],
    )


class PodHalf:
    """Runs the pods of this node on *engine*; *node* gives the Node object for admission."""

    def __init__(
        self,
        settings: Settings,
        host: Host,
        info: EngineInfo,
        engine: DockerEngine,
        client: KubeClient | None,
        *,
        recorder: Recorder,
        runner: Runner,
        problems: Problems,
        metrics: Metrics,
        node: Callable[[], Mapping[str, Any]],
        node_uid: Callable[[], str | None],
        pressure: Callable[[], frozenset[str]],
    ) -> None:
        kubelet = metrics.under("kubelet")
        self.settings = settings
        self.host = host
        self._engine = engine
        self._recorder = recorder
        self._problems = problems
        self._node = node
        self._pressure = pressure
        self._security = frozenset(
            option.partition("name=")[2].partition(",")[0] for option in info.security_options
        )
        self.observer = Observer(engine, self._observed, metrics=kubelet)
        self.objects = (
            NoObjects() if client is None else ApiObjects(client, self._objects_changed, problems)
        )
        self.volumes = Volumes(host, self.objects, recorder, runner, clock=time.monotonic)
        self.probes = Probes(engine, recorder, self._probed, metrics=kubelet)
        self.statuses = None if client is None else StatusWriter(client, problems, metrics)
        self.cgroups = PodCgroups(host, runner, problems)
        self.images = Images(
            engine, Keychain.of_node(host.root), recorder, parallel=config.parallel_pulls(settings)
        )
        self.parts = self._make_parts()
        self.manifests = self._make_manifests()
        self.api = None if client is None else self._make_api(client)
        self.mirrors = (
            Mirrors(client, host.name, node_uid, problems)
            if client is not None and self.manifests is not None
            else None
        )
        self._mirrors_due = asyncio.Event()
        sources: list[Source] = [
            *([ManifestPods(self.manifests)] if self.manifests else []),
            *([BoundPods(self.api)] if self.api else []),
        ]
        self.manager = PodManager(
            self.parts, self.observer, sources, admit=self._admit, mirror=self.mirror,
            on_status=self._reported,
        )  # fmt: skip
        self._started = kubelet.histogram(
            "pod_start_duration_seconds", "From a pod's being seen to its running.",
            (0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300),
        )  # fmt: skip
        self._first_seen: dict[str, float] = {}
        self.image_gc = ImageGC(
            engine, self._images_in_use, recorder,
            marks=Marks(settings["image-gc-high-threshold"], settings["image-gc-low-threshold"],
                        settings["minimum-image-ttl-duration"]),
        )  # fmt: skip

    # --- making ---

    def _make_parts(self) -> Parts:
        settings, sink = self.settings, self.statuses
        statuses: StatusSink = NoStatuses() if sink is None else sink
        return Parts(
            host=self.host, engine=self._engine, observer=self.observer,
            images=self.images,
            volumes=self.volumes, probes=self.probes, objects=self.objects,
            recorder=self._recorder, statuses=statuses, cgroups=self.cgroups, pause=self._pause,
            clock=time.monotonic, wall=time.time, process_age=process_age,
            delays=Delays(settings["container-backoff-first"], settings["container-backoff-max"]),
            keep_dead=settings["maximum-dead-containers-per-container"],
        )  # fmt: skip

    def _make_manifests(self) -> ManifestSource | None:
        path = config.manifest_path(self.settings)
        if path is None:
            return None
        return ManifestSource(
            path, self.host.name, self._manifests_changed, self._problems,
            check=problems_of,
            memory=self.host.root / "static-pods.json",
            every=self.settings["file-check-frequency"],
        )  # fmt: skip

    def _make_api(self, client: KubeClient) -> ApiPods:
        return ApiPods(
            client, self.host.name, self._api_changed, self._problems,
            on_listed=self._api_changed,
            on_connected=self.statuses.hurry if self.statuses else lambda: None,
        )  # fmt: skip

    # --- what happens ---

    def _observed(self, uid: str) -> None:
        self.manager.observed(uid)

    def _probed(self, uid: str) -> None:
        self.manager.probed(uid)

    def _objects_changed(self, uid: str) -> None:
        self.manager.objects_changed(uid)

    def _manifests_changed(self) -> None:
        self.manager.changed()
        self._mirrors_due.set()

    def _api_changed(self, uid: str = "") -> None:
        item = self.api.items.get(uid) if self.api else None
        if self.statuses is not None and uid:
            if item is None:
                self.statuses.forget(uid)
            else:
                self.statuses.observed(item.pod)
        if uid and item is not None:
            # One that runs was begun already, by a former agent maybe.
            if text_of(item.pod.status.get("phase")) in {"", "Pending"}:
                self._first_seen.setdefault(uid, time.monotonic())
        elif uid:
            self._first_seen.pop(uid, None)
        if self.mirrors is not None and (item is None or item.pod.is_mirror):
            self._mirrors_due.set()
            self._show_again()
        self.manager.changed(uid)
        self._refuse_bad()

    def _show_again(self) -> None:
        """A mirror pod came: its static pod's status is to be written to it."""
        for worker in self.manager.workers.values():
            if worker.pod.is_static:
                worker.loop.trigger()

    def _refuse_bad(self) -> None:
        """Tell on pods that cannot be decoded what is wrong with them."""
        if self.api is None or self.statuses is None:
            return
        for bad in self.api.bad():
            self.statuses.put(
                bad.pod, {"phase": "Failed", "reason": "InvalidPod", "message": bad.text}
            )

    def _reported(self, pod: Pod, status: dict[str, Any]) -> None:
        if status.get("phase") == "Running" and pod.uid in self._first_seen:
            self._started.observe(time.monotonic() - self._first_seen.pop(pod.uid))

    def _admit(self, item: Wanted, others: list[Pod]) -> tuple[str, str] | None:
        view = NodeView.of(self._node(), self._security)
        refusal = admit(item.pod, others, self.host, view, item.spec())
        return None if refusal is None else (refusal.reason, refusal.message)

    def mirror(self, uid: str) -> Pod | None:
        """The object that shows the static pod *uid*, None while there is none."""
        if self.api is None:
            return None
        for pod in self.api.by_name().values():
            if pod.metadata.annotations.get(MIRROR) == uid:
                return None if pod.metadata.deletion_timestamp else pod
        return None

    def _images_in_use(self) -> Iterable[str]:
        yield self.host.pause_image
        for seen in self.observer.pods.values():
            for one in seen.everything:
                yield from (one.image, one.image_id)

    # --- the loops ---

    def workers(self) -> dict[str, Any]:
        """The coroutines that run for ever, by name."""
        found: dict[str, Any] = {
            "docker": self.observer.run(),
            "pods": self._run_manager(),
            "images": self.image_gc.run(),
            "sweep": self._sweep(),
            "usage": self._keep_limits(),
        }
        if self.manifests is not None:
            found["manifests"] = self.manifests.run()
        if self.api is not None:
            found["pods of the API server"] = self.api.run()
        if isinstance(self.objects, ApiObjects):
            found["objects"] = self.objects.run()
        if self.mirrors is not None:
            found["mirror pods"] = self._keep_mirrors(self.mirrors)
        return found

    async def _run_manager(self) -> None:
        """Make sure of what every pod needs, then see to the pods."""
        self._problems.update("cgroups", await self.cgroups.check())
        if not self.settings["pod-infra-container-image"]:
            await self._ensure_pause()
        await self.manager.loop.run()

    async def _pause(self, pod: Pod) -> None:
        """Have the image of sandboxes here; one of ours may have been removed since the start."""
        if self.host.pause_image == PAUSE:
            await ensure_pause(self._engine)
        else:
            await self.images.ensure(pod, Container(name=SANDBOX, image=self.host.pause_image))

    async def _ensure_pause(self) -> None:
        while True:
            try:
                await ensure_pause(self._engine)
            except EngineError as error:
                self._problems.set("pause image", str(error))
                await asyncio.sleep(2.0)
            except NodeAgentError as error:
                # Nothing mends this but a setting.
                self._problems.set("pause image", str(error), blocking=True)
                return
            else:
                self._problems.clear("pause image")
                return

    async def _keep_mirrors(self, mirrors: Mirrors) -> None:
        while True:
            self._mirrors_due.clear()
            delay: float | None = 60.0
            if self.manifests and self.api and self.manifests.listed and self.api.listed:
                delay = await mirrors.sync(self.manifests.pods, self.api.by_name())
            try:
                async with asyncio.timeout(delay):
                    await self._mirrors_due.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> None:
        """Clear away files and cgroups of pods that went while no agent ran."""
        while True:
            await asyncio.sleep(5.0 if not self.manager.all_listed else SWEEP)
            if not self.manager.all_listed:
                continue
            known = {*self.manager.workers, *self.observer.pods}
            for uid in await self.volumes.orphans(known):
                if uid not in self.manager.workers:
                    await self._tear_down(uid)
            await self.cgroups.sweep(lambda: {*self.manager.workers, *self.observer.pods})

    async def _tear_down(self, uid: str) -> None:
        try:
            await self.volumes.teardown(uid)
            log.info("files of a pod that is gone (%s) were removed", uid)
        except PodError as error:
            log.warning("files of a pod that is gone (%s): %s", uid, error)

    async def _keep_limits(self) -> None:
        """Evict pods whose volumes hold more than they may."""
        while True:
            await asyncio.sleep(USAGE)
            for worker in list(self.manager.workers.values()):
                if worker.mode == "run" and _limited(worker.pod):
                    await self._keep_limit(worker)

    async def _keep_limit(self, worker: PodWorker) -> None:
        try:
            exceeded = await self.volumes.usage(worker.pod)
        except PodError as error:
            log.debug("pod %s: %s", worker.pod.key, error)
            return
        if exceeded:
            worker.give_up("Evicted", "; ".join(one.message for one in exceeded))

    def running(self) -> list[tuple[Pod, PodSeen]]:
        """All pods with their containers; of several of a name the one that is wanted first."""
        workers = sorted(self.manager.workers.items(), key=lambda one: one[1].mode == "remove")
        return [(worker.pod, self.observer.pod(uid)) for uid, worker in workers]

    def runs(self, uid: str) -> bool:
        """Whether a container of the pod runs."""
        return any(one.running for one in self.observer.pod(uid).everything)

    async def close(self) -> None:
        """Let go of everything; containers go on running."""
        await self.manager.close()
        await self.probes.stop()
        if self.statuses is not None:
            await self.statuses.close()
        if isinstance(self.objects, ApiObjects):
            await self.objects.close()


def _limited(pod: Pod) -> bool:
    """Whether something limits what the pod's volumes hold."""
    return any(
        volume.empty_dir is not None and volume.empty_dir.size_limit is not None
        for volume in pod.spec.volumes
    ) or any("ephemeral-storage" in one.resources.limits for one in pod.spec.containers)
