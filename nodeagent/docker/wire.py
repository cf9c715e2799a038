"""The SDK's short requests over Docker's socket, without requests and urllib3 in between.

These take more than a millisecond of processor time for each request, most of what nodeagent
needs for a pod. What the SDK asks for and makes of an answer stays its own. Streams, and whatever
else is not plain, go the long way.
"""

import http.client
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from requests import Response
from requests.exceptions import ConnectionError as Broken

_PLAIN = {"params", "data", "headers", "timeout", "allow_redirects", "json", "stream"}


class Wire:
    """``Session.request`` for *client*, an ``APIClient`` whose Docker listens at *path*.

    *general* is the client's own one.
    """

    def __init__(self, client: Any, path: str, general: Callable[..., Any]) -> None:
        self._base: str = client.base_url
        self._headers: Mapping[str, str] = client.headers
        self._path = path
        self._general = general

    def request(self, method: str, url: str, **options: Any) -> Any:
        """The whole answer. Raises OSError."""
        body, timeout = options.get("data"), options.get("timeout")
        if (
            not url.startswith(self._base)
            or not options.keys() <= _PLAIN
            or options.get("stream")
            or options.get("json") is not None
            or not isinstance(body, str | bytes | None)
            or not isinstance(timeout, int | float)
        ):
            return self._general(method, url, **options)
        target = url.removeprefix(self._base)
        if options.get("params"):
            target += f"?{_query(options['params'])}"
        data = body.encode() if isinstance(body, str) else body
        headers = {**self._headers, **(options.get("headers") or {})}
        connection = _Connection(self._path, timeout)
        try:
            connection.request(method, target, data, headers)
            return _response(url, connection.getresponse())
        except http.client.HTTPException as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over the socket at *path*."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """As ``HTTPConnection.connect``."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _query(params: Mapping[str, Any]) -> str:
    """The query as requests writes it: what is None is left out, a list gives its name often."""
    return urlencode({k: v for k, v in params.items() if v is not None}, doseq=True)


def _response(url: str, answer: http.client.HTTPResponse) -> Response:
    made = Response()
    made.url, made.status_code, made.reason = url, answer.status, answer.reason
    made.encoding = "utf-8"
    made.headers.update(answer.headers.items())
    # ``content`` hands out what is here; there is no other way to give a body to a Response.
    made._content = answer.read()
    return made
