"""A service on a socket of its own, as systemd and its clients see it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hostkit.service import Service
from tests.support.poll import eventually


class Systemd:
    """systemd's side of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.path = str(path)
        self._got: list[str] = []

    def got(self) -> list[str]:
        """Every message so far."""
        while True:
            try:
                self._got.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return self._got


async def idle() -> None:
    """A worker that goes on for ever."""
    await asyncio.Event().wait()


def socket_of(service: Service) -> Path:
    """Where *service* answers."""
    assert service._socket_path is not None
    return service._socket_path


@asynccontextmanager
async def running(
    service: Service, worker: Callable[[], Awaitable[None]] = idle
) -> AsyncIterator["asyncio.Task[int]"]:
    """The service until the block ends."""
    task = asyncio.create_task(service.run({"worker": worker()}))
    try:
        await eventually(lambda: socket_of(service).exists() or task.done())
        yield task
    finally:
        service.stop()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 10)


async def get(service: Service, view: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of *view*, read without the program's own client."""
    reader, writer = await asyncio.open_unix_connection(str(socket_of(service)))
    writer.write(f"GET {view} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body.decode()
