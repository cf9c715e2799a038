"""Requests and limits: what Docker is told, what the kernel holds, and what is left of it."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.engine.pods import SANDBOX, PodWorld, Raw, shell, sleeper, state, status_of
from tests.support.netns import eventually

MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """What a container asks for, and what comes of it; *level* is where its pod's group is."""

    requests: dict[str, str]
    limits: dict[str, str]
    qos: str
    level: str
    shares: int
    quota: int
    memory: int
    score: range


CASES = {
    "guaranteed": Case(
        {}, {"cpu": "250m", "memory": "32Mi"}, "Guaranteed", "", 256, 25_000, 32 * MIB,
        range(-997, -996),
    ),
    "burstable": Case(
        {"cpu": "100m", "memory": "16Mi"}, {"cpu": "500m", "memory": "64Mi"}, "Burstable",
        "burstable/", 102, 50_000, 64 * MIB, range(2, 1000),
    ),
    "requests-only": Case(
        {"cpu": "1"}, {}, "Burstable", "burstable/", 1024, 0, 0, range(2, 1000)
    ),
    "besteffort": Case({}, {}, "BestEffort", "besteffort/", 2, 0, 0, range(1000, 1001)),
}  # fmt: skip


def group_file(pods: PodWorld, path: str, controller: str, name: str) -> int:
    """A number in a file of a control group of the node."""
    return int(pods.node_run("cat", f"/sys/fs/cgroup/{controller}{path}/{name}"))


def groups(pods: PodWorld, uid: str) -> str:
    """The control groups of a pod on the node."""
    return pods.node_run("find", "/sys/fs/cgroup/", "-name", f"pod{uid}")


@pytest.mark.parametrize("name", CASES)
def test_what_a_container_asks_for_reaches_docker_and_the_kernel(pods: PodWorld, name: str) -> None:
    case = CASES[name]
    resources = {"requests": case.requests, "limits": case.limits}
    made = pods.create(name, [sleeper(resources=resources)])
    uid = made["metadata"]["uid"]
    assert pods.ready(name)["status"]["qosClass"] == case.qos
    told = pods.container(name)["HostConfig"]
    assert (told["CpuShares"], told["CpuQuota"], told["Memory"]) == (
        case.shares, case.quota, case.memory
    )  # fmt: skip
    assert told["MemorySwap"] == case.memory, "no swap beside it"
    assert told["OomScoreAdj"] in case.score
    parent = f"/kubepods/{case.level}pod{uid}"
    assert told["CgroupParent"] == parent
    sandbox = pods.container(name, SANDBOX)["HostConfig"]
    assert (sandbox["CgroupParent"], sandbox["OomScoreAdj"]) == (parent, -998)

    own = f"{parent}/{pods.container(name)['Id']}"
    assert group_file(pods, own, "cpu", "cpu.shares") == case.shares
    for path in (own, parent):
        assert group_file(pods, path, "cpu", "cpu.cfs_quota_us") == (case.quota or -1)
        limit = group_file(pods, path, "memory", "memory.limit_in_bytes")
        assert limit == case.memory if case.memory else limit > 2**60
    pods.delete(name)
    pods.gone(name)
    eventually(lambda: not groups(pods, uid), "the control groups gone", deadline=60, interval=0.1)


def test_a_pods_group_holds_all_its_containers_and_limits_only_where_all_have_one(
    pods: PodWorld,
) -> None:
    limits = {"cpu": "100m", "memory": "20Mi"}
    one = sleeper("one", resources={"limits": limits})
    two = sleeper("two", resources={"limits": {"memory": "30Mi"}, "requests": {"cpu": "200m"}})
    init = shell("true", "init", resources={"limits": {"cpu": "50m", "memory": "64Mi"}})
    uid = pods.create("sum", {"initContainers": [init], "containers": [one, two]})["metadata"][
        "uid"
    ]
    pods.ready("sum")
    parent = f"/kubepods/burstable/pod{uid}"
    assert group_file(pods, parent, "memory", "memory.limit_in_bytes") == 64 * MIB
    assert group_file(pods, parent, "cpu", "cpu.shares") == 300 * 1024 // 1000
    assert group_file(pods, parent, "cpu", "cpu.cfs_quota_us") == -1, "two has no limit of cpu"


def test_requests_of_all_burstable_pods_weigh_together(pods: PodWorld) -> None:
    """Shares of a pod mean something beside the node's own processes only by their parents'."""
    for name in ("first", "second"):
        pods.create(name, [sleeper(resources={"requests": {"cpu": "200m"}})])
        pods.ready(name)
    eventually(
        lambda: group_file(pods, "/kubepods/burstable", "cpu", "cpu.shares") >= 2 * 204,
        "the shares of the class", deadline=60, interval=0.1,
    )  # fmt: skip


def killed(pod: Raw) -> Raw:
    """The terminated state that the container is in, or was in last; {} for none."""
    found: Raw = state(pod).get("terminated") or status_of(pod).get("lastState", {}).get(
        "terminated", {}
    )
    return found


@pytest.mark.parametrize("policy", ["Never", "Always"])
def test_a_container_that_takes_too_much_memory_is_said_to_be_killed_for_it(
    pods: PodWorld, policy: str
) -> None:
    fields: dict[str, Any] = {"resources": {"limits": {"memory": "16Mi"}}}
    hungry = shell("exec tail /dev/zero", **fields)
    pods.create("hungry", {"containers": [hungry], "restartPolicy": policy})
    # Docker may tell of the end first, and of what it came from a moment later.
    found = pods.wait(
        "hungry", lambda pod: killed(pod).get("reason") == "OOMKilled", "it was killed for memory"
    )
    assert killed(found)["exitCode"] == 137
    if policy == "Never":
        assert pods.phase("hungry", "Failed")
