"""``python -m bench.canned``: answers like a Kubernetes API server, from memory.

It serves one list of services and one of endpoint slices, and a watch of each. The lists never
change; whatever comes on standard input, lines of ``RESOURCEVERSION WATCH-LINE`` about slices,
is sent to those who watch slices and kept for those who come later. It ends with its input.
"""

import argparse
import asyncio
import sys
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from bench.services_made import (
    FIRST_VERSION,
    MOST,
    SERVICES,
    SLICES,
    list_document,
    service_object,
    services,
    slice_object,
)

BOOKMARK_EVERY = 20.0
"""Seconds without a change after which a watch is told the present version."""

_LINE_LIMIT = 1 << 20
_JSON = "application/json"

DOCUMENTS: dict[str, object] = {
    "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0-bench"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": "discovery.k8s.io",
                "versions": [{"groupVersion": "discovery.k8s.io/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "discovery.k8s.io/v1", "version": "v1"},
            }
        ],
    },
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {
                "name": "services", "singularName": "service", "namespaced": True,
                "kind": "Service", "verbs": ["get", "list", "watch"],
            }
        ],
    },
    "/apis/discovery.k8s.io/v1": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "discovery.k8s.io/v1",
        "resources": [
            {
                "name": "endpointslices", "singularName": "endpointslice", "namespaced": True,
                "kind": "EndpointSlice", "verbs": ["get", "list", "watch"],
            }
        ],
    },
}  # fmt: skip


class Canned:
    """The server's state: both lists, and every change of a slice since."""

    def __init__(self, count: int) -> None:
        made = services(count)
        self._lists = {
            SERVICES: list_document("Service", "v1", [service_object(one) for one in made]),
            SLICES: list_document(
                "EndpointSlice",
                "discovery.k8s.io/v1",
                [slice_object(one, one.endpoints, FIRST_VERSION - one.number) for one in made],
            ),
        }
        self._versions: list[int] = []
        self._lines: list[bytes] = []
        self._changed = asyncio.Event()

    def application(self) -> web.Application:
        """The web application."""
        app = web.Application()
        app.router.add_get("/healthz", _healthy)
        app.router.add_get("/readyz", _healthy)
        for path, document in DOCUMENTS.items():
            app.router.add_get(path, _document(document))
        for path in self._lists:
            app.router.add_get(path, self._collection)
        return app

    def push(self, version: int, line: bytes) -> None:
        """Send *line* to all who watch slices."""
        self._versions.append(version)
        self._lines.append(line)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in {"1", "true"}:
            return web.Response(body=self._lists[request.path], content_type=_JSON)
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        await response.prepare(request)
        after = int(request.query.get("resourceVersion") or 0)
        changes = request.path == SLICES
        position = bisect_right(self._versions, after) if changes else 0
        kind, api = ("EndpointSlice", "discovery.k8s.io/v1") if changes else ("Service", "v1")
        while True:
            waiting = self._lines[position:] if changes else []
            if waiting:
                position += len(waiting)
                await response.write(b"".join(waiting))
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), BOOKMARK_EVERY)
            except TimeoutError:
                await response.write(self._bookmark(kind, api))

    def _bookmark(self, kind: str, api: str) -> bytes:
        version = self._versions[-1] if self._versions else FIRST_VERSION
        return (
            f'{{"type":"BOOKMARK","object":{{"kind":"{kind}","apiVersion":"{api}",'
            f'"metadata":{{"resourceVersion":"{version}"}}}}}}\n'
        ).encode()


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _document(document: object) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document)

    return answer


async def serve(count: int, address: str, port: int) -> None:
    """Serve until standard input ends; prints a line when it listens."""
    canned = Canned(count)
    runner = web.AppRunner(canned.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port, shutdown_timeout=0.1).start()
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        print("listening", flush=True)
        while line := await reader.readline():
            version, _, event = line.partition(b" ")
            canned.push(int(version), event)
    finally:
        await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.canned")
    parser.add_argument("--services", type=int, required=True, help=f"how many, 1 to {MOST}")
    parser.add_argument("--listen", required=True, help="ADDRESS:PORT")
    ask = parser.parse_args(argv)
    address, _, port = ask.listen.rpartition(":")
    asyncio.run(serve(ask.services, address, int(port)))


if __name__ == "__main__":
    main()
