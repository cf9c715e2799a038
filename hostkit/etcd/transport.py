"""One HTTP exchange with one endpoint: bytes out, bytes or one of our errors back.

Nothing is retried here. Every failure says whether the request may have reached the server,
because only then must a write not be repeated blindly.
"""

import asyncio
import io
import os
import ssl
from http import HTTPStatus

import aiohttp

from hostkit.errors import cut
from hostkit.etcd import codec, tls
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import (
    EndpointFault,
    EtcdApiError,
    EtcdAuthError,
    EtcdError,
    EtcdTlsError,
    EtcdVersionError,
)
from hostkit.fresh import Fresh
from hostkit.sockets import host_is_silent, wary_socket

CANCELLED, UNKNOWN, INVALID, DEADLINE, NOT_FOUND = 1, 2, 3, 4, 5
DENIED, EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 7, 8, 14, 16

# Refusals by which etcd says that the request was not even proposed.
_NOT_PROPOSED = ("no leader", "too many requests", "not capable", "is stopped")
# ErrUserEmpty, ErrAuthFailed and ErrAuthOldRevision carry the code of a bad argument.
_AUTH_TEXTS = ("user name is empty", "authentication failed", "revision of auth store is old")

_error_decoder = codec.decoder(codec.ErrorReply)


class Stream:
    """The open answer of a streaming request; close it when done."""

    def __init__(self, endpoint: str, response: aiohttp.ClientResponse, config: EtcdConfig) -> None:
        self.endpoint = endpoint
        self._response = response
        self._config = config

    async def read(self) -> bytes:
        """The next bytes, as they come; b"" at the end. Raises EtcdError when it is cut."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _fault(self.endpoint, error, self._config) from error

    def close(self) -> None:
        """Drop the connection."""
        self._response.close()


class Transport:
    """The connections to all endpoints of *config*; use it in one event loop.

    Raises EtcdConfigError when a certificate file is unusable.
    """

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._context: Fresh[ssl.SSLContext] | None = None
        if config.tls:
            files = (config.cafile, config.certfile, config.keyfile)
            self._context = Fresh("certificates", files, lambda: tls.make_context(config))

    async def post(
        self, endpoint: str, path: str, body: bytes, *, token: str, timeout: float
    ) -> bytes:
        """The body of the answer to *body* within *timeout* seconds; see the module for errors."""
        try:
            async with asyncio.timeout(timeout):
                async with await self._send(endpoint, path, body, token, timeout) as response:
                    data = await response.read()
        except TimeoutError as error:
            sent = not isinstance(error, aiohttp.ConnectionTimeoutError)
            what = "no answer" if sent else "no connection"
            raise _late(endpoint, what, timeout, sent=sent) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _fault(endpoint, error, self._config) from error
        if response.status != HTTPStatus.OK:
            raise refusal(endpoint, response.status, data)
        return data

    async def stream(
        self, endpoint: str, path: str, body: bytes, *, token: str, timeout: float
    ) -> Stream:
        """Open a streaming answer; its first bytes have to be on their way within *timeout* s."""
        try:
            async with asyncio.timeout(timeout):
                response = await self._send(endpoint, path, body, token, timeout)
                if response.status != HTTPStatus.OK:
                    async with response:
                        data = await response.read()
                    raise refusal(endpoint, response.status, data)
        except TimeoutError as error:
            raise _late(endpoint, "no answer", timeout, sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _fault(endpoint, error, self._config) from error
        return Stream(endpoint, response, self._config)

    def reload(self) -> None:
        """Read the certificate files again before the next request, whatever they look like."""
        if self._context is not None:
            self._context.forget()

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=wary_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                auto_decompress=False,
            )
        return self._session

    async def _send(
        self, endpoint: str, path: str, body: bytes, token: str, timeout: float
    ) -> aiohttp.ClientResponse:
        # hasleader makes a member without a leader refuse at once instead of waiting for one.
        headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
        if token:
            headers["Authorization"] = token
        # Connecting gets a shorter deadline than the call: a write that fails in it was not sent.
        limits = aiohttp.ClientTimeout(total=None, connect=timeout * 0.5)
        return await self._opened().post(
            f"{endpoint}/v3/{path}",
            # aiohttp warns about plain bytes from 1 MiB on; etcd takes 1.5 MiB.
            data=body if len(body) < 2**20 else io.BytesIO(body),
            headers=headers,
            timeout=limits,
            ssl=True if self._context is None else self._context.get(),
            allow_redirects=False,
        )


def _late(endpoint: str, what: str, timeout: float, *, sent: bool) -> EndpointFault:
    cause = f"{what} within {round(timeout, 2):g} s"
    return EndpointFault(endpoint, cause, sent=sent, overdue=what)


def _fault(endpoint: str, error: Exception, config: EtcdConfig) -> EtcdError:
    """Our error for a failed connection or exchange."""
    # aiohttp's own classes inherit from ssl's but lack their fields; the cause has them.
    connecting = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)
    cause = error.__cause__ if isinstance(error, connecting) else None
    meaning = tls.explain(cause or error, config)
    if meaning:
        return EtcdTlsError(endpoint, meaning)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return EndpointFault(endpoint, f"name not found: {error.os_error.strerror}", sent=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio's own text is the call that failed; errno says why.
        number = error.os_error.errno
        text = os.strerror(number) if number else str(error.os_error)
        return EndpointFault(endpoint, text, sent=False)
    if host_is_silent(error):
        return EndpointFault(endpoint, "its host has fallen silent", sent=True)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        # etcd cuts plain HTTP on its TLS port without a word.
        hint = "" if config.tls else "; if this lasts, try https://"
        return EndpointFault(endpoint, f"connection cut{hint}", sent=True)
    return EndpointFault(endpoint, cut(str(error) or type(error).__name__, 200), sent=True)


def refusal(endpoint: str, status: int, data: bytes) -> EtcdError:
    """Our error for an answer other than 200."""
    try:
        reply = codec.decode(_error_decoder, data, endpoint)
    except EndpointFault:
        text = cut(data.decode(errors="replace"), 200)
        if status == HTTPStatus.NOT_FOUND:
            return EtcdVersionError(endpoint)
        meaning = tls.explain_refusal(text)
        if meaning:
            return EtcdTlsError(endpoint, meaning)
        return EndpointFault(endpoint, f"HTTP {status}: {text}", sent=True)
    return api_error(endpoint, reply.code, reply.message or reply.error, status)


def api_error(endpoint: str, code: int, message: str, status: int = 0) -> EtcdError:
    """Our error for gRPC *code* and *message*: the endpoint's fault or a refusal of the request."""
    message = cut(message.removeprefix("etcdserver: "), 300)
    meaning = tls.explain_refusal(message)
    if meaning:
        return EtcdTlsError(endpoint, meaning)
    if (
        code in {UNAUTHENTICATED, DENIED}
        or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        or any(text in message for text in _AUTH_TEXTS)
    ):
        hint = " (it wants username and password)" if "user name is empty" in message else ""
        return EtcdAuthError(code, message + hint, endpoint)
    not_proposed = any(text in message for text in _NOT_PROPOSED)
    # Also what a gateway says for a moment while its etcd ends, so it is no proof.
    if message == "connection closed" and endpoint.startswith("https:"):
        cause = f"{message}; if this lasts, {tls.NO_CLIENT_USAGE}"
        return EndpointFault(endpoint, cause, sent=True, suspect_tls=True)
    if code in {CANCELLED, DEADLINE, UNAVAILABLE} or not_proposed:
        return EndpointFault(endpoint, message, sent=not not_proposed)
    return EtcdApiError(code, message, endpoint)
