"""One HTTP exchange with one API server: bytes out, bytes or one of our errors back.

Nothing is retried here. A connection whose host is silent is given up within 3 s, idle or not
(``hostkit.sockets``), while a server that only takes its time has the whole deadline. After any
time-out the server's pool of connections is left behind and the next exchange opens a new one.
"""

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import msgspec

from hostkit import tls
from hostkit.errors import cut
from hostkit.kube.config import KubeConfig
from hostkit.kube.credentials import Credentials
from hostkit.kube.errors import KubeError, ServerFault, VersionTooLarge, api_error
from hostkit.sockets import host_is_silent
from hostkit.streams import Lines

Params = Sequence[tuple[str, str]]

JSON = "application/json"
MAX_LINE = 32 * 2**20
# Seconds for name, TCP connection and TLS: beyond it a server counts as gone, however long it may
# take to answer once connected. A silent host is found out sooner; a busy server signs slowly.
CONNECT_WITHIN = 5.0
# How many times its deadline an answer may take as a whole while bytes keep coming.
_WHOLE = 6
# etcd's limit for an object is 1.5 MiB; aiohttp warns about plain bytes from 1 MiB on.
_LARGE_BODY = 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """One request; *path* begins with a slash and is not escaped yet."""

    method: str
    path: str
    params: Params = ()
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no harm."""
        return self.method in {"GET", "HEAD"}


class _CutError(aiohttp.ClientError):
    """The connection was cut, or its host fell silent, while a request was on its way."""


async def _once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp sends PUT and DELETE again by itself when it sees one of these two errors.
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _CutError from error


async def _once_if_silent(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # A read would be sent again by aiohttp, too: to the same host, which costs seconds.
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except aiohttp.ClientOSError as error:
        if host_is_silent(error):
            raise _CutError from error
        raise


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0.0


class Status(msgspec.Struct):
    """What the API server says instead of an object (``meta/v1.Status``)."""

    kind: str = ""
    reason: str = ""
    message: str = ""
    code: int = 0
    details: _Details | None = None


_status = msgspec.json.Decoder(Status)


class _Pool:
    """The connections to one server, closed as soon as it is retired and no longer used."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self._users = 0
        self._retired = False

    def take(self) -> None:
        self._users += 1

    async def release(self) -> None:
        self._users -= 1
        await self._close_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and not self._users:
            await self.session.close()


class Stream:
    """The open answer of a streaming request: lines from *endpoint*."""

    def __init__(self, endpoint: str, response: aiohttp.ClientResponse, config: KubeConfig) -> None:
        self.endpoint = endpoint
        self._response = response
        self._config = config
        self._lines = Lines(MAX_LINE)
        self._connection = response.connection and response.connection.protocol

    async def read(self) -> list[bytes] | None:
        """The lines that the next bytes complete, maybe none; None at the end.

        Cancelling it loses nothing. Raises ServerFault when the stream is cut, within a line or
        between two, and when a line is longer than 32 MiB.
        """
        try:
            chunk = await self._response.content.readany()
            if chunk:
                return self._lines.feed(chunk)
        except (aiohttp.ClientError, OSError) as error:
            # Of a body that is cut aiohttp tells no cause; its connection knows it.
            cause = self._connection.exception() if self._connection is not None else None
            shown = cause if isinstance(cause, OSError) and host_is_silent(cause) else error
            raise _fault(self.endpoint, shown, self._config) from error
        except ValueError as error:
            raise ServerFault(self.endpoint, str(error), sent=True) from error
        if self._lines.rest.strip():
            raise ServerFault(self.endpoint, "the stream ended within a line", sent=True)
        return None

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while (lines := await self.read()) is not None:
            for line in lines:
                yield line


class Connections:
    """The connections to all servers of *config*; use it in one event loop.

    *connector* makes the pool of connections to one server.
    """

    def __init__(
        self,
        config: KubeConfig,
        credentials: Credentials,
        user_agent: str,
        connector: Callable[[], aiohttp.BaseConnector],
    ) -> None:
        self._config = config
        self._credentials = credentials
        self._user_agent = user_agent
        self._connector = connector
        self._pools: dict[str, _Pool] = {}

    async def exchange(self, endpoint: str, call: Call, deadline: float) -> bytes:
        """The body of the answer, whose next bytes have to come within *deadline* seconds."""
        limits = aiohttp.ClientTimeout(
            total=deadline * _WHOLE,
            connect=min(deadline, CONNECT_WITHIN),
            sock_read=deadline,
        )
        try:
            async with (
                self._pool(endpoint) as pool,
                await self._send(pool, endpoint, call, limits) as response,
            ):
                data = await response.read()
        except TimeoutError as error:
            await self._leave_pool(endpoint)
            raise _late(endpoint, error, deadline) from error
        except (aiohttp.ClientError, OSError) as error:
            raise await self._failed(endpoint, error) from error
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise refusal(endpoint, call, response.status, response.headers, data)
        return data

    @asynccontextmanager
    async def stream(
        self, endpoint: str, call: Call, deadline: float
    ) -> AsyncGenerator[Stream, None]:
        """A streaming answer, whose headers have to come within *deadline* seconds."""
        limits = aiohttp.ClientTimeout(total=None, connect=min(deadline, CONNECT_WITHIN))
        async with self._pool(endpoint) as pool:
            try:
                async with asyncio.timeout(deadline):
                    response = await self._send(pool, endpoint, call, limits)
                    data = b""
                    if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                        async with response:
                            data = await response.read()
            except TimeoutError as error:
                await self._leave_pool(endpoint)
                raise _late(endpoint, error, deadline) from error
            except (aiohttp.ClientError, OSError) as error:
                raise await self._failed(endpoint, error) from error
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                raise refusal(endpoint, call, response.status, response.headers, data)
            try:
                yield Stream(endpoint, response, self._config)
            finally:
                response.close()

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in list(self._pools):
            await self._leave_pool(endpoint)

    @asynccontextmanager
    async def _pool(self, endpoint: str) -> AsyncGenerator[_Pool, None]:
        pool = self._pools.get(endpoint)
        if pool is None:
            session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept-Encoding", "Content-Type"),
                auto_decompress=False,
                # Lists are megabytes: fewer, larger pieces.
                read_bufsize=2**18,
            )
            pool = self._pools[endpoint] = _Pool(session)
        pool.take()
        try:
            yield pool
        finally:
            await pool.release()

    async def _failed(self, endpoint: str, error: Exception) -> ServerFault:
        fault = _fault(endpoint, error, self._config)
        if fault.overdue:
            await self._leave_pool(endpoint)
        return fault

    async def _leave_pool(self, endpoint: str) -> None:
        pool = self._pools.pop(endpoint, None)
        if pool is not None:
            await pool.retire()

    async def _send(
        self, pool: _Pool, endpoint: str, call: Call, limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {"User-Agent": self._user_agent, "Accept": call.accept}
        token = self._credentials.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body: bytes | io.BytesIO | None = call.body
        if call.body is not None:
            headers["Content-Type"] = call.content_type
            body = call.body if len(call.body) < _LARGE_BODY else io.BytesIO(call.body)
        return await pool.session.request(
            call.method,
            f"{endpoint}{call.path}",
            params=call.params,
            data=body,
            headers=headers,
            timeout=limits,
            ssl=self._credentials.context() or True,
            server_hostname=self._config.tls_server_name or None,
            allow_redirects=False,
            middlewares=(_once_if_silent if call.repeatable else _once,),
        )


def refusal(
    endpoint: str, call: Call, status: int, headers: Mapping[str, str], data: bytes
) -> KubeError:
    """Our error for an answer that is no success.

    Trouble of the server (5xx) is a ServerFault for a request that may be repeated elsewhere,
    but not when the server only lags behind, which its API tells apart.
    """
    try:
        told = _status.decode(data)
    except (msgspec.DecodeError, RecursionError):
        told = Status()
    message = cut(told.message or data.decode(errors="replace"), 300) or "no text"
    if "HTTP request to an HTTPS server" in message:
        return ServerFault(endpoint, "it speaks TLS on this port: use https://", sent=False)
    if status < HTTPStatus.BAD_REQUEST:
        where = cut(headers.get("Location", "elsewhere"), 100)
        return ServerFault(endpoint, f"it answers HTTP {status} and points to {where}", sent=True)
    if status == HTTPStatus.UNAUTHORIZED and endpoint.startswith("http:"):
        message += "; credentials are not used with http://"
    after = headers.get("Retry-After", "")
    pause = float(after) if after.isdecimal() else 0.0
    if told.details is not None:
        pause = max(pause, told.details.retry_after_seconds)
    error = api_error(status, cut(told.reason, 60), message, endpoint, retry_after=pause)
    troubled = status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, VersionTooLarge)
    if troubled and call.repeatable:
        return ServerFault(endpoint, f"HTTP {status}: {message}", sent=True)
    return error


def _late(endpoint: str, error: TimeoutError, deadline: float) -> ServerFault:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        cause = f"no connection within {min(deadline, CONNECT_WITHIN):g} s"
        return ServerFault(endpoint, cause, sent=False, overdue=True)
    return ServerFault(endpoint, f"no answer within {deadline:g} s", sent=True, overdue=True)


def _fault(endpoint: str, error: Exception, config: KubeConfig) -> ServerFault:
    """Our error for a failed connection or exchange."""
    # aiohttp's own classes inherit from ssl's but lack their fields; the cause has them.
    connecting = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)
    cause = error.__cause__ if isinstance(error, connecting) else None
    meaning = tls.explain(
        cause or error,
        authorities="the configured CA data" if config.ca_data else config.ca_file,
        names="client certificate and key",
    )
    if meaning:
        return ServerFault(endpoint, meaning, sent=False)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ServerFault(endpoint, f"name not found: {error.os_error.strerror}", sent=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio's own text is the call that failed; errno says why.
        number = error.os_error.errno
        text = os.strerror(number) if number else str(error.os_error)
        silent = host_is_silent(error.os_error)
        return ServerFault(endpoint, text, sent=False, overdue=silent)
    if host_is_silent(error) or host_is_silent(error.__cause__):
        return ServerFault(endpoint, "its host has fallen silent", sent=True, overdue=True)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | _CutError):
        return ServerFault(endpoint, "connection cut", sent=True)
    return ServerFault(endpoint, cut(str(error) or type(error).__name__, 200), sent=True)
