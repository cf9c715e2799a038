"""An API server with nodes and leases that can be read, made, changed and deleted one by one."""

import json
from typing import Any

from aiohttp import web

from lab.api import patch
from lab.api.kinds import LEASE, NODE
from tests.fakes.kube import Json, Refused, Verb
from tests.fakes.kubeobjects import AgedKube, ObjectStore

NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NAME = "node-1"

_KINDS = {NODES: NODE, LEASES: LEASE}


class NodeServer(AgedKube):
    """Knows nodes and leases; ``leases`` False is a server of before 1.14, ``lease_rights`` False
    one that refuses us what concerns leases.

    ``spoil`` changes a Node's status before it is stored, as a server of another version does.
    """

    def __init__(self) -> None:
        self.objects = ObjectStore()
        super().__init__(self.objects)
        self.leases = True
        self.lease_rights = True
        self.bodies: list[tuple[str, str, Json]] = []
        self.uids = 0
        self.spoil: Json = {}

    # --- what tests do to it ---

    def get(self, path: str, name: str = NAME) -> Json | None:
        """The object as it is."""
        return self.objects.at(path, self.objects.version).get(name)

    def set(self, path: str, document: Json, name: str = NAME) -> None:
        """Store an object as another client would."""
        self.objects.set(path, document, name)

    def delete(self, path: str, name: str = NAME) -> None:
        """Delete an object as another client would."""
        self.objects.remove(path, name)

    @property
    def node(self) -> Json:
        """The Node, which has to be there."""
        found = self.get(NODES)
        assert found is not None
        return found

    @property
    def lease(self) -> Json:
        """The Lease, which has to be there."""
        found = self.get(LEASES)
        assert found is not None
        return found

    @property
    def ready(self) -> Json:
        """The Node's condition Ready."""
        return next(one for one in self.node["status"]["conditions"] if one["type"] == "Ready")

    def written(self, method: str, suffix: str = "") -> list[Json]:
        """The bodies of all writes by *method* to paths that end with *suffix*."""
        return [body for how, path, body in self.bodies if how == method and path.endswith(suffix)]

    # --- answers ---

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        collection, name, sub = _target(request.path)
        if collection is None or (collection == LEASES and not self.leases):
            return await super()._answer(verb, request) if collection is None else _absent()
        if collection == LEASES and not self.lease_rights:
            return Refused(403, "Forbidden", "leases is forbidden").answer()
        if request.method == "POST":
            return self._create(collection, await self._body(request))
        if not name:
            return await super()._answer(verb, request)
        found = self.get(collection, name)
        if found is None:
            return Refused(404, "NotFound", f'"{name}" not found').answer()
        if request.method == "PUT":
            return self._replace(collection, found, await self._body(request))
        if request.method == "PATCH":
            return self._patch(request, collection, found, await self._body(request), sub)
        return web.json_response(found)

    async def _body(self, request: web.Request) -> Json:
        body: Json = json.loads(await request.read())
        self.bodies.append((request.method, request.path, body))
        return body

    def _create(self, collection: str, body: Json) -> web.Response:
        name = body["metadata"]["name"]
        if self.get(collection, name) is not None:
            return Refused(409, "AlreadyExists", f'"{name}" already exists').answer()
        self.uids += 1
        body["metadata"]["uid"] = f"uid-{self.uids}"
        return self._store(collection, body, 201)

    def _replace(self, collection: str, found: Json, body: Json) -> web.Response:
        if body["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
            return Refused(409, "Conflict", "the object has been modified").answer()
        return self._store(collection, body)

    def _patch(
        self, request: web.Request, collection: str, found: Json, body: Json, sub: str
    ) -> web.Response:
        new = patch.apply(_KINDS[collection], request.content_type, found, body)
        # Each of the two paths changes its own half only.
        wishes, status = (found, new) if sub == "status" else (new, found)
        return self._store(collection, {**wishes, "status": status.get("status", {})})

    def _store(self, collection: str, body: Json, status: int = 200) -> web.Response:
        if collection == NODES:
            body = {**body, "status": {**body.get("status", {}), **self.spoil}}
        self.set(collection, body, body["metadata"]["name"])
        return web.json_response(self.get(collection, body["metadata"]["name"]), status=status)


def _target(path: str) -> tuple[str | None, str, str]:
    for collection in (NODES, LEASES):
        if path == collection or path.startswith(collection + "/"):
            name, _, sub = path.removeprefix(collection).lstrip("/").partition("/")
            return collection, name, sub
    return None, "", ""


def _absent() -> web.Response:
    return Refused(404, "NotFound", "the server could not find the requested resource").answer()


class Notes:
    """A recorder of events that keeps them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def pod(self, pod: Any, kind: str, reason: str, message: str, container: str = "") -> None:
        """No pods here."""
        raise AssertionError("the node's parts tell of no pods")

    def node(self, kind: str, reason: str, message: str) -> None:
        """Keep it."""
        self.events.append((kind, reason, message))

    @property
    def reasons(self) -> list[str]:
        """The reasons of all events."""
        return [reason for _, reason, _ in self.events]
