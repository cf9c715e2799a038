"""What a pod needs next, what its status is, what Docker is asked for: pure.

The containers of a pod are known by Docker's labels alone; each start of a container is a new
attempt with a number of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Raw = dict[str, Any]

PAUSE_IMAGE = "barenode/busybox:lab"
LABEL = "barenode.pod"
MOST_BACKOFF = 30.0
"""Seconds that a container which ends again and again waits at most; the waits double."""


@dataclass(frozen=True, slots=True)
class Box:
    """A container of a pod as Docker has it; *name* is empty for the one that holds the network.

    *created* is in Unix seconds.
    """

    id: str
    uid: str
    name: str
    attempt: int
    running: bool
    exit_code: int
    address: str
    created: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End these containers within *grace* seconds."""

    ids: tuple[str, ...]
    grace: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete these containers."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Make the container *name* and run it; an empty name is the one that holds the network."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Tell the API server that the pod is gone."""


Step = Stop | Remove | Start | Confirm


def read_box(entry: Raw) -> Box:
    """From one entry of Docker's GET /containers/json."""
    code = re.match(r"Exited \((\d+)\)", entry["Status"])
    labels, networks = entry["Labels"], entry["NetworkSettings"]["Networks"]
    return Box(
        id=entry["Id"],
        uid=labels[LABEL],
        name=labels[f"{LABEL}.container"],
        attempt=int(labels[f"{LABEL}.attempt"]),
        running=entry["State"] in {"running", "paused"},
        exit_code=int(code[1]) if code else 0,
        address=next((n["IPAddress"] for n in networks.values()), ""),
        created=entry["Created"],
    )


def newest(boxes: Sequence[Box]) -> dict[str, Box]:
    """The last attempt of each container of a pod."""
    return {box.name: box for box in sorted(boxes, key=lambda b: b.attempt)}


def restarts(pod: Raw, box: Box) -> bool:
    """Whether the pod's restart policy wants *box*, which has ended, to run again."""
    policy = pod["spec"].get("restartPolicy", "Always")
    return bool(policy == "Always" or (policy == "OnFailure" and box.exit_code))


def decide(pod: Raw, boxes: Sequence[Box], ended: Mapping[str, float]) -> tuple[Step, ...]:
    """What a pod needs next; *ended* is for how many seconds each container has been ended."""
    last, meta = newest(boxes), pod["metadata"]
    apps = {name: box for name, box in last.items() if name}
    running = tuple(box.id for box in boxes if box.name and box.running)
    if meta.get("deletionTimestamp"):
        grace = int(meta.get("deletionGracePeriodSeconds") or 0)
        return Stop(running, grace), Remove(tuple(box.id for box in boxes)), Confirm()
    names = [container["name"] for container in pod["spec"]["containers"]]
    done = [n for n in names if n in apps and not apps[n].running and not restarts(pod, apps[n])]
    if len(done) == len(names):
        return ()
    holder = last.get("")
    if holder is None or not holder.running:
        old = tuple(box.id for box in boxes if not box.name)
        attempt = holder.attempt + 1 if holder else 0
        return Stop(running, 0), Remove(old), Start("", attempt)
    steps: list[Step] = []
    for name in names:
        box = apps.get(name)
        if box is None:
            steps.append(Start(name, 0))
            continue
        backoff = min(MOST_BACKOFF, 2.0 ** min(box.attempt, 9) - 1)
        if not box.running and name not in done and ended.get(box.id, 0.0) >= backoff:
            steps.append(Start(name, box.attempt + 1))
    if old := tuple(box.id for box in boxes if box is not last[box.name]):
        steps.append(Remove(old))
    return tuple(steps)


def status_of(pod: Raw, boxes: Sequence[Box], host: str, now: str, trouble: Raw) -> Raw:
    """The pod's status; *trouble* tells reason and message of containers that do not start."""
    last, before = newest(boxes), pod.get("status") or {}
    spec = pod["spec"]
    entries = [_container_status(pod, c, last.get(c["name"]), trouble) for c in spec["containers"]]
    ended = [e["state"]["terminated"] for e in entries if "terminated" in e["state"]]
    ready = all(entry["ready"] for entry in entries)
    if len(ended) == len(entries):
        phase = "Failed" if any(state["exitCode"] for state in ended) else "Succeeded"
    elif all(c["name"] in last for c in spec["containers"]):
        phase = "Running"
    else:
        phase = "Pending"
    old = {c["type"]: c for c in before.get("conditions") or ()}
    conditions = []
    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready"):
        value = str(ready or kind in {"PodScheduled", "Initialized"})
        same = old.get(kind, {}).get("status") == value
        since = old[kind].get("lastTransitionTime", now) if same else now
        conditions.append({"type": kind, "status": value, "lastTransitionTime": since})
    holder = last.get("")
    address = host if spec.get("hostNetwork") else holder.address if holder else ""
    where = {"podIP": address, "podIPs": [{"ip": address}]} if address else {}
    kept = {key: before[key] for key in ("qosClass",) if key in before}
    return {
        **kept, **where, "phase": phase, "hostIP": host, "hostIPs": [{"ip": host}],
        "startTime": before.get("startTime", now), "conditions": conditions,
        "containerStatuses": entries,
    }  # fmt: skip


def _container_status(pod: Raw, container: Raw, box: Box | None, trouble: Raw) -> Raw:
    name = container["name"]
    state: Raw = {"waiting": trouble.get(name, {"reason": "ContainerCreating"})}
    if box is not None:
        began = datetime.fromtimestamp(box.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if box.running:
            state = {"running": {"startedAt": began}}
        elif restarts(pod, box):
            state = {"waiting": trouble.get(name, {"reason": "CrashLoopBackOff"})}
        else:
            reason = "Error" if box.exit_code else "Completed"
            ended = {"exitCode": box.exit_code, "reason": reason, "startedAt": began}
            state = {"terminated": ended}
    running = "running" in state
    return {
        "name": name, "image": container["image"], "imageID": "", "state": state,
        "ready": running, "started": running, "restartCount": box.attempt if box else 0,
        **({"containerID": f"docker://{box.id}"} if box else {}),
    }  # fmt: skip


def environment(pod: Raw, container: Raw, address: str, host: str) -> list[str]:
    """KEY=value for Docker; raises ValueError for a source that is not supported."""
    meta = pod["metadata"]
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "status.podIP": address,
        "status.hostIP": host,
    }
    found = []
    for variable in container.get("env") or ():
        value = variable.get("value", "")
        if source := variable.get("valueFrom"):
            path = source.get("fieldRef", {}).get("fieldPath")
            if path not in fields:
                raise ValueError(f"env {variable['name']}: use value, or fieldRef of {[*fields]}")
            value = fields[path]
        found.append(f"{variable['name']}={value}")
    return found


def creation(pod: Raw, name: str, attempt: int, holder: Box | None, host: str) -> Raw:
    """The body of Docker's POST /containers/create; raises ValueError."""
    meta, spec = pod["metadata"], pod["spec"]
    labels = {LABEL: meta["uid"], f"{LABEL}.container": name, f"{LABEL}.attempt": str(attempt)}
    labels |= {f"{LABEL}.name": meta["name"], f"{LABEL}.namespace": meta["namespace"]}
    if holder is None:
        ports = [p for c in spec["containers"] for p in c.get("ports") or () if p.get("hostPort")]
        keys = [f"{p['containerPort']}/{p.get('protocol', 'TCP').lower()}" for p in ports]
        network = "host" if spec.get("hostNetwork") else "bridge"
        bound = {k: [{"HostPort": str(p["hostPort"])}] for k, p in zip(keys, ports, strict=True)}
        return {
            "Image": PAUSE_IMAGE, "Entrypoint": ["sleep", "2147483647"], "Labels": labels,
            "Hostname": "" if network == "host" else spec.get("hostname") or meta["name"],
            "ExposedPorts": {key: {} for key in keys}, "StopSignal": "SIGKILL",
            "HostConfig": {"NetworkMode": network, "PortBindings": bound},
        }  # fmt: skip
    container = next(c for c in spec["containers"] if c["name"] == name)
    privileged = bool((container.get("securityContext") or {}).get("privileged"))
    return {
        "Image": container["image"], "Labels": labels,
        "Entrypoint": container.get("command"), "Cmd": container.get("args"),
        "WorkingDir": container.get("workingDir", ""),
        "Env": environment(pod, container, holder.address or host, host),
        "HostConfig": {"NetworkMode": f"container:{holder.id}", "Privileged": privileged},
    }  # fmt: skip
