"""The services part of ``barenode lab demo``: one address for several web servers.

A replication controller and a service are posted as kubectl would post them. The service counts
as reached from a place when every pod behind it has answered there with its own page.
"""

import asyncio
import importlib.resources
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import yaml

from lab.control import Api, Raw, is_ready, request
from lab.errors import LabError
from lab.model import LabSpec, NodeSpec
from lab.output import Output, Sheet

RC = "/api/v1/namespaces/default/replicationcontrollers/nginx"
SERVICE = "/api/v1/namespaces/default/services/nginx"
ENDPOINTS = "/api/v1/namespaces/default/endpoints?fieldSelector=metadata.name%3Dnginx"
PODS = "/api/v1/namespaces/default/pods?labelSelector=app%3Dnginx"
DEADLINE = 20.0
"""Seconds within which pods must run, and within which all of them must have answered."""
BURST = 12
"""Pages fetched in a row from one place."""

Fetch = Callable[[NodeSpec, str], Awaitable[list[str]]]
"""Fetches a URL several times from a place on a host; returns the pages that came."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answered at *url* from *source*: *wanted* and *seen* are pages."""

    source: str
    url: str
    wanted: frozenset[str]
    seen: frozenset[str]

    @property
    def reached(self) -> bool:
        """Whether every pod answered, and nothing else."""
        return self.seen == self.wanted


def documents(name: str) -> list[Raw]:
    """The YAML documents in the asset *name*."""
    text = (importlib.resources.files("lab") / "assets" / name).read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def page(pod: Raw) -> str:
    """What the web server in *pod* answers."""
    return f"{pod['metadata']['name']} on {pod['spec']['nodeName']}"


def answers_sheet(answers: Sequence[Answers]) -> Sheet:
    """Who was answered by whom."""
    rows = []
    for found in answers:
        missing = sorted(found.wanted - found.seen)
        strange = sorted(found.seen - found.wanted)
        verdict = "yes"
        if missing or strange:
            parts = [f"nothing from {name}" for name in missing]
            verdict = "no: " + ", ".join(parts + [f"answered {text!r}" for text in strange])
        rows.append((found.source, found.url, ", ".join(sorted(found.seen)) or "-", verdict))
    return Sheet(("from", "to", "answered by", "reached"), tuple(rows))


class ControlPlane(Protocol):
    """What the demo needs of lab.control.Api."""

    async def create(self, document: Raw) -> Raw:
        """Make an object."""
        ...

    async def call(self, method: str, path: str, body: Raw | None = None) -> Raw:
        """One request."""
        ...


async def on_host(host: NodeSpec, url: str) -> list[str]:
    """What *host* itself gets from *url*, until nothing comes."""
    found = []
    for _ in range(BURST):
        try:
            status, body = await request(host, "GET", url)
        except (OSError, ValueError):
            break
        text = body.decode(errors="replace").strip()
        found.append(text if status == 200 else f"HTTP status {status}")
    return found


class ServiceDemo:
    """Runs on a lab that is up, whose nodes have the nginx image. *clock* is in seconds."""

    def __init__(
        self,
        output: Output,
        in_container: Fetch,
        *,
        on_host: Fetch = on_host,
        connect: Callable[[LabSpec], ControlPlane] = Api,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._output = output
        self._in_container = in_container
        self._on_host = on_host
        self._connect = connect
        self._clock = clock
        self._sleep = sleep

    async def run(self, spec: LabSpec) -> bool:
        """Deploy, visit, scale, visit again; True if everything answered. Raises LabError."""
        api = self._connect(spec)
        for name in ("nginx-rc.yaml", "nginx-svc.yaml"):
            for document in documents(name):
                made = await api.create(document)
                self._output.progress("api", f"{made['kind']} nginx created from {name}")
        first = await self._visit_all(spec, api, 2)
        await api.call("PATCH", RC, {"spec": {"replicas": 3}})
        self._output.progress("api", "ReplicationController nginx scaled to 3")
        return await self._visit_all(spec, api, 3) and first

    async def _visit_all(self, spec: LabSpec, api: ControlPlane, replicas: int) -> bool:
        pages = await self._pages(api, replicas)
        service = (await api.call("GET", SERVICE))["spec"]
        port = service["ports"][0]
        inside = f"http://{service['clusterIP']}:{port['port']}/"
        jobs = []
        for node in spec.nodes:
            outside = f"http://{node.address}:{port['nodePort']}/"
            jobs += [
                self._visit(f"host {node.name}", node, inside, pages, self._on_host),
                self._visit(f"container on {node.name}", node, inside, pages, self._in_container),
                self._visit("outside", spec.fabric, outside, pages, self._on_host),
            ]
        answers = await asyncio.gather(*jobs)
        self._output.sheet(answers_sheet(sorted(answers, key=lambda a: a.url)))
        return all(found.reached for found in answers)

    async def _pages(self, api: ControlPlane, replicas: int) -> frozenset[str]:
        """The pages of the pods, once *replicas* of them are ready and are endpoints."""
        deadline = self._clock() + DEADLINE
        while True:
            pods = (await api.call("GET", PODS))["items"]
            ready = [pod for pod in pods if is_ready(pod)]
            found = (await api.call("GET", ENDPOINTS))["items"]
            subsets = [subset for endpoints in found for subset in endpoints.get("subsets") or ()]
            ends = sum(len(subset.get("addresses") or ()) for subset in subsets)
            if len(ready) == ends == replicas:
                self._output.progress("api", f"{replicas} pods are ready")
                return frozenset(map(page, ready))
            if self._clock() > deadline:
                said = "; ".join(_why(pod) for pod in pods if not is_ready(pod))
                raise LabError(
                    f"{len(ready)} of {replicas} pods are ready and {ends} are endpoints"
                    f" after {DEADLINE:g} s: {said or 'see barenode lab status'}"
                )
            await self._sleep(0.05)

    async def _visit(
        self, source: str, place: NodeSpec, url: str, pages: frozenset[str], fetch: Fetch
    ) -> Answers:
        deadline = self._clock() + DEADLINE
        seen: set[str] = set()
        while not pages <= seen and self._clock() < deadline:
            if not (got := await fetch(place, url)):
                await self._sleep(0.1)
            seen.update(got)
        return Answers(source, url, pages, frozenset(seen))


def _why(pod: Raw) -> str:
    name = pod["metadata"]["name"]
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if waiting := container["state"].get("waiting"):
            return f"{name}: {waiting.get('message') or waiting.get('reason')}"
    return f"{name}: {pod.get('status', {}).get('phase')}"
