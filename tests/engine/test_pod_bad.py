"""Pods that this node cannot run: refused with a reason, and without harm to the others."""

import copy
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lab.namespaces import NETNS_DIR
from tests.engine.pods import NODE, PodWorld, Raw, shell, sleeper
from tests.support.netns import eventually

# --- what cannot be honoured ---

CONTAINER = "spec.containers[0]"
UNSUPPORTED: dict[str, tuple[Raw, Raw, str]] = {
    # name: (fields of the spec, fields of the container, the field that is named)
    "csi": ({"volumes": [{"name": "v", "csi": {"driver": "x"}}]}, {}, "spec.volumes[0].csi"),
    "git": (
        {"volumes": [{"name": "v", "gitRepo": {"repository": "x"}}]}, {}, "spec.volumes[0].gitRepo"
    ),
    "device": ({}, {"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]},
               f"{CONTAINER}.volumeDevices"),
    "users": ({"hostUsers": False}, {}, "spec.hostUsers"),
    "windows": ({"os": {"name": "windows"}}, {}, "spec.os"),
    "overhead": ({"overhead": {"cpu": "1"}}, {}, "spec.overhead"),
    "sidecar": ({"initContainers": [sleeper("side", restartPolicy="Always")]}, {},
                "spec.initContainers[0].restartPolicy"),
    "grpc": ({}, {"livenessProbe": {"grpc": {"port": 5}}}, f"{CONTAINER}.livenessProbe.grpc"),
    "gpu": ({}, {"resources": {"limits": {"example.com/gpu": "1"}}},
            f"{CONTAINER}.resources.limits.example.com/gpu"),
    "signal": ({}, {"lifecycle": {"stopSignal": "SIGUSR1"}}, f"{CONTAINER}.lifecycle.stopSignal"),
    "context": ({"securityContext": {"magic": True}}, {}, "spec.securityContext.magic"),
    "subpath": (
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "../x"}]},
        f"{CONTAINER}.volumeMounts[0].subPath",
    ),
    "quantity": ({}, {"resources": {"limits": {"cpu": "much"}}},
                 f"{CONTAINER}.resources.limits.cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_field_that_cannot_be_honoured_is_named_in_status_and_event(
    pods: PodWorld, name: str
) -> None:
    fields, own, field = UNSUPPORTED[name]
    pods.create(name, {"containers": [sleeper(**own)], **fields})
    status = pods.phase(name, "Failed")["status"]
    assert field in status["message"]
    assert status["reason"]
    pods.event(name, status["reason"], field)
    assert not pods.containers(name)


ADMISSION: dict[str, tuple[Raw, Raw, str, str]] = {
    # name: (fields of the spec, fields of the container, reason, words)
    "cpu": ({}, {"resources": {"requests": {"cpu": "1000"}}}, "OutOfcpu", "not enough cpu"),
    "memory": ({}, {"resources": {"requests": {"memory": "100Ti"}}}, "OutOfmemory", "100Ti"),
    "runtime": ({"runtimeClassName": "kata"}, {}, "RuntimeClassNotFound", "kata"),
    "selector": ({"nodeSelector": {"disk": "ssd"}}, {}, "NodeAffinity", "disk"),
}


@pytest.mark.parametrize("name", ADMISSION)
def test_a_pod_that_this_node_must_not_take_fails_with_the_reason(
    pods: PodWorld, name: str
) -> None:
    fields, own, reason, words = ADMISSION[name]
    pods.create(name, {"containers": [sleeper(**own)], **fields})
    status = pods.phase(name, "Failed")["status"]
    assert status["reason"] == reason
    assert words in status["message"]
    pods.event(name, reason, words)
    assert not pods.containers(name)


def test_room_is_counted_over_all_pods_and_had_again_when_one_ends(pods: PodWorld) -> None:
    cpus = float(pods.api("GET", f"/api/v1/nodes/{NODE}")["status"]["allocatable"]["cpu"])
    most: dict[str, Any] = {"resources": {"requests": {"cpu": f"{int(cpus * 600)}m"}}}
    script = "until test -e /go; do sleep 0.05; done"
    pods.create("first", {"containers": [shell(script, **most)], "restartPolicy": "Never"})
    pods.create("second", [sleeper(**most)])
    assert pods.phase("second", "Failed")["status"]["reason"] == "OutOfcpu"
    pods.running("first")
    pods.exec("first", "main", "touch", "/go")
    pods.phase("first", "Succeeded")
    pods.create("third", [sleeper(**most)])
    pods.ready("third")


# --- objects that no API server should hold ---


def etcdctl(pods: PodWorld, *argv: str, stdin: str = "") -> None:
    """Run etcdctl on the lab's etcd."""
    spec = pods.spec
    enter = ["nsenter", f"--net={NETNS_DIR / spec.fabric.netns}", "--", "env", "ETCDCTL_API=3"]
    subprocess.run(
        [*enter, "etcdctl", f"--endpoints={spec.etcd}", *argv],
        input=stdin, text=True, check=True, capture_output=True,
    )  # fmt: skip


def put_raw(pods: PodWorld, name: str, text: str) -> None:
    """Write a pod into etcd, past the API server."""
    etcdctl(pods, "put", f"/registry/pods/default/{name}", stdin=text)


@pytest.fixture
def stored(pods: PodWorld) -> Iterator[set[str]]:
    """Names of pods that are taken out of etcd at the test's end."""
    names: set[str] = set()
    yield names
    for name in names:
        etcdctl(pods, "del", f"/registry/pods/default/{name}")
    for name in names:
        pods.gone(name)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


MISSING = object()
BAD: dict[str, tuple[str, Any]] = {
    # name: (path of the field, what stands there)
    "containers-text": ("spec.containers", "text"),
    "containers-map": ("spec.containers", {"name": "x"}),
    "containers-none": ("spec.containers", None),
    "containers-empty": ("spec.containers", []),
    "container-text": ("spec.containers.0", "text"),
    "container-name": ("spec.containers.0.name", 5),
    "container-path": ("spec.containers.0.name", "../../etc"),
    "image": ("spec.containers.0.image", ["x"]),
    "image-flag": ("spec.containers.0.image", "--privileged"),
    "command": ("spec.containers.0.command", "sleep 5"),
    "env": ("spec.containers.0.env", [{"name": "A", "value": 5}]),
    "port": ("spec.containers.0.ports", [{"containerPort": "http"}]),
    "huge-port": ("spec.containers.0.ports", [{"containerPort": 10**30}]),
    "limits": ("spec.containers.0.resources", {"limits": {"cpu": [1]}}),
    "spec-text": ("spec", "text"),
    "grace": ("spec.terminationGracePeriodSeconds", "soon"),
    "grace-negative": ("spec.terminationGracePeriodSeconds", -5),
    "volumes": ("spec.volumes", {"name": "x"}),
    "volume-path": ("spec.volumes", [{"name": "../../x", "emptyDir": {}}]),
    "labels": ("metadata.labels", {"a": 1}),
    "annotations": ("metadata.annotations", "none"),
    "uid-path": ("metadata.uid", "../../../../var/lib"),
    "uid-number": ("metadata.uid", 5),
    "uid-none": ("metadata.uid", MISSING),
    "deletion": ("metadata.deletionTimestamp", 5),
    "status-text": ("status", "text"),
    "status-phase": ("status", {"phase": 7, "conditions": "none"}),
    "status-phase-list": ("status", {"phase": ["Failed"]}),
    "status-list": ("status", {"containerStatuses": [5], "initContainerStatuses": {"a": 1}}),
    "status-inside": ("status", {"containerStatuses": [{"name": "main", "restartCount": "many"}]}),
    "affinity": ("spec.affinity", {"nodeAffinity": [5]}),
    "tolerations": ("spec.tolerations", [5]),
    "deep": ("metadata.annotations", {"x": "DEEP"}),
}


def bad_pod(name: str) -> str:
    """The JSON of a pod with one field that cannot be."""
    document: Raw = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": str(uuid.uuid4()),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": NODE, "restartPolicy": "Always", "containers": [
            {**sleeper(), "imagePullPolicy": "IfNotPresent"}]},
        "status": {"phase": "Pending"},
    }  # fmt: skip
    path, value = BAD[name]
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = document
    for step in parents:
        place = place[step]
    if value is MISSING:
        del place[last]
    else:
        place[last] = copy.deepcopy(value)
    return json.dumps(document).replace('"DEEP"', deep(100))


def test_objects_of_surprising_types_stop_no_other_pod(pods: PodWorld, stored: set[str]) -> None:
    pods.create("before", [sleeper()])
    pods.ready("before")
    container = pods.container("before")["Id"]
    for name in BAD:
        stored.add(name)
        put_raw(pods, name, bad_pod(name))
    pods.create("after", [sleeper()])
    pods.ready("after")
    pods.delete("after")
    pods.gone("after")
    assert pods.container("before")["Id"] == container
    agent = pods.agent()
    assert agent["ready"], agent["problems"]

    pods.restart_agent()
    pods.create("again", [sleeper()])
    pods.ready("again")
    assert pods.container("before")["Id"] == container

    told = {name: said_of(pods, name) for name in BAD if name not in HARMLESS}
    assert not [name for name, text in told.items() if not text], "nothing is said of these"
    assert "/var/lib" in pods.node_run("ls", "-d", "/var/lib", "/var/lib/docker")


HARMLESS = {
    "spec-text",
    "status-phase",
    "status-phase-list",
    "status-list",
    "status-inside",
    "tolerations",
}
"""What the API server does not show to this node, and what does not keep a pod from running."""


def problems_with(pods: PodWorld, name: str) -> list[str]:
    """What the agent says of a pod that it cannot tell the API server."""
    found = pods.agent()["problems"]
    return [one["text"] for one in found if one["key"].endswith(f"/{name}")]


def said_of(pods: PodWorld, name: str) -> str:
    """What the pod's status, or the agent's, says of a bad pod; "" for nothing."""

    def look() -> str:
        status = (pods.find(name) or {}).get("status")
        if isinstance(status, dict) and status.get("phase") == "Failed":
            return str(status.get("message", ""))
        return "".join(problems_with(pods, name))

    try:
        return eventually(look, f"a word on {name}", deadline=60, interval=0.2)
    except AssertionError:
        return ""


def test_a_bad_pod_is_named_until_it_is_deleted_by_force(pods: PodWorld, stored: set[str]) -> None:
    stored.add("env")
    put_raw(pods, "env", bad_pod("env"))
    assert "spec.containers[0].env[0].value" in said_of(pods, "env")
    pods.delete("env", grace=0)
    pods.gone("env")
    eventually(lambda: not problems_with(pods, "env"), "its problem gone", deadline=60)


def test_a_pod_that_turns_bad_ends_and_its_successor_runs(pods: PodWorld, stored: set[str]) -> None:
    made = pods.create("turning", [sleeper()])
    pods.ready("turning")
    stored.add("turning")
    bad = copy.deepcopy(made)
    bad["spec"]["containers"][0]["env"] = [{"name": "A", "value": 5}]
    put_raw(pods, "turning", json.dumps(bad))
    eventually(lambda: not pods.containers("turning"), "its end", deadline=60, interval=0.1)
    pods.delete("turning", grace=0)
    pods.gone("turning")
    pods.create("turning", [sleeper()])
    pods.ready("turning")
