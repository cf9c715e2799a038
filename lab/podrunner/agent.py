"""Registers the node and keeps its pods as the API server wants them."""

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp

from hostkit.errors import HostkitError
from hostkit.reconcile import Reconciler
from lab.podrunner.http import Http, RefusedError
from lab.podrunner.plan import (
    LABEL,
    Box,
    Confirm,
    Raw,
    Remove,
    Start,
    Step,
    Stop,
    creation,
    decide,
    newest,
    read_box,
    status_of,
)

log = logging.getLogger(__name__)

HEARTBEAT = 5.0
RESYNC = 1.0
_RETRY = (HostkitError, aiohttp.ClientError, OSError)
# What a pod that was stored past all checks can lack.
_ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def timestamp() -> str:
    """Now, in the API's form."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def path_of(pod: Raw) -> str:
    """The pod's URL path."""
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


def read_boxes(entries: list[Raw]) -> dict[str, list[Box]]:
    """The containers of pods, by the pod's uid."""
    found: dict[str, list[Box]] = {}
    for entry in entries:
        box = read_box(entry)
        found.setdefault(box.uid, []).append(box)
    return found


class Runner:
    """Runs the pods of *node*, whose address is *address*."""

    def __init__(
        self,
        api: Http,
        docker: Http,
        node: str,
        address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = timestamp,
    ) -> None:
        self._api = api
        self._docker = docker
        self._node = node
        self._address = address
        self._clock = clock
        self._now = now
        self._pods: dict[str, Raw] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._trouble: dict[str, Raw] = {}
        self._ended: dict[str, float] = {}
        self._state = ("", "")
        self._said: dict[str, str] = {}
        self.loop = Reconciler("pods", self.step, sources=("pods",), resync=RESYNC, tolerate=_RETRY)

    async def follow(self) -> None:
        """Keep the list of pods up to date, for ever."""
        selector = f"fieldSelector=spec.nodeName%3D{quote(self._node)}"
        while True:
            try:
                listed = await self._api.call("GET", f"/api/v1/pods?{selector}")
                self._pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
                self.loop.listed("pods")
                self.loop.trigger()
                version = listed["metadata"]["resourceVersion"]
                path = f"/api/v1/pods?{selector}&watch=1&allowWatchBookmarks=1"
                async for event in self._api.lines(f"{path}&resourceVersion={version}"):
                    self._take(event["type"], event["object"])
            except (*_RETRY, *_ODD) as error:
                self._say("pods are not told", error)
            await asyncio.sleep(1.0)

    def _say(self, what: str, error: Exception) -> None:
        """Log a failure once while it lasts."""
        text = str(error) or repr(error)
        if self._said.get(what) != text:
            log.warning("%s: %s", what, text)
        self._said[what] = text

    def _take(self, kind: str, pod: Raw) -> None:
        if kind in {"ADDED", "MODIFIED"}:
            self._pods[pod["metadata"]["uid"]] = pod
        elif kind == "DELETED":
            self._pods.pop(pod["metadata"]["uid"], None)
        elif kind == "ERROR":
            raise RefusedError(pod.get("code", 0), str(pod.get("message")))
        self.loop.trigger()

    async def step(self) -> None:
        """Look at Docker, start what each pod needs next, and report."""
        where = quote('{"label":["' + LABEL + '"]}')
        entries = await self._docker.call("GET", f"/containers/json?all=1&filters={where}")
        boxes = read_boxes(entries)
        now = self._clock()
        dead = [box.id for found in boxes.values() for box in found if not box.running]
        self._ended = {key: self._ended.get(key, now) for key in dead}
        self._trouble = {uid: text for uid, text in self._trouble.items() if uid in self._pods}
        for uid in boxes.keys() | self._pods.keys():
            if uid not in self._tasks:
                self._begin(uid, boxes.get(uid, []), now)
        for uid, pod in list(self._pods.items()):
            try:
                await self._report(pod, boxes.get(uid, []))
            except _ODD as error:
                self._say(f"pod {pod['metadata'].get('name')} cannot be run", error)

    def _begin(self, uid: str, boxes: list[Box], now: float) -> None:
        pod = self._pods.get(uid)
        ended = {key: now - since for key, since in self._ended.items()}
        try:
            steps: tuple[Step, ...] = (
                decide(pod, boxes, ended) if pod else (Remove(tuple(box.id for box in boxes)),)
            )
        except _ODD:
            return
        if steps:
            task = asyncio.create_task(self._perform(uid, pod, boxes, steps))
            self._tasks[uid] = task
            task.add_done_callback(lambda _: self._end(uid))

    def _end(self, uid: str) -> None:
        del self._tasks[uid]
        self.loop.trigger()

    async def _perform(
        self, uid: str, pod: Raw | None, boxes: list[Box], steps: tuple[Step, ...]
    ) -> None:
        for step in steps:
            name = step.name if isinstance(step, Start) else ""
            try:
                await self._one(pod or {}, boxes, step)
            except (*_RETRY, *_ODD) as error:
                missing = isinstance(error, RefusedError) and error.status == 404 and name
                reason = "ErrImageNeverPull" if missing else "CreateContainerError"
                known = self._trouble.setdefault(uid, {})
                if known.get(name, {}).get("message") != str(error):
                    log.warning("%s", error)
                known[name] = {"reason": reason, "message": str(error)}
                # What makes this fail may last: the pod is looked at again at the next resync.
                await asyncio.sleep(RESYNC)
                return
        self._trouble.pop(uid, None)

    async def _one(self, pod: Raw, boxes: list[Box], step: Step) -> None:
        match step:
            case Stop(ids, grace):
                await asyncio.gather(*(self._stop(key, grace) for key in ids))
            case Remove(ids):
                for key in ids:
                    await self._forgiving("DELETE", f"/containers/{key}?force=1&v=1")
            case Confirm():
                body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
                try:
                    await self._api.call("DELETE", path_of(pod), body)
                except RefusedError as error:
                    if error.status not in {404, 409}:
                        raise
            case Start(name, attempt):
                holder = newest(boxes)[""] if name else None
                body = creation(pod, name, attempt, holder, self._address)
                meta = pod["metadata"]
                title = f"k8s_{name or 'POD'}_{meta['name']}_{meta['namespace']}_{meta['uid']}"
                await self._forgiving("DELETE", f"/containers/{title}_{attempt}?force=1")
                made = await self._docker.call(
                    "POST", f"/containers/create?name={title}_{attempt}", body, timeout=60
                )
                await self._docker.call("POST", f"/containers/{made['Id']}/start", timeout=60)

    async def _stop(self, key: str, grace: int) -> None:
        await self._forgiving("POST", f"/containers/{key}/stop?t={grace}", grace + 30.0)

    async def _forgiving(self, method: str, path: str, timeout: float = 60.0) -> None:
        """A call whose container may be gone already, or on its way out (409)."""
        try:
            await self._docker.call(method, path, timeout=timeout)
        except RefusedError as error:
            if error.status not in {304, 404, 409}:
                raise

    async def _report(self, pod: Raw, boxes: list[Box]) -> None:
        trouble = self._trouble.get(pod["metadata"]["uid"], {})
        status = status_of(pod, boxes, self._address, self._now(), trouble)
        if status == pod.get("status"):
            return
        try:
            path = f"{path_of(pod)}/status"
            stored = await self._api.call("PUT", path, {**pod, "status": status})
        except RefusedError as error:
            # Changed or deleted meanwhile: the watch brings what it is now.
            if error.status not in {404, 409}:
                raise
        else:
            if pod["metadata"]["uid"] in self._pods:
                self._pods[pod["metadata"]["uid"]] = stored

    async def beat(self, registered: Callable[[], Any]) -> None:
        """Register the node and renew its status for ever; *registered* is called each time."""
        while True:
            try:
                await self._register(await self._node_status())
                registered()
                self._said.clear()
            except _RETRY as error:
                self._say("the node cannot be registered", error)
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(HEARTBEAT)

    async def _register(self, status: Raw) -> None:
        path = f"/api/v1/nodes/{self._node}"
        merge = "application/merge-patch+json"
        try:
            await self._api.call("PATCH", f"{path}/status", {"status": status}, kind=merge)
        except RefusedError as error:
            if error.status != 404:
                raise
            labels = {"kubernetes.io/hostname": self._node, "kubernetes.io/os": "linux"}
            node = {"apiVersion": "v1", "kind": "Node", "status": status}
            node["metadata"] = {"name": self._node, "labels": labels}
            await self._api.call("POST", "/api/v1/nodes", node)
            await self._api.call("PATCH", f"{path}/status", {"status": status}, kind=merge)

    async def _node_status(self) -> Raw:
        version, problem = "", ""
        try:
            version = (await self._docker.call("GET", "/version", timeout=2.0))["Version"]
        except _RETRY as error:
            problem = f"Docker does not answer: {error}"
        now, ready = self._now(), str(not problem)
        if self._state[0] != ready:
            self._state = (ready, now)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
        capacity = {"cpu": str(os.cpu_count() or 1), "memory": f"{memory}Ki", "pods": "110"}
        return {
            "addresses": [
                {"type": "InternalIP", "address": self._address},
                {"type": "Hostname", "address": self._node},
            ],
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [
                {
                    "type": "Ready",
                    "status": ready,
                    "reason": "DockerDown" if problem else "KubeletReady",
                    "message": problem or "podrunner runs pods with Docker",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": self._state[1],
                }
            ],
            "nodeInfo": {
                "kubeletVersion": "podrunner",
                "containerRuntimeVersion": f"docker://{version}",
                "kernelVersion": platform.release(),
                "osImage": "barenode lab node",
                "operatingSystem": "linux",
                "architecture": platform.machine(),
            },
        }
