"""The status document of an agent whose pods are in any state, decoded from anything."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import statusview
from tests.nodeagent.pods.agent import make_pod

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
ENTRY = st.dictionaries(
    st.sampled_from(["name", "state", "ready", "restartCount", "lastState"]), JSON
)
STATUS = st.dictionaries(
    st.sampled_from(
        ["phase", "message", "podIP", "startTime", "containerStatuses", "initContainerStatuses"]
    ),
    JSON | st.lists(ENTRY | JSON, max_size=3),
)


def shown(status: dict[str, Any], mode: str = "run") -> dict[str, Any]:
    """One pod's section."""
    worker = SimpleNamespace(
        pod=make_pod("web", "a", "b"), status=status, mode=mode, waits={"b": 7.3333}
    )
    return statusview._pod(worker)  # type: ignore[arg-type]


def test_a_running_pod_is_shown_with_its_containers() -> None:
    status = {
        "phase": "Running", "podIP": "10.1.0.2", "startTime": "2026-01-01T00:00:01Z",
        "containerStatuses": [
            {"name": "a", "ready": True, "restartCount": 2, "state": {"running": {}}},
            {"name": "b", "ready": False, "restartCount": 1,
             "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}}},
        ],
    }  # fmt: skip
    found = shown(status)
    assert (found["phase"], found["ready"], found["restarts"]) == ("Running", "1/2", 3)
    assert (found["address"], found["started"]) == ("10.1.0.2", 1767225601.0)
    assert [(one["state"], one["reason"]) for one in found["containers"]] == [
        ("running", ""), ("waiting", "CrashLoopBackOff"),
    ]  # fmt: skip
    assert [one.get("retry_in") for one in found["containers"]] == [None, 7.3]


@pytest.mark.parametrize(
    ("mode", "phase"), [("run", "Pending"), ("stop", "Pending"), ("remove", "Terminating")]
)
def test_a_pod_without_a_status_is_shown_too(mode: str, phase: str) -> None:
    found = shown({}, mode)
    assert (found["phase"], found["ready"], found["started"]) == (phase, "0/2", None)


@given(STATUS)
def test_a_status_of_surprising_types_never_keeps_the_document_from_being_made(
    status: dict[str, Any],
) -> None:
    found = shown(status)
    assert found["name"] == "web"
    assert isinstance(found["restarts"], int)
    assert found["ready"].endswith("/2")
