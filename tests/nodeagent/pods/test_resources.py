"""What containers ask for, and what the kernel is told."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods import resources
from nodeagent.pods.resources import (
    CpuMemory,
    cpu_memory,
    cpu_quota,
    cpu_shares,
    oom_score_adj,
    pod_cpu_memory,
    pod_request,
    pod_requests,
    qos_class,
    resource_field,
)
from tests.nodeagent.pods.making import HOST, asks, container, pod_of

FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "inits", "qos"),
    [
        ([asks()], [], "BestEffort"),
        ([asks({"cpu": "0"})], [], "BestEffort"),
        ([asks({"ephemeral-storage": "1Gi"})], [], "BestEffort"),
        ([asks(FULL, FULL)], [], "Guaranteed"),
        ([asks({}, FULL)], [], "Guaranteed"),
        ([asks({"cpu": "1000m", "memory": "1024Mi"}, FULL)], [], "Guaranteed"),
        ([asks({"cpu": "500m"}, FULL)], [], "Burstable"),
        ([asks({}, {"memory": "1Gi"})], [], "Burstable"),
        ([asks({"memory": "1Gi"})], [], "Burstable"),
        ([asks({}, FULL), asks(name="d")], [], "Burstable"),
        ([asks({}, FULL)], [asks(name="i")], "Burstable"),
        ([asks()], [asks({"cpu": "1"}, name="i")], "Burstable"),
        ([asks({}, FULL)], [asks({}, FULL, name="i")], "Guaranteed"),
        ([asks({"cpu": "lots"})], [], "BestEffort"),
    ],
)
def test_the_class_follows_cpu_and_memory_of_all_containers(
    containers: list[Any], inits: list[Any], qos: str
) -> None:
    assert qos_class(pod_of(*containers, initContainers=inits)) == qos


def test_a_pod_takes_the_sum_or_its_greatest_init_container() -> None:
    pod = pod_of(
        asks({"cpu": "100m", "memory": "1Gi"}),
        asks({"cpu": "200m"}, {"memory": "1Gi"}, name="d"),
        initContainers=[asks({"cpu": "1"}, name="i"), asks({"cpu": "500m"}, name="j")],
    )
    assert pod_requests(pod) == {"cpu": 1, "memory": 2 * 2**30}
    assert pod_request(pod, "ephemeral-storage") == 0


@pytest.mark.parametrize(
    ("requests", "limits", "told"),
    [
        ({}, {}, CpuMemory(2)),
        ({"cpu": "250m"}, {}, CpuMemory(256)),
        ({}, {"cpu": "500m", "memory": "64Mi"}, CpuMemory(512, 50_000, 64 * 2**20)),
        ({"cpu": "0"}, {"cpu": "1"}, CpuMemory(1024, 100_000)),
        ({"cpu": "1m"}, {"cpu": "1m"}, CpuMemory(2, 1000)),
        ({"cpu": "1000"}, {"memory": "0.5Ki"}, CpuMemory(262_144, 0, 512)),
    ],
)
def test_a_container_gets_shares_quota_and_memory(
    requests: dict[str, str], limits: dict[str, str], told: CpuMemory
) -> None:
    pod = pod_of(asks(requests, limits))
    assert cpu_memory(pod.spec.containers[0]) == told


def test_a_pod_is_limited_only_where_all_its_containers_are() -> None:
    half = asks({}, {"cpu": "500m"}, name="d")
    assert pod_cpu_memory(pod_of(asks({}, FULL), half)) == CpuMemory(1536, 150_000, 0)


@settings(max_examples=100)
@given(st.fractions(0, 10_000, max_denominator=10**6))
def test_shares_and_quota_keep_to_the_kernels_range(cpus: Fraction) -> None:
    assert 2 <= cpu_shares(cpus) <= 262_144
    assert cpu_quota(cpus) == 0 if cpus == 0 else cpu_quota(cpus) >= 1000


@pytest.mark.parametrize(
    ("requests", "limits", "score"),
    [
        ({}, {}, 1000),
        ({}, FULL, -997),
        ({"memory": "4Gi"}, {}, 500),
        ({"memory": "8Gi"}, {}, 2),
        ({"memory": "800Gi"}, {}, 2),
        ({"memory": "1Ki"}, {}, 999),
        ({"cpu": "1"}, {}, 999),
    ],
)
def test_who_asked_for_little_memory_is_killed_first(
    requests: dict[str, str], limits: dict[str, str], score: int
) -> None:
    pod = pod_of(asks(requests, limits))
    assert oom_score_adj(pod, pod.spec.containers[0], HOST.memory) == score


def test_pods_that_the_node_needs_are_killed_last() -> None:
    pod = pod_of(priority=resources.NODE_CRITICAL)
    assert oom_score_adj(pod, pod.spec.containers[0], HOST.memory) == -997


def test_an_unknown_capacity_does_no_harm() -> None:
    pod = pod_of(asks({"memory": "1Gi"}))
    assert oom_score_adj(pod, pod.spec.containers[0], 0) == 999


@pytest.mark.parametrize(
    ("name", "divisor", "value"),
    [
        ("limits.cpu", "0", "1"),
        ("limits.cpu", "1m", "500"),
        ("limits.memory", "1Mi", "8192"),
        ("limits.memory", "", str(8 * 2**30)),
        ("requests.cpu", "1m", "500"),
        ("requests.memory", "1", "0"),
        ("limits.ephemeral-storage", "1", "0"),
        ("requests.hugepages-2Mi", "1", "0"),
    ],
)
def test_fields_are_rounded_up_and_missing_limits_are_the_nodes(
    name: str, divisor: str, value: str
) -> None:
    one = pod_of(asks({}, {"cpu": "500m"})).spec.containers[0]
    assert resource_field(one, name, divisor, HOST) == value


def test_without_a_cpu_limit_the_node_counts() -> None:
    one = pod_of(container()).spec.containers[0]
    assert resource_field(one, "limits.cpu", "0", replace(HOST, cpus=16)) == "16"


def test_limits_that_are_not_set_leave_out_what_the_node_keeps_for_itself() -> None:
    one = pod_of(container()).spec.containers[0]
    host = replace(HOST, cpus=16, pod_cpus=Fraction(15, 2), pod_memory=3 << 30)
    assert resource_field(one, "limits.cpu", "1m", host) == "7500"
    assert resource_field(one, "limits.memory", "1Gi", host) == "3"


@pytest.mark.parametrize(
    ("name", "divisor", "sentence"),
    [
        ("limits.gpu", "0", "'limits.gpu' is unknown"),
        ("cpu", "0", "is unknown"),
        ("limits.cpu", "much", "'much' is no quantity"),
        ("limits.cpu", "-1", "below zero"),
    ],
)
def test_fields_that_cannot_be_had_are_named(name: str, divisor: str, sentence: str) -> None:
    one = pod_of(container()).spec.containers[0]
    with pytest.raises(ValueError, match=sentence):
        resource_field(one, name, divisor, HOST)
