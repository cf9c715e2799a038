"""Asking a running netd through its control socket."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostkit import unixhttp
from netd.errors import NetdError


class NotRunningError(NetdError):
    """No netd answers on the control socket."""


async def ask(socket_path: Path, view: str, *, timeout: float = 5.0) -> tuple[int, str]:
    """GET *view* from the netd behind *socket_path*; returns the HTTP status and the body.

    Raises NotRunningError.
    """
    try:
        code, body = await unixhttp.get(socket_path, view, timeout=timeout)
    except PermissionError as error:
        raise NotRunningError(f"netd cannot be asked: {socket_path} is for root only") from error
    except OSError as error:
        why = "does not answer" if isinstance(error, TimeoutError) else "is not running"
        raise NotRunningError(f"netd {why} (control socket {socket_path})") from error
    except ValueError:
        raise NotRunningError(f"{socket_path} is answered by something else than netd") from None
    return code, body.decode(errors="replace")


async def ask_status(socket_path: Path) -> dict[str, Any]:
    """The status document of the running netd; raises NotRunningError."""
    _, body = await ask(socket_path, "/status")
    return _document(socket_path, body)


async def ask_explain(socket_path: Path, target: str) -> dict[str, Any]:
    """What the running netd does with packets to *target*; raises NotRunningError."""
    code, body = await ask(socket_path, f"/explain?target={quote(target, safe='')}")
    if code == 404:
        raise NotRunningError("the running netd is older than this command: restart it")
    return _document(socket_path, body)


def _document(socket_path: Path, body: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except json.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise NotRunningError(f"{socket_path} is answered by something else than netd")
    return document
