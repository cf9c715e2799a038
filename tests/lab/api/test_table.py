"""The columns of kubectl get, against what a real server printed for the same objects."""

from typing import Any

import pytest

from lab.api import kinds
from lab.api.kinds import Kind
from lab.api.objects import Json
from lab.api.table import Sheet, duration

NOW = 1_800_000_000.0
MADE = "2027-01-15T07:50:00Z"  # ten minutes before NOW


def cells(kind: Kind, obj: Json) -> list[Any]:
    """The one row's cells."""
    obj = {"metadata": {"name": "x", "creationTimestamp": MADE}, **obj}
    table = Sheet(kind, clock=lambda: NOW).of([obj], "7")
    (row,) = table["rows"]
    assert len(row["cells"]) == len(table["columnDefinitions"])
    found: list[Any] = row["cells"]
    return found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (121, "2m1s"), (600, "10m"), (10_799, "179m"),
        (10_800, "3h"), (10_860, "3h1m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"),
        (176_400, "2d1h"), (691_200, "8d"), (63_071_999, "729d"), (63_072_000, "2y"),
        (63_158_400, "2y1d"), (252_288_000, "8y"), (-1, "0s"),
    ],
)  # fmt: skip
def test_ages_get_coarser(seconds: float, text: str) -> None:
    """kube's HumanDuration."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [
        ({"type": "ClusterIP", "clusterIP": "10.0.0.5", "ports": [{"port": 80, "protocol": "TCP"}]},
         {}, ["x", "ClusterIP", "10.0.0.5", "<none>", "80/TCP", "10m", "<none>"]),
        ({"type": "NodePort", "clusterIP": "10.0.0.5", "selector": {"b": "c", "a": "d"},
          "ports": [{"port": 80, "nodePort": 30061, "protocol": "TCP"}]},
         {}, ["x", "NodePort", "10.0.0.5", "<none>", "80:30061/TCP", "10m", "a=d,b=c"]),
        ({"type": "LoadBalancer", "clusterIP": "10.0.0.5"},
         {}, ["x", "LoadBalancer", "10.0.0.5", "<pending>", "<none>", "10m", "<none>"]),
        ({"type": "LoadBalancer", "clusterIP": "10.0.0.5"},
         {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
         ["x", "LoadBalancer", "10.0.0.5", "1.2.3.4", "<none>", "10m", "<none>"]),
        ({"type": "ExternalName", "externalName": "example.com"},
         {}, ["x", "ExternalName", "<none>", "example.com", "<none>", "10m", "<none>"]),
    ],
)  # fmt: skip
def test_services(spec: Json, status: Json, wanted: list[str]) -> None:
    """Of every type."""
    assert cells(kinds.SERVICE, {"spec": spec, "status": status}) == wanted


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [
            {"ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        ]}, "CrashLoopBackOff"),
        ({"phase": "Failed", "containerStatuses": [
            {"state": {"terminated": {"exitCode": 3}}}
        ]}, "ExitCode:3"),
        ({"phase": "Succeeded", "containerStatuses": [
            {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
        ]}, "Completed"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ],
)  # fmt: skip
def test_the_status_of_a_pod_says_what_its_containers_do(status: Json, text: str) -> None:
    """And Terminating once it is marked."""
    obj = {"spec": {"containers": [{}]}, "status": status}
    assert cells(kinds.POD, obj)[2] == text
    marked = {**obj, "metadata": {"name": "x", "deletionTimestamp": MADE}}
    assert cells(kinds.POD, marked)[2] == "Terminating"


def test_nodes_endpoints_and_workloads() -> None:
    """What a real server printed."""
    conditions = [{"type": "Ready", "status": "False"}]
    node = {"spec": {"unschedulable": True}, "status": {"conditions": conditions}}
    assert cells(kinds.NODE, node)[:3] == ["x", "NotReady,SchedulingDisabled", "<none>"]
    addresses = [{"ip": f"10.1.1.{at}"} for at in range(1, 6)]
    subsets = {"subsets": [{"addresses": addresses, "ports": [{"port": 81}]}]}
    shown = "10.1.1.1:81,10.1.1.2:81,10.1.1.3:81 + 2 more..."
    assert cells(kinds.ENDPOINTS, subsets) == ["x", shown, "10m"]
    template = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    deployment = {"apiVersion": "apps/v1", "spec": spec, "status": {"readyReplicas": 1}}
    assert cells(kinds.DEPLOYMENT, deployment) == ["x", "1/2", "0", "0", "10m", "c", "i", "a=b"]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_any_object_has_a_row(kind: Kind) -> None:
    """Empty or with everything of the wrong type: shown, not fatal."""
    assert cells(kind, {})
    assert cells(kind, {"spec": 7, "status": [], "subsets": [7], "ports": "x", "endpoints": {}})
    assert cells(kind, {"spec": {"ports": [{"port": []}], "externalIPs": 5, "containers": 5}})


def test_accept_chooses_the_table() -> None:
    """In the version that is asked for first, or none."""
    kubectl = (
        "application/json;as=Table;v=v1;g=meta.k8s.io,"
        "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
    )
    sheet = Sheet.asked_for(kinds.POD, kubectl, "Object", lambda: NOW)
    assert sheet is not None and (sheet.version, sheet.include) == ("v1", "Object")
    for accept in ("application/json", "*/*", "", "application/yaml;as=Table;v=v1"):
        assert Sheet.asked_for(kinds.POD, accept, None, lambda: NOW) is None
