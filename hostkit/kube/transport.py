"""The client of the Kubernetes API: requests and streams over several servers.

Model: the client stays with the server in use until that fails, then tries each of the others
once, those last that were silent a short while ago. While it is away from the first server, a
task asks that one for its version now and then, and takes it back into use when it has answered
for a while (``rotation``).

Invariants:

* a read is repeated freely; a write is repeated only when it certainly did not reach a server.
  When that is not certain the caller gets ``KubeUnavailable(maybe_applied=True)`` at once;
* a server that is busy (429) is waited for as long as it asks, within the deadline;
* a refused token is read again once per call, since it is renewed on disk while we run.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import TypeVar

import aiohttp

from hostkit.kube.config import KubeConfig
from hostkit.kube.connections import JSON, Call, Connections, Params, Stream
from hostkit.kube.credentials import Credentials
from hostkit.kube.errors import (
    ApiError,
    KubeUnavailable,
    ServerFault,
    TooManyRequests,
    Unauthorized,
)
from hostkit.kube.rotation import Rotation
from hostkit.sockets import wary_socket

__all__ = ["KubeClient", "Params", "Stream"]

T = TypeVar("T")

_PROBE = Call("GET", "/version")


def _tcp() -> aiohttp.BaseConnector:
    return aiohttp.TCPConnector(limit=0, socket_factory=wary_socket)


class KubeClient:
    """A client of one cluster's API servers, for use in one event loop.

    *deadline* is how many seconds one server has to begin its answer, and to go on with it.
    *probe_every* and *settle* are seconds: how often the first server is probed while another
    one is in use, and how long it has to answer before it is used again. Calls raise
    KubeUnavailable when no server answered and ApiError when one refused. Raises
    KubeConfigError when a file with credentials is unusable.
    """

    def __init__(
        self,
        config: KubeConfig,
        *,
        user_agent: str,
        deadline: float = 10.0,
        probe_every: float = 5.0,
        settle: float = 30.0,
        connector: Callable[[], aiohttp.BaseConnector] = _tcp,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self._deadline = deadline
        self._probe_every = probe_every
        self._clock = clock
        self._sleep = sleep
        self._credentials = Credentials(config)
        self._connections = Connections(config, self._credentials, user_agent, connector)
        self._rotation = Rotation(config.servers, settle)
        self._endpoint: str | None = None
        self._errors: dict[str, str] = {}
        self._returning: asyncio.Task[None] | None = None
        self._heard: dict[str, float] = {}
        self._probes: dict[str, asyncio.Task[ServerFault | None]] = {}

    @property
    def endpoint(self) -> str | None:
        """The server that answered last, None before the first answer."""
        return self._endpoint

    @property
    def endpoint_errors(self) -> Mapping[str, str]:
        """The servers that failed when last used, with the cause."""
        return MappingProxyType(self._errors)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        deadline: float | None = None,
    ) -> bytes:
        """The body of the answer to one request; *path* begins with ``/api`` or the like."""
        call = Call(method, path, params, body, content_type, accept)
        _, data = await self._any(call, deadline or self._deadline)
        return data

    async def get(self, path: str, params: Params = ()) -> bytes:
        """The body of the answer to a GET."""
        return (await self.get_from(path, params))[1]

    async def get_from(self, path: str, params: Params = ()) -> tuple[str, bytes]:
        """The server that answered a GET, and the body of its answer."""
        return await self._any(Call("GET", path, params), self._deadline)

    async def get_at(self, endpoint: str, path: str, params: Params = ()) -> bytes:
        """A GET to *endpoint* and no other; raises ServerFault or ApiError."""
        return await self._connections.exchange(endpoint, Call("GET", path, params), self._deadline)

    def quiet_for(self, endpoint: str) -> float:
        """Seconds since *endpoint* last answered a request or probe, whoever asked."""
        return self._clock() - self._heard.get(endpoint, float("-inf"))

    async def probe(self, endpoint: str, within: float) -> None:
        """Raise ServerFault unless *endpoint* answers, in whatever words, in *within* seconds.

        Who asks while a probe is under way shares its outcome, and its *within*.
        """
        task = self._probes.get(endpoint)
        if task is None:
            task = self._probes[endpoint] = asyncio.create_task(self._probe(endpoint, within))
            task.add_done_callback(lambda _: self._probes.pop(endpoint, None))
        if (fault := await asyncio.shield(task)) is not None:
            raise fault

    @asynccontextmanager
    async def stream(self, path: str, params: Params = ()) -> AsyncGenerator[Stream, None]:
        """The lines of an answer that has no end, from one server.

        A server that stops sending is not noticed here: see ``listwatch`` for how to.
        """
        call = Call("GET", path, params)
        async with AsyncExitStack() as stack:

            async def enter(endpoint: str) -> Stream:
                opened = self._connections.stream(endpoint, call, self._deadline)
                return await stack.enter_async_context(opened)

            _, stream = await self._try_all(call, enter, self._deadline)
            yield stream

    def failed(self, endpoint: str, error: ServerFault) -> None:
        """Note that *endpoint* failed; the next one is used if it was in use."""
        self._errors[endpoint] = error.cause
        self._rotation.failed(endpoint, self._clock(), silent=error.overdue)
        if self._rotation.away and (self._returning is None or self._returning.done()):
            self._returning = asyncio.create_task(self._return())

    def deserted(self, endpoint: str) -> bool:
        """Whether we went back to the first server, so that a stream of *endpoint* should too."""
        return endpoint != self._rotation.first and not self._rotation.away

    async def close(self) -> None:
        """Close all connections."""
        tasks: list[asyncio.Task[object]] = [*self._probes.values()]
        if self._returning is not None:
            tasks.append(self._returning)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    async def _any(self, call: Call, deadline: float) -> tuple[str, bytes]:
        return await self._try_all(
            call, lambda endpoint: self._connections.exchange(endpoint, call, deadline), deadline
        )

    async def _try_all(
        self, call: Call, send: Callable[[str], Awaitable[T]], deadline: float
    ) -> tuple[str, T]:
        """The first server that answers, and its answer."""
        causes: dict[str, str] = {}
        for endpoint in self._rotation.order(self._clock()):
            try:
                answer = await self._persist(endpoint, send, deadline)
            except ServerFault as error:
                self.failed(endpoint, error)
                causes[endpoint] = error.cause
                if error.sent and not call.repeatable:
                    raise KubeUnavailable(causes, maybe_applied=True) from error
                last = error
            except ApiError:
                self._answered(endpoint)
                raise
            else:
                self._answered(endpoint)
                return endpoint, answer
        raise KubeUnavailable(causes) from last

    async def _persist(
        self, endpoint: str, send: Callable[[str], Awaitable[T]], deadline: float
    ) -> T:
        """One server's answer, after waiting when it is busy and with a token that is fresh."""
        waited, renewed = 0.0, False
        while True:
            try:
                return await send(endpoint)
            except TooManyRequests as error:
                pause = error.retry_after or 1.0
                waited += pause
                if waited > deadline:
                    raise
                await self._sleep(pause)
            except Unauthorized:
                if renewed or not self._credentials.renew_token():
                    raise
                renewed = True

    def _answered(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._errors.pop(endpoint, None)
        self._heard[endpoint] = self._clock()
        self._rotation.answered(endpoint)

    async def _probe(self, endpoint: str, within: float) -> ServerFault | None:
        try:
            with suppress(ApiError):
                await self._connections.exchange(endpoint, _PROBE, within)
        except ServerFault as error:
            return error
        self._heard[endpoint] = self._clock()
        return None

    async def _return(self) -> None:
        """Probe the first server until it is in use again."""
        first = self._rotation.first
        while self._rotation.away:
            await self._sleep(self._probe_every)
            try:
                await self.probe(first, min(self._deadline, self._probe_every))
            except ServerFault as error:
                self._errors[first] = error.cause
                self._rotation.probed(False, self._clock())
            else:
                self._errors.pop(first, None)
                self._rotation.probed(True, self._clock())
