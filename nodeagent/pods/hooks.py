"""postStart and preStop (``core/v1`` Lifecycle): a command, an HTTP GET or a pause."""

import asyncio
import logging
import shlex

from hostkit.errors import cut
from hostkit.logs import printable
from nodeagent.docker.api import Engine
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.container import Container, Exec, Handler, HttpGet
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import Seen
from nodeagent.probes.fetch import UnusableError, fetch, request_of, trouble

log = logging.getLogger(__name__)

AGENT = "kube-lifecycle/barenode"
"""The User-Agent of HTTP hooks, which servers know by ``kube-lifecycle/``."""


async def run_hook(  # noqa: PLR0917 - the interface that the workers call
    handler: Handler,
    pod: Pod,
    container: Container,
    seen: Seen,
    address: str,
    engine: Engine,
    timeout: float,
) -> None:
    """Run a hook of *container* in its instance *seen* for at most *timeout* seconds.

    *address* is the pod's. Any answer to an HTTP hook is a success, as with the kubelet. Raises
    PodError with the reason FailedPostStartHook or FailedPreStopHook.
    """
    after_start = handler is container.lifecycle.post_start
    name = "postStart" if after_start else "preStop"
    try:
        try:
            if handler.exec is not None:
                await _exec(handler.exec, seen, engine, timeout)
            elif handler.http_get is not None:
                await _get(handler.http_get, pod, container, address, timeout)
            elif handler.sleep is not None:
                async with asyncio.timeout(timeout):
                    await asyncio.sleep(max(handler.sleep.seconds, 0))
            elif handler.tcp_socket is not None:
                raise _FailedError("tcpSocket is not supported: use exec or httpGet")
            else:
                raise _FailedError("it has none of exec, httpGet and sleep: give it one")
        except TimeoutError as error:
            raise _FailedError(f"it did not end within {timeout:g} s") from error
    except _FailedError as error:
        reason = "FailedPostStartHook" if after_start else "FailedPreStopHook"
        raise PodError(reason, f"{name} hook of container {container.name}: {error}") from error


class _FailedError(Exception):
    """Why a hook failed."""


async def _exec(command: Exec, seen: Seen, engine: Engine, timeout: float) -> None:
    if not command.command:
        raise _FailedError("exec.command is empty: name a command")
    shown = cut(printable(shlex.join(command.command)), 200)
    try:
        ended = await engine.exec(seen.id, command.command, timeout=timeout)
    except EngineError as error:
        raise _FailedError(f"command {shown}: {error}") from error
    if ended.code:
        said = cut(ended.output.decode("utf-8", "replace"), 400)
        text = f"command {shown} ended with exit code {ended.code}"
        raise _FailedError(f"{text}: {said}" if said else text)


async def _get(
    handler: HttpGet, pod: Pod, container: Container, address: str, timeout: float
) -> None:
    try:
        request = request_of(handler, container, address, AGENT)
    except UnusableError as error:
        raise _FailedError(f"httpGet.{error}") from error
    try:
        answer = await fetch(request, timeout)
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        raise _FailedError(f"GET {request.url}: {trouble(error)}") from error
    if answer.status >= 400:
        log.warning(
            "pod %s: the hook of container %s, GET %s, was answered with status %d",
            pod.key, container.name, request.url, answer.status,
        )  # fmt: skip
