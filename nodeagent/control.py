"""Asking a running nodeagent through its control socket."""

import json
from pathlib import Path
from typing import Any

from hostkit import unixhttp
from nodeagent.errors import NodeAgentError


class NotRunningError(NodeAgentError):
    """No nodeagent answers on the control socket."""


def control_socket(run_dir: str) -> Path:
    """Where the nodeagent of *run_dir* answers."""
    return Path(run_dir) / "nodeagent.sock"


async def ask_status(socket_path: Path, *, timeout: float = 5.0) -> dict[str, Any]:
    """The status document of the running nodeagent; raises NotRunningError."""
    try:
        _, body = await unixhttp.get(socket_path, "/status", timeout=timeout)
        document = json.loads(body)
    except PermissionError as error:
        text = f"nodeagent cannot be asked: {socket_path} is for root only"
        raise NotRunningError(text) from error
    except OSError as error:
        why = "does not answer" if isinstance(error, TimeoutError) else "is not running"
        raise NotRunningError(f"nodeagent {why} (control socket {socket_path})") from error
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotRunningError(f"{socket_path} is answered by something else than nodeagent")
    return document
