"""Bringing a lab up and down: the order of effects, each of which can be repeated or undone.

Invariant: ``down`` needs nothing but the lab's name. Every step of ``up`` makes something that
``down`` finds by that name (cgroup, network namespace, directory), so a lab can be removed
from any half-built state; an ``up`` that fails or is interrupted removes what it made.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from hostkit.command import CommandError, Runner
from lab import host, kubernetes, machine, probe
from lab.cgroups import Cgroups
from lab.errors import BusyError, LabError, NotFoundError
from lab.firstboot import FirstBoot, Report, load_image
from lab.images import ImageCache
from lab.kubernetes import Wish
from lab.model import BootConfig, LabSpec, NodeSpec, ProcessRef
from lab.namespaces import Namespaces
from lab.plan import FABRIC, check_name, clashes, machine_id, make_lab, suggest
from lab.store import Store

READY_TIMEOUT = 90.0
KUBERNETES_TIMEOUT = 300.0
"""Seconds: a worker's netd waits for the etcd that a master's agent is still starting."""
CONFIG_KEY = "/coreos.com/network/config"


class Cluster:
    """The labs of this machine. *settle* is the pause between two looks at a node, in seconds."""

    def __init__(
        self,
        store: Store,
        cgroups: Cgroups,
        namespaces: Namespaces,
        runner: Runner,
        *,
        images: ImageCache,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        settle: float = 0.05,
    ) -> None:
        self.store = store
        self.cgroups = cgroups
        self.namespaces = namespaces
        self.runner = runner
        self.images = images
        self.report = report
        self._clock = clock
        self._sleep = sleep
        self._settle = settle

    def names(self) -> list[str]:
        """Every lab of which anything is left on this machine."""
        return sorted(self.store.labs() | self.cgroups.labs() | self.namespaces.labs())

    def spec(self, name: str) -> LabSpec:
        """The lab *name*; raises NotFoundError."""
        spec = self.store.load(name)
        if spec is not None:
            return spec
        known = self.names()
        if name in known:
            raise NotFoundError(
                f"lab {name!r} is only partly there: 'barenode lab down --name {name}' removes it"
            )
        raise NotFoundError(f"there is no lab {name!r}{suggest(name, known)}")

    def member(self, spec: LabSpec, node: str) -> NodeSpec:
        """The node called *node*; raises NotFoundError."""
        found = spec.member(node)
        if found is None:
            names = [m.name for m in spec.members]
            raise NotFoundError(
                f"lab {spec.name!r} has no node {node!r}{suggest(node, names)}: {', '.join(names)}"
            )
        return found

    def process(self, spec: LabSpec, node: str) -> ProcessRef:
        """The living pid 1 of *node*; raises NotFoundError when it does not run."""
        member = self.member(spec, node)
        ref = spec.processes.get(member.name)
        if ref is None or not probe.alive(ref):
            kept = self.store.is_kept(spec.name)
            cure = f"up --name {spec.name}" if kept else f"start --name {spec.name} {node}"
            raise NotFoundError(f"{node} does not run: 'barenode lab {cure}' starts it")
        return ref

    async def up(
        self,
        name: str,
        nodes: int,
        network: IPv4Network | None,
        *,
        control_plane: bool = True,
        wish: Wish | None = None,
    ) -> LabSpec:
        """Make a lab and wait until every node is ready; undoes everything on failure.

        *wish* asks for a real Kubernetes on masters of its own, beside *nodes* workers.
        """
        self.require(name, control_plane)
        with self.store.lock(name):
            self.require_new(name)
            self.store.check_disk()
            spec = await self._reserve(name, nodes, network, control_plane, wish)
            first = FirstBoot(self.store.paths, self.images, self.report, wish)
            try:
                return await self._build(spec, first)
            except BaseException:
                self.report(name, "did not come up, removing it")
                await asyncio.shield(self._remove(name))
                raise

    def require_new(self, name: str) -> None:
        """Raise BusyError when there is a lab *name*."""
        if name in self.names():
            raise BusyError(
                f"lab {name!r} is already there: 'barenode lab down --name {name}' removes it"
            )

    def require(self, name: str, control_plane: bool) -> None:
        """Raise UsageError or PrerequisiteError when a lab *name* cannot be made here."""
        check_name(name)
        host.require_tools()
        host.daemon("netd")
        if control_plane:
            host.daemon("nodeagent")
        self.cgroups.require()

    async def resume(self, name: str) -> LabSpec:
        """Boot the lab *name* that was taken down to be kept; when that fails it stays so.

        Raises NotFoundError when there is none.
        """
        with self.store.lock(name):
            if not self.store.is_kept(name):
                raise NotFoundError(f"lab {name!r} is not down and kept")
            spec = self.spec(name)
            self.require(name, bool(spec.api))
            used = await host.ranges_in_use(self.runner)
            for own in spec.ranges:
                if found := clashes(own, used):
                    raise LabError(f"{own} of lab {name!r} is now in use: {found[0]}")
            self.store.save(spec)
            try:
                await asyncio.to_thread(kubernetes.renew, self.store.paths, spec)
                return await self._build(spec, None)
            except BaseException:
                self.report(name, "did not come up, it stays down and kept")
                await asyncio.shield(self._halt(spec))
                raise

    async def _reserve(
        self,
        name: str,
        nodes: int,
        network: IPv4Network | None,
        control_plane: bool,
        wish: Wish | None,
    ) -> LabSpec:
        # Two labs that come up at once must not choose the same ranges.
        with self.store.lock("address plan", wait=True):
            used = await host.ranges_in_use(self.runner)
            for other in self.store.labs():
                spec = self.store.load(other)
                if spec is not None:
                    used += spec.ranges
            masters = wish.masters if wish else 0
            spec = make_lab(
                name, nodes, network, used, control_plane=control_plane, masters=masters
            )
            if wish is not None:
                spec = kubernetes.described(self.store.paths, spec, wish)
            self.store.save(spec)
            return spec

    async def _build(self, spec: LabSpec, first: FirstBoot | None) -> LabSpec:
        """Boot everything; *first* is None for a lab that boots again."""
        try:
            if first is not None:
                first.begin(spec)
            spec = await self._start_fabric(spec, configure=first is not None)
            if first is not None:
                await first.provision(spec)
            for node in spec.nodes:
                await self.namespaces.create_node(spec, node)
                spec = await self._launch(spec, node)
            async with asyncio.TaskGroup() as group:
                for node in spec.nodes:
                    group.create_task(self._await_node(spec, node, first))
            return spec
        finally:
            if first is not None:
                first.cancel()

    async def _start_fabric(self, spec: LabSpec, *, configure: bool) -> LabSpec:
        self.report(FABRIC, "bridge" if spec.masters else f"bridge and etcd at {spec.etcd}")
        await self.namespaces.create_fabric(spec)
        spec = await self._launch(spec, spec.fabric)
        if spec.masters:
            return spec
        await self._until(spec, FABRIC, self._services_ready(["etcd"]))
        if configure:
            await self._configure(spec)
        self.report(FABRIC, f"ready, API server at {spec.api}" if spec.api else "ready")
        return spec

    async def _configure(self, spec: LabSpec) -> None:
        config = {"Network": spec.overlay, "Backend": {"Type": "vxlan"}}
        argv = ["nsenter", f"--net=/run/netns/{spec.fabric.netns}", "env", "ETCDCTL_API=3"]
        argv += ["etcdctl", f"--endpoints={spec.etcd}", "put", CONFIG_KEY]
        try:
            await self.runner.run([*argv, msgspec.json.encode(config).decode()])
        except CommandError as error:
            raise LabError(f"etcd does not take the network's configuration: {error}") from error

    def _boot(self, spec: LabSpec, node: NodeSpec) -> BootConfig:
        wrapper = machine.lacks_sys_resource(Path("/proc/self/status").read_text())
        if node.name == FABRIC:
            services = machine.fabric_services(spec, sys.executable)
        else:
            netd, agent = host.daemon("netd"), host.daemon("nodeagent") if spec.api else ""
            services = machine.node_services(spec, node, netd, agent, wrapper=wrapper)
        return BootConfig(
            lab=spec.name,
            node=node.name,
            netns=node.netns,
            data=str(self.store.paths.disk(spec.name, node.name)),
            cgroups=self.cgroups.paths(spec.name, node.name),
            persistent=machine.persistent_of(node, spec),
            hosts=machine.hosts_of(spec),
            machine_id=machine_id(spec.name, node.name),
            services=services,
            runtime_wrapper=wrapper and node.name != FABRIC,
        )

    async def _launch(self, spec: LabSpec, node: NodeSpec) -> LabSpec:
        """Start *node*'s pid 1 and write it down."""
        self.cgroups.create(spec.name, node.name)
        path = self.store.save_boot(self._boot(spec, node))
        try:
            # Without -P Python takes modules from the operator's working directory first.
            done = await self.runner.run([sys.executable, "-P", "-m", "lab.launch", str(path)])
        except CommandError as error:
            raise LabError(f"{node.name} cannot be started: {error}") from error
        ref = probe.process_ref(int(done.stdout))
        if ref is None:
            last = self.store.last_words(spec.name, node.name)
            raise LabError(f"{node.name} ended at once: {last}")
        processes = {**spec.processes, node.name: ref}
        spec = msgspec.structs.replace(spec, processes=processes)
        self.store.save(spec)
        return spec

    def _services_ready(
        self, names: Sequence[str]
    ) -> Callable[[ProcessRef], Awaitable[str | None]]:
        async def check(ref: ProcessRef) -> str | None:
            states = {s.name: s for s in probe.services(ref)}
            for name in names:
                state = states.get(name)
                if state is None or state.state != "ready":
                    tries = f" (ended {state.restarts} times)" if state and state.restarts else ""
                    return f"waiting for {name}{tries}"
            if "dockerd" in names and not await probe.docker_answers(ref):
                return "waiting for Docker to answer"
            return None

        return check

    async def _await_node(
        self, spec: LabSpec, node: NodeSpec, first: FirstBoot | None = None
    ) -> None:
        """Wait until *node* is ready; *first* puts on it what only a first boot needs."""
        ref = spec.processes[node.name]
        await self._until(spec, node.name, self._services_ready(["netd", "dockerd"]))
        if first is not None:
            await first.complete(spec, node)
        if spec.api:
            await self._until(spec, node.name, self._services_ready(["nodeagent"]))
        if missing := kubernetes.without_majority(spec):
            self.report(node.name, f"runs; the control plane does not before {missing}")
            return
        if spec.masters:
            await self._until(spec, node.name, lambda _: kubernetes.joined(spec, node))
            await self._until(spec, node.name, kubernetes.settled)
        subnet = probe.subnet(ref).get("FLANNEL_SUBNET", "no subnet")
        self.report(node.name, f"ready, pods in {subnet}")

    async def _until(
        self, spec: LabSpec, node: str, check: Callable[[ProcessRef], Awaitable[str | None]]
    ) -> None:
        """Poll *check*, which says what it still waits for, until None; raises LabError."""
        within = KUBERNETES_TIMEOUT if spec.masters else READY_TIMEOUT
        deadline = self._clock() + within
        ref = spec.processes[node]
        said = ""
        while (text := await check(ref)) is not None:
            if not probe.alive(ref):
                last = self.store.last_words(spec.name, node)
                raise LabError(f"{node} died while starting: {last}")
            if self._clock() > deadline:
                last = await probe.complaints(ref) + self.store.last_words(spec.name, node)
                raise LabError(f"{node} is not ready after {within:g} s, {text}: {last}")
            if text != said:
                self.report(node, text)
                said = text
            await self._sleep(self._settle * (5 if spec.masters else 1))

    async def down(self, name: str) -> bool:
        """Remove every trace of a lab; returns whether there was any."""
        check_name(name)
        with self.store.lock(name):
            there = name in self.names()
            await self._remove(name)
            return there

    async def halt(self, name: str) -> None:
        """Cut the power of all nodes but keep their disks, for ``resume``."""
        check_name(name)
        with self.store.lock(name):
            if not self.store.is_kept(name):
                await self._halt(self.spec(name))

    async def _halt(self, spec: LabSpec) -> None:
        await self._end(spec.name)
        self.store.keep(spec)

    async def _remove(self, name: str) -> None:
        await self._end(name)
        await asyncio.to_thread(self.store.remove, name)

    async def _end(self, name: str) -> None:
        ended = await self.cgroups.kill(name)
        if ended:
            self.report(name, f"ended {ended} processes")
        await self.cgroups.remove(name)
        await self.namespaces.remove(self.namespaces.names_of(name))
        self.namespaces.remove_directory()

    async def kill(self, name: str, node: str) -> None:
        """Cut a node's power: SIGKILL to its pid 1, which takes every process of it along."""
        with self.store.lock(name):
            spec = self.spec(name)
            member = self.member(spec, node)
            if node == FABRIC:
                raise LabError("the fabric cannot be killed: it is the cable between the nodes")
            ref = self.process(spec, node)
            await self.namespaces.cut(spec, member)
            os.kill(ref.pid, 9)
            await self._clear(spec, member)

    async def _clear(self, spec: LabSpec, node: NodeSpec) -> None:
        # A host without power has no network state: the namespace goes, and eth0 with it.
        await self.cgroups.kill(spec.name, node.name)
        await self.cgroups.remove(spec.name, node.name)
        await self.namespaces.unplug(spec, node)

    async def start(self, name: str, node: str) -> LabSpec:
        """Start a node that is dead and wait until it is ready; its disk is as it was.

        It cannot join without a majority of the masters: until there is one it only has to run.
        """
        with self.store.lock(name):
            spec = self.spec(name)
            member = self.member(spec, node)
            ref = spec.processes.get(node)
            if probe.alive(ref):
                raise BusyError(f"{node} already runs")
            if not probe.alive(spec.processes.get(FABRIC)):
                kept = self.store.is_kept(name)
                first = "" if kept else f"'barenode lab down --keep --name {name}', then "
                cure = f"{first}'barenode lab up --name {name}' boots it with its disks"
                raise LabError(f"the fabric of lab {name!r} does not run: {cure}")
            kubernetes.require_disk(self.store.paths, spec, member)
            await self._clear(spec, member)
            await self.namespaces.create_node(spec, member)
            spec = await self._launch(spec, member)
            await self._await_node(spec, member)
            return spec

    async def load(self, name: str, image: Path, nodes: list[str]) -> None:
        """Load a ``docker save`` archive into *nodes* (all when empty), in parallel."""
        spec = self.spec(name)
        chosen = nodes or [node.name for node in spec.nodes]
        async with asyncio.TaskGroup() as group:
            for node in chosen:
                ref = self.process(spec, node)
                group.create_task(asyncio.to_thread(load_image, ref, node, image, self.report))
