"""An image registry that serves one image, to those who have the password.

The part of the Docker Registry HTTP API V2 that a pull needs, with an image manifest of version 2,
schema 2. It lives in the network namespace whose socket it is given.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """What is served, and the paths that were asked for, with user names.

    *user* and *password* are asked for when *user* is not empty.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    user: str = ""
    password: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, archive: bytes, labels: Mapping[str, str]) -> None:
        """Serve the image of a ``docker save`` *archive* as *name* ("repository:tag").

        *labels* make it another image than that.
        """
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:

            def read(path: str) -> bytes:
                found = tar.extractfile(path)
                assert found is not None
                return found.read()

            (entry,) = json.loads(read("manifest.json"))
            config = json.loads(read(entry["Config"]))
            layers = [gzip.compress(read(path), 1, mtime=0) for path in entry["Layers"]]
        config["config"]["Labels"] = dict(labels)
        text = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._keep(CONFIG, text),
            "layers": [self._keep(LAYER, layer) for layer in layers],
        }
        repository, _, tag = name.rpartition(":")
        data = json.dumps(manifest).encode()
        self.manifests[f"/v2/{repository}/manifests/{tag}"] = data
        self.manifests[f"/v2/{repository}/manifests/{digest(data)}"] = data

    def _keep(self, kind: str, data: bytes) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "size": len(data), "digest": digest(data)}

    def pulls(self) -> list[str]:
        """The users that were given a manifest, in order."""
        return [user for path, user in self.asked if "/manifests/" in path]


class _Handler(BaseHTTPRequestHandler):
    """Answers of ``server.registry``."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        """Say nothing."""

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """The base, a manifest or a blob."""
        self._answer(body=True)

    def _user(self) -> str | None:
        """Who asks, None for a stranger."""
        registry = self.server.registry
        if not registry.user:
            return ""
        kind, _, code = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic" or base64.b64decode(code).decode() != (
            f"{registry.user}:{registry.password}"
        ):
            return None
        return registry.user

    def _answer(self, *, body: bool) -> None:
        registry, user = self.server.registry, self._user()
        if user is None:
            refusal = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            self._send(401, "application/json", json.dumps(refusal).encode(), body=body)
            return
        if self.path == "/v2/":
            self._send(200, "application/json", b"{}", body=body)
            return
        blob = registry.blobs.get(self.path.rpartition("/")[2])
        manifest = registry.manifests.get(self.path)
        if manifest is not None:
            registry.asked.append((self.path, user))
            self._send(200, MANIFEST, manifest, body=body)
        elif blob is not None:
            registry.asked.append((self.path, user))
            self._send(200, "application/octet-stream", blob, body=body)
        else:
            unknown = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self._send(404, "application/json", json.dumps(unknown).encode(), body=body)

    def _send(self, status: int, kind: str, data: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if kind == MANIFEST:
            self.send_header("Docker-Content-Digest", digest(data))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="fake"')
        self.end_headers()
        if body:
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    """Serves *registry* at a socket that listens already."""

    daemon_threads = True

    def __init__(self, registry: Registry, listening: socket.socket) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.registry = registry


@contextlib.contextmanager
def serving(
    registry: Registry, listening: socket.socket, address: tuple[str, int]
) -> Iterator[None]:
    """Serve at *address* by the TCP socket *listening* for the time of the context."""
    listening.bind(address)
    listening.setblocking(True)
    listening.listen(16)
    server = _Server(registry, listening)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
