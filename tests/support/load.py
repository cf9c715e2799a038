"""Load on a service and on API servers while hosts of a lab die, each request told apart.

A request is repeated until it is answered. What counts is how many attempts it took: the first
may go to an address behind which nobody lives any more, and a client cannot know.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from lab.control import admin_context, request
from lab.plan import netns_name
from lab.store import Paths, Store
from tests.support.kubelab import KubeLab
from tests.support.netns import enter
from tests.support.services import Json

CONNECT_SECONDS = 2.0
"""A handshake is the kernels' business, which takes no time on a busy machine either; one that
stands still for a moment is not judged."""
ANSWER_SECONDS = 20.0
MOST_ATTEMPTS = 40
"""At even chances to meet the dead, one request in 10**12 takes more."""

Attempt = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: Unix times, why attempts failed, and whether one was answered at last.

    *ports* are the client's own of the attempts that got no connection.
    """

    client: str
    began: float
    ended: float
    failures: tuple[str, ...]
    answered: bool
    ports: tuple[int, ...] = ()


class NoConnectionError(OSError):
    """No connection was made from *port*."""

    def __init__(self, port: int, cause: OSError) -> None:
        self.port = port
        super().__init__(f"from port {port}: {cause!r}")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a group of requests came to. *seconds* is the longest that one of them took."""

    requests: int
    failed_first: int
    most_failures: int
    seconds: float

    def __str__(self) -> str:
        share = self.failed_first / self.requests if self.requests else 0.0
        return (
            f"{self.requests} requests, {self.failed_first} failed at first ({share:.1%}), at most "
            f"{self.most_failures} failures and {self.seconds:.2f} s for one request"
        )


def figures(requests: Sequence[Request]) -> Figures:
    """The figures of *requests*."""
    return Figures(
        len(requests),
        sum(1 for one in requests if one.failures),
        max((len(one.failures) for one in requests), default=0),
        max((one.ended - one.began for one in requests), default=0.0),
    )


class Client:
    """Makes one request after the other, in a thread of its own inside the network *space*.

    *attempt* raises OSError or HTTPException when it fails; *pause* is in seconds.
    """

    def __init__(self, name: str, space: Path, attempt: Attempt, pause: float) -> None:
        self.name = name
        self._space = space
        self._attempt = attempt
        self._pause = pause
        self._stop = threading.Event()
        self._requests: list[Request] = []
        self._thread = threading.Thread(target=self._main, daemon=True)

    @property
    def requests(self) -> list[Request]:
        """Those that have ended."""
        return list(self._requests)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request under way."""
        self._stop.set()
        self._thread.join()

    def _main(self) -> None:
        enter(self._space)
        while not self._stop.is_set():
            self._requests.append(self._one())
            self._stop.wait(self._pause)

    def _one(self) -> Request:
        began = time.time()
        failures: list[str] = []
        ports: list[int] = []
        while len(failures) < MOST_ATTEMPTS:
            try:
                self._attempt()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                ports += [error.port] if isinstance(error, NoConnectionError) else []
                # Whoever is refused at once comes again as often as whoever is answered.
                time.sleep(self._pause)
            else:
                break
        answered = len(failures) < MOST_ATTEMPTS
        return Request(self.name, began, time.time(), tuple(failures), answered, tuple(ports))


class Load:
    """Clients that ask at the same time, as a context."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = tuple(clients)

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        for client in self.clients:
            client.stop()

    def requests(self, *, since: float = 0.0, until: float = float("inf")) -> list[Request]:
        """Those that began at *since* or later and before *until*, in Unix seconds."""
        return [
            one for client in self.clients for one in client.requests if since <= one.began < until
        ]

    def flowing(self, since: float, count: int = 10) -> bool:
        """Whether each client made *count* requests that began after *since*."""
        return all(
            sum(1 for one in client.requests if one.began >= since) >= count
            for client in self.clients
        )


def page(url: str, *, connect: float = CONNECT_SECONDS) -> Attempt:
    """One attempt to get *url* over a connection of its own, made within *connect* seconds."""
    parts = urlsplit(url)

    def attempt() -> None:
        made = http.client.HTTPConnection(parts.hostname or "", parts.port or 80)
        with contextlib.closing(made):
            made.sock = _connected((made.host, made.port), connect)
            made.request("GET", parts.path or "/")
            _read(made.getresponse())

    return attempt


def _connected(address: tuple[str, int], within: float) -> socket.socket:
    made = socket.socket()
    made.settimeout(within)
    try:
        made.connect(address)
    except OSError as error:
        port = made.getsockname()[1]
        made.close()
        raise NoConnectionError(port, error) from error
    made.settimeout(ANSWER_SECONDS)
    return made


def service_load(
    kube: KubeLab, hosts: Sequence[str], url: str, *, connect: float = CONNECT_SECONDS
) -> Load:
    """A client of *url* in each of *hosts*, some 40 requests a second."""
    return Load(
        [Client(host, kube.network(host), page(url, connect=connect), 0.025) for host in hosts]
    )


def _read(response: http.client.HTTPResponse) -> bytes:
    data = response.read()
    if response.status >= 300:
        raise ConnectionError(f"{response.status} {response.reason}: {data[:200]!r}")
    return data


def api_load(kube: KubeLab, hosts: Sequence[str], path: str, tls: ssl.SSLContext) -> Load:
    """For each master of *hosts* a client of its API server that asks as kubectl does.

    kubectl makes a new connection each time it is called.
    """

    def attempt(address: str) -> Attempt:
        def get() -> None:
            made = http.client.HTTPSConnection(address, 6443, timeout=ANSWER_SECONDS, context=tls)
            with contextlib.closing(made):
                made.request("GET", path)
                _read(made.getresponse())

        return get

    space = kube.network("fabric")
    return Load([Client(host, space, attempt(kube.address(host)), 0.2) for host in hosts])


class Watch:
    """Follows the config maps of the namespace ``default`` at one API server, as a context.

    Where the stream breaks it goes on from the last version it saw, as every client does.
    ``names`` are what was added, in this order; ``breaks`` why streams ended.
    """

    def __init__(self, kube: KubeLab, host: str, tls: ssl.SSLContext, version: str) -> None:
        self.host = host
        self.names: list[str] = []
        self.breaks: list[str] = []
        self._space = kube.network("fabric")
        self._address = kube.address(host)
        self._tls = tls
        self._version = version
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stop.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _main(self) -> None:
        enter(self._space)
        while not self._stop.is_set():
            try:
                self._follow()
                cause = "ended"
            except (OSError, http.client.HTTPException, ValueError) as error:
                cause = repr(error)
            if not self._stop.is_set():
                self.breaks.append(cause)
                self._stop.wait(0.2)

    def _follow(self) -> None:
        made = http.client.HTTPSConnection(
            self._address, 6443, timeout=ANSWER_SECONDS, context=self._tls
        )
        with contextlib.closing(made):
            query = f"watch=true&timeoutSeconds=3000&resourceVersion={self._version}"
            made.request("GET", f"/api/v1/namespaces/default/configmaps?{query}")
            self._socket = made.sock
            if self._stop.is_set():
                return  # told so while this connected: nobody shuts this one down
            made.sock.settimeout(None)
            for line in _lines(made.getresponse()):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ConnectionError(line)
                self._version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "ADDED":
                    self.names.append(event["object"]["metadata"]["name"])


def _lines(response: http.client.HTTPResponse) -> Iterator[str]:
    if response.status != 200:
        raise ConnectionError(f"{response.status} {response.reason}")
    while line := response.readline():
        yield line.decode()


def unplug(kube: KubeLab, host: str) -> float:
    """Pull the cable of *host*, whose power is cut next; when that was, in Unix seconds.

    A kernel whose processes are killed says good-bye on their connections, and a host without
    power does not.
    """
    fabric = netns_name(kube.name, "fabric")
    moment = time.time()
    subprocess.run(["ip", "-n", fabric, "link", "set", f"p-{host}", "down"], check=True)
    return moment


class ApiServer:
    """The API server of the master *host*, asked as administrator."""

    def __init__(self, kube: KubeLab, host: str) -> None:
        spec = Store(Paths.standard(os.environ)).load(kube.name)
        assert spec is not None
        self._fabric = spec.fabric
        tls = admin_context(spec)
        assert tls is not None, "the API is plain HTTP"
        self.tls = tls
        self._url = f"https://{kube.address(host)}:6443"

    def ask(
        self, method: str, path: str, body: Json | None = None, *, within: float = 10.0
    ) -> tuple[int, Json]:
        """Status and answer of one request. Raises OSError when there is none in time."""
        text = b"" if body is None else json.dumps(body).encode()
        kind = "merge-patch+json" if method == "PATCH" else "json"
        status, answer = asyncio.run(
            request(
                self._fabric, method, f"{self._url}{path}", body=text,
                kind=f"application/{kind}", timeout=within, tls=self.tls,
            )
        )  # fmt: skip
        return status, json.loads(answer)

    def get(self, path: str) -> Json:
        """The object at *path*; raises AssertionError when it is refused."""
        status, found = self.ask("GET", path)
        assert status == 200, found
        return found

    def make(self, path: str, body: Json) -> float:
        """POST *body* until it is taken, for up to a minute; when it was, in Unix seconds.

        That it is there already is the answer to one whose first answer was lost.
        """

        def post() -> float:
            status, answer = self.ask("POST", path, body, within=5.0)
            assert status in {201, 409}, answer
            return time.time()

        return KubeLab.wait(post, f"{path} takes {body['metadata']['name']}", 60)
