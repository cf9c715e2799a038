"""An API server for single objects: GET, POST, PATCH, DELETE, and lists and watches by fields.

It knows as much of kinds as a node agent's tests need: strategic merge of a pod's status, UIDs,
versions, TokenRequest.
"""

import copy
import json
from typing import Any

from aiohttp import web

from tests.fakes.kube import (
    FakeKube,
    Json,
    Past,
    Refused,
    Store,
    Verb,
    _abort,
    _line,
    status_object,
)

_MERGED_BY = {"conditions": "type", "podIPs": "ip", "hostIPs": "ip"}


class KubeApi(FakeKube):
    """A server whose store has each kind as one collection, such as ``/api/v1/pods``.

    ``writes`` are method, path and body of what was asked for. ``lose_answers`` is for how many
    writes the connection is cut after they were done. ``unknown`` are fields of a status that
    this server is too old for. ``lifetime`` is how many seconds its tokens are good for, 0 for
    as many as asked for.
    """

    def __init__(self, store: Store | None = None, **options: Any) -> None:
        super().__init__(store, **options)
        self.writes: list[tuple[str, str, Json]] = []
        self.lose_answers = 0
        self.unknown: set[str] = set()
        self.lifetime = 0
        self.tokens_made = 0

    def create(self, kind: str, document: Json) -> Json:
        """Have an object of the *kind* ("pods"), in place of one of the same name."""
        return self._keep(kind, document, "ADDED")

    def object(self, kind: str, name: str) -> Json | None:
        """The object *name* ("namespace/name")."""
        return self.store.at(f"/api/v1/{kind}", self.store.version).get(name)

    def change(self, kind: str, name: str, **parts: Any) -> Json:
        """Replace top-level parts of an object."""
        return self._keep(kind, (self.object(kind, name) or {}) | parts, "MODIFIED")

    def remove(self, kind: str, name: str) -> None:
        """Delete an object."""
        self._keep(kind, self.object(kind, name) or {}, "DELETED")

    def _keep(self, kind: str, document: Json, change: str) -> Json:
        self.store.version += 1
        body = copy.deepcopy(document)
        meta = body["metadata"]
        if isinstance(meta, dict):
            meta["resourceVersion"] = str(self.store.version)
        name = f"{meta.get('namespace', '')}/{meta['name']}"
        self.store.history.append(Past(self.store.version, change, f"/api/v1/{kind}", name, body))
        self.store.wake()
        return body

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        if verb == "version" or request.path in {"/api", "/apis"}:
            return await super()._answer(verb, request)
        namespace, kind, name, part = _parts(request.path)
        if verb == "write":
            text = await request.text()
            body = json.loads(text) if text else {}
            self.writes.append((request.method, request.path, body))
            answer = self._write(request.method, namespace, kind, name, part, body)
            if self.lose_answers:
                self.lose_answers -= 1
                return _abort(request)
            return answer
        if verb == "watch":
            return await self._watch_some(request, namespace, kind)
        if name:
            found = self.object(kind, f"{namespace}/{name}")
            return web.json_response(found) if found else _missing(kind, name)
        return self._list_some(request, namespace, kind)

    def _write(
        self, method: str, namespace: str, kind: str, name: str, part: str, body: Json
    ) -> web.Response:
        found = self.object(kind, f"{namespace}/{name}")
        if method == "POST" and not name:
            key = f"{namespace}/{body['metadata']['name']}"
            if self.object(kind, key):
                return Refused(409, "AlreadyExists", f"{key} already exists").answer()
            return web.json_response(self.create(kind, body), status=201)
        if found is None:
            return _missing(kind, name)
        if part == "token":
            self.tokens_made += 1
            seconds = self.lifetime or body["spec"]["expirationSeconds"]
            answer = {
                "token": f"token-{self.tokens_made}",
                "expirationTimestamp": "2001-01-01T00:00:00Z",
            }
            return web.json_response(body | {"spec": body["spec"] | {"expirationSeconds": seconds},
                                             "status": answer}, status=201)  # fmt: skip
        wanted = (body.get("preconditions") or body.get("metadata") or {}).get("uid")
        if wanted and wanted != found["metadata"].get("uid"):
            text = "Precondition failed: UID in precondition differs"
            return Refused(409, "Conflict", text).answer()
        if method == "DELETE":
            self.remove(kind, f"{namespace}/{name}")
            return web.json_response(found)
        for field in self.unknown & (body.get("status") or {}).keys():
            text = f'unable to find api field in struct PodStatus for the json field "{field}"'
            return Refused(500, "", text).answer()
        return web.json_response(self._keep(kind, merge(found, body), "MODIFIED"))

    def _list_some(self, request: web.Request, namespace: str, kind: str) -> web.Response:
        found = self.store.at(f"/api/v1/{kind}", self.store.version).values()
        items = [one for one in found if _selected(one, namespace, request.query)]
        meta = {"resourceVersion": str(self.store.version)}
        return web.json_response({"kind": "List", "metadata": meta, "items": items or None})

    async def _watch_some(
        self, request: web.Request, namespace: str, kind: str
    ) -> web.StreamResponse:
        at = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            if at < self.store.oldest:
                gone = status_object(410, "Expired", f"too old resource version: {at}")
                await response.write(_line("ERROR", gone))
                return response
            self._watches[id(request)] = request, response
            while not self._closing.is_set() and id(request) in self._watches:
                news = self.store.news
                for past in list(self.store.history):
                    fits = past.path == f"/api/v1/{kind}" and at < past.version
                    if fits and _selected(past.body, namespace, request.query):
                        await response.write(_line(past.kind, past.body))
                        at = past.version
                await news.wait()
                await self._wait_running()
        except ConnectionError:
            return response
        finally:
            self._watches.pop(id(request), None)
        return response


def merge(old: Any, new: Json) -> Json:
    """A strategic merge of *new* into *old*; as at real servers, a list that *old* lacks is taken
    with its directives."""
    found = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            found[name] = merge(found.get(name), value)
        elif name in _MERGED_BY and isinstance(value, list) and name in found:
            found[name] = _merge_list(_MERGED_BY[name], found[name] or [], value)
        else:
            found[name] = value
    return found


def _merge_list(key: str, old: list[Json], new: list[Json]) -> list[Json]:
    if {"$patch": "replace"} in new:
        return [one for one in new if "$patch" not in one]
    found = {one[key]: one for one in old}
    for one in new:
        found[one[key]] = merge(found.get(one[key]), one)
    return list(found.values())


def _parts(path: str) -> tuple[str, str, str, str]:
    """Namespace, kind, name and subresource of a path below /api/v1."""
    steps = path.removeprefix("/api/v1/").split("/")
    namespace = ""
    if steps[0] == "namespaces" and len(steps) > 2:
        namespace, steps = steps[1], steps[2:]
    steps += ["", ""]
    return namespace, steps[0], steps[1], steps[2]


def _selected(body: Json, namespace: str, query: Any) -> bool:
    meta = body["metadata"]
    if namespace and meta.get("namespace") != namespace:
        return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = term.partition("=")
        value: Any = body
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value != wanted:
            return False
    return True


def _missing(kind: str, name: str) -> web.Response:
    return Refused(404, "NotFound", f'{kind} "{name}" not found').answer()
