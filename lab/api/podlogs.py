"""``pods/NAME/log``: fetched from the kubelet's port of the pod's node, and passed on as it comes.

As kube-apiserver does: HTTPS to the node's InternalIP at the port in its status. The certificate
is not verified, and the server shows itself by a bearer token that it made at its start.
"""

import aiohttp
from aiohttp import web

from lab.api.kinds import NODE
from lab.api.mirror import Mirror
from lab.api.objects import Json, StatusError, bad_request, items, not_found, path

OPTIONS = frozenset({
    "follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "stream", "tailLines",
    "timestamps",
})  # fmt: skip
"""The fields of ``core/v1`` PodLogOptions that the node gets."""
CONNECT = 10.0
"""Seconds within which the node has to accept the connection."""
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}


class PodLogs:
    """Fetches logs from nodes, with *token*."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(self, request: web.Request, mirror: Mirror, pod: Json) -> web.StreamResponse:
        """Pass the log of a container of *pod* on; raises StatusError."""
        container = _container(pod, request.query.get("container", ""))
        name = path(pod, "spec.nodeName")
        if not name:
            return web.Response(content_type="text/plain")
        node = mirror.shelves[NODE].items.get(("", name))
        if node is None:
            raise not_found(NODE, name)
        meta = pod["metadata"]
        url = f"{_base(node.obj())}/containerLogs/{meta['namespace']}/{meta['name']}/{container}"
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        wanted = {key: value for key, value in request.query.items() if key in OPTIONS}
        try:
            async with self._open().get(url, params=wanted, ssl=False) as found:
                if found.status != 200:
                    text = (await found.text(errors="replace"))[:1024].strip()
                    reason = _REASONS.get(found.status, "InternalError")
                    raise StatusError(found.status, reason, text or f"status {found.status}")
                await response.prepare(request)
                async for piece in found.content.iter_any():
                    await response.write(piece)
                return response
        except aiohttp.ClientConnectionResetError:
            # The client has gone.
            return response
        except (aiohttp.ClientError, OSError) as error:
            if response.prepared:
                # The answer has begun: that it is not whole is told by cutting it.
                if request.transport is not None:
                    request.transport.abort()
                return response
            text = f"the log cannot be had from node {name}: {error or type(error).__name__}"
            raise StatusError(500, "InternalError", text) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
            )
        return self._session


def _container(pod: Json, asked: str) -> str:
    name = path(pod, "metadata.name")
    groups = ("spec.containers", "spec.initContainers")
    known = [str(one.get("name")) for group in groups for one in items(pod, group)]
    if asked and asked not in known:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if not asked and len(items(pod, "spec.containers")) != 1:
        choices = " ".join(known)
        raise bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{choices}]"
        )
    return asked or known[0]


def _base(node: Json) -> str:
    """The URL of the kubelet's port on *node*."""
    name = path(node, "metadata.name")
    inside = [a for a in items(node, "status.addresses") if a.get("type") == "InternalIP"]
    port = path(node, "status.daemonEndpoints.kubeletEndpoint.Port")
    if not inside or not port:
        text = f"node {name} does not say at which InternalIP and port its agent answers"
        raise StatusError(500, "InternalError", text)
    return f"https://{inside[0].get('address')}:{port}"
