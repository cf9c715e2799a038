"""``/containerLogs``: which instance of a container is meant, and what of its log.

The query is that of ``k8s.io/api/core/v1`` PodLogOptions, the sentences about a container without
log are those that kubectl's users know from the kubelet. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nodeagent.docker.api import LogOptions
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen


class LogError(ValueError):
    """There is no such log: *status* is an HTTP status, the text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What is asked for; *limit* is a number of bytes, None for no limit."""

    options: LogOptions
    previous: bool = False
    limit: int | None = None


_SWITCH = {"": False, "true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


def parse_query(query: Mapping[str, str], now: float) -> LogQuery:
    """The query of a request at *now* (Unix time); raises LogError."""
    if query.get("sinceSeconds") and query.get("sinceTime"):
        raise LogError(400, "sinceSeconds and sinceTime: give one of them")
    seconds = _number(query, "sinceSeconds", 1)
    since = query.get("sinceTime", "")
    if seconds is not None:
        since = _moment(now, seconds)
    elif since:
        _check_time(since)
    stream = query.get("stream", "") or "All"
    if stream not in {"All", "Stdout", "Stderr"}:
        raise LogError(400, f"stream is {stream!r}: use All, Stdout or Stderr")
    return LogQuery(
        LogOptions(
            follow=_switch(query, "follow"),
            tail=_number(query, "tailLines", 0),
            since=since,
            timestamps=_switch(query, "timestamps"),
            stdout=stream != "Stderr",
            stderr=stream != "Stdout",
        ),
        previous=_switch(query, "previous"),
        limit=_number(query, "limitBytes", 1),
    )


def _switch(query: Mapping[str, str], name: str) -> bool:
    found = _SWITCH.get(query.get(name, "").lower())
    if found is None:
        raise LogError(400, f"{name} is {query[name]!r}: use true or false")
    return found


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    # A Go int64 has at most 19 digits; int() alone would take spaces and underscores, too.
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= least):
        raise LogError(400, f"{name} is {text!r}: use a whole number from {least}")
    return int(text)


def _moment(now: float, seconds: int) -> str:
    # Before 1970 is as good as for ever.
    past = datetime.fromtimestamp(now, UTC) - timedelta(seconds=min(seconds, int(now)))
    return past.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _check_time(text: str) -> None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise LogError(400, f"sinceTime is {text!r}: use a time such as 2026-11-21T10:00:00Z")


def choose(
    pod: Pod, seen: PodSeen, container: str, status: Mapping[str, Any], *, previous: bool
) -> Seen:
    """The instance whose log is meant; raises LogError.

    *status* is the pod's, as nodeagent gave it. As with the kubelet a container that waits for
    its next start shows the log of the instance that ended, and so does *previous*.
    """
    name = pod.metadata.name
    if container not in {one.name for one in (*pod.spec.init_containers, *pod.spec.containers)}:
        raise LogError(404, f"container {container} is not valid for pod {name}")
    begun = [one for one in seen.containers.get(container, ()) if one.state != "created"]
    waiting = _waiting(status, container)
    if not previous:
        if not begun:
            why = waiting or "ContainerCreating"
            raise LogError(
                400, f'container "{container}" in pod "{name}" is waiting to start: {why}'
            )
        return begun[0]
    at_rest = bool(waiting) and bool(begun) and not begun[0].running
    ended = begun if at_rest else begun[1:]
    if not ended:
        raise LogError(
            400, f'previous terminated container "{container}" in pod "{name}" not found'
        )
    return ended[0]


def _waiting(status: Mapping[str, Any], container: str) -> str:
    """The reason why *container* waits, "" when it does not."""
    for group in ("initContainerStatuses", "containerStatuses"):
        for one in status.get(group) or ():
            if one.get("name") == container:
                waiting = (one.get("state") or {}).get("waiting")
                return (waiting.get("reason") or "ContainerCreating") if waiting else ""
    return ""
