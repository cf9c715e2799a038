"""What nodeagent status shows to a person."""

import io
from typing import Any

import pytest
from rich.console import Console

from nodeagent.view import ROWS_SHOWN, age, show, span

NOW = 1_000_000.0


def pod(name: str = "web", **changed: Any) -> dict[str, Any]:
    """A pod of the document."""
    return {
        "uid": f"u-{name}", "namespace": "default", "name": name, "source": "api",
        "phase": "Running", "ready": "1/1", "restarts": 0, "address": "10.1.34.2", "message": "",
        "started": NOW - 90,
        "containers": [{"name": "nginx", "state": "running", "reason": "", "restarts": 0}],
        **changed,
    }  # fmt: skip


def document(**changed: Any) -> dict[str, Any]:
    """The answer of /status of a healthy agent."""
    return {
        "version": "0.1.0", "pid": 7, "started": NOW - 3725, "ready": True, "not_ready": [],
        "node": {"name": "n1", "address": "192.168.0.201", "registered": True, "ready": True,
                 "message": ""},
        "api": {"endpoint": "http://10.0.0.1:8080", "errors": {}},
        "docker": {"version": "20.10.24", "trouble": ""},
        "manifests": {"path": "/etc/kubernetes/manifests", "pods": 2, "errors": []},
        "pods": [pod()], "images": {"pulling": []}, "problems": [],
        **changed,
    }  # fmt: skip


def shown(**changed: Any) -> str:
    """The view as text."""
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False)
    show(document(**changed), console, now=NOW)
    return stream.getvalue()


def rows(text: str) -> dict[str, str]:
    """Lines by their first word."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line}


def test_a_healthy_agent_fits_in_a_few_lines() -> None:
    found = rows(shown())
    assert found["nodeagent"] == "ready, up 1h02m, version 0.1.0"
    assert found["node"] == "n1 at 192.168.0.201, Ready"
    assert found["api"] == "connected, http://10.0.0.1:8080"
    assert found["docker"] == "answers, version 20.10.24"
    assert found["manifests"] == "/etc/kubernetes/manifests: 2 pods"
    assert found["pods"] == "1, 1 running"
    assert found["default/web"] == "api Running 1/1 0 1m30s 10.1.34.2"
    for absent in ("WAITING", "PROBLEM", "MANIFEST ", "pulling"):
        assert absent not in shown()


def test_what_is_wrong_is_said_where_it_belongs() -> None:
    text = shown(
        ready=False,
        node={"name": "n1", "address": "", "registered": True, "ready": False,
              "message": "Docker hangs"},
        api={"endpoint": None, "errors": {"http://a": "refused"}},
        docker={"version": "", "trouble": "no answer for 40 s"},
        problems=[{"key": "server", "text": "cannot listen", "blocking": False, "since": NOW - 5}],
    )  # fmt: skip
    found = rows(text)
    assert found["nodeagent"].startswith("NOT READY")
    assert found["node"] == "n1 at no address yet, NotReady: Docker hangs"
    assert found["api"] == "NOT CONNECTED, no API server answered yet"
    assert found["http://a:"] == "refused"
    assert found["docker"] == "TROUBLE, version unknown"
    assert "no answer for 40 s" in text
    assert found["server"] == "5s cannot listen"


def test_a_node_that_is_not_registered_and_an_agent_without_sources_say_so() -> None:
    node = {"name": "n1", "address": "10.0.0.1", "registered": False, "ready": False, "message": ""}
    found = rows(shown(node=node, api=None, manifests=None, pods=[]))
    assert found["node"] == "n1 at 10.0.0.1, not registered"
    assert found["api"] == "none, manifests only"
    assert found["manifests"] == "none are read"


def test_containers_that_wait_for_their_next_try_are_listed_with_the_time_left() -> None:
    container = {
        "name": "nginx", "state": "waiting", "reason": "CrashLoopBackOff", "restarts": 4,
        "message": "exit status 1", "retry_in": 75.0,
    }  # fmt: skip
    pulled = {"name": "db", "state": "waiting", "reason": "ImagePullBackOff", "restarts": 0}
    text = shown(pods=[pod(containers=[container, pulled])], images={"pulling": ["redis:7"]})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "default/web nginx CrashLoopBackOff 4 in 1m15s exit status 1" in lines
    assert "default/web db ImagePullBackOff 0 -" in lines
    assert "pulling redis:7" in lines


def test_faults_of_manifests_name_file_and_line() -> None:
    errors = [{"file": "a.yaml", "line": 3, "text": "no [kind]"},
              {"file": "b.yaml", "line": 0, "text": "too large"}]  # fmt: skip
    found = rows(shown(manifests={"path": "/m", "pods": 1, "errors": errors}))
    assert found["manifests"] == "/m: 1 pod, 2 faults"
    assert found["a.yaml:3"] == "no [kind]"
    assert found["b.yaml"] == "too large"


def test_a_long_list_is_cut_and_says_so() -> None:
    text = shown(pods=[pod(f"p{number}") for number in range(ROWS_SHOWN + 5)])
    assert "... and 5 more: --json shows all" in text
    assert f"p{ROWS_SHOWN}" not in text


def test_texts_of_others_are_shown_and_not_obeyed() -> None:
    assert "[red]x[/red]" in shown(pods=[pod(message="[red]x[/red]")])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"),
     (86_399, "23h59m"), (86_400, "1d00h"), (200_000, "2d07h")],
)  # fmt: skip
def test_lengths_of_time_have_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_the_age_of_what_began_in_the_future_is_zero_and_of_nothing_a_dash() -> None:
    assert age(NOW + 3600, NOW) == "0s"
    assert age(None, NOW) == "-"
