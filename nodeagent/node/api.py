"""Calls to the API server as the node's parts make them, and its notation of times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from hostkit.kube.errors import KubeError
from hostkit.kube.transport import KubeClient

STRATEGIC = "application/strategic-merge-patch+json"


class NoObject(KubeError):  # noqa: N818 - names the state, not the fault
    """The API server's answer is no JSON object."""


async def call(
    client: KubeClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    deadline: float | None = None,
) -> dict[str, Any]:
    """The object that the API server answers with; a PATCH is a strategic merge patch.

    Raises what KubeClient raises, and NoObject.
    """
    data = await client.request(
        method,
        path,
        body=None if body is None else msgspec.json.encode(body),
        content_type=STRATEGIC if method == "PATCH" else "application/json",
        deadline=deadline,
    )
    return decode(data, f"{method} {path}")


def decode(data: bytes | msgspec.Raw, what: str) -> dict[str, Any]:
    """The JSON object *data*; raises NoObject naming *what* it is the answer to."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoObject(f"the API server's answer to {what} is no object: {error}") from error


def time_text(unix: float, precision: Literal["seconds", "microseconds"] = "seconds") -> str:
    """The wall clock's *unix* seconds as ``meta/v1.Time`` or ``MicroTime`` have them."""
    moment = datetime.fromtimestamp(unix, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
