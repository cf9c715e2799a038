"""nodeagent at two real kube-apiservers of which one or both die, and at others who write, too.

Nothing of this may hurt a pod: what runs goes on, and the API shows the truth soon after.
"""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.netns import eventually
from tests.support.realnode import (
    MANIFESTS,
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
from tests.support.services import Json

# The servers' start is not the first test's time.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180, func_only=True)]


@pytest.fixture(autouse=True)
def clean(node: RealNode) -> Iterator[None]:
    """No pod outlives its test, and both API servers run after it."""
    yield
    node.api.start()
    node.clean()


def manifest(node: RealNode, name: str, text: str = "one") -> None:
    """Write the manifest of a static pod that says *text*."""
    spec = {"containers": [container(f"echo {text}; sleep 100000")],
            "terminationGracePeriodSeconds": 0}  # fmt: skip
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    path = node.root / MANIFESTS.removeprefix("/") / f"{name}.json"
    path.with_suffix(".new").write_text(json.dumps(body))
    path.with_suffix(".new").rename(path)


def is_other(uid: str, found: Json) -> bool:
    return bool(found["metadata"]["uid"] != uid)


def test_static_pods_are_shown_by_mirrors_that_belong_to_the_node(node: RealNode) -> None:
    """What NodeRestriction allows; a mirror that goes comes back, and no container is hurt."""
    manifest(node, "static")
    name = f"static-{NODE}"
    mirror = node.ready(name)
    (owner,) = mirror["metadata"]["ownerReferences"]
    uid = node.get("nodes", NODE, "")["metadata"]["uid"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", NODE, uid)
    assert owner["controller"]
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    node.logs("one\n", name)
    before = node.containers(name)
    assert len(before) == 2
    for words in ((), ("--grace-period=0", "--force")):
        old = node.get("pods", name)["metadata"]["uid"]
        node.kubectl("delete", "pod", name, "--wait=false", *words)
        node.until(name, partial(is_other, old), "a new mirror")
        assert restarts(node.ready(name)) == 0
    assert node.containers(name) == before
    manifest(node, "static", "two")
    changed = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    node.until(
        name, lambda one: condition(one, "Ready") == "True"
        and one["metadata"]["annotations"]["kubernetes.io/config.mirror"] != changed,
        "the changed one is shown",
    )  # fmt: skip
    node.logs("two\n", name)
    node.run("rm", f"{MANIFESTS}/static.json")
    node.gone(name)


@pytest.mark.parametrize("dying", [0, 1])
def test_one_api_server_dies_while_pods_come_and_go(node: RealNode, dying: int) -> None:
    node.make("pods", pod("stays"))
    node.ready("stays")
    before = node.containers("stays")
    for number in range(3):
        node.make("pods", pod(f"old-{number}"))
    for number in range(3):
        node.ready(f"old-{number}")
    for number in range(3):
        node.make("pods", pod(f"new-{number}"))
        node.kubectl("delete", "pod", f"old-{number}", "--wait=false", server=1 - dying)
        if number == 1:
            node.servers[dying].kill()
    for number in range(3):
        node.ready(f"new-{number}")
        node.gone(f"old-{number}")
    assert node.containers("stays") == before
    assert node.kubectl("logs", "new-2", server=1 - dying) == ""
    node.servers[dying].start()
    node.servers[dying].wait_ready()
    node.make("pods", pod("last"))
    node.ready("last")
    assert restarts(node.get("pods", "stays")) == 0


def test_without_any_api_server_containers_go_on_and_are_healed(node: RealNode) -> None:
    """Also when the agent dies meanwhile; afterwards the statuses are right."""
    for name in ("well", "dies", "doomed"):
        node.make("pods", pod(name))
    for name in ("well", "dies", "doomed"):
        node.ready(name)
    node.kubectl("delete", "pod", "doomed", "--wait=false", "--grace-period=1")
    node.api.kill()
    well = node.containers("well")
    dies = node.containers("dies")
    (sandbox,) = node.docker("ps", "-q", "--no-trunc", "--filter", "name=k8s_POD_dies_").split()
    (victim,) = dies.keys() - {sandbox}
    node.docker("kill", victim)
    eventually(
        lambda: len(node.containers("dies")) == 2 and victim not in node.containers("dies"),
        "it is started again", deadline=PATIENCE, interval=0.1,
    )  # fmt: skip
    node.kill()
    node.start()
    healed = node.containers("dies")
    node.api.start()
    node.gone("doomed")
    found = node.until(
        "dies", lambda one: restarts(one) == 1 and condition(one, "Ready") == "True",
        "the restart is shown",
    )  # fmt: skip
    assert only(found)["lastState"]["terminated"]["containerID"] == f"docker://{victim}"
    assert node.containers("well") == well
    assert node.containers("dies") == healed
    assert restarts(node.ready("well")) == 0
    eventually(
        lambda: condition(node.get("nodes", NODE, ""), "Ready") == "True", "the node is ready",
        deadline=PATIENCE,
    )  # fmt: skip


def test_what_others_write_into_a_status_is_corrected_and_what_is_theirs_kept(
    node: RealNode,
) -> None:
    node.make("pods", pod("web", readinessGates=[{"conditionType": "example.com/attached"}]))
    gated = node.until(
        "web", lambda one: condition(one, "ContainersReady") == "True", "its containers are ready"
    )
    assert condition(gated, "Ready") == "False"
    path = "/api/v1/namespaces/default/pods/web/status"
    kind = "application/strategic-merge-patch+json"

    def patch(status: Json) -> None:
        answer, body = node.servers[0].call("PATCH", path, {"status": status}, Content_Type=kind)
        assert answer == 200, body

    patch({"conditions": [{"type": "example.com/attached", "status": "True"}]})
    right = node.ready("web")["status"]
    wrong = {"phase": "Pending", "podIP": None, "podIPs": None, "containerStatuses": None,
             "conditions": [{"type": "Ready", "status": "False"}]}  # fmt: skip
    for _ in range(2):
        patch(wrong)
        node.until(
            "web", lambda one: {**one["status"], "conditions": 0} == {**right, "conditions": 0}
            and condition(one, "Ready") == "True", "it is corrected",
        )  # fmt: skip

    def put() -> bool:
        # A whole object that is put races with patches: conflicts are its writer's.
        whole = node.get("pods", "web")
        whole["status"] = {
            "phase": "Running", "podIPs": [{"ip": "192.0.2.1"}], "podIP": "192.0.2.1",
            "conditions": whole["status"]["conditions"],
        }  # fmt: skip
        answer, body = node.api.request("PUT", path, whole)
        assert answer in {200, 409}, body
        return answer == 200

    eventually(put, "the object is put", deadline=PATIENCE)
    found = node.until("web", lambda one: one["status"]["podIPs"] == right["podIPs"], "corrected")
    assert condition(found, "example.com/attached") == "True"
    assert restarts(found) == 0


def test_a_pod_of_the_same_name_gets_a_life_of_its_own(node: RealNode) -> None:
    """The former one's object was removed at once, its containers take longer."""
    stubborn = container("trap '' TERM; while :; do sleep 0.1; done")
    node.make("pods", pod("again", stubborn))
    first = node.ready("again")
    node.kubectl("delete", "pod", "again", "--wait=false", "--grace-period=0", "--force")
    node.make("pods", pod("again", container("exit 7"), restartPolicy="Never"))
    second = node.until("again", lambda one: one["status"]["phase"] == "Failed", "it ends")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert only(second)["state"]["terminated"]["exitCode"] == 7
    eventually(lambda: not node.containers("again"), "the first one ends", deadline=PATIENCE)


def test_a_deleted_node_is_registered_again_and_its_pods_go_on(node: RealNode) -> None:
    node.make("pods", pod("stays"))
    node.ready("stays")
    before = node.containers("stays")
    old = node.get("nodes", NODE, "")["metadata"]["uid"]
    node.kubectl("delete", "node", NODE)
    eventually(
        lambda: condition(node.get("nodes", NODE, ""), "Ready") == "True",
        "it is registered again", deadline=PATIENCE, interval=0.2,
    )  # fmt: skip
    assert node.get("nodes", NODE, "")["metadata"]["uid"] != old
    lease = ("get", "lease", NODE, "-n", "kube-node-lease", "-o")

    def owner() -> str:
        return node.kubectl(*lease, "jsonpath={.metadata.ownerReferences[0].uid}")

    uid = node.get("nodes", NODE, "")["metadata"]["uid"]
    eventually(lambda: owner() == uid, "the lease is the new node's", deadline=PATIENCE,
               interval=0.5)  # fmt: skip
    assert node.containers("stays") == before
    node.make("pods", pod("later"))
    node.ready("later")
    node.kubectl("cordon", NODE)
    node.kill()
    node.start()
    node.make("pods", pod("bound"))
    node.ready("bound")
    (row,) = columns(node.kubectl("get", "nodes", "--no-headers"))
    assert row[1] == "Ready,SchedulingDisabled"
    node.kubectl("uncordon", NODE)
    assert node.containers("stays") == before
