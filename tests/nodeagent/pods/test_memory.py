"""What a worker remembers between looks."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodeagent.errors import PodError
from nodeagent.pods.age import read_stamp
from nodeagent.pods.backoff import Delays
from nodeagent.pods.memory import Memory
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen, State
from tests.nodeagent.pods.agent import Probes, make_pod

NONE: frozenset[str] = frozenset()


class Clock:
    """Monotonic and wall seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.ages: dict[int, float] = {}


def parts_of(clock: Clock) -> Any:
    """As much of ``Parts`` as is read."""
    return SimpleNamespace(
        clock=lambda: clock.now,
        wall=lambda: clock.wall,
        delays=Delays(10.0, 300.0),
        keep_dead=1,
        process_age=clock.ages.get,
    )


def one(state: State, attempt: int = 0, **more: Any) -> Seen:
    """An instance of the container ``app``."""
    made = Seen(f"id-{attempt}", "uid-web", "web", "default", "app", attempt, "created")
    return replace(made, state=state, **more)


def seen(*found: Seen) -> PodSeen:
    """All of the pod."""
    return PodSeen.of("uid-web", found)


def test_an_end_is_fresh_once() -> None:
    memory = Memory(make_pod("web"), parts_of(Clock()))
    assert memory.notice(seen(one("running"))) == []
    ended = one("exited", exit_code=3)
    assert memory.notice(seen(ended)) == [ended]
    memory.messages[ended.id] = "bye"
    assert memory.notice(seen(ended)) == []
    assert memory.known(NONE, Probes()).ended == {"app": 3}


def test_last_words_are_forgotten_with_their_container() -> None:
    memory = Memory(make_pod("web"), parts_of(Clock()))
    for attempt in range(50):
        for ended in memory.notice(seen(one("exited", attempt))):
            memory.messages[ended.id] = "bye"
    memory.notice(seen())
    assert memory.messages == {}
    assert memory.known(NONE, Probes()).ran == {"app": 49}


@pytest.mark.parametrize(("told", "known"), [(0, 128), (127, 127)])
def test_a_start_that_failed_and_left_no_trace_is_no_success(told: int, known: int) -> None:
    memory = Memory(make_pod("web"), parts_of(Clock()))
    memory.notice(seen(one("created", error="no such file", exit_code=told)))
    memory.notice(seen())
    assert memory.known(NONE, Probes()).ended == {"app": known}


def test_crashes_have_it_wait_and_another_image_has_not() -> None:
    clock = Clock()
    pod = make_pod("web")
    memory = Memory(pod, parts_of(clock))
    for attempt in range(3):
        memory.notice(seen(one("running", attempt)))
        for ended in memory.notice(seen(one("exited", attempt))):
            memory.messages[ended.id] = ""
    assert memory.waits("app")
    memory.failed("app", PodError("ErrImagePull", "no"))
    (container,) = pod.spec.containers
    other = msgspec.structs.replace(container, image="other:1")
    spec = msgspec.structs.replace(pod.spec, containers=(other,))
    assert memory.update(pod) == NONE
    assert memory.waits("app")
    assert memory.update(msgspec.structs.replace(pod, spec=spec)) == {"app"}
    assert not memory.waits("app")
    notes = memory.notes(seen(one("exited", 2)), Probes(), {})
    assert notes["app"].waiting is None


def test_what_a_former_agent_reported_counts() -> None:
    status = {
        "startTime": "2023-11-14T22:13:20Z",
        "containerStatuses": [
            {"name": "app", "containerID": "docker://x", "restartCount": 4, "ready": True,
             "started": True, "state": {"terminated": {"exitCode": 7}}},
            {"name": "never", "restartCount": 0, "state": {"waiting": {}}},
            "odd", {"name": "odd", "containerID": "docker://y", "restartCount": "many"},
        ],
    }  # fmt: skip
    pod = msgspec.structs.replace(make_pod("web"), status=status)
    memory = Memory(pod, parts_of(Clock()))
    known = memory.known(NONE, Probes())
    assert known.ran == {"app": 4, "odd": 0}
    assert known.ended == {"app": 7}
    assert memory.carried == {"app": (True, True), "odd": (False, False)}
    assert memory.start_time == "2023-11-14T22:13:20Z"


def test_a_deadline_counts_from_the_start_that_was_reported_by_the_clock_that_nobody_sets() -> None:
    clock = Clock()
    pod = make_pod("web", active_deadline_seconds=100)
    pod = msgspec.structs.replace(pod, status={"startTime": "2023-11-14T22:12:30Z"})
    memory = Memory(pod, parts_of(clock))
    clock.wall += 3600
    clock.now += 49
    assert memory.deadline_passed() == ""
    clock.now += 2
    assert "100 s" in memory.deadline_passed()


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_an_agent_that_begins_after_the_clock_was_set_asks_the_kernel_for_the_age(
    hours: int,
) -> None:
    clock = Clock()
    began = {"startTime": "2023-11-14T22:13:20Z"}
    pod = make_pod("web", active_deadline_seconds=100)
    clock.wall = 1_700_000_000.0 + 40 + hours * 3600
    clock.ages[7] = 40.0
    memory = Memory(msgspec.structs.replace(pod, status=began), parts_of(clock))
    sandbox = one("running", name=SANDBOX)
    memory.notice(seen(sandbox))
    assert memory.deadline_passed() == "", "nothing is decided before the sandbox was inspected"
    memory.notice(seen(replace(sandbox, pid=7)))
    clock.now += 59
    clock.ages[7] = 99.0
    memory.notice(seen(replace(sandbox, pid=7)))
    assert memory.deadline_passed() == ""
    clock.now += 1
    assert "100 s" in memory.deadline_passed()


def test_a_sandbox_that_is_not_the_first_says_nothing_of_the_pods_age() -> None:
    clock = Clock()
    pod = make_pod("web", active_deadline_seconds=100)
    clock.wall = 1_700_000_000.0 + 101
    clock.ages[7] = 1.0
    status = {"startTime": "2023-11-14T22:13:20Z"}
    memory = Memory(msgspec.structs.replace(pod, status=status), parts_of(clock))
    memory.notice(seen(one("running", 1, name=SANDBOX, pid=7)))
    assert "100 s" in memory.deadline_passed()


@pytest.mark.parametrize("text", ["", "soon", "2023-13-01T00:00:00Z", "0001-01-01T00:00:00"])
def test_a_time_that_is_none_is_no_time(text: str) -> None:
    assert read_stamp(text) is None or text.startswith("0001")


def test_the_first_failed_pull_is_told_as_it_is_and_later_ones_as_a_wait() -> None:
    memory = Memory(make_pod("web"), parts_of(Clock()))
    reasons = []
    for _ in range(2):
        memory.failed("app", PodError("ErrImagePull", "no such image"))
        waiting = memory.notes(seen(), Probes(), {})["app"].waiting
        assert waiting is not None
        reasons.append(waiting[0])
    assert reasons == ["ErrImagePull", "ImagePullBackOff"]
    memory.done("app")
    assert memory.notes(seen(), Probes(), {})["app"].waiting is None
    assert memory.known(NONE, Probes()).waits == {}


def test_a_wait_for_what_others_mend_is_over_when_that_comes() -> None:
    clock = Clock()
    memory = Memory(make_pod("web"), parts_of(clock))
    for _ in range(6):
        memory.failed("app", PodError("CreateContainerConfigError", "no ConfigMap x"))
    assert memory.known(NONE, Probes()).waits["app"] > clock.now
    memory.hurry()
    assert memory.known(NONE, Probes()).waits["app"] <= clock.now
