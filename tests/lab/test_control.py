"""The lab's client of its API server, and the services part of the demo."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from lab import control, servicedemo
from lab.control import kubectl_argv
from lab.errors import LabError, PrerequisiteError
from lab.model import KubernetesSpec, NodeSpec
from lab.output import Output
from lab.plan import make_lab
from lab.servicedemo import Answers, ServiceDemo, answers_sheet, documents

SPEC = make_lab("x", 2, None, [])
BARE = make_lab("x", 2, None, [], control_plane=False)
REAL = msgspec.structs.replace(
    make_lab("x", 2, None, [], masters=3),
    kubernetes=KubernetesSpec(
        version="v1.20", hyperkube_image="h:v1.20.2", etcd_image="e", pki="/no/such/pki"
    ),
)
CACHE = Path("/run/cache")


def test_kubectl_asks_the_lab_s_server_whatever_the_operator_has_configured() -> None:
    """With its own cache: a server of an earlier lab had the same address."""
    argv = kubectl_argv(SPEC, SPEC.api, CACHE, ["get", "pods"], lambda name: f"/bin/{name}")
    assert argv[:3] == ["nsenter", "--net=/run/netns/bn-x-fabric", "--"]
    assert "KUBECONFIG=/dev/null" in argv
    # Go's programs take no proxy then, whatever https_proxy says.
    assert "NO_PROXY=*" in argv
    assert argv[-4:] == [
        "--cache-dir=/run/cache", "--server=http://198.18.0.1:8080", "get", "pods"
    ]  # fmt: skip


def test_kubectl_is_the_administrator_of_a_real_kubernetes_and_nobody_over_plain_http() -> None:
    """The certificate is the lab's own."""
    argv = kubectl_argv(REAL, REAL.apis[1], CACHE, ["version"], lambda name: name)
    assert "--server=https://198.18.0.3:6443" in argv
    assert "--client-certificate=/no/such/pki/admin.crt" in argv
    plain = kubectl_argv(REAL, "http://198.18.0.2:8080", CACHE, ["version"], lambda name: name)
    assert not any("certificate" in word or "key" in word for word in plain)


def test_a_lab_without_its_keys_is_told_of_by_folder() -> None:
    """Before anything is asked of a server."""
    with pytest.raises(LabError, match="/no/such/pki"):
        control.Api(REAL)


def test_without_kubectl_or_control_plane_the_operator_is_told_what_to_do() -> None:
    """Each with its own sentence."""
    with pytest.raises(PrerequisiteError, match="kubernetes-client"):
        kubectl_argv(SPEC, SPEC.api, CACHE, ["get"], lambda _: None)
    with pytest.raises(LabError, match="--control-plane none"):
        kubectl_argv(BARE, "", CACHE, ["get"], lambda name: name)
    with pytest.raises(LabError, match="--control-plane none"):
        control.Api(BARE)


async def test_a_kind_that_is_not_served_is_refused_by_name() -> None:
    """Before anything is sent."""
    with pytest.raises(LabError, match=r"'Ingress' in 'networking\.k8s\.io/v1'"):
        await control.Api(SPEC).create({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"})


async def test_a_namespace_that_is_not_there_is_an_error_and_no_crash() -> None:
    """The lab may be half removed."""
    lost = NodeSpec(name="n", address="198.18.0.9", mac="", netns="bn-no-such-node1")
    with pytest.raises(OSError, match="bn-no-such-node1"):
        await control.request(lost, "GET", "http://198.18.0.9/")


async def test_a_lab_without_control_plane_has_no_status_of_one() -> None:
    """Its status says nothing about it."""
    assert await control.look(BARE) is None


def test_the_assets_are_what_kubectl_would_be_given() -> None:
    """A replication controller and a service that selects its pods."""
    (controller,), (service,) = documents("nginx-rc.yaml"), documents("nginx-svc.yaml")
    labels = controller["spec"]["template"]["metadata"]["labels"]
    assert controller["spec"]["selector"] == service["spec"]["selector"] == labels
    assert service["spec"]["ports"][0]["nodePort"] == 30061


def test_the_table_tells_which_pod_did_not_answer_and_what_answered_wrongly() -> None:
    """One place was reached when exactly the pods of the service answered there."""
    two = frozenset({"a on node1", "b on node2"})
    rows = answers_sheet(
        [
            Answers("host node1", "http://10.0.0.5:80/", two, two),
            Answers("outside", "u", two, frozenset({"a on node1", "HTTP status 500"})),
            Answers("outside", "u", two, frozenset()),
        ]
    ).rows
    assert rows[0][2:] == ("a on node1, b on node2", "yes")
    assert rows[1][3] == "no: nothing from b on node2, answered 'HTTP status 500'"
    assert rows[2][2:] == ("-", "no: nothing from a on node1, nothing from b on node2")


def pod(number: int) -> dict[str, Any]:
    """A pod that is ready."""
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    name = f"nginx-{number}"
    return {"metadata": {"name": name}, "spec": {"nodeName": "node1"}, "status": status}


class FakeApi:
    """A control plane that runs what it is asked at once; ``broken`` pods never become ready."""

    def __init__(self) -> None:
        self.replicas = 0
        self.created: list[str] = []
        self.broken = 0

    async def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """POST."""
        self.created.append(document["kind"])
        self.replicas = document["spec"].get("replicas", self.replicas)
        return document

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """GET and PATCH."""
        if method == "PATCH":
            self.replicas = body["spec"]["replicas"]
        if path == servicedemo.PODS:
            found = [pod(number) for number in range(self.replicas)]
            waiting = {"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}}
            for each in found[: self.broken]:
                each["status"] = {"containerStatuses": [{"state": waiting}]}
            return {"items": found}
        if path == servicedemo.ENDPOINTS:
            return {"items": [{"subsets": [{"addresses": [{}] * (self.replicas - self.broken)}]}]}
        return {"spec": {"clusterIP": "10.0.0.5", "ports": [{"port": 80, "nodePort": 30061}]}}


class Visitors:
    """Everyone in the lab's network, reaching the pods in turn; who is *silent* reaches none."""

    def __init__(self, api: FakeApi, silent: str = "") -> None:
        self._api = api
        self._silent = silent
        self._turn = 0
        self.now = 0.0

    def clock(self) -> float:
        """Seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Time passes only here."""
        self.now += seconds

    async def fetch(self, member: NodeSpec, url: str) -> list[str]:
        """One page."""
        self._turn += 1
        page = f"nginx-{self._turn % self._api.replicas} on node1"
        return [] if member.name == self._silent else [page]


def demo(api: FakeApi, silent: str = "") -> tuple[ServiceDemo, io.StringIO]:
    """The services demo on *api*, and what it prints."""
    visitors, stdout = Visitors(api, silent), io.StringIO()
    made = ServiceDemo(
        Output(Console(file=stdout), Console(file=io.StringIO()), quiet=True),
        visitors.fetch,
        on_host=visitors.fetch,
        connect=lambda _: api,
        clock=visitors.clock,
        sleep=visitors.sleep,
    )
    return made, stdout


async def test_the_demo_visits_from_hosts_containers_and_outside_before_and_after_scaling() -> None:
    """Two pods, then three; from each place all of them have to answer."""
    api = FakeApi()
    shown, stdout = demo(api)
    assert await shown.run(SPEC)
    assert api.created == ["ReplicationController", "Service"]
    lines = stdout.getvalue().splitlines()
    assert sum(line.endswith("yes") for line in lines) == 12
    assert sum("nginx-2 on node1" in line for line in lines) == 6
    for place in ("host node1", "host node2", "container on node1", "container on node2"):
        assert sum(line.startswith(f"{place} ") for line in lines) == 2
    assert sum("http://198.18.0.12:30061/" in line for line in lines) == 2


@pytest.mark.parametrize("silent", ["fabric", "node2"])
async def test_the_demo_fails_when_one_place_is_not_answered(silent: str) -> None:
    """The others are still shown."""
    shown, stdout = demo(FakeApi(), silent)
    assert not await shown.run(SPEC)
    lines = stdout.getvalue().splitlines()
    assert sum("no: nothing from" in line for line in lines) == 4
    assert sum(line.endswith("yes") for line in lines) == 8


async def test_the_demo_says_why_a_pod_does_not_run() -> None:
    """After a while."""
    api = FakeApi()
    api.broken = 1
    shown, _ = demo(api)
    with pytest.raises(LabError, match=r"1 of 2 pods are ready.*nginx-0: no such image"):
        await shown.run(SPEC)
