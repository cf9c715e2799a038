"""One check of a probe: a command in the container, an HTTP GET or a TCP connection.

A check that could not be made - Docker does not answer, a port has no number - says nothing about
the container: its outcome is *unknown* and changes no verdict.
"""

import shlex
from dataclasses import dataclass
from typing import Literal

from hostkit.errors import cut
from hostkit.logs import printable
from nodeagent.docker.api import Engine
from nodeagent.errors import EngineError
from nodeagent.pods.container import Container, Exec, HttpGet, Probe, TcpSocket
from nodeagent.probes.fetch import UnusableError, connect, fetch, request_of, trouble

AGENT = "kube-probe/barenode"
"""The User-Agent: servers and meshes know probes by ``kube-probe/``."""
OUTPUT = 1024
"""Characters of a command's output that an event carries."""

Result = Literal["successful", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """*result* is worded as in ``prober_probe_total``; *warning* marks a doubtful success."""

    result: Result
    message: str = ""
    warning: bool = False


async def check(
    probe: Probe, container: Container, container_id: str, address: str, engine: Engine
) -> Outcome:
    """Check once; *address* is the pod's. Never raises but for cancellation and bugs."""
    # core/v1: the default is 1 s, and less is not valid.
    timeout = float(max(probe.timeout_seconds, 1))
    if probe.exec is not None:
        return await _exec(probe.exec, container_id, engine, timeout)
    if probe.http_get is not None:
        return await _http(probe.http_get, container, address, timeout)
    if probe.tcp_socket is not None:
        return await _tcp(probe.tcp_socket, container, address, timeout)
    return Outcome("unknown", "the probe has none of exec, httpGet and tcpSocket: give it one")


async def _exec(command: Exec, container_id: str, engine: Engine, timeout: float) -> Outcome:
    if not command.command:
        return Outcome("unknown", "exec.command is empty: name a command")
    try:
        ended = await engine.exec(container_id, command.command, timeout=timeout)
    except TimeoutError:
        shown = cut(printable(shlex.join(command.command)), 200)
        return Outcome("failed", f"command {shown} did not end within {timeout:g} s")
    except EngineError as error:
        return Outcome("unknown", str(error))
    if ended.code == 0:
        return Outcome("successful")
    text = ended.output.decode("utf-8", "replace").strip()
    return Outcome("failed", cut(text, OUTPUT) or f"the command ended with exit code {ended.code}")


async def _http(handler: HttpGet, container: Container, address: str, timeout: float) -> Outcome:
    try:
        request = request_of(handler, container, address, AGENT)
    except UnusableError as error:
        return Outcome("unknown", f"httpGet.{error}")
    try:
        answer = await fetch(request, timeout)
    except TimeoutError:
        return Outcome("failed", f"GET {request.url}: no answer within {timeout:g} s")
    except (OSError, ValueError) as error:
        return Outcome("failed", f"GET {request.url}: {trouble(error)}")
    if not 200 <= answer.status < 400:
        return Outcome("failed", f"HTTP probe failed with statuscode: {answer.status}")
    if answer.status >= 300:
        where = f" to {cut(printable(answer.location), 200)}" if answer.location else ""
        text = f"GET {request.url}: status {answer.status}, the redirect{where} is not followed"
        return Outcome("successful", text, warning=True)
    return Outcome("successful")


async def _tcp(handler: TcpSocket, container: Container, address: str, timeout: float) -> Outcome:
    where = f"TCP connection to port {handler.port}"
    try:
        await connect(handler, container, address, timeout)
    except UnusableError as error:
        return Outcome("unknown", f"tcpSocket.{error}")
    except TimeoutError:
        return Outcome("failed", f"{where}: no answer within {timeout:g} s")
    except (OSError, ValueError) as error:
        return Outcome("failed", f"{where}: {trouble(error)}")
    return Outcome("successful")
