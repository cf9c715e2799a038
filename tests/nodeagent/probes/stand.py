"""What probes and hooks are tried against: an engine, a recorder, a clock and an HTTP server."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from nodeagent.docker.api import ExecResult, LogOptions
from nodeagent.errors import EngineUnavailable
from nodeagent.pods.container import Container
from nodeagent.pods.model import Meta, Pod, PodSpec
from nodeagent.pods.observed import Seen


class FakeEngine:
    """Commands end as *codes* says, by container and command line; it can be made to fail."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], int] = {}
        self.output = b""
        self.down = False
        self.hangs = False
        self.log: list[bytes] = []
        self.asked: list[tuple[str, str]] = []
        self.options: LogOptions | None = None

    async def exec(
        self, container: str, argv: Sequence[str], *, timeout: float, limit: int = 10_240
    ) -> ExecResult:
        line = " ".join(argv)
        self.asked.append((container, line))
        if self.down:
            raise EngineUnavailable("Docker does not answer")
        if self.hangs:
            raise TimeoutError
        return ExecResult(self.codes.get((container, line), 0), self.output[:limit])

    async def logs(
        self, container: str, options: LogOptions
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        self.options = options
        if self.down:
            raise EngineUnavailable("Docker does not answer")
        for piece in self.log:
            yield 1, piece


class FakeRecorder:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        self.events.append((reason, message, container))

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        raise AssertionError("probes have nothing to say about the node")


class FakeTime:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, self._count, woken))
        await woken

    async def advance(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, and all that is due in them happen in order."""
        until = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heapq.heappop(self._sleepers)
            self.now = max(self.now, due)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self.now = until


async def settle() -> None:
    """Let all tasks go on until they wait for something that is not there."""
    for _ in range(20):
        await asyncio.sleep(0)


def pod_of(*containers: Container, uid: str = "u1", status: dict[str, Any] | None = None) -> Pod:
    """A pod with these containers."""
    meta = Meta(name="web", namespace="default", uid=uid)
    return Pod(metadata=meta, spec=PodSpec(containers=containers), status=status or {})


def instance(container_id: str = "c1", name: str = "app", attempt: int = 0, **more: Any) -> Seen:
    """A running instance of a container."""
    return Seen(
        id=container_id, uid="u1", pod="web", namespace="default", name=name, attempt=attempt,
        state="running", **more,
    )  # fmt: skip


Answering = Callable[[bytes], bytes]


@asynccontextmanager
async def serving(
    answer: Answering, *, hold: bool = False, ssl: Any = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port at which each request gets the bytes of *answer*, and the requests that came.

    With *hold* the connection stays open until the client closes it.
    """
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            requests.append(head)
            writer.write(answer(head))
            await writer.drain()
            if hold:
                await reader.read()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        await server.wait_closed()
