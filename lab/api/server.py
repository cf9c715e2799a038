"""kube's HTTP API on a registry: plain HTTP, no authentication; JSON, or YAML in a body.

What kubectl and nodes ask is answered; what nothing here uses (server-side apply, protobuf but
for kubectl's create commands, deleting whole collections, dry runs, exec) is refused.
Lists come whole: a limit is accepted and ignored. Objects are served as etcd has them, also
invalid ones.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from aiohttp import web

from hostkit.logs import printable
from lab.api import discovery, kinds, patch, protobuf, reviews, scale
from lab.api.faults import CutError, Faults
from lab.api.kinds import BY_PLURAL, POD, SERVICE_ACCOUNT, Kind
from lab.api.mirror import Item
from lab.api.objects import (
    Json,
    StatusError,
    bad_request,
    expired,
    not_found,
    path,
)
from lab.api.podlogs import PodLogs
from lab.api.registry import Registry
from lab.api.scale import SCALE
from lab.api.schema import conform
from lab.api.selectors import Selection
from lab.api.table import Sheet
from lab.api.watch import Watch

MAX_BODY = 3 * 1024 * 1024
BINDING = Kind("", "v1", "Binding", "bindings")
STREAMS = frozenset({"attach", "exec", "portforward"})
"""Subresources of pods that are refused with a word about it."""

_PATH = re.compile(r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)/(?P<rest>.+)")
_ACTIONS = frozenset({"binding", "log", "token"})
_JSON_HEADERS = {"Content-Type": "application/json"}
_NO_METHOD = StatusError(
    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names: a kind and, where they are not empty, namespace, name, subresource."""

    kind: Kind
    namespace: str
    name: str
    sub: str

    @classmethod
    def parse(cls, url_path: str) -> "Target":
        """From the path of a URL; raises 404."""
        match = _PATH.fullmatch(url_path.rstrip("/"))
        root, parts = (match["root"], match["rest"].split("/")) if match else ("", [])
        namespace = ""
        if len(parts) > 2 and parts[0] == "namespaces" and (root, parts[2]) in BY_PLURAL:
            namespace, parts = parts[1], parts[2:]
        kind = BY_PLURAL.get((root, parts[0])) if parts else None
        if kind is None or len(parts) > 3 or bool(namespace) > kind.namespaced:
            raise _no_resource()
        name, sub = [*parts[1:], "", ""][:2]
        if name and kind.namespaced and not namespace:
            raise _no_resource()
        known = {"status": kind.status, "scale": kind.scale, "token": kind is SERVICE_ACCOUNT}
        known |= dict.fromkeys(("binding", "log", *STREAMS), kind is POD)
        if sub and not known.get(sub):
            raise _no_resource()
        return cls(kind, namespace, name, sub)


def _no_resource() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


class Server:
    """Answers requests from *registry*; faults can be set over HTTP if *faults* is given."""

    def __init__(
        self,
        registry: Registry,
        *,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
        bookmarks: float = 30.0,
        token: str = "",
    ) -> None:
        self._registry = registry
        self._settable = faults is not None
        self._faults = faults or Faults(registry.mirror)
        self._clock = clock
        self._bookmarks = bookmarks
        own = token or secrets.token_urlsafe(32)
        self._tokens = reviews.Tokens(own, clock)
        self._logs = PodLogs(own)
        self._closing = asyncio.Event()
        self._documents = {
            url: json.dumps(document).encode() for url, document in discovery.documents().items()
        }
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which is chosen if *port* is 0. Raises OSError."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A watch on which nothing happens would not notice that its client has gone.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_address=True, backlog=1024).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """End the watches and stop listening."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._logs.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path == "/faults" and self._settable:
                return _json(await self._set_faults(request))
            await self._faults.before_answer()
            return await self._answer(request)
        except StatusError as error:
            return _json(error.body(), error.code)
        except CutError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _set_faults(self, request: web.Request) -> Json:
        if request.method != "POST":
            return self._faults.set({})
        return self._faults.set(_decode(await request.read(), request.content_type))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in {"/healthz", "/readyz", "/livez"}:
            return web.Response(text="ok")
        document = self._documents.get(request.path.rstrip("/"))
        if document is not None:
            return web.Response(body=document, headers=_JSON_HEADERS)
        if request.method == "POST" and (asked := reviews.REVIEWS.get(request.path)):
            body = _decode(await request.read(), request.content_type)
            return _json(reviews.review(asked, body, self._tokens), 201)
        target = Target.parse(request.path)
        if target.sub in STREAMS:
            text = f"pods/{target.sub} is not supported by the lab's API server"
            raise StatusError(501, "NotImplemented", text)
        if "dryRun" in request.query:
            raise bad_request("dryRun is not supported by the lab's API server")
        if request.method == "GET":
            return await self._read(request, target)
        if request.method == "POST":
            return await self._create(request, target)
        if request.method == "DELETE" and target.name and not target.sub:
            return _json(await self._delete(request, target))
        if request.method in {"PUT", "PATCH"} and target.name and target.sub not in _ACTIONS:
            return await self._change(request, target)
        raise _NO_METHOD

    # Reading

    async def _read(self, request: web.Request, target: Target) -> web.StreamResponse:
        query = request.query
        sheet = Sheet.asked_for(
            target.kind, request.headers.get("Accept", ""), query.get("includeObject"), self._clock
        )
        if target.name and target.sub not in {"binding", "token"}:
            item = self._item(target)
            if target.sub == "scale":
                return _json(scale.shown(target.kind, item.obj()))
            if target.sub == "log":
                return await self._logs.answer(request, self._registry.mirror, item.obj())
            if sheet is not None:
                return _json(sheet.of([item.obj()], str(item.revision)))
            return web.Response(body=item.raw, headers=_JSON_HEADERS)
        if target.sub:
            raise _NO_METHOD
        chosen = Selection.parse(
            target.kind, target.namespace, query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )  # fmt: skip
        if query.get("watch", "").lower() in {"1", "true"}:
            return await self._watch(request, chosen, sheet)
        mirror = self._faults.mirror
        wanted = _revision(query)
        if wanted > mirror.revision:
            text = f"Too large resource version: {wanted}, current: {mirror.revision}"
            raise StatusError(504, "Timeout", text)
        shelf = mirror.shelves[target.kind]
        found = [item for name in shelf.names() if chosen.has(name, item := shelf.items[name])]
        if sheet is not None:
            return _json(sheet.of([item.obj() for item in found], str(mirror.revision)))
        head = json.dumps({
            "kind": f"{target.kind.name}List", "apiVersion": target.kind.api_version,
            "metadata": {"resourceVersion": str(mirror.revision)},
        })  # fmt: skip
        body = b'%s,"items":[%s]}\n' % (head[:-1].encode(), b",".join([i.raw for i in found]))
        return web.Response(body=body, headers=_JSON_HEADERS)

    def _item(self, target: Target) -> Item:
        found = self._faults.mirror.shelves[target.kind].items.get((target.namespace, target.name))
        if found is None:
            raise not_found(target.kind, target.name)
        return found

    async def _watch(
        self, request: web.Request, chosen: Selection, sheet: Sheet | None
    ) -> web.StreamResponse:
        query = request.query
        if "sendInitialEvents" in query:
            raise StatusError(
                422, "Invalid",
                'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: '
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is "
                "enabled",
            )  # fmt: skip
        wanted, limit = _revision(query), query.get("timeoutSeconds", "")
        response = web.StreamResponse(headers=_JSON_HEADERS)
        watch = Watch(
            self._faults, chosen, sheet,
            bookmarks=self._bookmarks if query.get("allowWatchBookmarks") == "true" else 0.0,
            seconds=float(limit) if limit.isdecimal() and int(limit) else 3600.0,
        )  # fmt: skip
        await response.prepare(request)
        if self._faults.next_watch_gone():
            await response.write(watch.failure(expired(wanted, self._faults.mirror.revision)))
            return response
        run = asyncio.ensure_future(watch.run(response, wanted))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({run, closing}, return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                run.result()
        except ConnectionError:
            return response
        finally:
            run.cancel()
            closing.cancel()
        return response

    # Writing

    async def _create(self, request: web.Request, target: Target) -> web.Response:
        if target.name and target.sub not in {"binding", "token"}:
            raise _NO_METHOD
        body = _decode(await request.read(), request.content_type)
        if target.sub == "binding":
            node = path(conform(BINDING, body)[0], "target.name")
            if not node:
                raise bad_request("a Binding needs target.name, the node's")
            await self._registry.bind(target.namespace, target.name, node)
            return _json({**discovery.SUCCESS, "code": 201}, 201)
        if target.sub == "token":
            made = reviews.request_token(
                self._registry.mirror, self._tokens, target.namespace, target.name, body
            )
            return _json(made, 201)
        _check_type(target.kind, body)
        headers = _check_fields(target.kind, body, request.query)
        namespace = target.namespace
        if target.kind.namespaced and not namespace:
            raise bad_request(
                "an object of this kind is created in a namespace: name it in the URL"
            )
        created = await self._registry.create(target.kind, namespace, body)
        return _json(created, 201, headers)

    async def _change(self, request: web.Request, target: Target) -> web.Response:
        body = _decode(await request.read(), request.content_type, whole=request.method == "PUT")
        kind, media_type, headers = target.kind, request.content_type, {}

        def make(old: Json) -> Json:
            shown = scale.shown(kind, old) if target.sub == "scale" else old
            of = SCALE if target.sub == "scale" else kind
            if request.method == "PUT":
                new = body
                _check_type(of, new)
            else:
                new = patch.apply(of, media_type, shown, body)
            headers.update(_check_fields(of, new, request.query))
            return scale.taken_over(old, new) if target.sub == "scale" else new

        changed = await self._registry.change(
            kind, target.namespace, target.name, make,
            scope="status" if target.sub == "status" else "spec",
        )  # fmt: skip
        shown = scale.shown(kind, changed) if target.sub == "scale" else changed
        return _json(shown, 200, headers)

    async def _delete(self, request: web.Request, target: Target) -> Json:
        raw = await request.read()
        options = _decode(raw, request.content_type) if raw else {}
        options = {**options, **request.query}
        grace = options.get("gracePeriodSeconds")
        if grace is not None and not str(grace).isdecimal():
            raise bad_request("gracePeriodSeconds has to be 0 or more")
        kind = target.kind
        left = await self._registry.delete(
            kind, target.namespace, target.name,
            grace=None if grace is None else int(grace),
            uid=path(options, "preconditions.uid") or "",
            orphan=options.get("propagationPolicy") == "Orphan",
        )  # fmt: skip
        if kind in {POD, kinds.NAMESPACE}:
            return left
        details = {"name": target.name, "kind": kind.plural, "uid": path(left, "metadata.uid")}
        return {
            **discovery.SUCCESS,
            "details": details | ({"group": kind.group} if kind.group else {}),
        }


def _revision(query: Mapping[str, str]) -> int:
    text = query.get("resourceVersion", "") or "0"
    if not text.isdecimal():
        raise bad_request(f'invalid resource version "{text}"')
    return int(text)


def _decode(data: bytes, media_type: str, *, whole: bool = True) -> Any:
    """A request's body; with *whole* it has to be an object. Raises 400, 415."""
    if data.startswith(protobuf.MAGIC):
        return protobuf.decode(data)
    try:
        body = yaml.safe_load(data) if "yaml" in media_type else msgspec.json.decode(data)
    except (ValueError, RecursionError, msgspec.DecodeError, yaml.YAMLError) as error:
        raise bad_request(f"the body of the request cannot be decoded: {error}") from error
    if whole and not isinstance(body, dict):
        raise bad_request("the body of the request has to be an object")
    return body


def _check_type(kind: Kind, body: Json) -> None:
    version, name = body.get("apiVersion", kind.api_version), body.get("kind", kind.name)
    if version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if name != kind.name:
        raise bad_request(
            f"the kind in the data ({name}) does not match the expected kind ({kind.name})"
        )


def _check_fields(kind: Kind, body: Json, query: Mapping[str, str]) -> dict[str, str]:
    """The headers that warn of fields that do not exist; raises 400 if asked to be strict."""
    _, unknown = conform(kind, body)
    mode = query.get("fieldValidation") or "Warn"
    if not unknown or mode == "Ignore":
        return {}
    texts = [f'unknown field "{path}"' for path in unknown]
    if mode == "Strict":
        raise bad_request(
            f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: '
            f"strict decoding error: {', '.join(texts)}"
        )
    escaped = ", ".join(texts).replace("\\", "").replace('"', '\\"')
    return {"Warning": f'299 - "{printable(escaped)}"'}


def _json(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    data = msgspec.json.encode(body) + b"\n"
    return web.Response(body=data, status=status, headers={**_JSON_HEADERS, **(headers or {})})
