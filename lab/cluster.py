"""Bringing a lab up and down: the order of effects, each of which can be repeated or undone.

Invariant: ``down`` needs nothing but the lab's name. Every step of ``up`` makes something that
``down`` finds by that name (cgroup, network namespace, directory), so a lab can be removed
from any half-built state; an ``up`` that fails or is interrupted removes what it made.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

import msgspec

from hostkit.command import CommandError, Runner
from lab import host, machine, probe
from lab.cgroups import Cgroups
from lab.errors import BusyError, LabError, NotFoundError
from lab.images import ImageCache
from lab.model import BootConfig, LabSpec, NodeSpec, ProcessRef
from lab.namespaces import Namespaces
from lab.plan import FABRIC, check_name, machine_id, make_lab, suggest
from lab.store import Store

READY_TIMEOUT = 90.0
POD_IMAGE = "busybox"
"""The image that every node has when pods can run on it: there is no registry to pull from."""
CONFIG_KEY = "/coreos.com/network/config"


class Report(Protocol):
    """Hears about progress."""

    def __call__(self, subject: str, text: str) -> None:
        """*subject* (a node, or the lab) is now at *text*."""


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
            raise NotFoundError(f"{node} does not run: 'barenode lab start {node}' starts it")
        return ref

    async def up(
        self, name: str, nodes: int, network: IPv4Network | None, *, control_plane: bool = True
    ) -> LabSpec:
        """Make a lab and wait until every node is ready; undoes everything on failure."""
        check_name(name)
        host.require_tools()
        host.daemon("netd")
        if control_plane:
            host.daemon("nodeagent")
        self.cgroups.require()
        with self.store.lock(name):
            if name in self.names():
                raise BusyError(
                    f"lab {name!r} is already there: 'barenode lab down --name {name}' removes it"
                )
            self.store.check_disk()
            spec = await self._reserve(name, nodes, network, control_plane)
            try:
                return await self._build(spec)
            except BaseException:
                self.report(name, "did not come up, removing it")
                await asyncio.shield(self._remove(name))
                raise

    async def _reserve(
        self, name: str, nodes: int, network: IPv4Network | None, control_plane: bool
    ) -> LabSpec:
        # Two labs that come up at once must not choose the same ranges.
        with self.store.lock("address plan", wait=True):
            used = await host.ranges_in_use(self.runner)
            for other in self.store.labs():
                spec = self.store.load(other)
                if spec is not None:
                    ranges = (spec.underlay, spec.overlay, spec.service_range)
                    used += [IPv4Network(text) for text in ranges if text]
            spec = make_lab(name, nodes, network, used, control_plane=control_plane)
            self.store.save(spec)
            return spec

    async def _build(self, spec: LabSpec) -> LabSpec:
        self.report(FABRIC, f"bridge and etcd at {spec.etcd}")
        image = asyncio.ensure_future(self._pod_image(spec))
        try:
            await self.namespaces.create_fabric(spec)
            spec = await self._launch(spec, spec.fabric)
            await self._until(spec, FABRIC, self._services_ready(["etcd"]))
            await self._configure(spec)
            self.report(FABRIC, f"ready, API server at {spec.api}" if spec.api else "ready")
            for node in spec.nodes:
                await self.namespaces.create_node(spec, node)
                spec = await self._launch(spec, node)
            async with asyncio.TaskGroup() as group:
                for node in spec.nodes:
                    group.create_task(self._await_node(spec, node.name, image))
            return spec
        finally:
            image.cancel()

    async def _pod_image(self, spec: LabSpec) -> Path | None:
        return await self.images.build(POD_IMAGE) if spec.api else None

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
            done = await self.runner.run([sys.executable, "-m", "lab.launch", str(path)])
        except CommandError as error:
            raise LabError(f"{node.name} cannot be started: {error}") from error
        ref = probe.process_ref(int(done.stdout))
        if ref is None:
            raise LabError(f"{node.name} ended at once: {self._console(spec, node.name)}")
        processes = {**spec.processes, node.name: ref}
        spec = msgspec.structs.replace(spec, processes=processes)
        self.store.save(spec)
        return spec

    def _console(self, spec: LabSpec, node: str) -> str:
        """The last words of a node, for an error message."""
        disk = self.store.paths.disk(spec.name, node)
        last = "no message"
        for log in (disk / "console.log", *sorted((disk / "var/log").glob("*.log"))):
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            if lines:
                last = (
                    f"{log.name}: {lines[-1]}"
                    if log.name == "console.log"
                    else (f"{last}; {log.name}: {lines[-1]}")
                )
        return last

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
        self, spec: LabSpec, node: str, image: Awaitable[Path | None] | None = None
    ) -> None:
        """Wait until *node* is ready; on its first boot its Docker gets *image*."""
        ref = spec.processes[node]
        await self._until(spec, node, self._services_ready(["netd", "dockerd"]))
        if image is not None and (archive := await image) is not None:
            await asyncio.to_thread(self._load_one, ref, node, archive)
        if spec.api:
            await self._until(spec, node, self._services_ready(["nodeagent"]))
        self.report(node, f"ready, pods in {probe.subnet(ref).get('FLANNEL_SUBNET', 'no subnet')}")

    async def _until(
        self, spec: LabSpec, node: str, check: Callable[[ProcessRef], Awaitable[str | None]]
    ) -> None:
        """Poll *check*, which says what it still waits for, until None; raises LabError."""
        deadline = self._clock() + READY_TIMEOUT
        ref = spec.processes[node]
        said = ""
        while (text := await check(ref)) is not None:
            if not probe.alive(ref):
                raise LabError(f"{node} died while starting: {self._console(spec, node)}")
            if self._clock() > deadline:
                raise LabError(
                    f"{node} is not ready after {READY_TIMEOUT:g} s, {text}: "
                    f"{self._console(spec, node)}"
                )
            if text != said:
                self.report(node, text)
                said = text
            await self._sleep(self._settle)

    async def down(self, name: str) -> bool:
        """Remove every trace of a lab; returns whether there was any."""
        check_name(name)
        with self.store.lock(name):
            there = name in self.names()
            await self._remove(name)
            return there

    async def _remove(self, name: str) -> None:
        ended = await self.cgroups.kill(name)
        if ended:
            self.report(name, f"ended {ended} processes")
        await self.cgroups.remove(name)
        await self.namespaces.remove(self.namespaces.names_of(name))
        self.namespaces.remove_directory()
        await asyncio.to_thread(self.store.remove, name)

    async def kill(self, name: str, node: str) -> None:
        """Cut a node's power: SIGKILL to its pid 1, which takes every process of it along."""
        with self.store.lock(name):
            spec = self.spec(name)
            member = self.member(spec, node)
            if node == FABRIC:
                raise LabError("the fabric cannot be killed: it is the cable between the nodes")
            ref = self.process(spec, node)
            os.kill(ref.pid, 9)
            await self._clear(spec, member)

    async def _clear(self, spec: LabSpec, node: NodeSpec) -> None:
        # A host without power has no network state: the namespace goes, and eth0 with it.
        await self.cgroups.kill(spec.name, node.name)
        await self.cgroups.remove(spec.name, node.name)
        await self.namespaces.unplug(spec, node)

    async def start(self, name: str, node: str) -> LabSpec:
        """Start a node that is dead and wait until it is ready; its disk is as it was."""
        with self.store.lock(name):
            spec = self.spec(name)
            member = self.member(spec, node)
            ref = spec.processes.get(node)
            if probe.alive(ref):
                raise BusyError(f"{node} already runs")
            if not probe.alive(spec.processes.get(FABRIC)):
                raise LabError(
                    f"the fabric of lab {name!r} is dead: take the lab down and up again"
                )
            await self._clear(spec, member)
            await self.namespaces.create_node(spec, member)
            spec = await self._launch(spec, member)
            await self._await_node(spec, node)
            return spec

    def enter_argv(self, ref: ProcessRef, command: list[str]) -> list[str]:
        """The command line that runs *command* inside the node of pid 1 *ref*."""
        kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return ["nsenter", f"--target={ref.pid}", *kinds, "--", *command]

    async def load(self, name: str, image: Path, nodes: list[str]) -> None:
        """Load a ``docker save`` archive into *nodes* (all when empty), in parallel."""
        spec = self.spec(name)
        chosen = nodes or [node.name for node in spec.nodes]
        async with asyncio.TaskGroup() as group:
            for node in chosen:
                ref = self.process(spec, node)
                group.create_task(asyncio.to_thread(self._load_one, ref, node, image))

    def _load_one(self, ref: ProcessRef, node: str, image: Path) -> None:
        self.report(node, f"loading {image.name}")
        try:
            with image.open("rb") as archive:
                done = subprocess.run(
                    self.enter_argv(ref, [host.docker_client(), "load", "--quiet"]),
                    stdin=archive,
                    capture_output=True,
                    text=True,
                    timeout=600,
                    check=False,
                    env=node_environment(dict(os.environ)),
                )
        except OSError as error:
            raise LabError(f"{image}: {error.strerror}") from error
        if done.returncode:
            raise LabError(f"{node} does not take {image}: {done.stderr.strip()}")
        self.report(node, done.stdout.strip() or f"loaded {image.name}")


def node_environment(environment: dict[str, str]) -> dict[str, str]:
    """*environment* for a command inside a node, without the operator's own Docker settings."""
    kept = {k: v for k, v in environment.items() if not k.startswith(("DOCKER_", "NOTIFY_"))}
    return {**kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
