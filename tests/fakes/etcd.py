"""An etcd that keeps state and fails on demand, behind the real gateway's HTTP.

``Store`` is what a cluster has agreed on; each ``FakeEtcd`` is one member that serves it, so
several members of one store stand for a cluster.
"""

import asyncio
import json
from collections import defaultdict, deque
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from tests.fakes.etcd_store import Json, Refused, Store, unb64, within

__all__ = ["FakeEtcd", "Fault", "Refused", "Store"]

Fault = Literal["hang", "cut", "lose-reply"]


class FakeEtcd:
    """One member on 127.0.0.1; ``url`` is its endpoint. An async context manager.

    ``requests`` are the paths and bodies that arrived, in order.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.v2_only = False
        self.requests: list[tuple[str, Json]] = []
        self._faults: defaultdict[str, deque[Fault | Refused]] = defaultdict(deque)
        self._running = asyncio.Event()
        self._running.set()
        self._closing = asyncio.Event()
        self._streams: dict[int, web.Request] = {}
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
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def streams(self) -> int:
        """How many watches are open."""
        return len(self._streams)

    def count(self, path: str) -> int:
        """How many requests came for *path*."""
        return sum(1 for seen, _ in self.requests if seen == path)

    def fail(self, path: str, fault: Fault | Refused, times: int = 1) -> None:
        """Let the next *times* requests for *path* fail.

        "hang": no answer. "cut": closed unhandled. "lose-reply": handled, then closed.
        """
        self._faults[path].extend([fault] * times)

    def pause(self) -> None:
        """Become silent with open connections, like a stopped process."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    def cut_streams(self) -> None:
        """Cut all watches off."""
        streams, self._streams = self._streams, {}
        for request in streams.values():
            _cut(request)
        self.store.wake()

    async def up(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
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
            self.cut_streams()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v3/")
        if self.v2_only:
            return web.Response(status=404, text="404 page not found\n")
        body: Json = json.loads(await request.read())
        self.requests.append((path, body))
        await self._wait_running()
        fault = self._faults[path].popleft() if self._faults[path] else None
        if fault == "hang":
            await self._closing.wait()
        if fault in {"hang", "cut"}:
            return _cut(request)
        try:
            if isinstance(fault, Refused):
                raise fault
            self._check_token(request, path)
            if path == "watch":
                return await self._watch(request, body["create_request"])
            answer = self.store.call(path, body)
        except Refused as refused:
            if refused.code < 0:
                raw = refused.message.encode(errors="surrogateescape")
                return web.Response(status=refused.status, body=raw)
            text = refused.message
            return web.json_response(
                {"error": text, "message": text, "code": refused.code}, status=refused.status
            )
        if fault == "lose-reply":
            return _cut(request)
        return web.json_response(answer)

    def _check_token(self, request: web.Request, path: str) -> None:
        if not self.store.user or path == "auth/authenticate":
            return
        token = request.headers.get("Authorization", "")
        if not token:
            raise Refused(400, 3, "etcdserver: user name is empty")
        if token not in self.store.tokens:
            raise Refused(401, 16, "etcdserver: invalid auth token")

    async def _wait_running(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        running = asyncio.ensure_future(self._running.wait())
        try:
            await asyncio.wait({closing, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            running.cancel()

    async def _watch(self, request: web.Request, create: Json) -> web.StreamResponse:
        store = self.store
        first = unb64(create["key"])
        end = unb64(create["range_end"]) if create.get("range_end") else None
        at = int(create["start_revision"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._streams[id(request)] = request
        try:
            await response.prepare(request)
            await _send(response, {"header": store.header(), "created": True})
            if at <= store.compacted:
                gone = {"canceled": True, "compact_revision": str(store.compacted)}
                await _send(response, {"header": store.header(), **gone})
                return response
            while not self._closing.is_set() and id(request) in self._streams:
                changed = store.changed
                events = [
                    (revision, event)
                    for revision, key, event in store.history
                    if revision >= at and within(key, first, end)
                ]
                if events:
                    at = events[-1][0] + 1
                    found = [event for _, event in events]
                    await _send(response, {"header": store.header(), "events": found})
                await changed.wait()
                await self._wait_running()
        except ConnectionError:
            return response
        finally:
            self._streams.pop(id(request), None)
        return response


async def _send(response: web.StreamResponse, result: Json) -> None:
    await response.write(json.dumps({"result": result}).encode() + b"\n")


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
