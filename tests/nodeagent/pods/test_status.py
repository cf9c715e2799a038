"""The status of a pod: tables of what Docker shows, and histories made up by hypothesis."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.model import Pod, decode
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen, State
from nodeagent.pods.status import ContainerNote, PodNotes, api_time, build, changed

NOW, LATER = "2024-05-01T10:00:00Z", "2024-05-01T10:05:00Z"
STARTED, FINISHED = "2024-05-01T09:00:00.123456789Z", "2024-05-01T09:30:00.987654321Z"
READY = ContainerNote(ready=True, started=True)


def a_pod(
    *names: str, init: tuple[str, ...] = (), policy: str = "Always",
    status: dict[str, Any] | None = None, gates: tuple[str, ...] = (),
) -> Pod:  # fmt: skip
    return decode(
        {
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {
                "containers": [{"name": n, "image": f"{n}:1"} for n in names or ("app",)],
                "initContainers": [{"name": n, "image": f"{n}:1"} for n in init],
                "restartPolicy": policy,
                "readinessGates": [{"conditionType": g} for g in gates],
            },
            "status": status or {},
        }
    )


def one(name: str, state: State = "running", attempt: int = 0, **more: Any) -> Seen:
    known: dict[str, Any] = {
        "id": f"{name}-{attempt}", "uid": "u", "pod": "web", "namespace": "default",
        "name": name, "attempt": attempt, "state": state, "created_at": STARTED,
        "image": f"{name}:1", "image_id": "sha256:abc", "sandbox_id": f"{SANDBOX}-0",
    }  # fmt: skip
    if state != "created":
        known["started_at"] = STARTED
    if state == "exited":
        known["finished_at"] = FINISHED
    return Seen(**(known | more))


ALIVE = one(SANDBOX)


def seen(*found: Seen, sandbox: Seen | None = ALIVE) -> PodSeen:
    return PodSeen.of("u", [*found, *([sandbox] if sandbox else [])])


def notes(**more: Any) -> PodNotes:
    known: dict[str, Any] = {
        "address": "10.1.0.5", "host_address": "192.0.2.1", "start_time": NOW, "qos": "BestEffort",
    }  # fmt: skip
    containers = more.pop("containers", {})
    return PodNotes(containers={"app": READY, "side": READY} | containers, **(known | more))


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [c for c in status["conditions"] if c["type"] == kind]
    assert len(found) == 1
    return found[0]


def app(status: dict[str, Any], number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = status["containerStatuses"][number]
    return found


def test_a_running_pod_is_told_in_full() -> None:
    status = build(a_pod(), seen(one("app", attempt=2)), notes(), NOW, {})
    since = {"lastTransitionTime": NOW, "status": "True"}
    assert status == {
        "phase": "Running",
        "conditions": [
            {"type": kind} | since
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
        "podIP": "10.1.0.5",
        "podIPs": [{"ip": "10.1.0.5"}],
        "startTime": NOW,
        "qosClass": "BestEffort",
        "containerStatuses": [
            {
                "name": "app",
                "state": {"running": {"startedAt": "2024-05-01T09:00:00Z"}},
                "lastState": {},
                "ready": True,
                "started": True,
                "restartCount": 2,
                "image": "app:1",
                "imageID": "docker://sha256:abc",
                "containerID": "docker://app-2",
            }
        ],
    }


def test_a_start_that_is_not_known_yet_is_left_out() -> None:
    listed = one("app", created_at="", started_at="")
    status = build(a_pod(), seen(listed), notes(), NOW, {})
    assert app(status)["state"] == {"running": {}}


@pytest.mark.parametrize(
    ("policy", "codes", "phase"),
    [
        ("Always", (0, 0), "Running"),
        ("OnFailure", (0, 0), "Succeeded"),
        ("OnFailure", (0, 1), "Running"),
        ("Never", (0, 0), "Succeeded"),
        ("Never", (0, 1), "Failed"),
        ("Never", (None, 1), "Running"),
        ("Always", (None, None), "Running"),
    ],
)
def test_the_restart_policy_decides_the_phase_of_what_ended(
    policy: str, codes: tuple[int | None, ...], phase: str
) -> None:
    found = [
        one(name) if code is None else one(name, "exited", exit_code=code)
        for name, code in zip(("app", "side"), codes, strict=True)
    ]
    status = build(a_pod("app", "side", policy=policy), seen(*found), notes(), NOW, {})
    assert status["phase"] == phase


def test_a_pod_is_pending_until_each_container_was_started_and_stays_running_then() -> None:
    pod = a_pod("app", "side")
    first = build(pod, seen(one("app")), notes(), NOW, {})
    assert first["phase"] == "Pending"
    assert app(first, 1)["state"] == {"waiting": {"reason": "ContainerCreating"}}
    second = build(pod, seen(one("app"), one("side")), notes(), NOW, first)
    assert second["phase"] == "Running"
    third = build(pod, seen(sandbox=None), notes(address=""), LATER, second)
    assert third["phase"] == "Running"
    assert "podIP" not in third


def test_init_containers_keep_the_others_waiting() -> None:
    pod = a_pod(init=("first", "second"))
    status = build(pod, seen(one("first", "exited"), one("second")), notes(), NOW, {})
    assert status["phase"] == "Pending"
    first, second = status["initContainerStatuses"]
    assert first["ready"]
    assert first["state"]["terminated"]["reason"] == "Completed"
    assert not second["ready"]
    assert "running" in second["state"]
    assert app(status)["state"] == {"waiting": {"reason": "PodInitializing"}}
    initialized = condition(status, "Initialized")
    assert (initialized["status"], initialized["reason"]) == ("False", "ContainersNotInitialized")
    assert initialized["message"] == "containers with incomplete status: [second]"


def test_an_init_container_that_fails_ends_a_pod_that_never_restarts() -> None:
    found = seen(one("first", "exited", exit_code=3))
    assert build(a_pod(init=("first",)), found, notes(), NOW, {})["phase"] == "Pending"
    pod = a_pod(init=("first",), policy="Never")
    status = build(pod, found, notes(), NOW, {})
    assert status["phase"] == "Failed"
    assert "waiting" in app(status)["state"]


def test_an_init_container_that_was_removed_after_its_work_counts_as_done() -> None:
    status = build(a_pod(init=("first",)), seen(one("app")), notes(), NOW, {})
    entry = status["initContainerStatuses"][0]
    assert entry["ready"]
    assert entry["state"]["terminated"]["exitCode"] == 0
    assert condition(status, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("found", "reason", "code"),
    [
        (one("app", "exited"), "Completed", 0),
        (one("app", "exited", exit_code=3), "Error", 3),
        (one("app", "exited", exit_code=137), "Error", 137),
        (one("app", "exited", exit_code=137, oom_killed=True), "OOMKilled", 137),
        (one("app", "created", error="no such file", exit_code=127), "ContainerCannotRun", 127),
        (one("app", "created", error="no such file"), "ContainerCannotRun", 128),
    ],
)
def test_how_a_container_ended_is_told(found: Seen, reason: str, code: int) -> None:
    status = build(a_pod(policy="Never"), seen(found), notes(), NOW, {})
    ended = app(status)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == (reason, code)
    assert ended["containerID"] == "docker://app-0"
    assert ended["startedAt"] == "2024-05-01T09:00:00Z"
    assert ended.get("message", "") == found.error
    assert not app(status)["ready"]


def test_a_container_in_back_off_waits_and_shows_how_it_ended() -> None:
    waiting = ContainerNote(("CrashLoopBackOff", "waits 20s"), message="out of cheese")
    found = seen(one("app", "exited", 1, exit_code=2), one("app", "exited", 0, exit_code=5))
    status = build(a_pod(), found, notes(containers={"app": waiting}), NOW, {})
    entry = app(status)
    assert entry["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "waits 20s"}}
    assert entry["lastState"]["terminated"]["exitCode"] == 2
    assert entry["lastState"]["terminated"]["message"] == "out of cheese"
    assert entry["restartCount"] == 1
    assert entry["containerID"] == "docker://app-1"


def test_one_that_will_not_start_again_does_not_wait() -> None:
    waiting = ContainerNote(("CrashLoopBackOff", "waits"))
    pod = a_pod("app", "side", policy="OnFailure")
    found = seen(one("app", "exited"), one("side"))
    status = build(pod, found, notes(containers={"app": waiting}), NOW, {})
    assert "terminated" in app(status)["state"]


def test_the_last_termination_survives_the_removal_of_dead_containers() -> None:
    first = build(a_pod(), seen(one("app", "exited", exit_code=2)), notes(), NOW, {})
    second = build(a_pod(), seen(one("app", attempt=1)), notes(), LATER, first)
    assert app(second)["lastState"]["terminated"]["exitCode"] == 2
    third = build(a_pod(), seen(one("app", attempt=1)), notes(), LATER, second)
    assert third == second


def test_a_message_that_is_not_read_again_stays() -> None:
    found = seen(one("app", "exited", exit_code=2))
    said = ContainerNote(message="last words")
    first = build(a_pod(policy="Never"), found, notes(containers={"app": said}), NOW, {})
    again = build(a_pod(policy="Never"), found, notes(), NOW, first)
    assert app(again)["state"]["terminated"]["message"] == "last words"
    pod = a_pod()
    first = build(pod, found, notes(containers={"app": said}), NOW, {})
    found = seen(one("app", attempt=1), one("app", "exited", exit_code=2))
    for _ in range(2):
        first = build(pod, found, notes(), NOW, first)
        assert app(first)["lastState"]["terminated"]["message"] == "last words"


@pytest.mark.parametrize(
    ("policy", "state", "phase"),
    [("Always", "waiting", "Running"), ("Never", "terminated", "Failed")],
)
def test_what_was_removed_while_it_ran_is_unknown(policy: str, state: str, phase: str) -> None:
    pod = a_pod(policy=policy)
    first = build(pod, seen(one("app", attempt=3)), notes(), NOW, {})
    second = build(pod, seen(), notes(), LATER, first)
    assert second["phase"] == phase
    entry = app(second)
    assert list(entry["state"]) == [state]
    ended = entry["lastState" if state == "waiting" else "state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("ContainerStatusUnknown", 137)
    assert ended["containerID"] == "docker://app-3"
    assert entry["restartCount"] == 3
    assert not entry["ready"]
    assert build(pod, seen(), notes(), NOW, second) == second


def test_after_a_removal_the_count_goes_on_and_the_loss_is_remembered() -> None:
    first = build(a_pod(), seen(one("app", attempt=3)), notes(), NOW, {})
    # Seen only after the next instance runs.
    status = build(a_pod(), seen(one("app", attempt=4)), notes(), LATER, first)
    assert app(status)["restartCount"] == 4
    assert app(status)["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_an_attempt_that_is_only_created_changes_nothing_yet() -> None:
    first = build(a_pod(), seen(one("app", "exited", exit_code=2)), notes(), NOW, {})
    found = seen(one("app", "exited", exit_code=2), one("app", "created", 1))
    assert build(a_pod(), found, notes(), LATER, first) == first


def test_a_pod_that_is_given_up_is_failed_for_good_once_nothing_of_it_runs() -> None:
    first = build(a_pod(), seen(one("app")), notes(), NOW, {})
    given = notes(failed=("Evicted", "disk"))
    ending = build(a_pod(), seen(one("app")), given, LATER, first)
    assert (ending["phase"], ending["reason"]) == ("Running", "Evicted")
    assert not app(ending)["ready"]
    assert condition(ending, "Ready")["status"] == "False"
    failed = build(a_pod(), seen(one("app", "exited", exit_code=137)), given, LATER, ending)
    assert (failed["phase"], failed["reason"], failed["message"]) == ("Failed", "Evicted", "disk")
    assert not app(failed)["ready"]
    assert condition(failed, "Ready")["reason"] == "PodFailed"
    # A new agent has forgotten why.
    later = build(a_pod(), seen(sandbox=None), notes(address=""), LATER, failed)
    assert (later["phase"], later["reason"], later["message"]) == ("Failed", "Evicted", "disk")
    assert later["podIP"] == "10.1.0.5"


def test_a_pod_that_others_ended_stays_ended() -> None:
    first = build(a_pod(), seen(one("app")), notes(), NOW, {})
    pod = a_pod(status={"phase": "Failed", "reason": "NodeLost", "message": "gone"})
    status = build(pod, seen(one("app")), notes(), LATER, first)
    assert (status["phase"], status["reason"]) == ("Failed", "NodeLost")
    assert not app(status)["ready"]


def test_a_pod_that_was_refused_has_no_containers() -> None:
    status = build(
        a_pod(), seen(sandbox=None), notes(failed=("OutOfcpu", "no room"), address=""), NOW, {}
    )
    assert status["phase"] == "Failed"
    assert "containerStatuses" not in status


def test_a_waiting_reason_does_not_hide_why_a_pod_ended() -> None:
    pull = ContainerNote(("ErrImagePull", "no"))
    first = build(a_pod(), seen(), notes(containers={"app": pull}), NOW, {})
    assert app(first)["state"]["waiting"]["reason"] == "ErrImagePull"
    given = notes(containers={"app": pull}, failed=("DeadlineExceeded", "late"))
    assert app(build(a_pod(), seen(), given, NOW, first))["state"] == {"waiting": {}}


def test_a_pod_that_is_done_says_so_in_its_conditions() -> None:
    pod = a_pod(init=("first",), policy="Never")
    first = build(pod, seen(one("first", "exited"), one("app")), notes(), NOW, {})
    found = seen(one("first", "exited"), one("app", "exited"), sandbox=None)
    status = build(pod, found, notes(), LATER, first)
    assert status["phase"] == "Succeeded"
    for kind, expected in (
        ("Initialized", "True"),
        ("Ready", "False"),
        ("ContainersReady", "False"),
    ):
        assert condition(status, kind)["status"] == expected
        assert condition(status, kind)["reason"] == "PodCompleted"


def test_a_terminating_pod_keeps_what_is_known_of_it() -> None:
    pod = a_pod(init=("first",))
    first = build(pod, seen(one("first", "exited"), one("app")), notes(), NOW, {})
    ending = notes(terminating=True, address="")
    waiting = {"app": ContainerNote(("CrashLoopBackOff", "x"))}
    found = seen(one("first", "exited"), one("app", "exited", exit_code=137), sandbox=None)
    status = build(pod, found, replace(ending, containers=waiting), LATER, first)
    assert status["phase"] == "Running"
    assert app(status)["state"]["terminated"]["exitCode"] == 137
    assert condition(status, "Initialized")["status"] == "True"
    assert status["podIP"] == "10.1.0.5"
    assert build(pod, seen(sandbox=None), ending, NOW, status) == status


def test_readiness_gates_wait_for_conditions_that_others_set() -> None:
    foreign = {"type": "lb/attached", "status": "False", "lastProbeTime": None}
    pod = a_pod(gates=("lb/attached",), status={"conditions": [foreign]})
    first = build(pod, seen(one("app")), notes(), NOW, pod.status)
    assert condition(first, "ContainersReady")["status"] == "True"
    assert condition(first, "Ready")["reason"] == "ReadinessGatesNotReady"
    assert condition(first, "lb/attached")["status"] == "False"
    pod = a_pod(gates=("lb/attached",), status={"conditions": [foreign | {"status": "True"}]})
    second = build(pod, seen(one("app")), notes(), LATER, first)
    assert condition(second, "Ready") == {
        "type": "Ready", "status": "True", "lastTransitionTime": LATER,
    }  # fmt: skip
    assert condition(second, "ContainersReady")["lastTransitionTime"] == NOW


def test_unready_containers_are_named() -> None:
    given = notes(containers={"side": ContainerNote(started=True)})
    status = build(a_pod("app", "side"), seen(one("app"), one("side")), given, NOW, {})
    ready = condition(status, "Ready")
    assert ready["reason"] == "ContainersNotReady"
    assert ready["message"] == "containers with unready status: [side]"
    assert app(status, 1)["started"]


def test_the_image_is_named_by_its_digest_where_it_has_one() -> None:
    digest = ContainerNote(digest="repo/app@sha256:d")
    first = build(a_pod(), seen(one("app")), notes(containers={"app": digest}), NOW, {})
    assert app(first)["imageID"] == "docker-pullable://repo/app@sha256:d"
    assert build(a_pod(), seen(one("app")), notes(), NOW, first)["containerStatuses"][0][
        "imageID"
    ] == ("docker-pullable://repo/app@sha256:d")
    by_id = build(a_pod(), seen(one("app", image="sha256:abc")), notes(), NOW, {})
    assert app(by_id)["image"] == "app:1"


@pytest.mark.parametrize(
    ("docker", "api"),
    [
        ("2024-05-01T09:00:00.123456789Z", "2024-05-01T09:00:00Z"),
        ("2024-05-01T11:00:00.5+02:00", "2024-05-01T09:00:00Z"),
        ("2024-05-01T09:00:00", "2024-05-01T09:00:00Z"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_times_have_whole_seconds(docker: str, api: str) -> None:
    assert api_time(docker) == api


def test_nulls_and_the_order_of_conditions_change_nothing() -> None:
    status = build(a_pod(), seen(one("app")), notes(), NOW, {})
    other = status | {
        "reason": None,
        "conditions": [c | {"lastProbeTime": None} for c in reversed(status["conditions"])],
    }
    assert not changed(status, other)
    assert changed(status, status | {"podIP": "10.1.0.6"})


# --- histories ---

STATES = ("running", "exited", "created")
words = st.sampled_from(["", "waits"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["name", "type", "state", "lastState", "terminated", "exitCode", "app"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
statuses = st.dictionaries(
    st.sampled_from(["phase", "conditions", "containerStatuses", "initContainerStatuses", "podIP"]),
    values,
)


@st.composite
def instances(draw: st.DrawFn, name: str) -> list[Seen]:
    attempts = draw(st.lists(st.integers(0, 4), unique=True, max_size=3))
    found = []
    for attempt in sorted(attempts):
        newest = attempt == max(attempts)
        state = draw(st.sampled_from(STATES)) if newest else "exited"
        error = draw(words) if state == "created" else ""
        code = draw(st.sampled_from([0, 1, 137])) if state == "exited" or error else 0
        sandbox = f"{SANDBOX}-{draw(st.integers(0, 1))}"
        found.append(one(name, state, attempt, exit_code=code, error=error, sandbox_id=sandbox))  # type: ignore[arg-type]
    return found


@st.composite
def observations(draw: st.DrawFn) -> PodSeen:
    found = [one for name in ("first", "app", "side") for one in draw(instances(name))]
    sandbox = draw(st.sampled_from([None, one(SANDBOX), one(SANDBOX, "exited", 1)]))
    return seen(*found, sandbox=sandbox)


a_note = st.builds(
    ContainerNote,
    waiting=st.sampled_from([None, ("CrashLoopBackOff", "x"), ("ErrImagePull", "")]),
    ready=st.booleans(),
    started=st.booleans(),
    message=words,
    last_message=words,
)
a_notes = st.builds(
    PodNotes,
    containers=st.dictionaries(st.sampled_from(["first", "app", "side"]), a_note),
    failed=st.sampled_from([None, None, None, ("Evicted", "x")]),
    address=st.sampled_from(["", "10.1.0.5"]),
    host_address=st.just("192.0.2.1"),
    terminating=st.booleans(),
)
pods = st.builds(
    lambda init, policy: a_pod("app", "side", init=init, policy=policy),
    st.sampled_from([(), ("first",)]),
    st.sampled_from(["Always", "OnFailure", "Never"]),
)


@given(pods, st.lists(st.tuples(observations(), a_notes), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_in_any_history_the_invariants_hold(
    pod: Pod, history: list[tuple[PodSeen, PodNotes]]
) -> None:
    status: dict[str, Any] = {}
    for number, (found, note) in enumerate(history):
        now = f"2024-05-01T10:00:{number:02}Z"
        before, status = status, build(pod, found, note, now, status)
        check(pod, found, before, status)
        assert build(pod, found, note, "2030-01-01T00:00:00Z", status) == status


def check(pod: Pod, found: PodSeen, before: dict[str, Any], status: dict[str, Any]) -> None:
    order = ["Pending", "Running", "Succeeded", "Failed"]
    old = before.get("phase", "Pending")
    assert order.index(status["phase"]) >= order.index(old)
    if old in {"Succeeded", "Failed"}:
        assert status["phase"] == old
    entries = status.get("containerStatuses", [])
    assert [e["name"] for e in entries] in ([], [c.name for c in pod.spec.containers])
    for entry in entries:
        newest = found.newest(entry["name"])
        assert len(entry["state"]) == 1
        assert not entry["ready"] or "running" in entry["state"]
        assert ("running" in entry["state"]) == (newest is not None and newest.running)
        if newest is not None and newest.running:
            assert entry["restartCount"] >= newest.attempt
    counts = {e["name"]: e["restartCount"] for e in before.get("containerStatuses", [])}
    assert all(e["restartCount"] >= counts.get(e["name"], 0) for e in entries)
    if condition(status, "Ready")["status"] == "True":
        assert entries
        assert all(entry["ready"] for entry in entries)
        assert condition(status, "ContainersReady")["status"] == "True"
    for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled"):
        if before and condition(before, kind)["status"] == condition(status, kind)["status"]:
            since = condition(before, kind)["lastTransitionTime"]
            assert condition(status, kind)["lastTransitionTime"] == since


@given(pods, statuses, observations(), a_notes)
@settings(max_examples=200, deadline=None)
def test_a_status_of_surprising_types_does_no_harm(
    pod: Pod, surprise: dict[str, Any], found: PodSeen, note: PodNotes
) -> None:
    odd = decode({"metadata": {}, "spec": {}, "status": surprise})
    pod = Pod(pod.metadata, pod.spec, odd.status)
    status = build(pod, found, note, NOW, surprise)
    assert status["phase"] in {"Pending", "Running", "Succeeded", "Failed"}
    changed(surprise, status)


@pytest.mark.parametrize(("policy", "phase"), [("Never", "Failed"), ("OnFailure", "Pending")])
def test_an_init_container_that_could_not_join_a_sandbox_that_went_is_judged_as_the_planner_does(
    policy: str, phase: str
) -> None:
    pod = a_pod(init=("init",), policy=policy)
    failed = one("init", "created", error="No such container: POD-0", exit_code=128)
    waiting = ContainerNote(waiting=("RunContainerError", "No such container"))
    status = build(pod, seen(failed, sandbox=None), notes(containers={"init": waiting}), NOW, {})
    assert status["phase"] == phase
