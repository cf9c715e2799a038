"""nodeagent as a node of a real Kubernetes 1.20: what its API server accepts, shows and relays.

The agent is held to what the Node authorizer and NodeRestriction let a kubelet do.
"""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.support.kubernetes import ADMIN, NOBODY
from tests.support.netns import eventually
from tests.support.realnode import (
    IDLE,
    IMAGE,
    NODE,
    PATIENCE,
    RealNode,
    columns,
    condition,
    container,
    only,
    pod,
    restarts,
)

# The servers' start is not the first test's time.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180, func_only=True)]

TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(autouse=True)
def clean(node: RealNode) -> Iterator[None]:
    """No pod outlives its test."""
    yield
    node.clean()


def test_the_node_is_registered_and_shows_signs_of_life(node: RealNode) -> None:
    eventually(
        lambda: condition(node.get("nodes", NODE, ""), "Ready") == "True",
        "the node is ready", deadline=PATIENCE,
    )  # fmt: skip
    (row,) = columns(node.kubectl("get", "nodes", "-o", "wide", "--no-headers"))
    assert row[:3] == [NODE, "Ready", "<none>"]
    assert row[4].startswith("v1.20.")
    assert row[5] == node.address
    assert row[-1].startswith("docker://20.10")
    lease = ("get", "lease", NODE, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
    # The agent writes lease and events beside the status, and maybe after it.
    first = eventually(
        lambda: node.kubectl(*lease, "--ignore-not-found"), "a lease", deadline=PATIENCE,
        interval=0.3,
    )  # fmt: skip
    eventually(
        lambda: node.kubectl(*lease) > first, "the lease is renewed", deadline=PATIENCE,
        interval=0.3,
    )  # fmt: skip
    events = ("get", "events", "--field-selector=involvedObject.kind=Node")
    eventually(
        lambda: {"Starting", "NodeReady"} <= {row[2] for row in columns(node.kubectl(*events))},
        "both are told", deadline=PATIENCE, interval=0.3,
    )  # fmt: skip


def test_a_status_is_what_the_kubelet_would_set(node: RealNode) -> None:
    """Nothing that the API server refuses or drops, and nothing is missing."""
    first = container("echo prepared", "first")
    node.make("pods", pod("web", container("echo begun; " + IDLE), initContainers=[first]))
    status = node.ready("web")["status"]
    ip = status["podIP"]
    assert {key: status[key] for key in ("phase", "hostIP", "podIPs", "qosClass")} == {
        "phase": "Running", "hostIP": node.address, "podIPs": [{"ip": ip}],
        "qosClass": "BestEffort",
    }  # fmt: skip
    kinds = {"Initialized", "Ready", "ContainersReady", "PodScheduled"}
    assert {one["type"] for one in status["conditions"]} == kinds
    assert all(one["status"] == "True" and one["lastTransitionTime"]
               for one in status["conditions"])  # fmt: skip
    (app,), (init,) = status["containerStatuses"], status["initContainerStatuses"]
    known = {
        "name", "image", "imageID", "containerID", "ready", "started", "restartCount", "state",
        "lastState",
    }  # fmt: skip
    assert set(app) == known
    assert set(init) == known - {"started"}
    (identity,) = node.containers("web").keys() - {node.docker(
        "ps", "-q", "--no-trunc", "--filter", "name=k8s_POD_web_")}  # fmt: skip
    image = node.docker("image", "inspect", "-f", "{{.Id}}", IMAGE)
    assert app == {
        "name": "c", "image": IMAGE, "imageID": f"docker://{image}", "ready": True,
        "containerID": f"docker://{identity}", "started": True, "restartCount": 0,
        "lastState": {}, "state": {"running": app["state"]["running"]},
    }  # fmt: skip
    assert init["ready"]
    assert init["state"]["terminated"]["reason"] == "Completed"
    (row,) = columns(node.kubectl("get", "pods", "-o", "wide", "--no-headers"))
    assert [*row[:4], *row[5:7]] == ["web", "1/1", "Running", "0", ip, NODE]

    def reasons() -> set[str]:
        told = node.kubectl("describe", "pod", "web").partition("Events:")[2]
        return {row[1] for row in columns(told)[3:]}

    eventually(
        lambda: {"Pulled", "Created", "Started"} <= reasons(), "its events", deadline=PATIENCE,
        interval=0.3,
    )  # fmt: skip
    node.logs("prepared\n", "web", "-c", "first")
    assert node.log().count("cannot be written") == 0


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
def test_a_pod_that_has_ended_stays_so(node: RealNode, code: int, phase: str) -> None:
    made = pod("job", container(f"echo bye > /dev/termination-log; exit {code}"),
               restartPolicy="Never")  # fmt: skip
    node.make("pods", made)
    ended = node.until("job", lambda one: one["status"]["phase"] == phase, phase)
    state = only(ended)["state"]["terminated"]
    assert (state["exitCode"], state["message"]) == (code, "bye\n")
    (row,) = columns(node.kubectl("get", "pods", "--no-headers"))
    assert row[1:3] == ["0/1", "Completed" if code == 0 else "Error"]
    node.kubectl("delete", "pod", "job", "--wait=false")
    node.gone("job")


def test_a_pod_with_a_field_that_cannot_be_honoured_is_failed_with_the_reason(
    node: RealNode,
) -> None:
    drive = {"name": "x", "awsElasticBlockStore": {"volumeID": "v"}}
    node.make("pods", pod("odd", volumes=[drive]))
    status = node.until("odd", lambda one: one["status"]["phase"] == "Failed", "refused")["status"]
    assert status["reason"] == "UnsupportedPodSpec"
    assert "awsElasticBlockStore" in status["message"]
    assert "UnsupportedPodSpec" in node.kubectl("describe", "pod", "odd")
    node.kubectl("delete", "pod", "odd", "--wait=false")
    node.gone("odd")


def test_logs_are_relayed_followed_and_those_of_the_former_instance_kept(node: RealNode) -> None:
    script = "echo instance $(date +%N); while [ ! -e /x/stop ]; do sleep 0.1; done; rm /x/stop; "
    loud = container(script + "echo ends; exit 3", volumeMounts=[{"name": "x", "mountPath": "/x"}])
    node.make("pods", pod("loud", loud, volumes=[{"name": "x", "emptyDir": {}}]))
    identity = only(node.ready("loud"))["containerID"].removeprefix("docker://")
    assert "previous terminated container" in node.refused("logs", "--previous", "loud")
    with node.followed("logs", "-f", "loud") as reader:
        assert reader.readline().startswith("instance ")
        node.docker("exec", identity, "touch", "/x/stop")
        assert reader.readline() == "ends\n"
        assert reader.readline() == "", "following ends with the container"
    again = node.until("loud", lambda one: restarts(one) == 1 and only(one)["ready"], "it restarts")
    last = only(again)["lastState"]["terminated"]
    assert (last["exitCode"], last["containerID"]) == (3, f"docker://{identity}")
    for words in (("--previous",), ("-f", "--previous")):
        lines = node.kubectl("logs", *words, "loud").splitlines()
        assert [line.split()[0] for line in lines] == ["instance", "ends"]
    eventually(
        lambda: len(node.kubectl("logs", "loud", "--timestamps").split()) == 3,
        "a line with its time", deadline=PATIENCE, interval=0.2,
    )  # fmt: skip
    assert "docker exec" in node.refused("exec", "loud", "--", "id")


@pytest.mark.parametrize(("token", "status"), [("", 401), (NOBODY, 403), (ADMIN, 200)])
def test_the_node_s_server_asks_the_api_server_who_may_what(
    node: RealNode, token: str, status: int
) -> None:
    url = f"https://{node.address}:10250/pods"
    shown = ["-H", f"Authorization: Bearer {token}"] if token else []
    silent = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    trusted = ["--cacert", str(node.api.authority.cert)]
    assert node.space.run([*silent, *trusted, *shown, url]) == str(status)


def test_an_end_that_is_repeated_is_one_event_with_a_count(node: RealNode) -> None:
    node.make("pods", pod("crash", container("exit 1")))
    node.until(
        "crash", lambda one: restarts(one) >= 2
        and only(one)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "it crashes again",
    )  # fmt: skip
    chosen = "--field-selector=involvedObject.name=crash,reason=BackOff"

    def counts() -> list[int]:
        found = json.loads(node.kubectl("get", "events", chosen, "-o", "json"))["items"]
        return [one["count"] for one in found]

    eventually(
        lambda: len(counts()) == 1 and counts()[0] >= 2, "one event that counts",
        deadline=PATIENCE, interval=0.3,
    )  # fmt: skip
    # The next instance may just be running, for a moment.
    eventually(
        lambda: [row[1] for row in columns(node.kubectl("get", "pods", "--no-headers"))] == ["0/1"],
        "it is not ready", deadline=PATIENCE, interval=0.2,
    )  # fmt: skip
    assert "(x" in node.kubectl("describe", "pod", "crash").partition("Events:")[2]


def test_a_deletion_is_confirmed_when_the_containers_have_ended(node: RealNode) -> None:
    slow = "trap 'while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 0' TERM; touch /tmp/set; "
    # Without the trap the kernel would keep the signal from a container's first process.
    trapped = {"exec": {"command": ["test", "-e", "/tmp/set"]}, "periodSeconds": 1}
    loops = container(slow + "while :; do sleep 0.1; done", readinessProbe=trapped)
    node.make("pods", pod("slow", loops, terminationGracePeriodSeconds=100))
    identity = only(node.ready("slow"))["containerID"].removeprefix("docker://")
    node.kubectl("delete", "pod", "slow", "--wait=false")
    (row,) = columns(node.kubectl("get", "pods", "--no-headers"))
    assert row[2] == "Terminating"
    ended = "--field-selector=involvedObject.name=slow,reason=Killing"
    eventually(
        lambda: "Killing" in node.kubectl("get", "events", ended), "it is told", deadline=PATIENCE,
        interval=0.3,
    )  # fmt: skip
    assert node.get("pods", "slow")["metadata"]["deletionGracePeriodSeconds"] == 100
    assert identity in node.containers("slow")
    node.docker("exec", identity, "touch", "/tmp/go")
    node.gone("slow")


def test_config_maps_secrets_and_tokens_reach_a_pod_and_their_changes_too(node: RealNode) -> None:
    """What the Node authorizer lets a node read for the pods that are bound to it."""
    node.make("configmaps", {"metadata": {"name": "conf"}, "data": {"greeting": "hello"}})
    node.make("secrets", {"metadata": {"name": "keys"}, "stringData": {"word": "xyzzy"}})
    reads = container(
        'echo "$GREETING $WORD"; ' + IDLE,
        env=[{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "conf",
                                                                    "key": "greeting"}}},
             {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "word"}}}],
        volumeMounts=[{"name": "conf", "mountPath": "/conf"},
                      {"name": "keys", "mountPath": "/keys"}],
    )  # fmt: skip
    volumes = [{"name": "conf", "configMap": {"name": "conf"}},
               {"name": "keys", "secret": {"secretName": "keys"}}]  # fmt: skip
    node.make("pods", pod("reader", reads, volumes=volumes))
    found = node.ready("reader")
    identity = only(found)["containerID"].removeprefix("docker://")
    node.logs("hello xyzzy\n", "reader")

    def file(path: str) -> str:
        return node.docker("exec", identity, "cat", path)

    assert (file("/conf/greeting"), file("/keys/word")) == ("hello", "xyzzy")
    assert file(f"{TOKENS}/namespace") == "default"
    assert file(f"{TOKENS}/ca.crt") == node.api.authority.cert.read_text().strip()
    spec = {"spec": {"token": file(f"{TOKENS}/token")}}
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    shown = node.api.do("POST", reviews, spec)["status"]
    assert shown["user"]["username"] == "system:serviceaccount:default:default"
    assert shown["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["reader"]
    node.kubectl("patch", "configmap", "conf", "-p", '{"data":{"greeting":"goodbye"}}')
    word = base64.b64encode(b"plugh").decode()
    node.kubectl("patch", "secret", "keys", "-p", json.dumps({"data": {"word": word}}))
    eventually(
        lambda: (file("/conf/greeting"), file("/keys/word")) == ("goodbye", "plugh"),
        "the changes arrive", deadline=PATIENCE, interval=0.2,
    )  # fmt: skip
    assert only(node.get("pods", "reader"))["restartCount"] == 0
    node.kubectl("delete", "pod", "reader", "--wait=false")
    node.gone("reader")
    # API servers keep their verdict on a token for ten seconds.
    eventually(
        lambda: not node.api.do("POST", reviews, spec)["status"].get("authenticated"),
        "the token ends with the pod", deadline=PATIENCE, interval=0.5,
    )  # fmt: skip


def test_a_pod_waits_for_a_config_map_that_is_made_later(node: RealNode) -> None:
    volumes = [{"name": "v", "configMap": {"name": "later"}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    node.make("pods", pod("early", container(volumeMounts=mounts), volumes=volumes))
    eventually(
        lambda: "later" in node.kubectl("describe", "pod", "early").partition("Events:")[2],
        "what is missing is told", deadline=PATIENCE, interval=0.3,
    )  # fmt: skip
    node.make("configmaps", {"metadata": {"name": "later"}, "data": {"a": "b"}})
    node.ready("early")
    node.kubectl("delete", "configmap", "later")
