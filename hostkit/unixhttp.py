"""One HTTP GET over a Unix socket, for asking daemons on their control sockets.

HTTP/1.0: one request, and the reply ends with the connection. A client library would take
longer to import than the answer takes.
"""

import asyncio
from pathlib import Path


def parse_response(raw: bytes) -> tuple[int, bytes]:
    """Status and body of an HTTP/1.0 response; raises ValueError when it is none."""
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("not an HTTP response")
    return int(words[1]), body


async def get(socket_path: Path, target: str, *, timeout: float) -> tuple[int, bytes]:
    """GET *target*; returns status and body.

    Raises OSError (TimeoutError after *timeout* seconds), and ValueError when what answers
    does not speak HTTP.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
        try:
            writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            await writer.drain()
            return parse_response(await reader.read())
        finally:
            writer.close()
