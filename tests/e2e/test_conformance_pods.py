"""Conformance: the life of pods, hooks, init containers, ends and their messages, logs."""

import functools
from collections.abc import Iterator

import pytest

from tests.support.conformance import Space, case, mount, once, only, pod, space_of
from tests.support.kubelab import KubeLab
from tests.support.realnode import IDLE, container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

CALLS = ("start-exec", "start-http", "stop-exec", "stop-http", "begun", "finished")
WEB = (
    f"mkdir -p /www; cd /www; touch index.html {' '.join(CALLS)}; "
    "exec httpd -f -vv -p 8080 -h /www 2>&1"
)
"""A web server whose log has the path of each request."""


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


# --- submitted, changed, removed ---


@case("[k8s.io] Pods should get a host IP [NodeConformance] [Conformance]", needs=[pod("host-ip")])
def test_a_pod_has_the_address_of_its_host(space: Space) -> None:
    found = space.ready("host-ip")
    assert found["status"]["hostIP"] == space.kube.address(found["spec"]["nodeName"])


@case(
    "[k8s.io] Pods should be submitted and removed [NodeConformance] [Conformance]",
    needs=[pod("removed", labels={"time": "short"})],
)
def test_a_pod_is_seen_from_its_submission_to_its_removal(space: Space) -> None:
    (found,) = space.find("Pod", labelSelector="time=short")
    space.ready("removed")
    space.delete("Pod", "removed")
    space.gone("removed")

    def told() -> list[tuple[str, Json]]:
        changes = space.changes("removed", found["metadata"]["resourceVersion"])
        return changes if changes and changes[-1][0] == "DELETED" else []

    seen = space.kube.wait(told, "all of it was told")
    assert [kind for kind, _ in seen] == ["MODIFIED"] * (len(seen) - 1) + ["DELETED"]
    leaving = ["deletionTimestamp" in one["metadata"] for _, one in seen]
    assert any(leaving[:-1]), "its end is announced before it comes"
    assert leaving == sorted(leaving), "and is not taken back"
    assert space.find("Pod", labelSelector="time=short") == []


@case(
    "[k8s.io] Pods should be updated [NodeConformance] [Conformance]",
    needs=[pod("updated", labels={"time": "before"})],
)
def test_changing_a_label_leaves_the_containers_alone(space: Space) -> None:
    before = only(space.ready("updated"))
    space.patch("Pod", "updated", {"metadata": {"labels": {"time": "after"}}})
    (found,) = space.find("Pod", labelSelector="time=after")
    assert only(found)["containerID"] == before["containerID"]
    assert space.find("Pod", labelSelector="time=before") == []


@case(
    "[k8s.io] Pods should allow activeDeadlineSeconds to be updated [NodeConformance] "
    "[Conformance]",
    needs=[pod("deadline")],
)
def test_a_deadline_that_is_set_later_ends_the_pod(space: Space) -> None:
    space.ready("deadline")
    space.patch("Pod", "deadline", {"spec": {"activeDeadlineSeconds": 1}})
    status = space.ended("deadline")["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")


@case(
    "[k8s.io] Pods should delete a collection of pods [Conformance]",
    needs=[pod(f"many-{at}", labels={"one-of": "many"}) for at in range(3)],
)
def test_pods_of_a_label_are_deleted_together(space: Space) -> None:
    assert len(space.find("Pod", labelSelector="one-of=many")) == 3
    space.delete_all("Pod", "one-of=many")
    space.kube.wait(lambda: not space.find("Pod", labelSelector="one-of=many"), "all are gone")


@case(
    "[k8s.io] [sig-node] Pods Extended [k8s.io] Pods Set QOS Class should be set on Pods with "
    "matching resource requests and limits for memory and cpu [Conformance]",
    needs=[
        pod("guaranteed", container(resources={
            "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "10m", "memory": "16Mi"}
        }))
    ],
)  # fmt: skip
def test_equal_requests_and_limits_are_guaranteed(space: Space) -> None:
    assert space.get("Pod", "guaranteed")["status"]["qosClass"] == "Guaranteed"


@case(
    "[k8s.io] [sig-node] Events should be sent by kubelets and the scheduler about pods "
    "scheduling and running [Conformance]",
    needs=[pod("told")],
)
def test_scheduler_and_node_tell_of_a_pod_s_start(space: Space) -> None:
    found = space.ready("told")
    chosen = f"involvedObject.kind=Pod,involvedObject.uid={found['metadata']['uid']}"

    def senders() -> bool:
        told = space.find("Event", fieldSelector=chosen)
        by = {(one["source"]["component"], one["reason"]) for one in told}
        return {("default-scheduler", "Scheduled"), ("kubelet", "Started")} <= by

    space.kube.wait(senders, "both tell of it")


# --- hooks ---


def hooked(name: str, hook: Json) -> Json:
    """A pod whose container has a hook, with time for it."""
    return pod(name, container(lifecycle=hook), terminationGracePeriodSeconds=20)


@pytest.fixture(scope="module")
def listener(space: Space) -> str:
    """Where the pods with hooks call: these are made once this listens."""
    address = space.ready("listener")["status"]["podIP"]

    def fetch(path: str) -> Json:
        return {"exec": {"command": ["wget", "-q", "-O", "-", f"http://{address}:8080/{path}"]}}

    def get(path: str) -> Json:
        return {"httpGet": {"host": address, "port": 8080, "path": f"/{path}"}}

    space.create(
        hooked("start-exec", {"postStart": fetch("start-exec")}),
        hooked("start-http", {"postStart": get("start-http")}),
        hooked("stop-exec", {"preStop": fetch("stop-exec")}),
        hooked("stop-http", {"preStop": get("stop-http")}),
        hooked("stop-twice", {"postStart": get("begun"), "preStop": fetch("finished")}),
    )
    return "listener"


def heard(space: Space, listener: str, path: str) -> None:
    """Wait until the log has a request: it gets there a little after the answer."""
    space.kube.wait(lambda: path in space.log(listener), f"{listener} heard {path}")


LISTENER = pod("listener", container(WEB, readinessProbe={"httpGet": {"port": 8080},
                                                          "periodSeconds": 1}))  # fmt: skip
HOOKS = "[k8s.io] Container Lifecycle Hook when create a pod with lifecycle hook should execute "


@case(HOOKS + "poststart exec hook properly [NodeConformance] [Conformance]", needs=[LISTENER])
def test_a_command_after_the_start_is_run(space: Space, listener: str) -> None:
    space.ready("start-exec")
    heard(space, listener, "/start-exec")


@case(HOOKS + "poststart http hook properly [NodeConformance] [Conformance]")
def test_a_request_after_the_start_is_made(space: Space, listener: str) -> None:
    space.ready("start-http")
    heard(space, listener, "/start-http")


@case(
    HOOKS + "prestop exec hook properly [NodeConformance] [Conformance]",
    HOOKS + "prestop http hook properly [NodeConformance] [Conformance]",
)
def test_before_the_end_commands_are_run_and_requests_made(space: Space, listener: str) -> None:
    for name in ("stop-exec", "stop-http"):
        space.ready(name)
        space.delete("Pod", name)
    for name in ("stop-exec", "stop-http"):
        space.gone(name)
        heard(space, listener, f"/{name}")


@case("[k8s.io] [sig-node] PreStop should call prestop when killing a pod [Conformance]")
def test_what_precedes_the_end_is_not_done_before_it(space: Space, listener: str) -> None:
    space.ready("stop-twice")
    heard(space, listener, "/begun")
    assert "/finished" not in space.log(listener)
    space.delete("Pod", "stop-twice")
    space.gone("stop-twice")
    heard(space, listener, "/finished")
    assert space.log(listener).count("/finished") == 1


# --- init containers ---

INIT = "[k8s.io] InitContainer [NodeConformance] should "
SHARED = [{"name": "v", "emptyDir": {}}]


def note(word: str, name: str, then: str = "") -> Json:
    """A container that adds a word to what containers before it have noted."""
    return container(f"echo {word} >> /v/notes; cat /v/notes; {then}", name,
                     volumeMounts=[mount("v", "/v")])  # fmt: skip


@case(
    INIT + "invoke init containers on a RestartNever pod [Conformance]",
    needs=[pod("init-once", note("app", "c"), initContainers=[note("1", "one"), note("2", "two")],
               volumes=SHARED, restartPolicy="Never")],
)  # fmt: skip
def test_init_containers_run_one_after_the_other_then_the_container(space: Space) -> None:
    assert space.output("init-once", "c") == "1\n2\napp\n"
    status = space.ended("init-once")["status"]
    codes = [c["state"]["terminated"]["exitCode"] for c in status["initContainerStatuses"]]
    assert codes == [0, 0]
    assert condition(status, "Initialized") == "True"


@case(
    INIT + "invoke init containers on a RestartAlways pod [Conformance]",
    needs=[pod("init-always", note("app", "c", IDLE), volumes=SHARED,
               initContainers=[note("1", "one"), note("2", "two")])],
)  # fmt: skip
def test_init_containers_precede_a_container_that_stays(space: Space) -> None:
    status = space.ready("init-always")["status"]
    space.kube.wait(
        lambda: space.log("init-always", "c") == "1\n2\napp\n", "each has noted its word"
    )
    assert condition(status, "Initialized") == "True"
    assert all(c["ready"] for c in status["initContainerStatuses"])


@case(
    INIT + "not start app containers if init containers fail on a RestartAlways pod [Conformance]",
    needs=[pod("init-fails", initContainers=[container("exit 1", "one"), container("", "two")])],
)
def test_init_containers_that_fail_are_tried_again_and_hold_up_the_rest(space: Space) -> None:
    found = space.until(
        "init-fails", lambda one: inits(one)[0].get("restartCount", 0) >= 2, "it is tried again"
    )
    status = found["status"]
    assert (status["phase"], condition(status, "Initialized")) == ("Pending", "False")
    assert "waiting" in inits(found)[1]["state"]
    assert inits(found)[1]["restartCount"] == 0
    assert "containerID" not in {k for k, v in only(found).items() if v}


@case(
    INIT + "not start app containers and fail the pod if init containers fail on a RestartNever "
    "pod [Conformance]",
    needs=[pod("init-fatal", initContainers=[container("", "one"), container("exit 3", "two")],
               restartPolicy="Never")],
)  # fmt: skip
def test_an_init_container_that_fails_fails_a_pod_that_is_not_restarted(space: Space) -> None:
    found = space.ended("init-fatal")
    assert found["status"]["phase"] == "Failed"
    codes = [one["state"]["terminated"]["exitCode"] for one in inits(found)]
    assert codes == [0, 3]
    assert "waiting" in only(found)["state"]


def inits(found: Json) -> list[Json]:
    """The statuses of a pod's init containers, an empty one before there are any."""
    return found["status"].get("initContainerStatuses") or [{}]


def condition(status: Json, kind: str) -> str:
    """The status of a condition."""
    return next(str(one["status"]) for one in status["conditions"] if one["type"] == kind)


# --- ends ---


def ends_well_at_second(name: str, policy: str, then: str = "exit 0") -> Json:
    """A pod whose container fails when it runs for the first time."""
    script = f"[ -e /v/again ] && {{ {then}; }}; touch /v/again; exit 1"
    return pod(name, container(script, volumeMounts=[mount("v", "/v")]), volumes=SHARED,
               restartPolicy=policy)  # fmt: skip


@case(
    "[k8s.io] Container Runtime blackbox test when starting a container that exits should run "
    "with the expected status [NodeConformance] [Conformance]",
    needs=[
        ends_well_at_second("restart-always", "Always", IDLE),
        ends_well_at_second("restart-on-failure", "OnFailure"),
        ends_well_at_second("restart-never", "Never"),
    ],
)
def test_the_restart_policy_decides_what_follows_an_end(space: Space) -> None:
    again = space.until(
        "restart-always", lambda one: only(one).get("restartCount") == 1 and only(one)["ready"],
        "runs again",
    )  # fmt: skip
    assert again["status"]["phase"] == "Running"
    well, failed = space.ended("restart-on-failure"), space.ended("restart-never")
    assert (well["status"]["phase"], only(well)["restartCount"]) == ("Succeeded", 1)
    assert (failed["status"]["phase"], only(failed)["restartCount"]) == ("Failed", 0)
    for found in (well, failed):
        state = only(found)["state"]["terminated"]
        code = 0 if found is well else 1
        assert (state["exitCode"], state["reason"]) == (code, "Error" if code else "Completed")


MESSAGE = (
    "[k8s.io] Container Runtime blackbox test on terminated container should report termination "
    "message [LinuxOnly] "
)
FALLBACK: Json = {"terminationMessagePolicy": "FallbackToLogsOnError"}


@case(
    MESSAGE + "if TerminationMessagePath is set as non-root user and at a non-default path "
    "[NodeConformance] [Conformance]",
    needs=[once("message-path", "printf DONE > /dev/other-log", securityContext={"runAsUser": 1000},
                terminationMessagePath="/dev/other-log")],
)  # fmt: skip
def test_a_message_is_read_from_the_path_that_was_set(space: Space) -> None:
    assert message(space, "message-path", "Succeeded") == "DONE"


@case(
    MESSAGE + "from log output if TerminationMessagePolicy FallbackToLogsOnError is set "
    "[NodeConformance] [Conformance]",
    needs=[once("message-log", "printf BROKEN; exit 1", **FALLBACK)],
)
def test_the_log_is_the_message_of_a_failure_without_one(space: Space) -> None:
    assert message(space, "message-log", "Failed") == "BROKEN"


@case(
    MESSAGE + "from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is "
    "set [NodeConformance] [Conformance]",
    needs=[once("message-file", "echo log; printf OK > /dev/termination-log", **FALLBACK)],
)
def test_the_file_goes_before_the_log(space: Space) -> None:
    assert message(space, "message-file", "Succeeded") == "OK"


@case(
    MESSAGE + "as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is "
    "set [NodeConformance] [Conformance]",
    needs=[once("message-none", "echo only the log", **FALLBACK)],
)
def test_the_log_of_a_success_is_no_message(space: Space) -> None:
    assert message(space, "message-none", "Succeeded") == ""


def message(space: Space, name: str, phase: str) -> str:
    """The message with which a pod's container ended; the pod ended in *phase*."""
    found = space.ended(name)
    assert found["status"]["phase"] == phase
    return str(only(found)["state"]["terminated"].get("message", ""))


FAILS = "[k8s.io] Kubelet when scheduling a busybox command that always fails in a pod should "


@case(
    FAILS + "have an terminated reason [NodeConformance] [Conformance]",
    FAILS + "be possible to delete [NodeConformance] [Conformance]",
    needs=[pod("always-fails", container("exit 1"))],
)
def test_a_command_that_always_fails_has_a_reason_and_can_be_deleted(space: Space) -> None:
    def reason(found: Json) -> str:
        states = (only(found).get("state", {}), only(found).get("lastState", {}))
        return next((s["terminated"]["reason"] for s in states if "terminated" in s), "")

    space.until("always-fails", lambda one: reason(one) == "Error", "has failed")
    space.delete("Pod", "always-fails")
    space.gone("always-fails")


# --- logs ---


@case(
    "[k8s.io] Kubelet when scheduling a busybox command in a pod should print the output to logs "
    "[NodeConformance] [Conformance]",
    needs=[once("prints", "echo out; echo err >&2")],
)
def test_what_a_command_prints_is_in_the_log(space: Space) -> None:
    assert sorted(space.output("prints").split()) == ["err", "out"]


@case(
    "[sig-cli] Kubectl client Kubectl logs should be able to retrieve and filter logs "
    "[Conformance]",
    needs=[once("lines", "echo first; echo second; echo last")],
)
def test_logs_are_filtered_by_lines_bytes_and_time(space: Space) -> None:
    assert space.output("lines") == "first\nsecond\nlast\n"

    logs = functools.partial(space.log, "lines", "")
    assert logs(tailLines="1") == "last\n"
    assert logs(limitBytes="1") == "f"
    assert logs(sinceSeconds="86400") == "first\nsecond\nlast\n"
    assert logs(sinceTime="2999-01-01T00:00:00Z") == ""
    line = space.kube.kubectl(
        "logs", "-n", space.namespace, "lines", "--tail=1", "--timestamps", "--since=24h"
    )
    stamp, word = line.split()
    assert word == "last"
    later = only(space.ended("lines"))["state"]["terminated"]["finishedAt"]
    assert stamp[:10] == later[:10] or stamp < later
