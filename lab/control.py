"""Talking to a lab's control plane, and to any address as a host of the lab would.

Nothing of a lab's network is reachable from the machine's own namespace. A socket belongs to
the namespace in which it was made: it is made by a thread that has joined a host's namespace,
and used from the event loop. HTTP/1.0, as in hostkit.unixhttp: one request, and the reply ends
with the connection.
"""

import asyncio
import socket
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
) -> tuple[int, bytes]:
    """Status and body of the answer that *member* gets from *url*, within *timeout* seconds.

    *kind* is the content type of *body*. Raises OSError (TimeoutError too), and ValueError when
    what answers does not speak HTTP.
    """
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    head = f"{method} {target} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    async with asyncio.timeout(timeout):
        with socket_in(member.netns) as connection:
            address = (parts.hostname or "", parts.port or 80)
            await asyncio.get_running_loop().sock_connect(connection, address)
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                writer.write(f"{head}\r\n".encode() + body)
                await writer.drain()
                return parse_response(await reader.read())
            finally:
                writer.close()


class Api:
    """The API server of a lab; raises LabError when the lab was made without one."""

    def __init__(self, spec: LabSpec, timeout: float = 10.0) -> None:
        if not spec.api:
            raise LabError(f"lab {spec.name!r} was made with --control-plane none")
        self._spec = spec
        self._timeout = timeout

    async def call(self, method: str, path: str, body: Raw | None = None) -> Raw:
        """The object that the server answers; raises LabError with the server's sentence."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = msgspec.json.encode(body) if body is not None else b""
        url = self._spec.api + path
        try:
            status, answer = await request(
                self._spec.fabric, method, url, body=data, kind=kind, timeout=self._timeout
            )
            found: Raw = msgspec.json.decode(answer, type=Raw)
        except (OSError, ValueError) as error:
            raise LabError(f"the API server {self._spec.api} does not answer: {error}") from error
        if status >= 400:
            raise LabError(f"{method} {path}: {found.get('message', status)}")
        return found

    async def text(self, path: str) -> str:
        """The answer to a GET that is no object, such as a log; raises LabError."""
        url = self._spec.api + path
        try:
            status, answer = await request(self._spec.fabric, "GET", url, timeout=self._timeout)
        except (OSError, ValueError) as error:
            raise LabError(f"the API server {self._spec.api} does not answer: {error}") from error
        said = answer.decode(errors="replace")
        if status >= 400:
            raise LabError(f"GET {path}: {said.strip()}")
        return said

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


def kubectl_argv(
    spec: LabSpec, cache: Path, words: list[str], find: Callable[[str], str | None]
) -> list[str]:
    """The command line that runs kubectl on the lab's API server, with the machine's files.

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
    # The operator's own kubeconfig belongs to another cluster.
    enter_fabric = ["nsenter", f"--net={NETNS_DIR / spec.fabric.netns}", "--"]
    alone = ["env", "KUBECONFIG=/dev/null", kubectl, f"--cache-dir={cache}"]
    return [*enter_fabric, *alone, f"--server={spec.api}", *words]
