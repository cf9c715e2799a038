"""A daemon on a Unix socket that speaks HTTP as Docker does, for tests of the client's wire.

``answers`` maps ``METHOD path`` (without the version) to an Answer or a function of the Request.
It keeps the requests it got. ``stop`` breaks all connections; ``start`` listens again.
"""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """One request; *version* is the API version in its path, "" for none."""

    method: str
    path: str
    version: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """A status and a body: bytes, a document, or pieces that are sent as they come.

    Pieces go chunked, or *raw* until the connection ends, as after Docker's hijack.
    """

    status: int = 200
    body: Any = b""
    raw: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Dockerd:
    """The daemon on *path*."""

    def __init__(self, path: Path, *, api: str = "1.41", least: str = "1.12") -> None:
        self.path = path
        self.api, self.least = api, least
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {}
        self.requests: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()
        self._server: socketserver.ThreadingUnixStreamServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """For the client."""
        return f"unix://{self.path}"

    @property
    def paths(self) -> list[str]:
        """``METHOD path`` of all requests but that for the version."""
        return [f"{r.method} {r.path}" for r in self.requests if r.path != "/version"]

    def start(self) -> None:
        """Listen."""
        daemon = self

        class Handler(_Handler):
            owner = daemon

        self.path.unlink(missing_ok=True)
        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """End; whoever waits for an answer gets none."""
        self.gate.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None
        self.path.unlink(missing_ok=True)

    def answer(self, request: Request) -> Answer:
        """What *request* gets."""
        self.requests.append(request)
        if request.path == "/version":
            return Answer(body={"ApiVersion": self.api, "MinAPIVersion": self.least})
        if request.version and request.version != self.api and request.version < self.least:
            text = f"client version {request.version} is too old. Minimum is {self.least}"
            return Answer(400, {"message": text})
        self.gate.wait()
        found = self.answers.get(f"{request.method} {request.path}")
        if found is None:
            return Answer(404, {"message": "page not found"})
        return found(request) if callable(found) else found


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    # A connection beyond the backlog of a Unix socket is refused at once.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    owner: Dockerd
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    def log_message(self, *args: object) -> None:
        """Be silent."""

    def _do(self) -> None:
        parts = urlsplit(self.path)
        version, path = "", parts.path
        if path.startswith("/v1."):
            version, _, path = path[2:].partition("/")
            path = f"/{path}"
        length = int(self.headers.get("Content-Length") or 0)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(length)
        answer = self.owner.answer(
            Request(self.command, path, version, query, dict(self.headers), body)
        )
        self.close_connection = True
        try:
            self._send(answer)
        except OSError:  # the client has gone
            return

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        # As Go's server does for a client that asks for it.
        self.send_header("Connection", "close")
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if isinstance(answer.body, Iterator):
            self._stream(answer)
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Answer) -> None:
        if not answer.raw:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in answer.body:
            self.wfile.write(piece if answer.raw else b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        if not answer.raw:
            self.wfile.write(b"0\r\n\r\n")
