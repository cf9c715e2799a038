"""A registry on a fake etcd with all controllers, and a node's part played in a few lines."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from hostkit.etcd.gateway import EtcdClient, EtcdConfig
from lab.api.controllers.manager import run_controllers
from lab.api.kinds import NODE, POD, Kind
from lab.api.registry import Registry, StatusError
from tests.fakes.etcd import FakeEtcd

Raw = dict[str, Any]

_addresses = itertools.count(2)


def pod_template(app: str, image: str = "web:1") -> Raw:
    """A pod template with one container, whose port is called http."""
    container = {"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}}


def workload(name: str, replicas: int, *, labels: bool, **spec: Any) -> Raw:
    """A replication controller, or with *labels* what has a label selector."""
    match = {"app": name}
    selector = {"matchLabels": match} if labels else match
    body = {"replicas": replicas, "selector": selector, "template": pod_template(name)}
    return {"metadata": {"name": name}, "spec": {**body, **spec}}


def service(name: str, **spec: Any) -> Raw:
    """A service for the pods with label app=*name*."""
    ports = [{"port": 80, "targetPort": "http"}]
    return {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports, **spec}}


class Cluster:
    """What a test sees and does."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.kubelets = True

    async def node(self, name: str, ready: str = "True", beat: str = "1") -> None:
        """Register a node, or renew what it says of itself."""
        try:
            node = await self.registry.get(NODE, "", name)
        except StatusError:
            node = await self.registry.create(NODE, "", {"metadata": {"name": name}})
        condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}
        await self.registry.update_status(NODE, {**node, "status": {"conditions": [condition]}})

    async def pods(self, app: str = "") -> list[Raw]:
        """The pods that are not being deleted."""
        found = await self.registry.list(POD, "", {"app": app} if app else None)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def run_pods(self) -> None:
        """Be the agent of every node, for ever: pods that are bound run, those deleted go."""
        async for kind, pod in self.registry.watch(POD):
            if kind == "DELETED" or not pod.get("spec", {}).get("nodeName") or not self.kubelets:
                continue
            meta = pod["metadata"]
            try:
                if "deletionTimestamp" in meta:
                    await self.registry.delete(POD, meta["namespace"], meta["name"], grace=0)
                elif not pod["status"].get("podIP"):
                    await self.registry.update_status(POD, {**pod, "status": running_status()})
            except StatusError:
                continue

    async def until(
        self, holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0
    ) -> None:
        """Wait until the awaitable that *holds* makes is true."""
        deadline = time.monotonic() + seconds
        while not await holds():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            await asyncio.sleep(0.01)

    async def quiet(self, kind: Kind, passes: int = 20) -> int:
        """The newest version among the objects of *kind* once it has been still for a while."""
        newest, same = -1, 0
        while same < passes:
            versions = [
                int(o["metadata"]["resourceVersion"]) for o in await self.registry.list(kind)
            ]
            same = same + 1 if max(versions, default=0) == newest else 0
            newest = max(versions, default=0)
            await asyncio.sleep(0.01)
        return newest


def running_status(ready: str = "True") -> Raw:
    """What the agent of a node says of a pod that runs."""
    number = next(_addresses)
    return {
        "phase": "Running",
        "podIP": f"10.1.{number // 250}.{number % 250 + 1}",
        "conditions": [{"type": "Ready", "status": ready}],
    }


@asynccontextmanager
async def cluster(node_grace: float = 40.0, eviction: float = 10.0) -> AsyncIterator[Cluster]:
    """A cluster without nodes."""
    async with FakeEtcd() as etcd:
        client = EtcdClient(EtcdConfig(endpoints=(etcd.url,)))
        registry = Registry(client)
        await registry.start()
        made = Cluster(registry)
        works = (
            run_controllers(registry, node_grace=node_grace, eviction=eviction),
            made.run_pods(),
        )
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield made
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await registry.close()
            await client.close()
