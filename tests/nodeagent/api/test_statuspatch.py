"""Patches of statuses: applied to what the server has, they give what is wanted."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.api.statuspatch import OWNED, patch, same, unknown_field
from tests.fakes.kubeapi import merge

TYPES = ["Ready", "Initialized", "PodScheduled"]
FOREIGN = {"type": "lb/attached", "status": "True", "reason": "x"}


def conditions(types: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries(
        {"type": st.sampled_from(types), "status": st.sampled_from(["True", "False"])},
        optional={"reason": st.sampled_from(["a", "b"]), "message": st.just("m")},
    )
    return st.lists(one, max_size=3, unique_by=lambda c: c["type"])


ips = st.sampled_from([[], [{"ip": "10.0.0.1"}], [{"ip": "10.0.0.2"}]])
entries = st.sampled_from(
    [[], [{"name": "a", "ready": True}], [{"name": "a", "state": {"waiting": {}}}]]
)


def statuses(phases: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {
        "phase": st.sampled_from(phases),
        "reason": st.sampled_from(["", "Evicted"]),
        "podIP": st.sampled_from(["", "10.0.0.1"]),
        "podIPs": ips,
        "hostIPs": ips,
        "conditions": conditions(TYPES),
        "containerStatuses": entries,
    }
    return st.fixed_dictionaries({}, optional=fields)


@given(statuses(["Pending", "Running"]), statuses(["Running", "Failed"]))
@settings(max_examples=200, deadline=None)
def test_a_patch_makes_the_server_say_what_is_wanted(
    server: dict[str, Any], wanted: dict[str, Any]
) -> None:
    server = server | {"conditions": [*server.get("conditions", []), FOREIGN], "qosClass": "x"}
    made = patch("u", server, wanted)
    after = merge(server, made["status"]) if made else server
    for name in OWNED:
        assert (after.get(name) or None) == (wanted.get(name) or None)
    found = {c["type"]: c for c in after["conditions"]}
    assert found["lb/attached"] == FOREIGN
    for condition in wanted.get("conditions", []):
        assert found[condition["type"]] == condition
    assert after["qosClass"] == "x"
    if made:
        assert made["metadata"] == {"uid": "u"}
    if not made:
        assert not (wanted.get("conditions") and not same(server, wanted))


@given(statuses(["Running"]))
@settings(max_examples=100, deadline=None)
def test_what_the_server_has_is_not_sent(status: dict[str, Any]) -> None:
    assert patch("u", status, status) is None
    with_nulls = status | {"reason": None} if not status.get("reason") else status
    assert patch("u", with_nulls, status) is None
    assert patch("u", status, with_nulls) is None


def test_only_what_differs_is_sent_and_what_is_gone_is_null() -> None:
    known = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
    made = patch("u", known, {"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}]})
    assert made == {
        "metadata": {"uid": "u"},
        "status": {"podIP": None, "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "replace"}]},
    }


def test_a_list_that_the_server_lacks_is_sent_without_directive() -> None:
    """A real API server would take the directive for an item without address."""
    lacking: list[dict[str, Any]] = [{}, {"podIPs": None}, {"podIPs": []}]
    for known in lacking:
        made = patch("u", known, {"podIPs": [{"ip": "10.0.0.2"}]})
        assert made is not None
        assert made["status"] == {"podIPs": [{"ip": "10.0.0.2"}]}


def test_a_qos_class_is_sent_where_there_is_none() -> None:
    made = patch("u", {}, {"qosClass": "Burstable"})
    assert made is not None
    assert made["status"] == {"qosClass": "Burstable"}


def test_a_pod_that_has_ended_is_left_in_its_phase() -> None:
    assert patch("u", {"phase": "Failed"}, {"phase": "Running"}) is None
    assert patch("u", {"phase": "Failed"}, {"phase": "Failed", "podIP": "10.0.0.1"}) is not None


def test_the_field_that_an_older_server_refuses_is_found() -> None:
    text = 'unable to find api field in struct PodStatus for the json field "hostIPs"'
    assert unknown_field(text) == "hostIPs"
    assert unknown_field('... for the json field "surprise"') == ""
    assert unknown_field("something else") == ""
