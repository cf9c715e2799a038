"""An agent for the server to speak for: pods in a fake Docker, an API server that reviews."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from hostkit.command import SubprocessRunner
from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.docker.labels import container_name, labels_for, seen_of
from nodeagent.pods.model import Pod, decode
from nodeagent.pods.observed import PodSeen
from nodeagent.server.parts import ServerSettings
from nodeagent.server.readings import Reader
from nodeagent.server.server import KubeletServer
from tests.fakes.docker import FakeContainer, FakeEngine
from tests.fakes.kube import FakeKube, Verb

Json = dict[str, Any]
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def pod_of(name: str, *containers: str, init: tuple[str, ...] = (), uid: str = "") -> Pod:
    """A pod of the default namespace."""
    return decode(
        {
            "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
            "spec": {
                "containers": [{"name": one, "image": f"{one}:1"} for one in containers],
                "initContainers": [{"name": one, "image": f"{one}:1"} for one in init],
            },
        }
    )


class FakeParts:
    """The rest of the agent; pods are what Docker has of those that were added."""

    node_name = "node-1"

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.sick: list[str] = []
        self.waiting: dict[tuple[str, str], str] = {}
        self.known: tuple[str, ...] = ("node-1", "127.0.0.1")
        self._pods: dict[str, Pod] = {}

    def add(self, pod: Pod) -> None:
        """A pod of this node."""
        self._pods[pod.uid] = pod

    def container(
        self, pod: Pod, name: str, attempt: int = 0, *, start: bool = True, log: bytes = b""
    ) -> FakeContainer:
        """One of its containers in Docker."""
        world = self.engine.world
        world.add_image(f"{name.lower()}:1")
        made = world.create(
            container_name(pod, name, attempt),
            {"Image": f"{name.lower()}:1", "Labels": labels_for(pod, name, attempt)},
        )
        if start:
            world.start(world.containers[made])
        if log:
            world.write(made, log)
        return world.containers[made]

    def pods(self) -> list[Json]:
        """As ServerParts.pods."""
        return [
            {
                "metadata": {"name": pod.metadata.name, "namespace": "default", "uid": uid},
                "status": {
                    "containerStatuses": [
                        {"name": name, "state": {"waiting": {"reason": reason}}}
                        for (owner, name), reason in self.waiting.items()
                        if owner == uid
                    ]
                },
            }
            for uid, pod in self._pods.items()
        ]

    def observed(self) -> Iterable[tuple[Pod, PodSeen]]:
        """As ServerParts.observed."""
        for uid, pod in self._pods.items():
            seen = [seen_of(one.document()) for one in self.engine.world.containers.values()]
            yield pod, PodSeen.of(uid, [one for one in seen if one.uid == uid])

    def find(self, namespace: str, name: str) -> tuple[Pod, PodSeen] | None:
        """As ServerParts.find."""
        for pod, seen in self.observed():
            if (pod.metadata.namespace, pod.metadata.name) == (namespace, name):
                return pod, seen
        return None

    def names(self) -> tuple[str, ...]:
        """As ServerParts.names."""
        return self.known

    def healthz(self) -> list[str]:
        """As ServerParts.healthz."""
        return self.sick

    def metrics(self) -> bytes:
        """As ServerParts.metrics."""
        return b"kubelet_node_name 1\n"


class ReviewKube(FakeKube):
    """An API server that knows ``people`` by token and lets ``allowed`` (user, subresource) in."""

    def __init__(self) -> None:
        super().__init__()
        self.people: dict[str, Json] = {}
        self.allowed: set[tuple[str, str]] = set()
        self.reviews: list[tuple[str, Json]] = []
        self.absent: set[str] = set()
        self.held: asyncio.Event | None = None

    def count(self, path: str) -> int:
        """How many reviews of one kind arrived."""
        return sum(seen == path for seen, _ in self.reviews)

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        if request.path in self.absent:
            return web.Response(status=404, text="404 page not found\n")
        if request.path not in {TOKENS, ACCESS}:
            return await super()._answer(verb, request)
        spec = json.loads(await request.read())["spec"]
        self.reviews.append((request.path, spec))
        if self.held is not None:
            await self.held.wait()
        status: Json
        if request.path == TOKENS:
            user = self.people.get(spec["token"])
            status = {"authenticated": user is not None, "user": user or {}}
        else:
            wanted = spec["user"], spec["resourceAttributes"]["subresource"]
            status = {"allowed": wanted in self.allowed, "reason": "by RBAC"}
        return web.json_response({"kind": "Review", "status": status}, status=201)


class Stand:
    """A running server and a way to ask it."""

    def __init__(self, server: KubeletServer, parts: FakeParts, problems: Problems) -> None:
        self.server = server
        self.parts = parts
        self.problems = problems
        self.session: aiohttp.ClientSession

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        bearer: str = "",
        tls: ssl.SSLContext | bool = False,
        port: int | None = None,
    ) -> tuple[int, str]:
        """Status and text of the answer from the port with TLS, or in the clear from *port*."""
        base = f"https://127.0.0.1:{self.server.port}" if port is None else (
            f"http://127.0.0.1:{port}"
        )  # fmt: skip
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        # Each request on a connection of its own, as the next one may show another certificate.
        headers["Connection"] = "close"
        async with self.session.request(method, base + path, headers=headers, ssl=tls) as answer:
            return answer.status, (await answer.read()).decode()


@asynccontextmanager
async def running(
    folder: Path,
    kube: FakeKube | None = None,
    *,
    parts: FakeParts | None = None,
    reader: Reader | None = None,
    **changed: Any,
) -> AsyncIterator[Stand]:
    """A server on a port of its own; *changed* are fields of ServerSettings."""
    made = parts or FakeParts()
    problems = Problems()
    settings = ServerSettings(**{"cert_dir": folder / "pki", "root_dir": folder, "port": 0,
                                 **changed})  # fmt: skip
    client = None if kube is None else KubeClient(KubeConfig((kube.url,)), user_agent="test")
    server = KubeletServer(
        made, settings, client=client, runner=SubprocessRunner(), problems=problems, reader=reader
    )
    stand = Stand(server, made, problems)
    await server.look()
    try:
        async with aiohttp.ClientSession() as stand.session:
            yield stand
    finally:
        await server.close()
        if client is not None:
            await client.close()
