"""Whether a pod may begin on this node."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.admission import NodeView, Refusal, admit, host_ports
from nodeagent.pods.affinity import Taint
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import pod_requests
from tests.nodeagent.pods.making import HOST, asks, container, pod_of, spec_of

NODE = NodeView(
    labels={"disk": "ssd", "cores": "4"},
    allocatable={"cpu": Fraction(2), "memory": Fraction(2**30), "pods": Fraction(3)},
)
STATIC = {"kubernetes.io/config.source": "file"}


def refusal(pod: Pod, *others: Pod, node: NodeView = NODE, raw: Any = None) -> Refusal | None:
    return admit(pod, others, HOST, node, raw)


def reason(pod: Pod, *others: Pod, node: NodeView = NODE, raw: Any = None) -> str:
    found = refusal(pod, *others, node=node, raw=raw)
    return found.reason if found else ""


def cpu(amount: str, **fields: Any) -> Pod:
    return pod_of(asks({"cpu": amount}), **fields)


def test_a_pod_that_asks_for_nothing_may_begin() -> None:
    assert refusal(pod_of()) is None
    assert refusal(pod_of(), node=NodeView()) is None


@pytest.mark.parametrize(
    ("resource", "fits", "is_too_much"),
    [("cpu", "500m", "501m"), ("memory", "512Mi", "513Mi")],
)
def test_requests_have_to_fit_beside_those_of_others(
    resource: str, fits: str, is_too_much: str
) -> None:
    other = pod_of(asks({"cpu": "1500m", "memory": "512Mi"}), name="q")
    assert reason(pod_of(asks({resource: fits})), other) == ""
    found = refusal(pod_of(asks({resource: is_too_much})), other)
    assert found is not None
    assert found.reason == f"OutOf{resource}"
    assert is_too_much in found.message
    assert "1500m of 2" in found.message or "512Mi of 1Gi" in found.message


def test_what_the_node_object_lacks_is_the_hosts_capacity() -> None:
    assert reason(cpu("4"), node=NodeView()) == ""
    assert reason(cpu("4001m"), node=NodeView()) == "OutOfcpu"
    assert reason(pod_of(asks({"ephemeral-storage": "9Ti"})), node=NodeView()) == ""


def test_storage_counts_once_the_node_has_reported_it() -> None:
    node = NodeView(allocatable={"ephemeral-storage": Fraction(2**30)})
    pod = pod_of(asks({"ephemeral-storage": "2Gi"}))
    assert reason(pod, node=node) == "OutOfephemeral-storage"


def test_a_full_node_takes_no_pod_more() -> None:
    assert reason(pod_of(), pod_of(), pod_of()) == ""
    assert reason(pod_of(), pod_of(), pod_of(), pod_of()) == "OutOfpods"


def test_pods_that_the_node_needs_yield_to_their_like_only() -> None:
    static = cpu("1500m", annotations=STATIC)
    assert reason(static, cpu("2"), cpu("2"), cpu("2")) == ""
    assert reason(static, cpu("1", annotations=STATIC)) == "OutOfcpu"
    assert reason(cpu("3", annotations=STATIC)) == "OutOfcpu"
    assert reason(cpu("2", priority=2_000_000_000), cpu("2")) == ""


def port(number: int, name: str = "q", **fields: Any) -> Pod:
    return pod_of(container(ports=[{"containerPort": 80, "hostPort": number} | fields]), name=name)


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (port(80), port(80), True),
        (port(80), port(81), False),
        (port(80), port(80, protocol="UDP"), False),
        (port(80, hostIP="10.0.0.1"), port(80, hostIP="10.0.0.2"), False),
        (port(80, hostIP="10.0.0.1"), port(80, hostIP="10.0.0.1"), True),
        (port(80, hostIP="10.0.0.1"), port(80), True),
        (port(80, hostIP="0.0.0.0"), port(80, hostIP="10.0.0.1"), True),
    ],
)
def test_a_port_of_the_node_is_given_once(first: Pod, second: Pod, clash: bool) -> None:
    assert (reason(first, second) == "NodePorts") is clash
    assert (reason(second, first) == "NodePorts") is clash


def test_the_message_names_port_and_owner() -> None:
    found = refusal(port(80), port(80, name="owner"))
    assert found is not None
    assert found.message == "port 80/TCP of the node is taken by pod shop/owner"


def test_in_the_hosts_network_all_ports_are_the_nodes() -> None:
    pod = pod_of(container(ports=[{"containerPort": 80}]), hostNetwork=True)
    assert [*host_ports(pod)] == [("TCP", 80, "")]
    assert reason(pod, port(80)) == "NodePorts"


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    name = "requiredDuringSchedulingIgnoredDuringExecution"
    return spec_of(affinity={"nodeAffinity": {name: {"nodeSelectorTerms": list(terms)}}})


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("terms", "may"),
    [
        ([expression("disk", "In", "hdd", "ssd")], True),
        ([expression("disk", "In", "hdd")], False),
        ([expression("gpu", "In", "x")], False),
        ([expression("disk", "NotIn", "hdd")], True),
        ([expression("gpu", "NotIn", "x")], True),
        ([expression("disk", "NotIn", "ssd")], False),
        ([expression("disk", "Exists")], True),
        ([expression("gpu", "Exists")], False),
        ([expression("gpu", "DoesNotExist")], True),
        ([expression("disk", "DoesNotExist")], False),
        ([expression("cores", "Gt", "3")], True),
        ([expression("cores", "Gt", "4")], False),
        ([expression("cores", "Lt", "5")], True),
        ([expression("cores", "Lt", "-5")], False),
        ([expression("disk", "Gt", "3")], False),
        ([expression("cores", "Gt")], False),
        ([expression("disk", "Like", "s")], False),
        ([expression("gpu", "Exists"), expression("disk", "Exists")], True),
        ([expression("disk", "Exists") | {"matchFields": []}], True),
        (
            [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}],
            True,
        ),
        (
            [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}],
            False,
        ),
        ([{}], False),
        ([], False),
    ],
)
def test_required_node_affinity(terms: list[dict[str, Any]], may: bool) -> None:
    assert reason(pod_of(), raw=required(*terms)) == ("" if may else "NodeAffinity")


def test_preferred_affinity_is_not_our_business() -> None:
    assert reason(pod_of(), raw=spec_of(affinity={"nodeAffinity": {"preferred": [1]}})) == ""


@pytest.mark.parametrize("affinity", [5, [], {"nodeAffinity": "x"}])
def test_affinity_of_a_surprising_type_is_named(affinity: Any) -> None:
    found = refusal(pod_of(), raw=spec_of(affinity=affinity))
    assert found is not None
    assert found.reason == "UnexpectedAdmissionError"
    assert found.message.startswith("spec.affinity.")


def test_a_node_selector_names_what_is_missing() -> None:
    assert reason(pod_of(nodeSelector={"disk": "ssd"})) == ""
    found = refusal(pod_of(nodeSelector={"disk": "hdd", "gpu": "x"}))
    assert found is not None
    assert found.message.endswith("disk=hdd, gpu=x")


def test_a_pod_of_another_node_is_refused() -> None:
    assert reason(pod_of(nodeName="n1")) == ""
    assert reason(pod_of(nodeName="n2")) == "NodeName"


@pytest.mark.parametrize(
    ("toleration", "may"),
    [
        (None, False),
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "v", "effect": "NoExecute"}, True),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, False),
        ({"key": "k", "value": "w"}, False),
        ({"key": "l", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Like"}, False),
    ],
)
def test_taints_that_evict_have_to_be_tolerated(
    toleration: dict[str, Any] | None, may: bool
) -> None:
    node = replace(NODE, taints=(Taint("k", "v", "NoExecute"),))
    pod = pod_of(tolerations=[toleration] if toleration else [])
    assert reason(pod, node=node) == ("" if may else "TaintToleration")


def test_taints_that_do_not_concern_this_agent() -> None:
    away = "node.kubernetes.io/not-ready"
    node = replace(NODE, taints=(Taint("k", "v", "NoSchedule"), Taint(away, "", "NoExecute")))
    assert reason(pod_of(), node=node) == ""
    node = replace(NODE, taints=(Taint("k", "v", "NoExecute"),))
    assert reason(pod_of(annotations=STATIC), node=node) == ""


@pytest.mark.parametrize(
    ("conditions", "pod", "may"),
    [
        ({"MemoryPressure"}, pod_of(), False),
        ({"MemoryPressure"}, cpu("1"), True),
        ({"MemoryPressure"}, pod_of(annotations=STATIC), True),
        ({"MemoryPressure"}, pod_of(priority=2_000_000_000), True),
        ({"MemoryPressure"}, pod_of(tolerations=[{"operator": "Exists"}]), True),
        ({"DiskPressure"}, cpu("1"), False),
        ({"DiskPressure", "MemoryPressure"}, cpu("1"), False),
        ({"PIDPressure"}, cpu("1"), False),
        ({"DiskPressure"}, pod_of(annotations=STATIC), True),
        ({"Ready", "NetworkUnavailable"}, pod_of(), True),
    ],
)
def test_under_pressure(conditions: set[str], pod: Pod, may: bool) -> None:
    node = replace(NODE, conditions=frozenset(conditions))
    assert reason(pod, node=node) == ("" if may else "Evicted")


def test_what_the_node_cannot_do() -> None:
    assert reason(pod_of(runtimeClassName="kata")) == "RuntimeClassNotFound"
    context = {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}
    assert reason(pod_of(securityContext=context)) == "SysctlForbidden"


def test_apparmor_is_refused_only_where_docker_says_that_there_is_none() -> None:
    pod = pod_of(securityContext={"appArmorProfile": {"type": "RuntimeDefault"}})
    assert reason(pod) == ""
    assert reason(pod, node=replace(NODE, security=frozenset({"apparmor"}))) == ""
    assert reason(pod, node=replace(NODE, security=frozenset({"seccomp"}))) == "AppArmor"


def test_a_node_object_is_read_whatever_it_holds() -> None:
    node = NodeView.of({
        "metadata": {"labels": {"a": "b", "n": 5}},
        "spec": {"taints": [{"key": "k", "effect": "NoExecute", "value": None}, 5]},
        "status": {
            "allocatable": {"cpu": "2", "memory": {}, "x": "lots"},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "MemoryPressure"}, None],
        },
    })  # fmt: skip
    assert node == NodeView(
        {"a": "b", "n": "5"}, {"cpu": Fraction(2)}, (Taint("k", "", "NoExecute"),),
        frozenset({"Ready"}),
    )  # fmt: skip
    assert NodeView.of({"metadata": 5, "spec": None, "status": []}) == NodeView()


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3000), max_size=12), st.randoms())
def test_in_whatever_order_pods_come_the_node_is_never_given_out_twice(
    amounts: list[int], random: Any
) -> None:
    pods = [cpu(f"{amount}m", name=f"p{n}") for n, amount in enumerate(amounts)]
    random.shuffle(pods)
    admitted: list[Pod] = []
    for pod in pods:
        if admit(pod, admitted, HOST, NODE) is None:
            admitted.append(pod)
        else:
            full = len(admitted) == 3
            assert full or sum(pod_requests(one)["cpu"] for one in (*admitted, pod)) > 2
    assert sum(pod_requests(one)["cpu"] for one in admitted) <= 2
    assert len(admitted) <= 3
