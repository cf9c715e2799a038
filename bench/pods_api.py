"""The API server as the bench's own client sees it: requests one after the other, and a watch.

Sockets are made in the network namespace of the lab's fabric, where alone the server is to be
reached, and used from here.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.result import BenchError
from lab.control import socket_in

PODS = "/api/v1/namespaces/default/pods"

_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API server is: *netns* is the namespace's name, *what* a person's name for it.

    Without *context* it is spoken to without TLS.
    """

    netns: str
    address: str
    port: int
    what: str
    context: ssl.SSLContext | None = None
    token: str = ""

    def connect(self) -> http.client.HTTPConnection:
        """A new connection. Raises OSError."""
        made = socket_in(self.netns)
        made.settimeout(_TIMEOUT)
        connection = http.client.HTTPConnection(self.address, self.port, timeout=_TIMEOUT)
        connection.sock = made
        try:
            made.connect((self.address, self.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is not None:
                connection.sock = self.context.wrap_socket(made, server_hostname=self.address)
        except OSError:
            connection.close()
            raise
        return connection

    def headers(self) -> dict[str, str]:
        """What every request says."""
        told = {"Content-Type": "application/json", "Accept": "application/json"}
        return told | ({"Authorization": f"Bearer {self.token}"} if self.token else {})


class Client:
    """Requests over one connection that is kept."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and document, None for what is no JSON. Raises OSError, HTTPException, and
        ValueError for JSON that is broken."""
        if self._connection is None:
            self._connection = self._server.connect()
        data = None if body is None else msgspec.json.encode(body)
        try:
            self._connection.request(method, path, data, self._server.headers())
            with self._connection.getresponse() as answer:
                found = answer.read()
                if answer.will_close:
                    self.close()
                kind = answer.getheader("Content-Type", "")
                is_json = kind.startswith("application/json")
                return answer.status, msgspec.json.decode(found) if is_json else None
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def do(self, method: str, path: str, body: object = None) -> Any:
        """The document of a request that has to succeed. Raises BenchError."""
        try:
            status, document = self.ask(method, path, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"{self._server.what}: {method} {path}: {error!r}") from error
        if status >= 300:
            said = document.get("message") if isinstance(document, dict) else document
            raise BenchError(f"{self._server.what}: {method} {path}: {said or status}")
        return document

    def answers(self, path: str) -> bool:
        """Whether a GET of *path* succeeds."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return self.ask("GET", path)[0] < 300
        return False

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Meta(msgspec.Struct):
    name: str = ""


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Container(msgspec.Struct, rename="camel"):
    container_id: str = msgspec.field(default="", name="containerID")
    ready: bool = False


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    message: str = ""
    conditions: list[_Condition] = []
    container_statuses: list[_Container] = []


class _Pod(msgspec.Struct):
    metadata: _Meta
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    """One line of a watch (``k8s.io/apimachinery/pkg/apis/meta/v1`` WatchEvent)."""

    type: str
    object: _Pod


_decode = msgspec.json.Decoder(_Event).decode

READY, GONE = "ready", "gone"


class Watch:
    """Notes when the watch first showed a pod Ready, Ready with a certain container, and gone.

    A thread reads it; a context manager. Times are on the monotonic clock.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._seen: dict[tuple[str, str], float] = {}
        self._failed = ""
        self._news = threading.Condition()
        self._ending = False
        self._connection = server.connect()
        self._connection.request("GET", f"{PODS}?watch=1", headers=server.headers())
        self._answer = self._connection.getresponse()
        if self._answer.status != http.HTTPStatus.OK:
            raise BenchError(f"{server.what} gives no watch: {self._answer.status}")
        # Nothing may happen for as long as it likes.
        self._connection.sock.settimeout(None)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        try:
            while line := self._answer.readline():
                at = time.monotonic()
                with self._news:
                    self._note(_decode(line), at)
                    self._news.notify_all()
            why = "it was ended"
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = repr(error)
        if not self._ending:
            with self._news:
                self._failed = f"the watch of {self._server.what} broke: {why}"
                self._news.notify_all()

    def _note(self, event: _Event, at: float) -> None:
        name, status = event.object.metadata.name, event.object.status
        if event.type == "DELETED":
            self._seen.setdefault((GONE, name), at)
        elif event.type == "ERROR":
            self._failed = f"the watch of {self._server.what} broke: {status.message}"
        elif status.phase == "Failed":
            self._failed = f"pod {name} failed: {status.message}"
        elif any(one.type == "Ready" and one.status == "True" for one in status.conditions):
            self._seen.setdefault((READY, name), at)
            for container in status.container_statuses:
                if container.ready:
                    self._seen.setdefault((ready_with(container.container_id), name), at)

    def wait(self, what: str, names: Iterable[str], deadline: float) -> list[float]:
        """When *what* was first seen of each of *names*; *deadline* is on the monotonic clock.

        *what* is READY, GONE, or what ``ready_with`` gives. Raises BenchError.
        """
        wanted = [(what, name) for name in names]
        with self._news:
            while missing := [name for key, name in wanted if (key, name) not in self._seen]:
                if self._failed:
                    raise BenchError(self._failed)
                if time.monotonic() > deadline:
                    raise BenchError(f"{len(missing)} pods not {what}, {missing[0]} among them")
                self._news.wait(max(0.0, deadline - time.monotonic()))
            return [self._seen[one] for one in wanted]


def ready_with(container: str) -> str:
    """What a watch notes when a pod is Ready with *container*, Docker's id of it."""
    return f"ready with {container.removeprefix('docker://')}"
