"""What podrunner decides for a pod, and what it says of it."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.podrunner.plan import (
    LABEL,
    Box,
    Confirm,
    Raw,
    Remove,
    Start,
    Step,
    Stop,
    creation,
    decide,
    environment,
    read_box,
    restarts,
    status_of,
)

NOW = "2026-01-01T00:00:00Z"
LATE = 1e9


def pod(*names: str, **spec: Any) -> Raw:
    """A pod bound to node1 with containers of these names."""
    containers = [{"name": name, "image": "busybox"} for name in names]
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u1"},
        "spec": {"nodeName": "node1", "containers": containers, **spec},
        "status": {"phase": "Pending"},
    }


def box(name: str, attempt: int = 0, *, running: bool = True, code: int = 0) -> Box:
    """A container of that pod."""
    return Box(f"{name}{attempt}", "u1", name, attempt, running, code, "10.1.2.3", 0)


class Engine:
    """Docker with the containers of one pod: carries out steps, and containers end."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.confirmed = False

    def perform(self, step: Step) -> None:
        """Do what podrunner asks."""
        match step:
            case Start(name, attempt):
                made = box(name, attempt)
                assert made.id not in self.boxes, "Docker refuses a name that is taken"
                assert not name or any(not b.name and b.running for b in self.boxes.values())
                self.boxes[made.id] = made
            case Stop(ids, _):
                for key in ids:
                    self.end(key)
            case Remove(ids):
                for key in ids:
                    del self.boxes[key]
            case Confirm():
                self.confirmed = True

    def end(self, key: str, code: int = 137) -> None:
        """A container ends."""
        self.boxes[key] = replace(self.boxes[key], running=False, exit_code=code)

    def settle(self, wanted: Raw) -> None:
        """Let podrunner work until it has nothing to do."""
        for _ in range(20):
            late = dict.fromkeys(self.boxes, LATE)
            steps = decide(wanted, [*self.boxes.values()], late)
            if not steps or self.confirmed:
                return
            for step in steps:
                self.perform(step)
        raise AssertionError("podrunner never comes to rest")


@given(st.lists(st.tuples(st.sampled_from(["step", "end"]), st.integers(0, 5)), max_size=25))
def test_a_pod_runs_in_the_end_whatever_ended_or_was_interrupted(events: list[Any]) -> None:
    """One holder of the network and one of each container, also after a half-done plan."""
    engine, wanted = Engine(), pod("a", "b")
    for what, number in events:
        if what == "end" and engine.boxes:
            engine.end(sorted(engine.boxes)[number % len(engine.boxes)])
        elif what == "step":
            late = dict.fromkeys(engine.boxes, LATE)
            for step in decide(wanted, [*engine.boxes.values()], late)[: number + 1]:
                engine.perform(step)
    engine.settle(wanted)
    assert sorted(found.name for found in engine.boxes.values()) == ["", "a", "b"]
    assert all(found.running for found in engine.boxes.values())


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_deleted_pod_leaves_nothing_and_is_confirmed_last(running: list[bool]) -> None:
    """Its containers get the grace that the API server gave it."""
    boxes = [box(n, running=r) for n, r in zip(("", "a", "b"), running, strict=True)]
    gone = pod("a", "b")
    gone["metadata"] |= {"deletionTimestamp": NOW, "deletionGracePeriodSeconds": 7}
    stop, remove, confirm = decide(gone, boxes, {})
    assert stop == Stop(tuple(b.id for b in boxes[1:] if b.running), 7)
    assert remove == Remove(("0", "a0", "b0"))
    assert confirm == Confirm()


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 1, False),
    ],
)
def test_the_restart_policy_decides_what_runs_again(policy: str, code: int, again: bool) -> None:
    """What is not run again is told as terminated, with its exit status."""
    wanted = pod("a", restartPolicy=policy)
    ended = box("a", running=False, code=code)
    assert restarts(wanted, ended) is again
    steps = decide(wanted, [box(""), ended], {"a0": LATE})
    assert steps == ((Start("a", 1),) if again else ())
    status = status_of(wanted, [box(""), ended], "192.0.2.1", NOW, {})
    expected = "Running" if again else "Failed" if code else "Succeeded"
    assert status["phase"] == expected
    (told,) = status["containerStatuses"]
    assert told["state"].get("terminated", {}).get("exitCode", -1) == (-1 if again else code)


def test_a_container_that_ends_again_and_again_waits_longer_each_time() -> None:
    """At once, then 1, 3, 7 s, at most 30 s."""
    wanted = pod("a")
    for attempt, wait in ((0, 0.0), (1, 1.0), (2, 3.0), (3, 7.0), (50, 30.0)):
        ended = box("a", attempt, running=False)
        assert decide(wanted, [box(""), ended], {ended.id: wait - 0.1}) == () or wait == 0
        assert decide(wanted, [box(""), ended], {ended.id: wait})[0] == Start("a", attempt + 1)


def test_when_the_holder_of_the_network_is_gone_all_starts_anew() -> None:
    """What still runs is in a network that nobody can reach."""
    wanted = pod("a")
    assert decide(wanted, [box("", running=False), box("a")], {}) == (
        Stop(("a0",), 0),
        Remove(("0",)),
        Start("", 1),
    )


def test_the_status_tells_addresses_readiness_and_why_a_container_waits() -> None:
    """A pod is Running once each container was started, Ready while all run."""
    wanted = pod("a", "b")
    told = {"b": {"reason": "ErrImageNeverPull", "message": "no such image"}}
    half = status_of(wanted, [box(""), box("a")], "192.0.2.1", NOW, told)
    assert (half["phase"], half["podIP"], half["hostIP"]) == ("Pending", "10.1.2.3", "192.0.2.1")
    assert half["containerStatuses"][1]["state"] == {"waiting": told["b"]}
    whole = status_of(wanted, [box(""), box("a"), box("b", 3)], "192.0.2.1", NOW, {})
    assert whole["phase"] == "Running"
    assert {c["type"]: c["status"] for c in whole["conditions"]} == dict.fromkeys(
        ("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True"
    )
    assert whole["containerStatuses"][1]["restartCount"] == 3


def test_a_condition_keeps_its_time_while_it_stays_the_same() -> None:
    """Otherwise every look would be news to the API server."""
    wanted, boxes = pod("a"), [box(""), box("a")]
    wanted["status"] = status_of(wanted, boxes, "192.0.2.1", NOW, {})
    assert status_of(wanted, boxes, "192.0.2.1", "2027-01-01T00:00:00Z", {}) == wanted["status"]


def test_the_environment_knows_the_pod_and_refuses_what_it_cannot_resolve() -> None:
    """The variable is named."""
    wanted = pod("a")
    container = wanted["spec"]["containers"][0]
    paths = {"POD": "metadata.name", "NODE": "spec.nodeName", "IP": "status.podIP"}
    container["env"] = [{"name": "X", "value": "1"}] + [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in paths.items()
    ]
    found = environment(wanted, container, "10.1.2.3", "192.0.2.1")
    assert found == ["X=1", "POD=p", "NODE=node1", "IP=10.1.2.3"]
    container["env"] = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}]
    with pytest.raises(ValueError, match="env S"):
        environment(wanted, container, "", "")


def test_containers_join_the_network_of_the_holder_which_has_the_ports() -> None:
    """Docker keeps the pod's identity in labels, from which it is read back."""
    wanted = pod("a")
    wanted["spec"]["containers"][0] |= {
        "command": ["sleep"],
        "args": ["9"],
        "ports": [{"containerPort": 80, "hostPort": 8080}],
    }
    holder = creation(wanted, "", 0, None, "192.0.2.1")
    assert holder["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostPort": "8080"}]}
    assert holder["Hostname"] == "p"
    body = creation(wanted, "a", 2, box(""), "192.0.2.1")
    assert body["HostConfig"]["NetworkMode"] == "container:0"
    assert (body["Entrypoint"], body["Cmd"]) == (["sleep"], ["9"])
    assert body["Labels"][LABEL] == "u1"
    entry = {
        "Id": "x", "Labels": body["Labels"], "State": "exited", "Created": 5,
        "Status": "Exited (137) 2 seconds ago", "NetworkSettings": {"Networks": {}},
    }  # fmt: skip
    assert read_box(entry) == Box("x", "u1", "a", 2, False, 137, "", 5)


def test_every_attempt_has_a_name_of_its_own() -> None:
    """Docker refuses a second container with the same name."""
    engine, wanted = Engine(), pod("a")
    for _ in itertools.repeat(None, 5):
        engine.settle(wanted)
        engine.end(next(key for key, found in engine.boxes.items() if found.name))
    assert max(found.attempt for found in engine.boxes.values()) == 4
