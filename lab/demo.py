"""``barenode lab demo``: containers on two hosts fetch each other's page over the overlay,
then the pages behind a service, whose pods nodeagent runs and heals.

Nobody configures a route: the addresses are those that netd leased and Docker gave out. A page
counts only when it names the host it was asked of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostkit.command import CommandError
from lab import host
from lab.cluster import Cluster
from lab.errors import LabError
from lab.model import LabSpec, NodeSpec, ProcessRef
from lab.output import Output, Sheet
from lab.poddemo import PodDemo
from lab.probe import enter_argv
from lab.recipes import recipe
from lab.servicedemo import BURST, ServiceDemo

IMAGE = "nginx"
CONTAINER = "web"
ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Visit:
    """One page fetched, or not: from a container on *source* at *address* on *target*."""

    source: str
    target: str
    address: str
    reached: bool
    detail: str = ""


def page(node: str) -> str:
    """What the web server on *node* answers."""
    return f"hello from the container on {node}"


def demo_sheet(visits: Sequence[Visit]) -> Sheet:
    """Who reached whom."""
    rows = tuple(
        (
            f"container on {v.source}",
            f"http://{v.address}/ on {v.target}",
            "yes" if v.reached else f"no: {v.detail}",
        )
        for v in visits
    )
    return Sheet(("from", "to", "reached"), rows)


class Demo:
    """Runs the demo on a lab that is up. *sleep* pauses between two tries of a visit."""

    def __init__(
        self,
        cluster: Cluster,
        output: Output,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._output = output
        self._sleep = sleep

    async def run(self, spec: LabSpec, archive: Path) -> bool:
        """Start the image in *archive* on each node, visit each from all; True if all worked."""
        await self._cluster.load(spec.name, archive, [])
        refs = {node.name: self._cluster.process(spec, node.name) for node in spec.nodes}
        async with asyncio.TaskGroup() as group:
            tasks = {n: group.create_task(self._serve(n, ref)) for n, ref in refs.items()}
        addresses = {node: task.result() for node, task in tasks.items()}
        pairs = [(a, b) for a in refs for b in refs if a != b]
        visits = await asyncio.gather(*(self._visit(refs[a], a, b, addresses[b]) for a, b in pairs))
        self._output.sheet(demo_sheet(visits))

        async def in_container(node: NodeSpec, url: str) -> list[str]:
            return await self._fetch(refs[node.name], url)

        served = await ServiceDemo(self._output, in_container).run(spec)

        async def remove(node: str, container: str) -> None:
            await self._docker(refs[node], "rm", "--force", container)

        healed = await PodDemo(self._output, remove).run(spec)
        return served and healed and bool(visits) and all(v.reached for v in visits)

    async def _fetch(self, ref: ProcessRef, url: str) -> list[str]:
        """What the container on a host gets from *url*, until nothing comes."""
        # busybox's wget ends by a segmentation fault when it is given a timeout of its own.
        one = f"busybox timeout 2 busybox wget -q -O - {url}"
        script = f"for i in $(seq {BURST}); do {one} || exit 0; done"
        try:
            said = await self._docker(ref, "exec", CONTAINER, "sh", "-c", script)
        except CommandError as error:
            raise LabError(f"the container for the demo does not run: {error}") from error
        return said.splitlines()

    async def _docker(self, ref: ProcessRef, *arguments: str, timeout: float = 60.0) -> str:
        docker = [host.docker_client(), "--host=unix:///run/docker.sock", *arguments]
        argv = enter_argv(ref, docker)
        return (await self._cluster.runner.run(argv, timeout=timeout)).stdout.strip()

    async def _serve(self, node: str, ref: ProcessRef) -> str:
        """Start the web server; returns its container's address."""
        made = recipe(IMAGE)
        script = f"echo {page(node)!r} > /var/www/html/index.html; exec nginx -g 'daemon off;'"
        try:
            await self._docker(
                ref, "run", "--detach", f"--name={CONTAINER}", made.config.tag, "sh", "-c", script
            )
            form = "{{.NetworkSettings.IPAddress}}"
            address = await self._docker(ref, "inspect", f"--format={form}", CONTAINER)
        except CommandError as error:
            raise LabError(f"the web server on {node} does not start: {error}") from error
        self._output.progress(node, f"nginx serves at http://{address}/")
        return address

    async def _visit(self, ref: ProcessRef, source: str, target: str, address: str) -> Visit:
        """Fetch *target*'s page from the container on *source*, while its nginx may still start."""
        detail = "no answer"
        for _ in range(ATTEMPTS):
            try:
                fetch = (
                    "exec",
                    CONTAINER,
                    "busybox",
                    "wget",
                    "-q",
                    "-O",
                    "-",
                    f"http://{address}/",
                )
                got = await self._docker(ref, *fetch, timeout=5.0)
            except CommandError as error:
                detail = error.stderr.strip().splitlines()[-1] if error.stderr.strip() else detail
            else:
                reached = got == page(target)
                return Visit(source, target, address, reached, f"answered {got!r}")
            await self._sleep(0.1)
        return Visit(source, target, address, False, detail)


def next_step(program: str, lab: str, kept: bool) -> str:
    """What the operator may try now; *program* is how the command was called."""
    name = "" if lab == "lab" else f" --name {lab}"
    if kept:
        return (
            f"Try: {program} lab exec{name} node1 -- docker ps   "
            f"(remove the lab with: {program} lab down{name})"
        )
    return f"Try: {program} lab up --nodes 3, then {program} lab exec node1 -- bash"
