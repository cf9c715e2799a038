"""The node as the API server knows it, through restarts of the agent and a Docker that hangs."""

import re
from typing import Any

import pytest

from tests.engine.pods import NODE, PodWorld, Raw, sleeper
from tests.support.netns import eventually

NODES = f"/api/v1/nodes/{NODE}"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")


def node(pods: PodWorld) -> Raw:
    return pods.api("GET", NODES)


def condition(pods: PodWorld, kind: str = "Ready") -> Raw:
    found: Raw = next(c for c in node(pods)["status"]["conditions"] if c["type"] == kind)
    return found


def renewed(pods: PodWorld) -> str:
    """When the node's lease was renewed last."""
    return str(pods.api("GET", LEASE)["spec"]["renewTime"])


def change(pods: PodWorld, **fields: Any) -> None:
    """Merge *fields* into the Node."""
    pods.api("PATCH", NODES, fields)


def test_the_node_is_registered_with_what_it_is_and_has(pods: PodWorld) -> None:
    found = node(pods)
    labels, status = found["metadata"]["labels"], found["status"]
    info = status["nodeInfo"]
    assert labels["kubernetes.io/hostname"] == NODE
    assert labels["kubernetes.io/os"] == info["operatingSystem"] == "linux"
    assert labels["kubernetes.io/arch"] == info["architecture"]
    assert {a["type"]: a["address"] for a in status["addresses"]} == {
        "InternalIP": pods.spec.nodes[0].address, "Hostname": NODE,
    }  # fmt: skip
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    assert info["kernelVersion"] == pods.node_run("uname", "-r").strip()
    version = pods.docker("GET", "/version")["Version"]
    assert info["containerRuntimeVersion"] == f"docker://{version}"
    assert re.fullmatch(r"v\d+\.\d+\.\d+.*", info["kubeletVersion"])
    boot = pods.node_run("cat", "/proc/sys/kernel/random/boot_id").strip()
    assert info["bootID"] == boot
    assert status["capacity"]["cpu"] == pods.node_run("nproc").strip()
    total = pods.node_run("awk", "/^MemTotal/ {print $2}", "/proc/meminfo").strip()
    assert int(status["capacity"]["memory"].removesuffix("Ki")) == int(total)
    assert status["capacity"]["pods"] == "110"
    less = int(status["allocatable"]["memory"].removesuffix("Ki"))
    assert less == int(total) - 100 * 1024, "what would set off eviction is not given out"
    assert "ephemeral-storage" in status["capacity"]
    names = [name for image in status["images"] for name in image["names"]]
    assert "barenode/busybox:lab" in names
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert [conditions[kind] for kind in CONDITIONS] == ["False", "False", "False", "True"]
    assert condition(pods)["reason"] == "KubeletReady"


def test_the_lease_is_renewed_by_the_agent_that_runs(pods: PodWorld) -> None:
    lease = pods.api("GET", LEASE)
    assert lease["spec"]["holderIdentity"] == NODE
    assert lease["spec"]["leaseDurationSeconds"] == 40
    (owner,) = lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Node", node(pods)["metadata"]["uid"])
    first = lease["spec"]["renewTime"]
    eventually(lambda: renewed(pods) > first, "a renewal", deadline=60, interval=0.2)


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "kill -9"])
def test_cordon_foreign_labels_and_pods_outlive_the_agent(pods: PodWorld, kill: bool) -> None:
    uid = node(pods)["metadata"]["uid"]
    pods.create("resident", [sleeper()])
    pods.ready("resident")
    container = pods.container("resident")["Id"]
    try:
        change(pods, spec={"unschedulable": True},
               metadata={"labels": {"rack": "7", "kubernetes.io/os": "plan9"}})  # fmt: skip
        pods.restart_agent(kill=kill)
        eventually(
            lambda: node(pods)["metadata"]["labels"]["kubernetes.io/os"] == "linux",
            "its own label is right again", deadline=60, interval=0.1,
        )  # fmt: skip
        found = node(pods)
        assert found["metadata"]["uid"] == uid
        assert found["spec"]["unschedulable"] is True
        assert found["metadata"]["labels"]["rack"] == "7"
        pods.create("sent", [sleeper()])
        pods.ready("sent")
        assert pods.container("resident")["Id"] == container, "a cordon ends nothing"
    finally:
        change(pods, spec={"unschedulable": None}, metadata={"labels": {"rack": None}})
    eventually(
        lambda: not node(pods)["spec"].get("unschedulable"), "uncordoned", deadline=60, interval=0.1
    )


def test_a_hanging_docker_makes_the_node_not_ready_while_the_agent_lives_and_beats(
    pods: PodWorld,
) -> None:
    """The observer is patient for 30 s, so this one test takes as long."""
    pods.create("resident", [sleeper()])
    pods.ready("resident")
    before = pods.container("resident")
    agent = pods.agent()["pid"]
    pids = pods.node_run("pidof", "dockerd").split()
    try:
        pods.node_run("kill", "-STOP", *pids)
        pods.create("held", [sleeper()])
        eventually(
            lambda: condition(pods)["status"] == "False", "NotReady", deadline=90, interval=0.5
        )
        found = condition(pods)
        assert found["reason"] == "KubeletNotReady"
        assert "Docker" in found["message"]
        eventually(
            lambda: pods.agent().get("ready") is False, "the agent not ready", deadline=60,
            interval=0.2,
        )  # fmt: skip
        assert pods.agent()["pid"] == agent
        assert pods.node_run("curl", "-s", "http://127.0.0.1:10248/healthz").strip() == "ok"
        beat = renewed(pods)
        eventually(lambda: renewed(pods) > beat, "a heartbeat", deadline=60, interval=0.2)
        assert pods.get("resident")["status"]["phase"] == "Running"
    finally:
        pods.node_run("kill", "-CONT", *pids)
    eventually(lambda: condition(pods)["status"] == "True", "Ready", deadline=90, interval=0.2)
    pods.ready("held")
    after = pods.container("resident")
    assert (after["Id"], after["State"]["Pid"]) == (before["Id"], before["State"]["Pid"])
    assert pods.agent()["pid"] == agent

    def told() -> set[str]:
        events = pods.api("GET", "/api/v1/events", fieldSelector=f"involvedObject.name={NODE}")
        return {event["reason"] for event in events["items"]}

    eventually(
        lambda: told() >= {"NodeNotReady", "NodeReady"}, "both events", deadline=60, interval=0.2
    )
