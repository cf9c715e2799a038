"""One HTTP GET or TCP connection to a container: its own connection each time, no proxy, cheap.

aiohttp is not used: a probe needs one request and a status, and this takes a third of the time.
"""

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass, replace
from functools import cache
from urllib.parse import quote, urljoin, urlsplit

from nodeagent.pods.container import Container, HttpGet, TcpSocket
from nodeagent.probes.answer import Answer, read_answer

REDIRECTS = 10
"""Redirects that are followed (Go's HTTP client, which the kubelet uses)."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Request:
    """A GET: *target* is path and query, *headers* come as they are sent."""

    scheme: str
    host: str
    port: int
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def url(self) -> str:
        """For messages and redirects."""
        return f"{self.scheme}://{authority(self.host, self.port)}{self.target}"


class UnusableError(ValueError):
    """What a probe or hook asks for cannot be done: the message names the field."""


def port_of(port: int | str, container: Container) -> int:
    """A number, or one of the container's named ports; raises UnusableError."""
    number: int | None = port if isinstance(port, int) else None
    if isinstance(port, str):
        named = [p.container_port for p in container.ports if p.name and p.name == port]
        if named:
            number = named[0]
        elif port.isascii() and port.isdecimal():
            number = int(port[:9])
        else:
            raise UnusableError(
                f"port: container {container.name} has no port named {port!r}: name one of its "
                "ports, or give the number"
            )
    if number is None or not 1 <= number <= 65535:
        raise UnusableError(f"port: {port} is not between 1 and 65535")
    return number


def authority(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request_of(handler: HttpGet, container: Container, address: str, agent: str) -> Request:
    """The request of a probe or hook; *agent* is the User-Agent. Raises UnusableError."""
    scheme = handler.scheme.lower()
    if scheme not in {"http", "https"}:
        raise UnusableError(f"scheme: {handler.scheme!r} must be HTTP or HTTPS")
    port = port_of(handler.port, container)
    host = _host(handler.host, address)
    headers = {"user-agent": ("User-Agent", agent), "accept": ("Accept", "*/*")}
    own: list[tuple[str, str]] = []
    seen: set[str] = set()
    for header in handler.http_headers:
        low = header.name.lower()
        if not header.name.isascii() or not header.name or _unsafe(header.name + header.value):
            raise UnusableError(
                f"httpHeaders: {header.name[:60]!r} has characters that a header cannot have"
            )
        if low in headers or low == "host":
            # The first one counts; an empty User-Agent or Accept is not sent (kubelet).
            if low not in seen:
                headers[low] = (header.name, header.value)
            seen.add(low)
        elif low not in {"connection", "content-length", "transfer-encoding"}:
            own.append((header.name, header.value))
    if not headers.get("host", ("", ""))[1]:
        headers["host"] = ("Host", authority(host, port))
    sent = [pair for pair in headers.values() if pair[1]]
    return Request(scheme, host, port, _target(handler.path), (*sent, *own))


def _unsafe(text: str) -> bool:
    return any((ord(one) < 32 and one != "\t") or ord(one) == 127 for one in text)


def _host(wanted: str, address: str) -> str:
    host = wanted.strip("[]") or address
    if not host:
        raise UnusableError("the pod has no address yet")
    if _unsafe(host) or " " in host or len(host) > 255:
        raise UnusableError(f"host: {host[:60]!r} is no host")
    return host


def _target(path: str) -> str:
    target = path.partition("#")[0]
    # A percent sign stays: paths are written with their escapes.
    target = target if target.startswith("/") else f"/{target}"
    return quote(target, safe="/?%:@!$&'()*+,;=-._~[]", errors="replace")


async def fetch(request: Request, timeout: float) -> Answer:
    """The answer to *request*, redirects on the same host followed.

    Raises TimeoutError after *timeout* seconds, OSError, and ValueError for what is not HTTP.
    """
    async with asyncio.timeout(timeout):
        for _ in range(REDIRECTS + 1):
            answer = await _once(request)
            if answer.status not in _REDIRECTS or not answer.location:
                return answer
            following = _redirected(request, answer.location)
            if following is None:
                return answer
            request = following
    raise ValueError(f"it was redirected more than {REDIRECTS} times")


async def connect(handler: TcpSocket, container: Container, address: str, timeout: float) -> None:
    """Open a connection and close it; raises UnusableError, TimeoutError or OSError."""
    port, host = port_of(handler.port, container), _host(handler.host, address)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    transport.close()


def _redirected(request: Request, location: str) -> Request | None:
    """The request that *location* leads to, None when it is on another host."""
    try:
        parts = urlsplit(urljoin(request.url, location))
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or parts.hostname != request.host.lower():
        return None
    headers = request.headers
    if urlsplit(location).netloc:
        own = authority(request.host, port)
        headers = tuple((n, own if n.lower() == "host" else v) for n, v in headers)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return replace(request, scheme=parts.scheme, port=port, target=_target(target), headers=headers)


class _Exchange(asyncio.Protocol):
    """Sends the request as soon as there is a connection, and gathers the answer."""

    def __init__(self, request: bytes, done: "asyncio.Future[Answer]") -> None:
        self._request = request
        self._done = done
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._read(ended=False)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._done.done():
            self._done.set_exception(exc)
        self._read(ended=True)

    def _read(self, *, ended: bool) -> None:
        if self._done.done():
            return
        try:
            answer = read_answer(self._data, ended=ended)
        except ValueError as error:
            self._done.set_exception(error)
        else:
            if answer is not None:
                self._done.set_result(answer)


async def _once(request: Request) -> Answer:
    loop = asyncio.get_running_loop()
    head = [f"GET {request.target} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in request.headers]
    head += ["Connection: close", "", ""]
    data = "\r\n".join(head).encode("utf-8", "replace")
    done: asyncio.Future[Answer] = loop.create_future()
    transport, _ = await loop.create_connection(
        lambda: _Exchange(data, done), request.host, request.port,
        ssl=_unverified() if request.scheme == "https" else None,
    )  # fmt: skip
    try:
        return await done
    finally:
        # Nothing more is said: a TLS farewell would wait for the other side.
        transport.abort()


@cache
def _unverified() -> ssl.SSLContext:
    """Probes do not verify: certificates of pods name services, not addresses (``core/v1``)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # OpenSSL refuses small keys even where nothing is verified.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def trouble(error: Exception) -> str:
    """What went wrong with a connection, as a few words."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None:
        # asyncio words it by its own: Connect call failed ('10.1.2.3', 80)
        number = errno.ECONNREFUSED if isinstance(error, ConnectionRefusedError) else error.errno
        return os.strerror(number).lower()
    return str(error) or type(error).__name__
