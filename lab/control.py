"""Talking to a lab's control plane, and to any address as a host of the lab would.

Nothing of a lab's network is reachable from the machine's own namespace. A socket belongs to
the namespace in which it was made: it is made by a thread that has joined a host's namespace,
and used from the event loop. HTTP/1.0, as in hostkit.unixhttp: one request, and the reply ends
with the connection.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hostkit.unixhttp import parse_response
from lab.api.kinds import KINDS
from lab.errors import LabError, PrerequisiteError
from lab.model import LabSpec, NodeSpec
from lab.namespaces import NETNS_DIR
from lab.syscalls import CLONE_NEWNET, enter

Raw = dict[str, Any]


def socket_in(netns: str) -> socket.socket:
    """A new TCP socket of the network namespace called *netns*; raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            enter(str(NETNS_DIR / netns), CLONE_NEWNET)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError as error:
            failed.append(error)

    # setns(2) moves the calling thread alone, so that thread must not be used for anything else.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


async def request(
    member: NodeSpec,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    kind: str = "",
    timeout: float = 2.0,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Status and body of the answer that *member* gets from *url*, within *timeout* seconds.

    *kind* is the content type of *body*; *tls* is needed for https. Raises OSError (TimeoutError
    too), and ValueError when what answers does not speak HTTP.
    """
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    head = f"{method} {target} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    async with asyncio.timeout(timeout):
        connection = socket_in(member.netns)
        try:
            address = (parts.hostname or "", parts.port or 80)
            await asyncio.get_running_loop().sock_connect(connection, address)
        except BaseException:
            connection.close()
            raise
        server = parts.hostname if tls else None
        reader, writer = await asyncio.open_connection(
            sock=connection, ssl=tls, server_hostname=server
        )
        try:
            writer.write(f"{head}\r\n".encode() + body)
            await writer.drain()
            return parse_response(await reader.read())
        finally:
            # The transport owns the socket: it must have let go of its number before that is
            # used again. The reply is whole, so nothing is lost by not taking leave in TLS.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def admin_context(spec: LabSpec) -> ssl.SSLContext | None:
    """TLS as the administrator of a real Kubernetes; None where the API is plain HTTP.

    Raises LabError when the lab's PKI folder lacks the files.
    """
    if not spec.api.startswith("https:") or spec.kubernetes is None:
        return None
    return _context(Path(spec.kubernetes.pki))


@functools.cache
def _context(folder: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=folder / "ca.crt")
        context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    except OSError as error:  # SSLError too
        raise LabError(f"no administrator's certificate in {folder}: {error}") from error
    return context


class Api:
    """The API servers of a lab, of which the first that answers is asked.

    Raises LabError when the lab was made without one.
    """

    def __init__(self, spec: LabSpec, timeout: float = 10.0) -> None:
        if not spec.api:
            raise LabError(f"lab {spec.name!r} was made with --control-plane none")
        self._spec = spec
        self._timeout = timeout
        self._tls = admin_context(spec)

    async def call(self, method: str, path: str, body: Raw | None = None, kind: str = "") -> Raw:
        """The object that the server answers; raises LabError with the server's sentence.

        *kind* is the content type of *body*, JSON unless told, a merge patch for PATCH.
        """
        usual = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = msgspec.json.encode(body) if body is not None else b""
        status, answer = await self._request(method, path, data, kind or usual)
        try:
            found: Raw = msgspec.json.decode(answer, type=Raw)
        except ValueError as error:
            raise LabError(f"{method} {path}: the answer is no object: {error}") from error
        if status >= 400:
            raise LabError(f"{method} {path}: {found.get('message', status)}")
        return found

    async def text(self, path: str) -> str:
        """The answer to a GET that is no object, such as a log; raises LabError."""
        status, answer = await self._request("GET", path)
        said = answer.decode(errors="replace")
        if status >= 400:
            raise LabError(f"GET {path}: {said.strip()}")
        return said

    async def _request(
        self, method: str, path: str, data: bytes = b"", kind: str = ""
    ) -> tuple[int, bytes]:
        fabric, failed = self._spec.fabric, ""
        for url in self._spec.apis:
            try:
                return await request(
                    fabric, method, url + path, body=data, kind=kind, timeout=self._timeout,
                    tls=self._tls,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                failed = f"the API server {url} does not answer: {error or 'no answer in time'}"
        raise LabError(failed)

    async def create(self, document: Raw, namespace: str = "default") -> Raw:
        """Make the object that *document* describes."""
        wanted = (document.get("apiVersion"), document.get("kind"))
        kind = next((k for k in KINDS if (k.api_version, k.name) == wanted), None)
        if kind is None:
            raise LabError(f"no kind {wanted[1]!r} in {wanted[0]!r} is served here")
        where = f"/namespaces/{namespace}" if kind.namespaced else ""
        return await self.call("POST", f"{kind.root}{where}/{kind.plural}", document)


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane now. ``ready`` tells that the API server answers; counts are its."""

    url: str
    ready: bool = False
    nodes: int = 0
    nodes_ready: int = 0
    pods: int = 0
    pods_ready: int = 0


async def look(spec: LabSpec) -> ControlStatus | None:
    """What the control plane says, None in a lab without one."""
    if not spec.api:
        return None
    api = Api(spec, timeout=2.0)
    try:
        nodes, pods = await asyncio.gather(
            api.call("GET", "/api/v1/nodes"), api.call("GET", "/api/v1/pods")
        )
    except LabError:
        return ControlStatus(url=spec.api)
    return ControlStatus(
        url=spec.api,
        ready=True,
        nodes=len(nodes["items"]),
        nodes_ready=sum(map(is_ready, nodes["items"])),
        pods=len(pods["items"]),
        pods_ready=sum(map(is_ready, pods["items"])),
    )


def is_ready(thing: Raw) -> bool:
    """Whether a node or pod has the condition Ready."""
    conditions = thing.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def nearest_api(spec: LabSpec) -> str:
    """The URL of the first API server that answers, of the first when none does."""
    if len(spec.apis) < 2:
        return spec.api
    tls = admin_context(spec)
    for url in spec.apis:
        with contextlib.suppress(OSError, ValueError):
            await request(spec.fabric, "GET", f"{url}/version", timeout=1.0, tls=tls)
            return url
    return spec.api


def kubectl_argv(
    spec: LabSpec, server: str, cache: Path, words: list[str], find: Callable[[str], str | None]
) -> list[str]:
    """The command line that runs kubectl on the API *server*, with the machine's files.

    *cache* is kubectl's own: servers of other labs had the same address. Raises LabError when
    the lab has no API server, PrerequisiteError when kubectl is not on PATH.
    """
    if not spec.api:
        raise LabError(f"lab {spec.name!r} was made with --control-plane none")
    kubectl = find("kubectl")
    if kubectl is None:
        raise PrerequisiteError(
            "kubectl is not on PATH: install it, for example Debian's kubernetes-client"
        )
    # The operator's own kubeconfig belongs to another cluster, and no proxy reaches the lab.
    enter_fabric = ["nsenter", f"--net={NETNS_DIR / spec.fabric.netns}", "--"]
    alone = ["env", "KUBECONFIG=/dev/null", "NO_PROXY=*", kubectl]
    alone += [f"--cache-dir={cache}", f"--server={server}"]
    if spec.kubernetes and server.startswith("https:"):
        pki = spec.kubernetes.pki
        alone += [
            f"--certificate-authority={pki}/ca.crt",
            f"--client-certificate={pki}/admin.crt",
            f"--client-key={pki}/admin.key",
        ]
    return [*enter_fabric, *alone, *words]
