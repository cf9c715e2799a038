"""The endpoints, as the kubelet has them; faults are plain sentences.

``/exec``, ``/attach`` and ``/portForward`` need an upgraded connection (SPDY or WebSocket), which
this server does not speak; files of ``/var/log`` are not handed out.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hostkit.errors import HostkitError
from nodeagent.errors import EngineError
from nodeagent.node.facts import Machine
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen
from nodeagent.server.access import Access, Refused
from nodeagent.server.logs import LogError, choose, parse_query
from nodeagent.server.parts import ServerParts
from nodeagent.server.sample import cadvisor_metrics, resource_metrics, summary
from nodeagent.server.stats import Stats
from nodeagent.server.streams import command, engine_status, run_command, send_log

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body: nothing here reads one."""
COMMANDS = 4
"""Commands at once: probes of pods use the same lane."""
_PROMETHEUS = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
_NO_UPGRADE = (
    "this node serves no exec, attach or port-forward: use 'docker exec' on the node, or POST "
    "/run/NAMESPACE/POD/CONTAINER?cmd=..."
)


class Views:
    """Makes the two applications: ``secured`` behind *access*, ``read_only`` with figures."""

    def __init__(
        self, parts: ServerParts, stats: Stats, machine: Machine, wall: Callable[[], float]
    ) -> None:
        self._parts = parts
        self._stats = stats
        self._machine = machine
        self._wall = wall
        self._commands = 0

    def read_only(self) -> web.Application:
        """Figures and pods, for everyone on this host."""
        app = web.Application(middlewares=[_faults], client_max_size=LARGEST_BODY)
        self._add_figures(app)
        return app

    def secured(self, access: Access, *, debugging: bool) -> web.Application:
        """Everything; without *debugging* neither logs nor commands."""
        app = web.Application(middlewares=[_faults, _gate(access)], client_max_size=LARGEST_BODY)
        self._add_figures(app)
        router = app.router
        if not debugging:
            return app
        router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for path in ("/run/{namespace}/{pod}/{container}",
                     "/run/{namespace}/{pod}/{uid}/{container}"):  # fmt: skip
            router.add_post(path, self._run)
        for name in ("exec", "attach", "portForward"):
            router.add_route("*", f"/{name}/{{rest:.*}}", _not_served)
        router.add_get("/logs{rest:(/.*)?}", _no_files)
        return app

    def _add_figures(self, app: web.Application) -> None:
        figures: Mapping[str, Handler] = {
            "/healthz": self._healthz,
            "/pods": self._pods,
            "/runningpods": self._running,
            "/spec": self._spec,
            "/stats/summary": self._summary,
            "/metrics": self._metrics,
            "/metrics/cadvisor": self._cadvisor,
            "/metrics/resource": self._resource,
        }
        for path, handler in figures.items():
            app.router.add_get(path, handler)
            app.router.add_get(f"{path}/", handler)

    async def _healthz(self, _request: web.Request) -> web.Response:
        bad = self._parts.healthz()
        return web.Response(text="\n".join(bad or ["ok"]), status=500 if bad else 200)

    async def _pods(self, _request: web.Request) -> web.Response:
        return _pod_list(self._parts.pods())

    async def _running(self, _request: web.Request) -> web.Response:
        found = (running_pod(pod, seen) for pod, seen in self._parts.observed())
        return _pod_list([one for one in found if one is not None])

    async def _spec(self, _request: web.Request) -> web.Response:
        facts = self._machine.facts()
        return _json(
            {
                "num_cores": facts.cpus,
                "memory_capacity": facts.memory,
                "machine_id": facts.machine_id,
                "system_uuid": facts.system_uuid,
                "boot_id": facts.boot_id,
            }
        )

    async def _summary(self, _request: web.Request) -> web.Response:
        return _json(summary(await self._stats.sample(), self._parts.node_name))

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._parts.metrics(), headers=_PROMETHEUS)

    async def _cadvisor(self, _request: web.Request) -> web.Response:
        body = cadvisor_metrics(await self._stats.sample())
        return web.Response(body=body, headers=_PROMETHEUS)

    async def _resource(self, _request: web.Request) -> web.Response:
        body = resource_metrics(await self._stats.sample())
        return web.Response(body=body, headers=_PROMETHEUS)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        query = parse_query(request.query, self._wall())
        pod, seen = self._find(request)
        container = request.match_info["container"]
        status = self._status(pod)
        chosen = choose(pod, seen, container, status, previous=query.previous)
        return await send_log(request, self._parts.engine, chosen, query)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        try:
            argv = command(request)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        pod, seen = self._find(request)
        name = request.match_info["container"]
        if request.match_info.get("uid", pod.uid) != pod.uid:
            raise LogError(404, f"pod {pod.key} has another UID: {pod.uid}")
        container = seen.newest(name)
        if container is None or not container.running:
            raise LogError(404, f'container "{name}" of pod {pod.key} does not run')
        if self._commands >= COMMANDS:
            return web.Response(status=429, text="too many commands run already\n")
        self._commands += 1
        try:
            return await run_command(self._parts.engine, container, argv)
        finally:
            self._commands -= 1

    def _find(self, request: web.Request) -> tuple[Pod, PodSeen]:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        found = self._parts.find(namespace, name)
        if found is None:
            raise LogError(404, f'pod "{name}" of namespace "{namespace}" is not on this node')
        return found

    def _status(self, pod: Pod) -> Mapping[str, Any]:
        """The pod's status as nodeagent gave it last."""
        for document in self._parts.pods():
            meta = document.get("metadata") or {}
            if meta.get("uid") == pod.uid or (
                meta.get("namespace") == pod.metadata.namespace
                and meta.get("name") == pod.metadata.name
            ):
                return document.get("status") or {}
        return pod.status


def running_pod(pod: Pod, seen: PodSeen) -> dict[str, Any] | None:
    """A pod as /runningpods shows it, None when nothing of it runs."""
    running = [one for one in map(seen.newest, seen.containers) if one is not None and one.running]
    if not running:
        return None
    meta = pod.metadata
    return {
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": pod.uid},
        "spec": {
            "containers": [{"name": o.name, "image": o.image, "resources": {}} for o in running]
        },
        "status": {},
    }


def _pod_list(items: list[dict[str, Any]]) -> web.Response:
    return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})


def _json(document: Mapping[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")


async def _not_served(_request: web.Request) -> web.Response:
    # kubectl shows a plain text only where that happens to be no YAML.
    document = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": _NO_UPGRADE, "reason": "NotImplemented", "code": 501,
    }  # fmt: skip
    return web.json_response(document, status=501)


async def _no_files(_request: web.Request) -> web.Response:
    return web.Response(status=403, text="files of this node are not served: use ssh\n")


def _gate(access: Access) -> Middleware:
    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert")
        resource = request.match_info.route.resource
        # The route that will answer counts, not how the path was written.
        path = resource.canonical if resource is not None else ""
        try:
            await access.check(
                request.method, path, certificate, request.headers.get("Authorization", "")
            )
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            return web.Response(status=refused.status, text=f"{refused}\n", headers=headers)
        return await handler(request)

    return gate


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Faults as sentences; aiohttp answers to those of the program with a bare 500."""
    try:
        return await handler(request)
    except LogError as error:
        return web.Response(status=error.status, text=f"{error}\n")
    except EngineError as error:
        return web.Response(status=engine_status(error), text=f"{error}\n")
    except HostkitError as error:
        return web.Response(status=500, text=f"{error}\n")
