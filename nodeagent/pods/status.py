"""The status of a pod as the API wants it (``k8s.io/api/core/v1`` PodStatus). Pure.

Model: what Docker shows, the worker's notes and the status before give the next one. The status
before carries what Docker has forgotten: what ran, how often, how it ended.

Invariants:

* the phase never leaves Succeeded or Failed, and never goes back from Running to Pending;
* a restart count never falls. It is the attempt number, so a container that was taken away by
  ``docker rm -f`` counts on, where the kubelet's count would begin again;
* ready are running containers only, and a pod only when all of its containers are;
* the same input again gives an equal status, with the times of the first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from nodeagent.pods.containerstatus import (
    FINAL,
    ContainerNote,
    Json,
    PodNotes,
    View,
    api_time,
    dicts_of,
    text_of,
)
from nodeagent.pods.known import without_nulls
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen

__all__ = ["ContainerNote", "PodNotes", "api_time", "build", "changed", "normal"]

CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
"""The types of conditions that a node agent writes; all others are other programs'."""


def build(pod: Pod, seen: PodSeen, notes: PodNotes, now: str, previous: Mapping[str, Any]) -> Json:
    """The status of *pod*; *now* is in the API's form, *previous* the status built before.

    *previous* is the API server's at first. Conditions that others set are taken over from
    ``pod.status``.
    """
    if text_of(pod.status.get("phase")) in FINAL and text_of(previous.get("phase")) not in FINAL:
        # Others may end a pod too: the garbage collector does, for a node that is gone.
        ended = {name: pod.status.get(name) for name in ("phase", "reason", "message")}
        previous = {**previous, **ended}
    view = View.of(pod, seen, notes, now, previous)
    init, apps = view.entries()
    phase = view.phase(init, apps)
    if phase in FINAL and not view.over:
        # What has just ended is shown as what ended long ago.
        view = View.of(pod, seen, notes, now, {**previous, "phase": phase})
        init, apps = view.entries()
    status: Json = {"phase": phase, "conditions": _conditions(view, phase, init, apps)}
    reason, message = _why(notes, phase, previous)
    addresses = notes.address
    if not addresses and (view.ending or phase in FINAL):
        addresses = text_of(previous.get("podIP"))
    optional = {
        "reason": reason,
        "message": message,
        "hostIP": notes.host_address,
        "hostIPs": [{"ip": notes.host_address}] if notes.host_address else [],
        "podIP": addresses,
        "podIPs": [{"ip": addresses}] if addresses else [],
        "startTime": notes.start_time,
        "qosClass": notes.qos,
        # A pod that was refused never had containers.
        "initContainerStatuses": init if view.began else [],
        "containerStatuses": apps if view.began else [],
    }
    status.update((key, value) for key, value in optional.items() if value)
    return status


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two statuses say different things: nulls and the order of conditions say nothing."""
    return normal(old) != normal(new)


def normal(status: Mapping[str, Any]) -> Json:
    """*status* in a form that is equal for statuses that say the same."""
    found: Json = without_nulls(dict(status))
    if "conditions" in found:
        found["conditions"] = {text_of(c.get("type")): c for c in dicts_of(found["conditions"])}
    return {key: value for key, value in found.items() if value not in ("", [], {})}


def _why(notes: PodNotes, phase: str, previous: Mapping[str, Any]) -> tuple[str, str]:
    """Reason and message of the pod; those of one that has ended stay."""
    if notes.failed is not None and text_of(previous.get("phase")) not in FINAL:
        return notes.failed
    if phase in FINAL:
        return text_of(previous.get("reason")), text_of(previous.get("message"))
    return "", ""


def _conditions(view: View, phase: str, init: list[Json], apps: list[Json]) -> list[Json]:
    foreign = {
        text_of(c.get("type")): c
        for c in dicts_of(view.pod.status.get("conditions"))
        if c.get("type") not in CONDITIONS
    }
    unready = [entry["name"] for entry in apps if not entry["ready"]]
    gates = [
        gate.condition_type
        for gate in view.pod.spec.readiness_gates
        if foreign.get(gate.condition_type, {}).get("status") != "True"
    ]
    containers = _trouble(phase, unready)
    ready = containers
    if not ready and gates:
        listed = ", ".join(gates)
        ready = ("ReadinessGatesNotReady", f"conditions that are not True: {listed}")
    begun: tuple[str, str] | None = None
    if not view.initialized and phase != "Succeeded":
        names = [entry["name"] for entry in init]
        left = [entry["name"] for entry in init if not entry["ready"]] or names
        begun = ("ContainersNotInitialized", f"containers with incomplete status: {_names(left)}")
    completed = "PodCompleted" if phase == "Succeeded" else ""
    ours = [
        _condition(view, "Initialized", begun, completed),
        _condition(view, "Ready", ready),
        _condition(view, "ContainersReady", containers),
        _condition(view, "PodScheduled", None),
    ]
    return ours + [without_nulls(condition) for condition in foreign.values()]


def _trouble(phase: str, unready: list[str]) -> tuple[str, str] | None:
    """Why containers are not ready."""
    if phase in FINAL:
        return ("PodCompleted" if phase == "Succeeded" else "PodFailed"), ""
    if unready:
        return "ContainersNotReady", f"containers with unready status: {_names(unready)}"
    return None


def _names(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"


def _condition(view: View, kind: str, trouble: tuple[str, str] | None, reason: str = "") -> Json:
    """A condition that is True unless there is *trouble*; its time is that of the transition."""
    old = view.conditions.get(kind, {})
    status = "False" if trouble else "True"
    since = text_of(old.get("lastTransitionTime")) if old.get("status") == status else ""
    reason, message = trouble or (reason, "")
    found = {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since or view.now,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}
