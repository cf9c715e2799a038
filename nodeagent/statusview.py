"""The sections of the status document, from what the app holds."""

import calendar
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodeagent.podhalf import PodHalf
from nodeagent.pods.containerstatus import dict_of, dicts_of
from nodeagent.pods.worker import PodWorker

if TYPE_CHECKING:
    from nodeagent.app import NodeAgentApp

Json = dict[str, Any]


def sections(app: "NodeAgentApp") -> Json:
    """All but what every service has."""
    trouble = app.trouble()
    half = app.pods
    pulling = [] if half is None else list(half.images.pulling)
    return {
        "node": {
            "name": app.name,
            "address": app.keeper.address,
            "registered": app.keeper.registered,
            "ready": not trouble,
            "message": trouble or app.keeper.missing() or "",
        },
        "api": None
        if app.client is None
        else {"endpoint": app.client.endpoint, "errors": dict(app.client.endpoint_errors)},
        "docker": {"version": app.info.version if app.info else "", "trouble": trouble},
        "manifests": None if half is None else _manifests(half),
        "pods": [] if half is None else _pods(half),
        "images": {"pulling": pulling},
    }


def _manifests(half: PodHalf) -> Json | None:
    source = half.manifests
    if source is None:
        return None
    return {
        "path": str(source.path),
        "pods": len(source.pods),
        "errors": [{"file": e.file, "line": e.line, "text": e.text} for e in source.errors],
    }


def _pods(half: PodHalf) -> list[Json]:
    workers = sorted(half.manager.workers.values(), key=lambda worker: worker.pod.key)
    return [_pod(worker) for worker in workers]


def _pod(worker: PodWorker) -> Json:
    status = worker.status
    # Before a pod was looked at, its status is what the API server has, of any type.
    apps = dicts_of(status.get("containerStatuses"))
    entries = [*dicts_of(status.get("initContainerStatuses")), *apps]
    ready = sum(bool(entry.get("ready")) for entry in apps)
    wanted = len(worker.pod.spec.containers)
    waits = worker.waits
    phase = "Terminating" if worker.mode == "remove" else str(status.get("phase") or "Pending")
    return {
        "uid": worker.pod.uid,
        "namespace": worker.pod.metadata.namespace,
        "name": worker.pod.metadata.name,
        "source": "file" if worker.pod.is_static else "api",
        "phase": phase,
        "ready": f"{ready}/{wanted}",
        "restarts": sum(_count(entry) for entry in apps),
        "address": str(status.get("podIP") or ""),
        "message": str(status.get("message") or ""),
        "started": _unix(str(status.get("startTime") or "")),
        "containers": [_container(entry, waits) for entry in entries],
    }


def _container(entry: Json, waits: Mapping[str, float]) -> Json:
    state = dict_of(entry.get("state"))
    kind = next(iter(state), "waiting")
    detail = dict_of(state.get(kind))
    name = str(entry.get("name") or "")
    found: Json = {
        "name": name,
        "state": kind,
        "reason": str(detail.get("reason") or ""),
        "message": str(detail.get("message") or ""),
        "restarts": _count(entry),
    }
    if name in waits:
        found["retry_in"] = round(waits[name], 1)
    return found


def _count(entry: Json) -> int:
    count = entry.get("restartCount")
    return count if isinstance(count, int) else 0


def _unix(text: str) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
