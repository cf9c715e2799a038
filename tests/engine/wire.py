"""Reaching a lab from outside: the operator's command, and HTTP to what is in it."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse

from lab.control import socket_in


def barenode(*argv: str, check: bool = True) -> str:
    """Run the operator's command; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *argv], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"barenode {' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


class ApiError(AssertionError):
    """The API server, or Docker, answered with an error *status*."""

    def __init__(self, status: int, what: str, text: str) -> None:
        super().__init__(f"{what}: {status} {text.strip()[:500]}")
        self.status = status


class _Connection(HTTPConnection):
    """HTTP over a socket that is made elsewhere: in a network namespace, or a Unix socket."""

    def __init__(self, make: Callable[[], socket.socket], timeout: float) -> None:
        super().__init__("lab", timeout=timeout)
        self._make = make
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = self._make()
        self.sock.settimeout(self._seconds)


@contextlib.contextmanager
def request(
    make: Callable[[], socket.socket],
    method: str,
    path: str,
    body: object = None,
    kind: str = "application/json",
    timeout: float = 60.0,
) -> Iterator[HTTPResponse]:
    """The answer to a request; raises ApiError for status 400 and more."""
    data = None if body is None else json.dumps(body).encode()
    head = {} if data is None else {"Content-Type": kind}
    connection = _Connection(make, timeout)
    try:
        connection.request(method, path, data, head)
        answer = connection.getresponse()
        if answer.status >= 400:
            text = answer.read().decode(errors="replace")
            raise ApiError(answer.status, f"{method} {path}", text)
        yield answer
    finally:
        connection.close()


def tcp(netns: str, address: str, port: int) -> socket.socket:
    """A connection to a port, as from the network namespace called *netns*."""
    made = socket_in(netns)
    try:
        made.settimeout(60)
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def unix(path: str) -> socket.socket:
    """A connection to a Unix socket."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
