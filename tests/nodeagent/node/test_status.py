"""What the Node says: amounts, conditions, and what of others stays."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.api import patch
from lab.api.kinds import NODE
from nodeagent.docker.api import EngineInfo, Image
from nodeagent.node.facts import Facts
from nodeagent.node.pressure import DEFAULT, parse_thresholds
from nodeagent.node.settings import NodeSettings
from nodeagent.node.status import (
    View,
    adoption_patch,
    image_list,
    node_object,
    node_status,
    parts_changed,
    status_patch,
    transitions,
)

GI = 2**30
FACTS = Facts(
    hostname="h", machine_id="m", system_uuid="s", boot_id="b", kernel="6.1", os_image="Debian",
    cpus=4, memory=8 * GI, disk=100 * GI, hugepages={2 * 2**20: GI},
)  # fmt: skip
SETTINGS = NodeSettings("n", version="v1.20.0+barenode.1")
VIEW = View(FACTS, "10.0.0.5", EngineInfo("20.10.24", "1.41"))
T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z"


def stored(previous: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The status after our patch, by the lab's API server."""
    body = status_patch(previous, wanted)
    return dict(patch.apply(NODE, patch.STRATEGIC, {"status": previous}, body)["status"])


def test_capacity_is_the_machines_and_allocatable_what_pods_get() -> None:
    settings = replace(
        SETTINGS,
        reserved={"cpu": Fraction(1, 2), "memory": Fraction(GI)},
        eviction=parse_thresholds(DEFAULT),
    )
    status = node_status({}, settings, VIEW, T0)
    assert status["capacity"] == {
        "cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "110",
        "hugepages-2Mi": "1Gi",
    }  # fmt: skip
    assert status["allocatable"] == {
        "cpu": "3500m", "memory": "6044Mi", "ephemeral-storage": "90Gi", "pods": "110",
        "hugepages-2Mi": "1Gi",
    }  # fmt: skip


def test_reservations_beyond_the_machine_leave_nothing_rather_than_less() -> None:
    settings = replace(SETTINGS, reserved={"cpu": Fraction(9), "memory": Fraction(90 * GI)})
    found = node_status({}, settings, VIEW, T0)["allocatable"]
    assert (found["cpu"], found["memory"]) == ("0", "0")


def test_the_rest_of_the_status_is_as_kubectl_reads_it() -> None:
    status = node_status({}, SETTINGS, VIEW, T0)
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert status["addresses"] == [
        {"type": "InternalIP", "address": "10.0.0.5"}, {"type": "Hostname", "address": "n"},
    ]  # fmt: skip
    assert status["nodeInfo"]["containerRuntimeVersion"] == "docker://20.10.24"
    assert status["nodeInfo"]["operatingSystem"] == "linux"
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True",
    }  # fmt: skip
    assert "volumesInUse" not in status


def test_labels_of_a_new_node_and_its_taints() -> None:
    settings = replace(SETTINGS, labels={"kubernetes.io/os": "lie", "disk": "ssd"})
    node = node_object(settings, VIEW, T0)
    assert node["metadata"]["labels"] == {
        "disk": "ssd", "kubernetes.io/hostname": "n", "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
    }  # fmt: skip
    assert node["spec"] == {}
    closed = node_object(replace(SETTINGS, schedulable=False), VIEW, T0)["spec"]
    assert closed == {
        "unschedulable": True,
        "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
    }
    assert adoption_patch(node, settings, FACTS) is None


def test_a_transition_has_its_time_and_a_heartbeat_only_its_own() -> None:
    first = node_status({}, SETTINGS, VIEW, T0)
    second = node_status(first, SETTINGS, VIEW, T1)
    assert parts_changed(first, second) == []
    assert {one["lastTransitionTime"] for one in second["conditions"]} == {T0}
    assert {one["lastHeartbeatTime"] for one in second["conditions"]} == {T1}
    third = node_status(second, SETTINGS, replace(VIEW, trouble="Docker is away"), T1)
    assert parts_changed(second, third) == ["conditions"]
    ready = third["conditions"][-1]
    assert (ready["status"], ready["lastTransitionTime"]) == ("False", T1)
    assert list(transitions(second, third)) == [
        ("NodeNotReady", "Ready is False now: Docker is away")
    ]


def test_while_docker_is_away_its_version_and_images_stay() -> None:
    images = [Image("i", tags=("a:1",), size=5)]
    first = node_status({}, SETTINGS, replace(VIEW, images=images), T0)
    second = node_status(first, SETTINGS, replace(VIEW, engine=None, trouble="away"), T1)
    assert second["nodeInfo"]["containerRuntimeVersion"] == "docker://20.10.24"
    assert stored(first, second)["images"] == first["images"]
    unknown = node_status({}, SETTINGS, replace(VIEW, engine=None), T0)
    assert unknown["nodeInfo"]["containerRuntimeVersion"] == "docker://Unknown"


def test_what_others_wrote_stays_and_what_was_ours_goes() -> None:
    network = {"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"}
    previous = node_status({}, SETTINGS, VIEW, T0)
    previous["conditions"].append(network)
    previous["capacity"]["example.com/dongle"] = "4"
    previous["addresses"] = [{"type": "ExternalIP", "address": "1.2.3.4"}]
    view = replace(VIEW, facts=replace(FACTS, hugepages={}))
    after = stored(previous, node_status(previous, SETTINGS, view, T1))
    assert network in after["conditions"]
    assert after["capacity"]["example.com/dongle"] == "4"
    assert after["allocatable"]["example.com/dongle"] == "4"
    assert "hugepages-2Mi" not in after["capacity"]
    assert [one["type"] for one in after["addresses"]] == ["InternalIP", "Hostname"]


def test_images_are_the_fifty_largest_with_five_names() -> None:
    images = [
        *(Image(str(n), tags=tuple(f"i{n}:{t}" for t in range(9)), size=n) for n in range(80)),
        Image("nameless", size=10**9),
    ]
    found = image_list(images)
    assert [one["sizeBytes"] for one in found] == list(range(79, 29, -1))
    assert {len(one["names"]) for one in found} == {5}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = ("capacity", "allocatable", "conditions", "addresses", "nodeInfo", "images", "x")


@given(st.dictionaries(st.sampled_from(PARTS), JSON))
@settings(max_examples=200)
def test_a_status_of_whatever_types_is_read_and_put_right(previous: dict[str, Any]) -> None:
    wanted = node_status(previous, SETTINGS, VIEW, T0)
    assert status_patch(previous, wanted)["status"]
    assert adoption_patch({"metadata": previous}, SETTINGS, FACTS) is not None


VIEWS = st.builds(
    View,
    facts=st.builds(
        Facts,
        machine_id=st.just("m"),
        cpus=st.integers(1, 64),
        memory=st.integers(0, 64 * GI),
        disk=st.integers(0, 999 * GI),
        hugepages=st.dictionaries(st.sampled_from([2**21, 2**30]), st.just(2**30)),
    ),
    address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    engine=st.none() | st.just(VIEW.engine),
    images=st.lists(st.builds(Image, st.just("i"), tags=st.just(("a:1",)), size=st.integers(0, 9))),
    pressure=st.dictionaries(st.sampled_from(["MemoryPressure", "PIDPressure"]), st.just("low")),
    trouble=st.sampled_from(["", "Docker is away"]),
)


@given(st.lists(VIEWS, min_size=1, max_size=5))
@settings(max_examples=100)
def test_after_each_patch_the_server_has_what_was_wanted(views: list[View]) -> None:
    status: dict[str, Any] = {}
    for view in views:
        wanted = node_status(status, SETTINGS, view, T0)
        status = stored(status, wanted)
        assert parts_changed(status, node_status(status, SETTINGS, view, T1)) == []
        assert status["capacity"] == wanted["capacity"]


@pytest.mark.parametrize("trouble", ["", "Docker is away"])
def test_every_first_condition_is_an_event(trouble: str) -> None:
    wanted = node_status({}, SETTINGS, replace(VIEW, trouble=trouble), T0)
    assert [reason for reason, _ in transitions({}, wanted)] == [
        "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID",
        "NodeNotReady" if trouble else "NodeReady",
    ]  # fmt: skip
