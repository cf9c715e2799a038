"""The answers at healthCheckNodePort: does this node have endpoints of the service?

A load balancer asks every node and sends to those that say 200. Any path and method gets
kube-proxy's answer (pkg/proxy/healthcheck): 503 without local endpoints, and a JSON document.
"""

import asyncio
import contextlib
import errno
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from hostkit.problems import Problems

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds between attempts at ports that could not be opened."""

_BACKLOG = 128


class HealthServers:
    """One listener for each wanted port, on *address*, all IPv4 addresses by default."""

    def __init__(
        self,
        problems: Problems,
        *,
        address: str = "0.0.0.0",  # noqa: S104 - load balancers ask from outside
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._problems = problems
        self._address = address
        self._sleep = sleep
        self._wanted: dict[int, tuple[str, int]] = {}
        self._open: dict[int, asyncio.Server] = {}
        self._web: web.Server | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def ports(self) -> frozenset[int]:
        """The ports that answer now."""
        return frozenset(self._open)

    async def set(self, wanted: Mapping[int, tuple[str, int]]) -> None:
        """Answer at exactly the ports of *wanted*, each with a service and its local endpoints.

        A port is 1 to 65535, a service is ``namespace/name``. A port that cannot be opened is a
        problem and is tried again until it can.
        """
        async with self._lock:
            self._wanted = dict(wanted)
            for port in self._open.keys() - self._wanted.keys():
                self._open.pop(port).close()
            await self._open_missing()
        if self._missing() and self._retrying is None:
            self._retrying = asyncio.create_task(self._retry())

    async def close(self) -> None:
        """Stop answering."""
        if self._retrying is not None:
            self._retrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retrying
            self._retrying = None
        await self.set({})
        if self._web is not None:
            await self._web.shutdown(1.0)
            self._web = None

    def _missing(self) -> list[int]:
        return sorted(self._wanted.keys() - self._open.keys())

    async def _retry(self) -> None:
        while self._missing():
            await self._sleep(RETRY)
            async with self._lock:
                await self._open_missing()
        self._retrying = None

    async def _open_missing(self) -> None:
        loop = asyncio.get_running_loop()
        if self._web is None:
            self._web = web.Server(self._answer, access_log=None)
        failed = []
        for port in self._missing():
            try:
                self._open[port] = await loop.create_server(
                    self._web,
                    self._address,
                    port,
                    family=socket.AF_INET,
                    backlog=_BACKLOG,
                    reuse_address=True,
                )
            except OSError as error:
                failed.append((str(port), self._why(port, error)))
        self._problems.replace_group("health-port/", failed)

    def _why(self, port: int, error: OSError) -> str:
        service, _ = self._wanted[port]
        if error.errno == errno.EADDRINUSE:
            cause = "another program listens there: end it, or give the service another port"
        else:
            cause = str(error)
        return f"healthCheckNodePort {port} of service {service} cannot be opened: {cause}"

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        transport = request.transport
        name = transport.get_extra_info("sockname") if transport is not None else None
        service, count = self._wanted.get(name[1] if name else 0, ("", 0))
        if not service:
            # Its service went while the connection was open.
            gone = web.Response(status=404)
            gone.force_close()
            return gone
        namespace, _, short = service.partition("/")
        document = {
            "service": {"namespace": namespace, "name": short},
            "localEndpoints": count,
            "serviceProxyHealthy": True,
        }
        return web.Response(
            status=200 if count > 0 else 503,
            # As bytes, because kube-proxy names no charset.
            body=json.dumps(document, indent="\t").encode(),
            content_type="application/json",
            headers={
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(count),
            },
        )
