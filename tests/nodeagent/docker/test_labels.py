"""Labels say who a container is; names only have to be allowed and unique."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker import labels
from nodeagent.docker.api import Entry
from nodeagent.pods.model import decode
from nodeagent.pods.observed import SANDBOX, Seen
from tests.nodeagent.docker.support import pod

NEVER = "0001-01-01T00:00:00Z"


def document(**changes: Any) -> dict[str, Any]:
    """Docker's answer for the running container ``c`` of the pod ``web``."""
    name = changes.pop("name", "c")
    made = labels.labels_for(pod(), name, 2, hash="0a1b2c3d", sandbox_id="5a" * 32)
    state = {"Status": "running", "Pid": 77, "ExitCode": 0, "StartedAt": "2024-01-01T00:00:01Z"}
    state |= {"FinishedAt": NEVER, "OOMKilled": False, "Error": "", **changes.pop("state", {})}
    made |= changes.pop("labels", {})
    return {
        "Id": "ab" * 32,
        "Image": "sha256:" + "1" * 64,
        "Created": "2024-01-01T00:00:00Z",
        "State": state,
        "Config": {"Image": "nginx:1.25", "Labels": made},
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"IPAddress": "10.3.0.2", "Networks": {}},
        **changes,
    }


def test_what_is_written_into_labels_is_read_back() -> None:
    seen = labels.seen_of(document())
    assert seen == Seen(
        id="ab" * 32, uid="u-1", pod="web", namespace="default", name="c", attempt=2,
        state="running", hash="0a1b2c3d", image="nginx:1.25", image_id="sha256:" + "1" * 64,
        created_at="2024-01-01T00:00:00Z", started_at="2024-01-01T00:00:01Z", pid=77, grace=30,
        sandbox_id="5a" * 32,
    )  # fmt: skip


def test_keys_are_those_of_dockershim() -> None:
    made = labels.labels_for(pod(), SANDBOX, 1)
    assert made == {
        "barenode.nodeagent": "1",
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": "u-1",
        "io.kubernetes.container.name": "POD",
        "io.kubernetes.docker.type": "podsandbox",
        "annotation.io.kubernetes.container.restartCount": "1",
        "annotation.io.kubernetes.pod.terminationGracePeriod": "30",
    }
    assert labels.labels_for(pod(), "c", 0)["io.kubernetes.docker.type"] == "container"


def test_names_have_dockershims_form() -> None:
    assert labels.container_name(pod(), "c", 3, "abcd") == "k8s_c.abcd_web_default_u-1_3"
    assert labels.container_name(pod(), SANDBOX, 0, "abcd") == "k8s_POD_web_default_u-1_0"


@settings(max_examples=100)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_name_becomes_one_that_docker_allows(name: str, container: str) -> None:
    one = decode({"metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": {}})
    made = labels.container_name(one, container, 0)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", made)


@pytest.mark.parametrize(
    ("status", "state"),
    [("created", "created"), ("running", "running"), ("paused", "running"),
     ("restarting", "running"), ("removing", "exited"), ("exited", "exited"), ("dead", "exited")],
)  # fmt: skip
def test_every_state_of_docker_has_one_of_ours(status: str, state: str) -> None:
    assert labels.seen_of(document(state={"Status": status})).state == state


def test_only_a_sandbox_has_an_address() -> None:
    assert labels.seen_of(document()).address == ""
    assert labels.seen_of(document(name=SANDBOX)).address == "10.3.0.2"


def test_the_address_is_found_where_newer_dockers_have_it() -> None:
    networks = {"Networks": {"none": {"IPAddress": ""}, "bridge": {"IPAddress": "10.3.0.9"}}}
    assert labels.seen_of(document(name=SANDBOX, NetworkSettings=networks)).address == "10.3.0.9"


def test_the_end_of_a_container_is_told() -> None:
    state = {
        "Status": "exited", "ExitCode": 137, "OOMKilled": True, "Pid": 0,
        "FinishedAt": "2024-01-01T00:00:09Z", "Error": "two\nlines ",
    }  # fmt: skip
    seen = labels.seen_of(document(state=state))
    assert (seen.exit_code, seen.oom_killed, seen.finished_at) == (137, True, state["FinishedAt"])
    assert seen.error == "two lines"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"barenode.nodeagent": ""}, "not nodeagent's"),
        ({"io.kubernetes.pod.uid": ""}, "io.kubernetes.pod.uid"),
        ({"annotation.io.kubernetes.container.restartCount": "-1"}, "not a number"),
        ({"annotation.io.kubernetes.container.restartCount": "٣"}, "not a number"),
        ({"annotation.io.kubernetes.container.restartCount": "9" * 40}, "not a number"),
        ({"annotation.io.kubernetes.pod.terminationGracePeriod": "soon"}, "not a number"),
    ],
)
def test_foreign_and_broken_labels_are_refused(wrong: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        labels.seen_of(document(labels=wrong))


@pytest.mark.parametrize("broken", [{"State": None}, {"Config": 3}, {"State": {"Status": "odd"}}])
def test_an_answer_of_another_form_is_a_value_error(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown form|not known"):
        labels.seen_of(document() | broken)


def test_a_line_of_the_list_says_who_and_in_which_state() -> None:
    mine = labels.labels_for(pod(), "c", 4, hash="ff")
    entry = Entry("ab" * 32, "running", mine, image_id="sha256:1")
    seen = labels.seen_of_entry(entry)
    assert (seen.name, seen.attempt, seen.state, seen.hash) == ("c", 4, "running", "ff")
    assert seen.image_id == "sha256:1", "the API server is told of it before the inspect"
