"""From create to gone, as Docker and the API server show it."""

import re

import pytest

from tests.engine.pods import (
    DEADLINE,
    SANDBOX,
    PodWorld,
    attempt_of,
    condition,
    shell,
    sleeper,
    state,
    status_of,
)
from tests.support.netns import eventually

SHARED = {"name": "shared", "emptyDir": {}}
AT_SHARED = [{"name": "shared", "mountPath": "/shared"}]
FOREVER = "while :; do sleep 1000 & wait; done"
ONCE = f"test -e /shared/ran && {{ trap 'exit 0' TERM; {FOREVER}; }}; touch /shared/ran"
"""Ends at its first run and stays at the second."""


def namespace_of(pods: PodWorld, name: str, container: str, kind: str) -> str:
    return pods.exec(name, container, "readlink", f"/proc/self/ns/{kind}")


# --- what a pod is made of ---


def test_containers_live_in_the_namespaces_of_one_sandbox(pods: PodWorld) -> None:
    """Network and IPC are shared, processes are not; the pod's address is the sandbox's."""
    pods.create("one", [sleeper("a"), sleeper("b")])
    pod = pods.ready("one")
    for kind in ("net", "ipc"):
        assert namespace_of(pods, "one", "a", kind) == namespace_of(pods, "one", "b", kind)
    for kind in ("pid", "mnt"):
        assert namespace_of(pods, "one", "a", kind) != namespace_of(pods, "one", "b", kind)
    sandbox, container = pods.container("one", SANDBOX), pods.container("one", "a")
    assert sandbox["Config"]["Image"].startswith("barenode/pause")
    assert sandbox["NetworkSettings"]["IPAddress"] == pod["status"]["podIP"]
    assert pod["status"]["podIPs"] == [{"ip": pod["status"]["podIP"]}]
    joined = f"container:{sandbox['Id']}"
    assert container["HostConfig"]["NetworkMode"] == joined
    assert container["HostConfig"]["IpcMode"] == joined
    assert pod["status"]["podIP"] in pods.exec("one", "b", "ip", "addr", "show", "eth0")


def test_a_shared_process_namespace_shows_the_other_containers(pods: PodWorld) -> None:
    """Its first process is the sandbox's, which reaps for all."""
    pods.create("one", {"shareProcessNamespace": True,
                        "containers": [sleeper("a"), shell("exec sleep 4321", "b")]})  # fmt: skip
    pods.ready("one")
    assert namespace_of(pods, "one", "a", "pid") == namespace_of(pods, "one", "b", "pid")
    seen = pods.exec("one", "a", "ps", "-o", "pid,args")
    assert "sleep 4321" in seen
    assert re.search(r"^\s*1 /pause", seen, re.MULTILINE)


def test_names_labels_and_settings_are_those_that_other_programs_know(pods: PodWorld) -> None:
    """``k8s_<container>.<hash>_<pod>_<namespace>_<uid>_<attempt>``; who it is stands in labels."""
    uid = pods.create("named", [sleeper("app")])["metadata"]["uid"]
    pods.ready("named")
    app, sandbox = pods.container("named", "app"), pods.container("named", SANDBOX)
    assert re.fullmatch(rf"/k8s_app\.[0-9a-f]+_named_default_{uid}_0", app["Name"])
    assert sandbox["Name"] == f"/k8s_POD_named_default_{uid}_0"
    for document, kind, name in ((app, "container", "app"), (sandbox, "podsandbox", "POD")):
        labels = document["Config"]["Labels"]
        assert labels["io.kubernetes.pod.name"] == "named"
        assert labels["io.kubernetes.pod.namespace"] == "default"
        assert labels["io.kubernetes.pod.uid"] == uid
        assert labels["io.kubernetes.container.name"] == name
        assert labels["io.kubernetes.docker.type"] == kind
        assert document["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert document["HostConfig"]["LogConfig"]["Config"].keys() == {"max-size", "max-file"}
    assert app["Config"]["Labels"]["io.kubernetes.sandbox.id"] == sandbox["Id"]


def test_the_status_of_a_pod_says_what_docker_says(pods: PodWorld) -> None:
    """Ids, image, start, conditions, addresses, class; events tell the way there."""
    pods.create("told", [sleeper()])
    pods.ready("told")
    # Docker's list, which may be faster than an inspect, does not tell the start.
    pod = pods.wait("told", lambda p: "startedAt" in state(p).get("running", {}), "it has begun")
    status, one, document = pod["status"], status_of(pod), pods.container("told")
    assert one["containerID"] == f"docker://{document['Id']}"
    assert one["imageID"].endswith(document["Image"])
    assert one["image"] == "barenode/busybox:lab"
    assert (one["ready"], one["started"], one["restartCount"]) == (True, True, 0)
    assert document["State"]["StartedAt"].startswith(
        one["state"]["running"]["startedAt"].rstrip("Z")
    )
    assert status["hostIP"] == pods.spec.nodes[0].address
    assert status["qosClass"] == "BestEffort"
    wanted = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    assert [condition(pod, kind) for kind in wanted] == ["True"] * 4
    for reason in ("Pulled", "Created", "Started"):
        event = pods.event("told", reason)
        assert event["involvedObject"]["fieldPath"] == "spec.containers{main}"
        assert event["source"]["host"] == "node1"


# --- init containers ---


def test_init_containers_run_one_after_the_other_before_the_rest(pods: PodWorld) -> None:
    """Each has ended when the next begins."""
    script = "echo {0}+ >> /shared/order; sleep 0.2; echo {0}- >> /shared/order"
    init = [shell(script.format(n), n, volumeMounts=AT_SHARED) for n in ("first", "second")]
    main = shell(f"echo main >> /shared/order; trap 'exit 0' TERM; {FOREVER}",
                 volumeMounts=AT_SHARED)  # fmt: skip
    pods.create("ordered", {"initContainers": init, "containers": [main], "volumes": [SHARED]})
    pod = pods.ready("ordered")
    order = pods.exec("ordered", "main", "cat", "/shared/order").split()
    assert order == ["first+", "first-", "second+", "second-", "main"]
    for name in ("first", "second"):
        ended = state(pod, name)["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
        assert status_of(pod, name)["ready"] is True
    assert condition(pod, "Initialized") == "True"


def test_a_failing_init_container_is_tried_again_and_holds_the_others(pods: PodWorld) -> None:
    """Until it succeeds, nothing else starts; its tries are counted."""
    init = shell("echo x >> /shared/n; test $(wc -l < /shared/n) -ge 3", "init",
                 volumeMounts=AT_SHARED)  # fmt: skip
    pods.create("held", {"initContainers": [init], "containers": [sleeper()], "volumes": [SHARED]})
    pod = pods.wait("held", lambda p: status_of(p, "init").get("restartCount", 0) >= 1, "a retry")
    assert state(pod)["waiting"]["reason"] == "PodInitializing"
    assert condition(pod, "Initialized") == "False"
    assert pod["status"]["phase"] == "Pending"
    pod = pods.ready("held")
    assert status_of(pod, "init")["restartCount"] == 2
    assert status_of(pod)["restartCount"] == 0


def test_a_failing_init_container_ends_a_pod_that_never_restarts(pods: PodWorld) -> None:
    """The pod is Failed, and the main container never ran."""
    init = shell("exit 7", "init")
    pods.create(
        "lost",
        {"initContainers": [init], "containers": [sleeper()], "restartPolicy": "Never"},
    )
    pod = pods.phase("lost", "Failed")
    assert state(pod, "init")["terminated"]["exitCode"] == 7
    assert not pods.containers("lost", "main")
    assert "running" not in state(pod)


# --- ends and restarts ---


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Always", 0, ""),
        ("Always", 1, ""),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, ""),
        ("Never", 0, "Succeeded"),
        ("Never", 3, "Failed"),
    ],
)
def test_the_restart_policy_decides_by_the_exit_code(
    pods: PodWorld, policy: str, code: int, phase: str
) -> None:
    """An empty *phase* stands for a restart."""
    container = shell(f"{ONCE}; exit {code}", volumeMounts=AT_SHARED)
    pods.create("ends", {"restartPolicy": policy, "containers": [container], "volumes": [SHARED]})
    if not phase:
        pod = pods.restarted("ends", 1)
        assert status_of(pod)["lastState"]["terminated"]["exitCode"] == code
        assert pods.container("ends")["Name"].endswith("_1")
        return
    pod = pods.phase("ends", phase)
    ended = state(pod)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, "Error" if code else "Completed")
    assert ended["containerID"] == f"docker://{pods.container('ends')['Id']}"
    assert condition(pod, "Ready") == "False"
    eventually(lambda: not pods.containers("ends", SANDBOX), "its sandbox is gone",
               deadline=DEADLINE)  # fmt: skip
    assert len(pods.containers("ends", "main")) == 1


def test_one_ended_container_of_two_leaves_the_pod_running(pods: PodWorld) -> None:
    """A pod that never restarts is Running while one of its containers is."""
    pods.create("half", {"restartPolicy": "Never",
                         "containers": [shell("exit 0", "done"), sleeper()]})  # fmt: skip
    pod = pods.wait("half", lambda p: "terminated" in state(p, "done") and "running" in state(p),
                    "one ended, one runs")  # fmt: skip
    assert pod["status"]["phase"] == "Running"
    assert condition(pod, "Ready") == "False"


def test_a_crash_loop_is_shown_as_one(pods: PodWorld) -> None:
    """CrashLoopBackOff with the last end, an event, and a count that grows."""
    pods.create("crashes", [shell("exit 42")])
    pod = pods.waiting("crashes", "CrashLoopBackOff")
    one = status_of(pod)
    assert one["lastState"]["terminated"]["exitCode"] == 42
    assert "back-off" in one["state"]["waiting"]["message"]
    assert pod["status"]["phase"] == "Running"
    count = one["restartCount"]
    assert count >= 1
    assert pods.event("crashes", "BackOff")["type"] == "Warning"
    pods.wait("crashes", lambda p: status_of(p)["restartCount"] > count, "another restart")
    dead = pods.containers("crashes", "main")
    assert len(dead) <= 3, "dead instances do not pile up"


def test_what_is_killed_or_taken_away_runs_again_with_the_next_number(pods: PodWorld) -> None:
    """``docker kill``, ``docker rm -f``; the other container and the sandbox stay as they are."""
    pods.create("back", [sleeper(), sleeper("other")])
    pods.ready("back")
    other, sandbox = pods.container("back", "other"), pods.container("back", SANDBOX)
    pods.docker("POST", f"/containers/{pods.container('back')['Id']}/kill")
    pod = pods.restarted("back", 1)
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137
    # A wait of the crash back-off may lie between.
    pods.docker("DELETE", f"/containers/{pods.container('back')['Id']}?force=1")
    pods.restarted("back", 2)
    assert attempt_of(pods.containers("back", "main")[0]) == 2
    assert pods.container("back", "other")["State"] == other["State"]
    assert pods.container("back", SANDBOX)["Id"] == sandbox["Id"]
    assert status_of(pods.ready("back"), "other")["restartCount"] == 0


@pytest.mark.parametrize("way", ["kill", "remove"])
def test_a_lost_sandbox_is_replaced_with_all_that_lived_in_it(pods: PodWorld, way: str) -> None:
    """Every container is started again in the new one, with its own next number."""
    pods.create("boxed", {"initContainers": [shell("true", "init")],
                          "containers": [sleeper("a"), sleeper("b")]})  # fmt: skip
    pods.ready("boxed")
    old = pods.container("boxed", SANDBOX)["Id"]
    if way == "kill":
        pods.docker("POST", f"/containers/{old}/kill")
    else:
        pods.docker("DELETE", f"/containers/{old}?force=1")
    pods.restarted("boxed", 1, "a")
    pods.restarted("boxed", 1, "b")
    pod = pods.ready("boxed")
    sandbox = pods.container("boxed", SANDBOX)
    assert sandbox["Id"] != old
    assert sandbox["Name"].endswith("_1")
    assert pod["status"]["podIP"] == sandbox["NetworkSettings"]["IPAddress"]
    for name in ("a", "b"):
        assert pods.container("boxed", name)["HostConfig"]["NetworkMode"] == (
            f"container:{sandbox['Id']}"
        )
    assert len(pods.containers("boxed", SANDBOX)) == 1
    assert pods.event("boxed", "SandboxChanged")


def test_a_restart_of_the_agent_restarts_nothing(pods: PodWorld) -> None:
    """All is adopted: same containers, same start times, same status."""
    pods.create("kept", [sleeper()])
    before = pods.ready("kept")
    containers = {one["Id"] for one in pods.containers("kept")}
    started = pods.container("kept")["State"]["StartedAt"]
    pods.restart_agent()
    pods.create("after", [sleeper()])
    pods.ready("after")
    assert {one["Id"] for one in pods.containers("kept")} == containers
    assert pods.container("kept")["State"]["StartedAt"] == started
    assert pods.get("kept")["status"] == before["status"]
