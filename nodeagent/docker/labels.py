"""Who a container is: the labels that nodeagent writes and reads, and the names it gives.

The keys and the form of the names are dockershim's (kubelet up to 1.23), because cAdvisor, log
shippers and ``docker ps --filter`` of operators read them; ``barenode.nodeagent`` is ours. The
labels alone say who a container is, its name says nothing: what does not carry OURS is foreign.
"""

import re
from collections.abc import Mapping
from typing import Any

from nodeagent.docker.api import Entry
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, Seen, State

OURS = "barenode.nodeagent"
"""Its value "1" marks containers that nodeagent made; others are never touched."""
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
TYPE = "io.kubernetes.docker.type"
SANDBOX_ID = "io.kubernetes.sandbox.id"
HASH = "annotation.io.kubernetes.container.hash"
ATTEMPT = "annotation.io.kubernetes.container.restartCount"
GRACE = "annotation.io.kubernetes.pod.terminationGracePeriod"

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_.-]")
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, Docker's word for "never"
# Status of Docker Engine API 1.41's ContainerState. "removing" and "dead" come after the process
# has ended; "paused" and "restarting" have one.
_STATES: Mapping[str, State] = {
    "created": "created",
    "running": "running",
    "paused": "running",
    "restarting": "running",
    "removing": "exited",
    "exited": "exited",
    "dead": "exited",
}


def labels_for(
    pod: Pod,
    name: str,
    attempt: int,
    *,
    hash: str = "",  # noqa: A002 - named as the field of Seen it becomes
    sandbox_id: str = "",
) -> dict[str, str]:
    """The labels of a container of *pod*; *name* is SANDBOX for the one of the namespaces."""
    labels = {
        OURS: "1",
        POD_NAME: pod.metadata.name,
        POD_NAMESPACE: pod.metadata.namespace,
        POD_UID: pod.uid,
        CONTAINER_NAME: name,
        TYPE: "podsandbox" if name == SANDBOX else "container",
        ATTEMPT: str(attempt),
        GRACE: str(pod.spec.termination_grace_period_seconds),
    }
    if hash:
        labels[HASH] = hash
    if sandbox_id:
        labels[SANDBOX_ID] = sandbox_id
    return labels


def container_name(
    pod: Pod,
    name: str,
    attempt: int,
    hash: str = "",  # noqa: A002 - named as the field of Seen it becomes
) -> str:
    """``k8s_<name>.<hash>_<pod>_<namespace>_<uid>_<attempt>``; a sandbox has no hash.

    What Docker does not allow in names (``[a-zA-Z0-9][a-zA-Z0-9_.-]+``) becomes ``-``.
    """
    what = f"{name}.{hash}" if hash and name != SANDBOX else name
    meta = pod.metadata
    full = f"k8s_{what}_{meta.name}_{meta.namespace}_{meta.uid}_{attempt}"
    return _FORBIDDEN.sub("-", full)


def state_of(status: str) -> State:
    """A state out of Docker's word; raises ValueError for an unknown one."""
    try:
        return _STATES[status]
    except KeyError:
        raise ValueError(f"Docker names a container state {status!r} that is not known") from None


def seen_of_entry(entry: Entry) -> Seen:
    """What a line of the list alone says of a container; raises ValueError as ``seen_of``."""
    return Seen(
        id=entry.id,
        state=state_of(entry.state),
        image_id=entry.image_id,
        inspected=False,
        **_identity(entry.id, entry.labels),
    )


def seen_of(document: Mapping[str, Any]) -> Seen:
    """A container out of Docker's answer to GET /containers/{id}/json (Engine API 1.38 to 1.52).

    Raises ValueError when its labels are not ours, or the answer is not of that form.
    """
    try:
        return _seen(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Docker describes a container in an unknown form ({type(error).__name__}: {error})"
        ) from error


def _seen(document: Mapping[str, Any]) -> Seen:
    config, state = document["Config"], document["State"]
    identity = _identity(document["Id"], config.get("Labels") or {})
    is_sandbox = identity["name"] == SANDBOX
    return Seen(
        id=document["Id"],
        state=state_of(state["Status"]),
        image=config.get("Image") or "",
        image_id=document.get("Image") or "",
        created_at=_time(document.get("Created")),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=" ".join((state.get("Error") or "").split()),
        address=_address(document.get("NetworkSettings") or {}) if is_sandbox else "",
        pid=int(state.get("Pid") or 0),
        stop_signal=config.get("StopSignal") or "SIGTERM",
        host_network=(document.get("HostConfig") or {}).get("NetworkMode") == "host",
        **identity,
    )


def _identity(container: str, labels: Mapping[str, str]) -> dict[str, Any]:
    if labels.get(OURS) != "1":
        raise ValueError(f"container {container[:12]} is not nodeagent's: it has no label {OURS}")
    found = {key: labels.get(key, "") for key in (POD_UID, POD_NAME, POD_NAMESPACE, CONTAINER_NAME)}
    empty = [key for key, value in found.items() if not value]
    if empty:
        raise ValueError(f"container {container[:12]} lacks the label {empty[0]}")
    return {
        "uid": found[POD_UID],
        "pod": found[POD_NAME],
        "namespace": found[POD_NAMESPACE],
        "name": found[CONTAINER_NAME],
        "attempt": _number(container, labels, ATTEMPT, ""),
        "grace": _number(container, labels, GRACE, "30"),
        "hash": labels.get(HASH, ""),
        "sandbox_id": labels.get(SANDBOX_ID, ""),
    }


def _number(container: str, labels: Mapping[str, str], key: str, default: str) -> int:
    text = labels.get(key, default)
    # int() alone would take signs, blanks, underscores and other scripts' digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"container {container[:12]} has label {key}={text!r}: not a number")
    return int(text)


def _time(text: str | None) -> str:
    return "" if not text or text == _NEVER else text


def _address(network: Mapping[str, Any]) -> str:
    # The field at the top went with Engine API 1.52; earlier ones have both.
    for one in (network.get("Networks") or {}).values():
        if one and one.get("IPAddress"):
            return str(one["IPAddress"])
    return str(network.get("IPAddress") or "")
