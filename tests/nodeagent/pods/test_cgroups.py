"""Where pods' control groups are and what is in them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.cgroups import (
    folder_of,
    parent_of,
    shares_of,
    slice_of,
    unit_properties,
    v1_files,
    v2_files,
    weight_of,
)
from nodeagent.pods.resources import MAX_SHARES, MIN_SHARES, CpuMemory
from tests.nodeagent.pods.making import HOST, asks, pod_of

FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("changes", "limits", "parent"),
    [
        ({}, {}, "/kubepods/besteffort/podu-1"),
        ({}, {"cpu": "1"}, "/kubepods/burstable/podu-1"),
        ({}, FULL, "/kubepods/podu-1"),
        ({"cgroup_root": "/a/b"}, {}, "/a/b/kubepods/besteffort/podu-1"),
        ({"cgroup_driver": "systemd"}, {}, "kubepods-besteffort-podu_1.slice"),
        ({"cgroup_driver": "systemd"}, FULL, "kubepods-podu_1.slice"),
        ({"cgroup_driver": "systemd", "cgroup_root": "/a-b"}, FULL, "a_b-kubepods-podu_1.slice"),
        ({"cgroup_per_pod": False}, FULL, ""),
        ({"cgroup_per_pod": False, "cgroup_root": "/a"}, FULL, "/a"),
        ({"cgroup_per_pod": False, "cgroup_root": "/a", "cgroup_driver": "systemd"}, FULL, ""),
    ],
)
def test_parents_by_class_and_driver(
    changes: dict[str, Any], limits: dict[str, str], parent: str
) -> None:
    assert parent_of(pod_of(asks({}, limits)), replace(HOST, **changes)) == parent


def test_slices_lie_within_each_other() -> None:
    systemd = replace(HOST, cgroup_driver="systemd")
    assert slice_of(("kubepods", "burstable", "podx-y")) == "kubepods-burstable-podx_y.slice"
    assert folder_of(("kubepods", "podx"), systemd) == "kubepods.slice/kubepods-podx.slice"
    assert folder_of(("kubepods", "podx"), HOST) == "kubepods/podx"


def test_amounts_as_the_kernel_takes_them() -> None:
    some, none = CpuMemory(512, 50_000, 1024), CpuMemory()
    assert v1_files(some) == {
        ("cpu", "cpu.shares"): "512",
        ("cpu", "cpu.cfs_period_us"): "100000",
        ("cpu", "cpu.cfs_quota_us"): "50000",
        ("memory", "memory.limit_in_bytes"): "1024",
    }
    assert {v1_files(none)[key] for key in list(v1_files(none))[2:]} == {"-1"}
    assert v2_files(some) == {"cpu.weight": "20", "cpu.max": "50000 100000", "memory.max": "1024"}
    assert v2_files(none) == {"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max"}


def test_amounts_as_systemd_takes_them() -> None:
    some = unit_properties(CpuMemory(512, 50_000, 1024), v2=False)
    assert some == [
        "CPUShares", "t", "512", "CPUQuotaPerSecUSec", "t", "500000", "MemoryLimit", "t", "1024",
    ]  # fmt: skip
    none = unit_properties(CpuMemory(), v2=True)
    assert none[::3] == ["CPUWeight", "CPUQuotaPerSecUSec", "MemoryMax"]
    assert none[5] == none[8] == str(2**64 - 1)


@settings(max_examples=200)
@given(st.integers(MIN_SHARES, MAX_SHARES))
def test_weights_keep_to_their_range_and_order(shares: int) -> None:
    weight = weight_of(shares)
    assert 1 <= weight <= 10_000
    assert weight_of(min(shares + 100, MAX_SHARES)) >= weight
    assert abs(shares_of(weight) - shares) <= 27
