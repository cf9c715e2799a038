"""When a node is under pressure, for how long, and who has to go."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.node.pressure import (
    DEFAULT,
    SIGNALS,
    Level,
    Pressure,
    Threshold,
    parse_thresholds,
    victims,
)
from nodeagent.pods.model import MIRROR, SOURCE, Pod, decode

MI = 2**20


def memory(available: int) -> dict[str, Level]:
    return {"memory.available": Level(available * MI, 1000 * MI)}


def test_the_kubelets_own_thresholds_are_read() -> None:
    assert parse_thresholds(DEFAULT) == (
        Threshold("memory.available", amount=100 * MI),
        Threshold("nodefs.available", share=Fraction(1, 10)),
        Threshold("nodefs.inodesFree", share=Fraction(1, 20)),
        Threshold("imagefs.available", share=Fraction(15, 100)),
    )
    assert parse_thresholds("") == ()


@pytest.mark.parametrize("value", ["0%", "100%"])
def test_a_share_of_nothing_or_all_turns_a_signal_off(value: str) -> None:
    assert parse_thresholds(f"memory.available<{value}") == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memory.available", "memory.available"),
        ("memory.available>1Gi", "memory.available"),
        ("memory.free<1Gi", "memory.free"),
        ("pid.available<x", "pid.available"),
        ("pid.available<", "pid.available"),
        ("nodefs.available<101%", "nodefs.available"),
        ("nodefs.available<1/0%", "nodefs.available"),
        ("nodefs.available<-1Gi", "nodefs.available"),
        ("pid.available<1,pid.available<2", "pid.available"),
    ],
)
def test_what_cannot_be_a_threshold_is_refused_by_its_signal(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_thresholds(text)


def test_pressure_begins_at_once_and_lasts_the_transition_period() -> None:
    pressure = Pressure(parse_thresholds("memory.available<100Mi"), transition=300.0)
    assert not pressure.observe(memory(100), 0.0)
    assert pressure.observe(memory(99), 10.0)
    assert pressure.active == {"MemoryPressure"}
    assert pressure.reasons == {"MemoryPressure": "memory.available is below 100Mi"}
    assert [one.text for one in pressure.breaches] == ["memory.available is 99Mi, below 100Mi"]
    assert not pressure.observe(memory(500), 20.0)
    assert pressure.active
    assert not pressure.breaches
    assert not pressure.observe(memory(500), 309.0)
    assert pressure.observe(memory(500), 310.0)
    assert not pressure.active


def test_each_relapse_begins_the_period_anew() -> None:
    pressure = Pressure(parse_thresholds("memory.available<10%"), transition=300.0)
    for now, available in ((0.0, 50), (200.0, 50), (250.0, 500), (499.0, 500)):
        pressure.observe(memory(available), now)
        assert pressure.active
    pressure.observe(memory(500), 500.0)
    assert not pressure.active


def test_a_signal_that_cannot_be_read_changes_nothing() -> None:
    pressure = Pressure(parse_thresholds("memory.available<100Mi"), transition=300.0)
    pressure.observe({}, 0.0)
    assert not pressure.active
    pressure.observe(memory(1), 1.0)
    pressure.observe({}, 1000.0)
    assert pressure.active
    assert pressure.breaches
    pressure.observe(memory(500), 1001.0)
    assert pressure.active, "the period is counted from when it was last known to be so"


def test_a_file_system_without_inodes_is_never_short_of_them() -> None:
    pressure = Pressure(parse_thresholds("nodefs.inodesFree<5%"))
    pressure.observe({"nodefs.inodesFree": Level(0, 0)}, 0.0)
    assert not pressure.active


@given(
    st.lists(st.tuples(st.floats(0, 100), st.none() | st.integers(0, 200)), min_size=1, max_size=40)
)
@settings(max_examples=150)
def test_pressure_never_ends_sooner_than_its_period_after_the_last_breach(
    looks: list[tuple[float, int | None]],
) -> None:
    pressure = Pressure(parse_thresholds("memory.available<100Mi"), transition=60.0)
    now, breach = 0.0, None
    for pause, available in looks:
        now += pause
        pressure.observe({} if available is None else memory(available), now)
        if available is not None and available < 100:
            breach = now
        if breach is not None and now - breach < 60.0:
            assert pressure.active == {"MemoryPressure"}
        if breach is None:
            assert not pressure.active


def pod(uid: str, request: str = "", priority: int = 0, annotation: str = "") -> Pod:
    resources: dict[str, Any] = {"requests": {"memory": request}} if request else {}
    annotations = {annotation: "file"} if annotation else {}
    return decode(
        {
            "metadata": {"name": uid, "namespace": "d", "uid": uid, "annotations": annotations},
            "spec": {
                "priority": priority,
                "containers": [{"name": "c", "image": "i", "resources": resources}],
            },
        }
    )


def test_those_above_their_request_go_first_then_low_priority_then_high_usage() -> None:
    pods = [
        (pod("within", "200Mi"), 100 * MI),
        (pod("above-a-bit", "100Mi"), 110 * MI),
        (pod("above-a-lot", "100Mi"), 300 * MI),
        (pod("above-but-important", "", 1000), 900 * MI),
        (pod("none"), 50 * MI),
    ]
    assert victims("memory.available", pods) == (
        "above-a-lot", "none", "above-a-bit", "above-but-important", "within",
    )  # fmt: skip
    assert victims("memory.available", pods[::-1]) == victims("memory.available", pods)


def test_static_and_critical_pods_are_never_named() -> None:
    pods = [
        (pod("static", annotation=SOURCE), MI),
        (pod("mirror", annotation=MIRROR), MI),
        (pod("critical", "", 2_000_001_000), MI),
    ]
    assert all(victims(signal, pods) == () for signal in SIGNALS)


def test_process_ids_have_no_requests() -> None:
    pods = [(pod("few", "1Gi"), 5), (pod("many", "9Gi"), 500)]
    assert victims("pid.available", pods) == ("many", "few")
