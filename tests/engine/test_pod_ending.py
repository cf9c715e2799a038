"""Hooks, grace periods, deletion, deadlines, and last words."""

import time
from pathlib import Path

import pytest

from tests.engine.pods import DEADLINE, PodWorld, Raw, condition, shell, sleeper, state, status_of
from tests.support.netns import eventually

FOREVER = "while :; do sleep 1000 & wait; done"


@pytest.fixture
def notes(pods: PodWorld) -> Path:
    """A folder of the node that outlives pods, mounted by NOTES and AT_NOTES; it is empty."""
    folder = pods.root / "run/engine-notes"
    pods.node_run("rm", "-rf", "/run/engine-notes")
    folder.mkdir()
    return folder


NOTES = {"name": "notes", "hostPath": {"path": "/run/engine-notes", "type": "Directory"}}
AT_NOTES = [{"name": "notes", "mountPath": "/notes"}]


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_post_start_and_pre_stop_run_beside_the_container(pods: PodWorld, notes: Path) -> None:
    """preStop has ended before SIGTERM comes; both commands run inside the container."""
    script = f"trap 'echo term >> /notes/n; exit 0' TERM; echo begun >> /notes/n; {FOREVER}"

    def hook(text: str) -> Raw:
        return {"exec": {"command": ["sh", "-c", text]}}

    lifecycle = {
        "postStart": hook("until grep -q begun /notes/n; do sleep 0.05; done; "
                          "echo post-$(hostname) >> /notes/n"),
        "preStop": hook("echo pre >> /notes/n; sleep 0.3; echo pre-end >> /notes/n"),
    }  # fmt: skip
    container = shell(script, lifecycle=lifecycle, volumeMounts=AT_NOTES)
    pods.create("hooked", {"containers": [container], "volumes": [NOTES]})
    pods.ready("hooked")
    assert lines(notes / "n") == ["begun", "post-hooked"]
    pods.delete("hooked", grace=None)
    pods.gone("hooked")
    assert lines(notes / "n") == ["begun", "post-hooked", "pre", "pre-end", "term"]


def test_a_pod_is_not_ready_before_its_post_start_hook_has_ended(
    pods: PodWorld, notes: Path
) -> None:
    """The hook waits for a file; the pod is Ready once it is there."""
    wait = "touch /notes/hooking; until test -e /notes/go; do sleep 0.05; done"
    lifecycle = {"postStart": {"exec": {"command": ["sh", "-c", wait]}}}
    container = sleeper(lifecycle=lifecycle, volumeMounts=AT_NOTES)
    pods.create("slow", {"containers": [container], "volumes": [NOTES]})
    eventually((notes / "hooking").exists, "the hook runs", deadline=DEADLINE)
    assert condition(pods.get("slow"), "Ready") != "True"
    (notes / "go").touch()
    pods.ready("slow")


def test_a_failing_post_start_hook_ends_the_container(pods: PodWorld) -> None:
    """It is said why, and the container is tried again."""
    lifecycle = {"postStart": {"exec": {"command": ["sh", "-c", "echo no luck; exit 3"]}}}
    pods.create("unlucky", [sleeper(lifecycle=lifecycle)])
    event = pods.event("unlucky", "FailedPostStartHook")
    assert "no luck" in event["message"]
    pod = pods.wait("unlucky", lambda p: status_of(p).get("restartCount", 0) >= 1, "another try")
    assert condition(pod, "Ready") == "False"


def test_a_failing_pre_stop_hook_is_told_and_ends_nothing_early(
    pods: PodWorld, notes: Path
) -> None:
    """SIGTERM comes all the same."""
    script = f"trap 'echo term >> /notes/n; exit 0' TERM; {FOREVER}"
    lifecycle = {"preStop": {"exec": {"command": ["sh", "-c", "exit 9"]}}}
    container = shell(script, lifecycle=lifecycle, volumeMounts=AT_NOTES)
    pods.create("stubborn", {"containers": [container], "volumes": [NOTES]})
    pods.ready("stubborn")
    pods.obeys("stubborn")
    pods.delete("stubborn", grace=None)
    pods.gone("stubborn")
    assert lines(notes / "n") == ["term"]
    assert "exit code 9" in pods.event("stubborn", "FailedPreStopHook")["message"]


def test_a_container_that_obeys_is_not_waited_for(pods: PodWorld, notes: Path) -> None:
    """The grace period is an hour; the pod is gone once the container has ended by itself."""
    script = f"trap 'echo term >> /notes/n; exit 0' TERM; {FOREVER}"
    container = shell(script, volumeMounts=AT_NOTES)
    pods.create("obeys", {"terminationGracePeriodSeconds": 3600, "containers": [container],
                          "volumes": [NOTES]})  # fmt: skip
    pods.ready("obeys")
    pods.obeys("obeys")
    pods.delete("obeys", grace=None)
    pods.gone("obeys")
    assert lines(notes / "n") == ["term"]


def test_a_container_that_ignores_sigterm_has_its_grace_period(pods: PodWorld, notes: Path) -> None:
    """It is killed after that, and not before."""
    script = f"trap 'echo term >> /notes/n' TERM; {FOREVER}"
    container = shell(script, volumeMounts=AT_NOTES)
    pods.create("ignores", {"terminationGracePeriodSeconds": 3600, "containers": [container],
                            "volumes": [NOTES]})  # fmt: skip
    pods.ready("ignores")
    pods.obeys("ignores")
    began = time.monotonic()
    pods.delete("ignores", grace=2)
    pods.gone("ignores")
    assert time.monotonic() - began >= 2
    assert lines(notes / "n") == ["term"]


def test_a_second_delete_can_shorten_the_grace_period(pods: PodWorld, notes: Path) -> None:
    """An hour was asked for at first, a second then."""
    script = f"trap 'echo term >> /notes/n' TERM; {FOREVER}"
    container = shell(script, volumeMounts=AT_NOTES)
    pods.create("hurried", {"containers": [container], "volumes": [NOTES]})
    pods.ready("hurried")
    pods.obeys("hurried")
    pods.delete("hurried", grace=3600)
    eventually(lambda: lines(notes / "n"), "SIGTERM came", deadline=DEADLINE)
    assert pods.get("hurried")["metadata"]["deletionGracePeriodSeconds"] == 3600
    pods.delete("hurried", grace=1)
    pods.gone("hurried")


def test_the_object_goes_when_its_containers_have_gone(pods: PodWorld, notes: Path) -> None:
    """While one still ends, the pod is there, with a deletionTimestamp and not ready."""
    script = (
        "trap 'echo term >> /notes/n; until test -e /notes/go; do sleep 0.05; done; exit 0' TERM; "
        + FOREVER
    )
    container = shell(script, volumeMounts=AT_NOTES)
    pods.create("leaving", {"terminationGracePeriodSeconds": 3600, "volumes": [NOTES],
                            "containers": [container, sleeper("quick")]})  # fmt: skip
    pods.ready("leaving")
    pods.obeys("leaving")
    pods.obeys("leaving", "quick")
    pods.delete("leaving", grace=None)
    eventually(lambda: lines(notes / "n"), "SIGTERM came", deadline=DEADLINE)
    pod = pods.wait("leaving", lambda p: "terminated" in state(p, "quick"), "one has ended")
    assert pod["metadata"]["deletionTimestamp"]
    assert "running" in state(pod)
    assert condition(pod, "Ready") == "False"
    assert pods.container("leaving")["State"]["Running"]
    (notes / "go").touch()
    eventually(lambda: pods.find("leaving") is None, "the object is gone",
               deadline=DEADLINE, interval=0.001)  # fmt: skip
    assert not pods.containers("leaving")


def test_a_pod_that_never_started_is_deleted_at_once(pods: PodWorld) -> None:
    """Its image cannot be had; its grace period is an hour."""
    container = sleeper(image="barenode/none:lab", imagePullPolicy="Never")
    pods.create("never", {"terminationGracePeriodSeconds": 3600, "containers": [container]})
    pods.waiting("never", "ErrImageNeverPull")
    pods.delete("never", grace=None)
    pods.gone("never")


def test_a_pod_of_the_same_name_is_another_pod(pods: PodWorld) -> None:
    """Deleted and made again at once: the new one has containers of its own uid only."""
    pods.create("twin", [sleeper()])
    pods.ready("twin")
    pods.delete("twin", grace=0)
    eventually(lambda: pods.find("twin") is None, "the first is gone", deadline=DEADLINE)
    uid = pods.create("twin", [sleeper()])["metadata"]["uid"]
    pods.ready("twin")
    eventually(
        lambda: {c["Labels"]["io.kubernetes.pod.uid"] for c in pods.containers("twin")} == {uid},
        "only containers of the second are there", deadline=DEADLINE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "fields", "message"),
    [
        ("echo -n last words > /dev/termination-log; exit 1", {}, "last words"),
        ("echo -n here > /own; exit 0", {"terminationMessagePath": "/own"}, "here"),
        (
            "echo one; echo two; exit 1",
            {"terminationMessagePolicy": "FallbackToLogsOnError"},
            "one\ntwo\n",
        ),
        ("echo one; exit 0", {"terminationMessagePolicy": "FallbackToLogsOnError"}, None),
        ("echo one; exit 1", {}, None),
    ],
)
def test_last_words_are_in_the_status(
    pods: PodWorld, script: str, fields: Raw, message: str | None
) -> None:
    """Out of the file, else out of the log where the policy says so and the exit code is not 0."""
    pods.create("words", {"restartPolicy": "Never", "containers": [shell(script, **fields)]})
    pod = pods.wait("words", lambda p: "terminated" in state(p), "its container has ended")
    assert state(pod)["terminated"].get("message") == message


def test_a_deadline_ends_a_pod_for_good(pods: PodWorld) -> None:
    """activeDeadlineSeconds: Failed with the reason; nothing runs any more."""
    # Long enough that its container has begun on a busy machine, too.
    pods.create("timed", {"activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": 1,
                          "containers": [sleeper()]})  # fmt: skip
    pod = pods.phase("timed", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    pod = pods.wait("timed", lambda p: "terminated" in state(p), "its container has ended")
    assert pods.event("timed", "DeadlineExceeded")["type"] == "Warning"
    assert pods.container("timed")["State"]["Running"] is False
    assert pod["status"]["phase"] == "Failed"
