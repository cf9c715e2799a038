"""An API server that keeps state and fails on demand; it knows collections, and no kinds.

``Store`` is what etcd holds; each ``FakeKube`` is one API server in front of it, so several
servers of one store stand for a cluster with several masters.
"""

import asyncio
import json
import ssl
from collections import defaultdict, deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

Json = dict[str, Any]
Fault = Literal["hang", "cut", "stall-body"]
Verb = Literal["list", "watch", "version", "write"]


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that is no success; a ``text`` is sent as it is, in place of a Status."""

    status: int
    reason: str = ""
    message: str = "refused"
    retry_after: int = 0
    text: str = ""
    location: str = ""

    def answer(self) -> web.Response:
        """The HTTP answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.location:
            headers["Location"] = self.location
        if self.text:
            return web.Response(status=self.status, text=self.text, headers=headers)
        return web.json_response(
            status_object(self.status, self.reason, self.message),
            status=self.status,
            headers=headers,
        )


def status_object(code: int, reason: str, message: str) -> Json:
    """A Status as API servers write it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


@dataclass(frozen=True, slots=True)
class Past:
    """One change that was made."""

    version: int
    kind: str
    path: str
    name: str
    body: Json


class Store:
    """The objects of all collections, by the path of the collection."""

    def __init__(self, version: int = 10) -> None:
        self.version = version
        self.history: list[Past] = []
        # Watches from before this version are refused with 410.
        self.oldest = 0
        # Set at the next change, and another one put in its place.
        self.news = asyncio.Event()

    def put(self, path: str, name: str, **spec: Any) -> None:
        """Create or replace *name* ("namespace/name")."""
        kind = "MODIFIED" if name in self.at(path, self.version) else "ADDED"
        self._note(kind, path, name, spec)

    def delete(self, path: str, name: str) -> None:
        """Delete *name*."""
        self._note("DELETED", path, name, self.at(path, self.version)[name]["spec"])

    def at(self, path: str, version: int) -> dict[str, Json]:
        """The objects of *path* as they were at *version*."""
        found: dict[str, Json] = {}
        for past in self.history:
            if past.path == path and past.version <= version:
                if past.kind == "DELETED":
                    found.pop(past.name, None)
                else:
                    found[past.name] = past.body
        return found

    def compact(self) -> None:
        """Forget how the present came about."""
        self.oldest = self.version

    def rewind(self, version: int) -> None:
        """Become what this was at *version*, as from a backup."""
        self.history = [past for past in self.history if past.version <= version]
        self.version = version
        self.wake()

    def wake(self) -> None:
        """Let all watches look again."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def _note(self, kind: str, path: str, name: str, spec: Json) -> None:
        self.version += 1
        namespace, _, short = name.rpartition("/")
        meta = {"name": short, "namespace": namespace, "resourceVersion": str(self.version)}
        body = {"metadata": meta, "spec": spec}
        self.history.append(Past(self.version, kind, path, name, body))
        self.wake()


class FakeKube:
    """One API server at *address*. An async context manager.

    *tokens* are the bearer tokens it accepts, None for no authentication. ``lag`` is how many
    versions its memory is behind the store. ``requests`` are verb, path, query and headers of
    what arrived; ``peers`` the address and port that each came from.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        tokens: set[str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.store = store or Store()
        self.tokens = tokens
        self.lag = 0
        self.groups: Json = {"/api": {"versions": ["v1"]}}
        self.requests: list[tuple[Verb, str, dict[str, str], dict[str, str]]] = []
        self.peers: list[tuple[str, int]] = []
        self._tls = tls
        self._address = address
        self._faults: defaultdict[str, deque[Fault | Refused]] = defaultdict(deque)
        self._running = asyncio.Event()
        self._running.set()
        self._closing = asyncio.Event()
        self._watches: dict[int, tuple[web.Request, web.StreamResponse]] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.down()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self._tls else 'http'}://{self._address}:{self._port}"

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def queries(self, verb: Verb) -> list[dict[str, str]]:
        """The queries of all requests of *verb*."""
        return [query for seen, _, query, _ in self.requests if seen == verb]

    def fail(self, verb: Verb, fault: Fault | Refused, times: int = 1) -> None:
        """Let the next *times* requests of *verb* fail.

        "hang": no answer. "cut": closed without one. "stall-body": silent after the headers.
        """
        self._faults[verb].extend([fault] * times)

    def pause(self) -> None:
        """Become silent with open connections, like a stopped process."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    async def inject(self, data: bytes) -> None:
        """Write *data* into all watches."""
        for _, response in list(self._watches.values()):
            await response.write(data)

    def cut_watches(self) -> None:
        """Cut all watches off."""
        watches, self._watches = self._watches, {}
        for request, _ in watches.values():
            _abort(request)
        self.store.wake()

    def end_watches(self) -> None:
        """End all watches in good order."""
        self._watches.clear()
        self.store.wake()

    async def up(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._address, self._port, reuse_address=True, ssl_context=self._tls
        )
        await site.start()
        self._port = int(self._runner.addresses[0][1])

    async def down(self) -> None:
        """Close all connections and refuse new ones."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._closing.set()
            for site in list(runner.sites):
                await site.stop()
            # asyncio hands an accepted connection over in several turns of the loop, and aiohttp
            # never closes one that it gets after its shutdown.
            for _ in range(10):
                await asyncio.sleep(0)
            self.cut_watches()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        verb = _verb(request)
        self.requests.append((verb, request.path, dict(request.query), dict(request.headers)))
        self.peers.append(request.transport.get_extra_info("peername")[:2])  # type: ignore[union-attr]
        await self._wait_running()
        fault = self._faults[verb].popleft() if self._faults[verb] else None
        if isinstance(fault, Refused):
            return fault.answer()
        if fault == "hang":
            await self._closing.wait()
        if fault == "stall-body":
            response = web.StreamResponse()
            await response.prepare(request)
            await self._closing.wait()
        if fault is not None:
            return _abort(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and bearer not in self.tokens:
            return Refused(401, "Unauthorized", "Unauthorized").answer()
        return await self._answer(verb, request)

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        if verb == "version":
            return web.json_response({"major": "1", "minor": "20"})
        if verb == "write":
            body = json.loads(await request.read())
            self.store.put(request.path, body["metadata"]["name"], **body.get("spec", {}))
            return web.json_response(body)
        if request.path in {"/api", "/apis"}:
            if request.path not in self.groups:
                return web.Response(status=404, text="404 page not found\n")
            return web.json_response(self.groups[request.path])
        return await self._watch(request) if verb == "watch" else self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        wanted = request.query.get("resourceVersion", "")
        seen = self.store.version - self.lag if wanted else self.store.version
        if wanted and int(wanted) > seen:
            text = f"Timeout: Too large resource version: {wanted}, current: {seen}"
            return Refused(504, "Timeout", text, retry_after=1).answer()
        items = list(self.store.at(request.path, seen).values())
        limit = int(request.query.get("limit", 0))
        answer: Json = {"kind": "List", "metadata": {"resourceVersion": str(seen)}}
        # Go writes a list without items as null.
        answer["items"] = (items[:limit] if limit else items) or None
        return web.json_response(answer)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        store = self.store
        at = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            if at < store.oldest:
                gone = status_object(410, "Expired", f"too old resource version: {at}")
                await response.write(_line("ERROR", gone))
                return response
            self._watches[id(request)] = request, response
            while not self._closing.is_set() and id(request) in self._watches:
                news = store.news
                for past in list(store.history):
                    if past.path == request.path and at < past.version <= store.version - self.lag:
                        await response.write(_line(past.kind, past.body))
                        at = past.version
                await news.wait()
                await self._wait_running()
        except ConnectionError:
            return response
        finally:
            self._watches.pop(id(request), None)
        return response

    async def _wait_running(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        running = asyncio.ensure_future(self._running.wait())
        try:
            await asyncio.wait({closing, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            running.cancel()


def _verb(request: web.Request) -> Verb:
    if request.method != "GET":
        return "write"
    if request.path == "/version":
        return "version"
    return "watch" if "watch" in request.query else "list"


def _line(kind: str, body: Json) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def _abort(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
