"""The lab's API server on a fake etcd, and a client that keeps to plain HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

import aiohttp

from hostkit.etcd.gateway import EtcdClient, EtcdConfig
from lab.api.faults import Faults
from lab.api.registry import Registry
from lab.api.server import Server
from tests.fakes.etcd import FakeEtcd, Store

Raw = dict[str, Any]

CORE = "/api/v1/namespaces/default"
SERVICES = f"{CORE}/services"
PODS = f"{CORE}/pods"
PATCHES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


def service(name: str, **spec: Any) -> Raw:
    """A service with one port."""
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}], **spec},
    }


def pod(name: str, **spec: Any) -> Raw:
    """A pod with one container."""
    containers = [{"name": "c", "image": "busybox:1"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


class Stream:
    """A watch: its events as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, timeout: float = 60.0) -> Raw:
        """The next event; {} when the server has ended the watch."""
        async with asyncio.timeout(timeout):
            line = await self.response.content.readline()
        found: Raw = json.loads(line) if line else {}
        return found

    async def seen(self) -> tuple[str, str]:
        """Type and object name of the next event."""
        event = await self.next()
        return event["type"], event["object"]["metadata"]["name"]


@dataclass
class Api:
    """The server and a client of it."""

    registry: Registry
    etcd: FakeEtcd
    session: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Raw]:
        """Status and object of an answer."""
        data = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json", **(headers or {})}
        async with self.session.request(method, path, data=data, headers=kind) as response:
            return response.status, json.loads(await response.read())

    async def made(self, path: str, body: Raw) -> Raw:
        """Create what has to be accepted."""
        status, answer = await self.call("POST", path, body)
        assert status == 201, answer
        return answer

    async def patch(self, path: str, kind: str, body: object) -> tuple[int, Raw]:
        """One of the three patches."""
        return await self.call("PATCH", path, body, {"Content-Type": PATCHES[kind]})

    async def faults(self, **wanted: Any) -> None:
        """Set fault switches."""
        status, answer = await self.call("POST", "/faults", wanted)
        assert status == 200, answer

    @asynccontextmanager
    async def watch(
        self, path: str, headers: Mapping[str, str] | None = None, **query: str
    ) -> AsyncIterator[Stream]:
        """Watch below *path*."""
        async with self.session.get(
            path, params={"watch": "1", **query}, headers=headers or {}
        ) as response:
            yield Stream(response)


@asynccontextmanager
async def serving(
    store: Store | None = None,
    *,
    history: int = 1000,
    bookmarks: float = 30.0,
    token: str = "",
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Api]:
    """A server with faults and without controllers, on *store*."""
    async with FakeEtcd(store) as etcd:
        client = EtcdClient(EtcdConfig((etcd.url,)))
        registry = Registry(client, service_range=IPv4Network("10.0.0.0/28"), history=history)
        faults = Faults(registry.mirror)
        server = Server(registry, faults=faults, bookmarks=bookmarks, token=token, clock=clock)
        try:
            await registry.start()
            port = await server.start("127.0.0.1", 0)
            await registry.advertise("172.31.0.1", port)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Api(registry, etcd, session)
        finally:
            await server.close()
            await registry.close()
            await client.close()
