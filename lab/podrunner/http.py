"""JSON over HTTP, to the API server and to Docker's socket."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from hostkit.errors import HostkitError

Raw = dict[str, Any]


class RefusedError(HostkitError):
    """The server answered with an error; *status* is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class Http:
    """JSON over HTTP to one server: *base* is its URL, *socket* its Unix socket if it has one."""

    def __init__(self, base: str, socket: str = "") -> None:
        self._base = base
        connector = aiohttp.UnixConnector(socket) if socket else None
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        timeout: float = 10.0,
        kind: str = "",
    ) -> Any:
        """The decoded answer; raises RefusedError, aiohttp.ClientError or TimeoutError."""
        headers = {"Content-Type": kind or "application/json"} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else None
        limit = aiohttp.ClientTimeout(total=timeout)
        async with self._session.request(
            method, self._base + path, data=data, headers=headers, timeout=limit
        ) as reply:
            text = await reply.text()
            if reply.status >= 400:
                raise RefusedError(reply.status, f"{method} {path}: {text.strip()[:300]}")
            return json.loads(text) if text[:1] in {"{", "["} else text

    async def lines(self, path: str) -> AsyncIterator[Raw]:
        """The lines of an endless answer; one that is silent for 60 s ends with TimeoutError."""
        limit = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self._session.get(self._base + path, timeout=limit) as reply:
            if reply.status >= 400:
                raise RefusedError(reply.status, f"GET {path}: {reply.status}")
            rest = b""
            async for chunk in reply.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield json.loads(line)
