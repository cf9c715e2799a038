"""The lab's control plane as its operator uses it: kubectl, pods that die, nodes that die.

Pages behind services are fetched in the demo's test; the tests here need no netd services.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.recipes import RECIPES
from tests.e2e.conftest import Operator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ASSETS = Path("lab/assets").absolute()
IMAGE = RECIPES["busybox"].config.tag


def until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until *holds*; fails when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.05)


class Kubectl:
    """kubectl in one lab."""

    def __init__(self, operator: Operator, name: str) -> None:
        self._operator = operator
        self._name = name

    def __call__(self, *words: str, stdin: str = "", status: int = 0) -> str:
        """Run it; its output."""
        return self._operator(
            "lab", "kubectl", "--name", self._name, "--", *words, stdin=stdin, status=status
        )

    def items(self, *words: str) -> list[dict[str, Any]]:
        """What ``get`` finds."""
        found: list[dict[str, Any]] = json.loads(self("get", *words, "-o", "json"))["items"]
        return found

    def ready(self, *words: str) -> list[dict[str, Any]]:
        """The pods that are ready and stay."""
        return [
            pod
            for pod in self.items("pods", *words)
            if "deletionTimestamp" not in pod["metadata"]
            and any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in pod["status"].get("conditions", ())
            )
        ]


def controller(replicas: int) -> str:
    """A replication controller whose containers do nothing."""
    container = {"name": "idle", "image": IMAGE, "command": ["sleep", "100000"]}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    template = {"metadata": {"labels": {"app": "idle"}}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"app": "idle"}, "template": template}
    document = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "idle"}}
    return json.dumps({**document, "spec": spec})


def test_kubectl_creates_scales_exposes_and_deletes_and_pods_that_die_come_back(
    operator: Operator,
) -> None:
    """Pods run as containers on both nodes; a killed container and a deleted pod are replaced."""
    name = operator.name()
    operator("lab", "up", "--name", name)
    kubectl = Kubectl(operator, name)
    assert {node["metadata"]["name"] for node in kubectl.items("nodes")} == {"node1", "node2"}
    kubectl("create", "-f", "-", stdin=controller(2))
    until(lambda: len(kubectl.ready()) == 2, "two pods are ready")
    assert {pod["spec"]["nodeName"] for pod in kubectl.ready()} == {"node1", "node2"}

    kubectl("scale", "rc", "idle", "--replicas=3")
    until(lambda: len(kubectl.ready()) == 3, "three pods are ready")
    control = operator.status(name)["control"]
    assert (control["nodes_ready"], control["pods_ready"]) == (2, 3)

    kubectl("expose", "rc", "idle", "--port=80")
    addresses = sorted(pod["status"]["podIP"] for pod in kubectl.ready())

    def endpoints() -> list[str]:
        found = kubectl.items("endpoints", "--field-selector=metadata.name=idle")
        subsets = [subset for each in found for subset in each.get("subsets", ())]
        return sorted(a["ip"] for subset in subsets for a in subset["addresses"])

    until(lambda: endpoints() == addresses, "all pods are endpoints")

    victim = kubectl.ready()[0]
    node, container = victim["spec"]["nodeName"], victim["status"]["containerStatuses"][0]
    key = container["containerID"].removeprefix("docker://")
    operator.in_node(name, node, "docker", "kill", key)

    def restarted() -> bool:
        same = [p for p in kubectl.ready() if p["metadata"]["uid"] == victim["metadata"]["uid"]]
        return [p["status"]["containerStatuses"][0]["restartCount"] for p in same] == [1]

    until(restarted, "the container runs again in the same pod")

    kubectl("delete", "pod", victim["metadata"]["name"])
    until(lambda: len(kubectl.ready()) == 3, "another pod takes its place")
    assert victim["metadata"]["name"] not in {p["metadata"]["name"] for p in kubectl.ready()}

    kubectl("delete", "rc,service", "idle")
    until(lambda: not kubectl.items("pods"), "the pods are gone")
    until(
        lambda: "idle" not in operator.in_node(name, "node1", "docker", "ps", "--all"),
        "their containers are gone",
    )


def test_a_dead_node_s_pods_are_made_anew_elsewhere_and_end_when_it_comes_back(
    operator: Operator,
) -> None:
    """The node is NotReady after 40 s, its pods are given up 10 s later."""
    name = operator.name()
    operator("lab", "up", "--name", name)
    kubectl = Kubectl(operator, name)
    kubectl("create", "-f", "-", stdin=controller(2))
    until(lambda: len(kubectl.ready()) == 2, "two pods are ready")
    operator("lab", "kill", "--name", name, "node2")

    def moved() -> bool:
        return [pod["spec"]["nodeName"] for pod in kubectl.ready()] == ["node1", "node1"]

    until(moved, "both pods are on the other node", seconds=180)
    assert operator.status(name)["control"]["nodes_ready"] == 1
    operator("lab", "start", "--name", name, "node2")
    until(lambda: len(kubectl.items("pods")) == 2, "the old pod has ended")
    until(lambda: operator.status(name)["control"]["nodes_ready"] == 2, "the node is ready again")
    until(
        lambda: "idle" not in operator.in_node(name, "node2", "docker", "ps", "--all"),
        "its containers are gone",
    )


def test_pods_outlive_the_api_server_and_nodeagent(operator: Operator) -> None:
    """Both are started again, find what is there, and restart no container."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    kubectl = Kubectl(operator, name)
    kubectl("create", "-f", "-", stdin=controller(1))
    until(lambda: len(kubectl.ready()) == 1, "the pod is ready")

    def started() -> str:
        form = "{{.State.StartedAt}}"
        ours = "docker ps -q --filter label=barenode.nodeagent"
        script = f"docker inspect -f '{form}' $({ours}) | sort"
        return operator.in_node(name, "node1", "sh", "-c", script)

    def services(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {service["name"]: service for service in node["services"]}

    before = started()
    found = operator.status(name)
    api, agent = services(found["fabric"])["api"], services(found["nodes"][0])["nodeagent"]
    operator.in_node(name, "node1", "kill", "-9", str(agent["pid"]))
    operator.in_node(name, "fabric", "kill", "-9", str(api["pid"]))

    def back() -> bool:
        found = operator.status(name)
        parts = (services(found["fabric"])["api"], services(found["nodes"][0])["nodeagent"])
        restarted = all(p["restarts"] >= 1 and p["state"] == "ready" for p in parts)
        return restarted and found["control"]["pods_ready"] == 1

    until(back, "both are back and the pod is as it was")
    assert started() == before


def test_a_lab_without_control_plane_says_so(operator: Operator) -> None:
    """Netd, Docker and etcd alone, as before."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1", "--control-plane", "none")
    found = operator.status(name)
    assert (found["control"], found["service_range"]) == (None, "")
    assert [s["name"] for s in found["nodes"][0]["services"]] == ["netd", "dockerd"]
    said = operator("lab", "kubectl", "--name", name, "--", "get", "pods", status=1)
    assert "--control-plane none" in said


def test_an_image_that_a_node_lacks_is_named_in_the_pod_s_status(
    operator: Operator, tmp_path: Path
) -> None:
    """There is no registry: once the operator has loaded it, the pods run."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    kubectl = Kubectl(operator, name)
    kubectl("create", "-f", str(ASSETS / "nginx-rc.yaml"))

    def told() -> bool:
        states = [
            container["state"].get("waiting", {}).get("message", "")
            for pod in kubectl.items("pods")
            for container in pod["status"].get("containerStatuses", ())
        ]
        return len(states) == 2 and all("barenode/nginx:lab" in text for text in states)

    until(told, "both pods say which image is missing")
    archive = tmp_path / "nginx.tar"
    operator("image", "build", "nginx", "-o", str(archive))
    operator("lab", "load", "--name", name, str(archive))
    # The longer the image took, the longer a pod waits until it is looked for again.
    until(lambda: len(kubectl.ready()) == 2, "both pods run", seconds=300)
