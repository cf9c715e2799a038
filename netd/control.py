"""Asking a running netd through its control socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

from netd.errors import NetdError


class NotRunningError(NetdError):
    """No netd answers on the control socket."""


async def ask(socket_path: Path, view: str, *, timeout: float = 5.0) -> tuple[int, str]:
    """GET *view* from the netd behind *socket_path*; returns the HTTP status and the body.

    Raises NotRunningError. A plain HTTP/1.0 exchange: a client library would take longer to
    import than the answer takes.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(socket_path))
            try:
                writer.write(f"GET {view} HTTP/1.0\r\nHost: netd\r\n\r\n".encode())
                await writer.drain()
                reply = await reader.read()
            finally:
                writer.close()
    except PermissionError as error:
        raise NotRunningError(f"netd cannot be asked: {socket_path} is for root only") from error
    except (OSError, TimeoutError) as error:
        why = "does not answer" if isinstance(error, TimeoutError) else "is not running"
        raise NotRunningError(f"netd {why} (control socket {socket_path})") from error
    head, _, body = reply.partition(b"\r\n\r\n")
    try:
        code = int(head.split(None, 2)[1])
    except (IndexError, ValueError):
        raise NotRunningError(f"{socket_path} is answered by something else than netd") from None
    return code, body.decode(errors="replace")


async def ask_status(socket_path: Path) -> dict[str, Any]:
    """The status document of the running netd; raises NotRunningError."""
    _, body = await ask(socket_path, "/status")
    try:
        document = json.loads(body)
    except json.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise NotRunningError(f"{socket_path} is answered by something else than netd")
    return document
