"""The lab's API server gives the answers of a real one to the same requests.

What may differ is named in tests/support/compare.py.
"""

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.compare import (
    APPS,
    CORE,
    POD,
    RC,
    TEMPLATE,
    Pair,
    Side,
    both_servers,
    events,
    faults,
    of,
    plain,
    service,
    shown,
    table,
)
from tests.support.kubernetes import as_v1beta1, built
from tests.support.services import Json, endpoint, port, slice_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def sides(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[Side, Side]]:
    """Both servers, with the namespace shop."""
    with both_servers(tmp_path_factory.mktemp("compare"), built(pytestconfig)) as made:
        yield made


@pytest.fixture
def pair(sides: tuple[Side, Side]) -> Pair:
    """Both servers, without differences so far."""
    return Pair(*sides)


# The first: nothing has been chosen by chance that could be this.
FIXED = service("fixed", {"port": 80, "nodePort": 30061}, type="NodePort", clusterIP="10.0.77.1")
CREATED: tuple[tuple[str, Json], ...] = (
    (f"{CORE}/services", FIXED),
    (f"{CORE}/services", service("min")),
    (f"{CORE}/services", service(
        "web", {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP"}, type="NodePort", selector={"app": "web"},
    )),
    (f"{CORE}/services", service(
        "balanced", type="LoadBalancer", externalTrafficPolicy="Local", sessionAffinity="ClientIP",
        externalIPs=["203.0.113.1"], loadBalancerSourceRanges=["192.0.2.0/24"],
    )),
    (f"{CORE}/services", service("headless", clusterIP="None", selector={"app": "web"})),
    (f"{CORE}/services", of("elsewhere", {"type": "ExternalName", "externalName": "example.com"})),
    (f"{CORE}/endpoints", of("min", subsets=[
        {"addresses": [{"ip": "10.1.0.2"}], "ports": [{"port": 8080}]},
    ])),
    (f"{CORE}/pods", of("one", POD)),
    (f"{CORE}/pods", of("placed", {"containers": [{"name": "c", "image": "a.b/c:1"}],
                                   "nodeName": "node1", "hostNetwork": True})),
    (f"{CORE}/replicationcontrollers", of("rc", {"template": TEMPLATE})),
    (f"{APPS}/replicasets", of("rs", {"selector": {"matchLabels": {"app": "web"}},
                                      "template": TEMPLATE})),
    (f"{APPS}/deployments", of("deploy", {"selector": {"matchLabels": {"app": "web"}},
                                          "template": TEMPLATE, "replicas": 2})),
    (f"{CORE}/configmaps", of("config", data={"a": "b"})),
    (f"{CORE}/secrets", of("secret", stringData={"a": "b"})),
    (f"{CORE}/serviceaccounts", of("account")),
    (f"{CORE}/events", of("event", involvedObject={"kind": "Pod", "name": "one",
                                                   "namespace": "shop"},
                          reason="Started", message="it runs", type="Normal", count=2,
                          source={"component": "kubelet", "host": "node1"})),
    ("/api/v1/nodes", of("node1", {}, status={"capacity": {"cpu": "2"}})),
    ("/api/v1/namespaces", of("extra")),
    ("/apis/coordination.k8s.io/v1/namespaces/shop/leases", of("lease", {"holderIdentity": "me"})),
)  # fmt: skip


def test_objects_are_completed_and_shown_alike(pair: Pair) -> None:
    """What the answer to POST says, what GET says afterwards, and kubectl's columns."""
    for collection, obj in CREATED:
        path = f"{collection}/{obj['metadata']['name']}"
        pair.ask("POST", collection, obj)
        pair.ask("GET", path)
        tables = [table(side, path) for side in (pair.real, pair.lab)]
        pair.same(f"columns of {path}", *tables)
    for side in (pair.real, pair.lab):
        spec = side.call("GET", f"{CORE}/services/fixed")[1]["spec"]
        assert (spec["clusterIP"], spec["ports"][0]["nodePort"]) == ("10.0.77.1", 30061)
    for collection in sorted({collection for collection, _ in CREATED}):
        if collection.startswith((CORE, APPS)):
            pair.ask("GET", collection)
    pair.agree()


def test_endpoint_slices_are_completed_and_shown_alike(pair: Pair) -> None:
    """1.20 has them as v1beta1, which differs in where it tells an endpoint's node."""
    v1 = slice_of("web", [endpoint("10.1.0.2"), endpoint("10.1.0.3", ready=False)], [port(80)])
    v1["metadata"]["namespace"] = "shop"
    made = []
    for side, version, obj in (
        (pair.real, "v1beta1", as_v1beta1(v1)), (pair.lab, "v1", v1),
    ):  # fmt: skip
        path = f"/apis/discovery.k8s.io/{version}/namespaces/shop/endpointslices"
        status, document = side.call("POST", path, obj)
        assert (status, document.pop("apiVersion")) == (201, f"discovery.k8s.io/{version}")
        made.append({"document": plain(document), "table": table(side, f"{path}/web-x")})
    pair.same("an EndpointSlice", *made)
    pair.agree()


JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def test_changes_are_made_alike(pair: Pair) -> None:
    """Replacing, the three kinds of patches, status and scale."""
    web, deploy = f"{CORE}/services/changed", f"{APPS}/deployments/changed"
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    pair.ask("POST", f"{CORE}/services", service("changed", *ports, selector={"app": "web"}))
    made = of("changed", {"selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE})
    pair.ask("POST", f"{APPS}/deployments", made)
    for path, kind, patch in (
        (web, MERGE, {"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"selector": None}}),
        (web, STRATEGIC, {"metadata": {"labels": {"b": None}, "annotations": {"n": "v"}}}),
        (web, STRATEGIC, {"spec": {"ports": [{"port": 81, "name": "c"},
                                             {"port": 82, "name": "d"}]}}),
        (web, STRATEGIC, {"spec": {"ports": [{"port": 82, "$patch": "delete"}]}}),
        (web, JSON_PATCH, [{"op": "replace", "path": "/spec/ports/0/port", "value": 8080},
                           {"op": "add", "path": "/metadata/labels/x~1y", "value": "z"}]),
        (web, JSON_PATCH, [{"op": "test", "path": "/metadata/name", "value": "changed"},
                           {"op": "remove", "path": "/metadata/annotations"}]),
        (web, MERGE, {"spec": {"type": "NodePort"}}),
        (web, MERGE, {"spec": {"type": "ClusterIP", "ports": ports}}),
        (web, MERGE, {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        (f"{web}/status", MERGE, {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        (deploy, STRATEGIC, {"spec": {"template": {"spec": {"containers": [
            {"name": "web", "image": "nginx:1"}, {"name": "more", "image": "b"}]}}}}),
        (deploy, STRATEGIC, {"spec": {"template": {"spec": {
            "containers": [{"name": "web", "env": [{"name": "IP", "$patch": "delete"}]}],
            "$setElementOrder/containers": [{"name": "more"}, {"name": "web"}],
            "volumes": [{"$patch": "replace"}, {"name": "only", "emptyDir": {}}]}}}}),
        (deploy, MERGE, {"spec": {"replicas": 5}}),
        (f"{deploy}/scale", MERGE, {"spec": {"replicas": 3}}),
    ):  # fmt: skip
        pair.ask("PATCH", path, patch, Content_Type=kind)
    for path in (web, deploy, f"{deploy}/scale"):
        pair.ask("GET", path)
    replaced = [side.call("GET", web)[1] for side in (pair.real, pair.lab)]
    answers = []
    for side, obj in zip((pair.real, pair.lab), replaced, strict=True):
        obj["metadata"]["labels"] = {"replaced": "yes"}
        obj["spec"]["ports"][0]["port"] = 9090
        answers.append(shown(side.call("PUT", web, obj)))
    pair.same(f"PUT {web}", *answers)
    answers = [
        shown(side.call("PUT", web, obj))
        for side, obj in zip((pair.real, pair.lab), replaced, strict=True)
    ]
    pair.same(f"PUT {web} based on an older version", *answers)
    assert answers[0]["status"] == 409
    pair.agree()


def test_deletion_answers_alike(pair: Pair) -> None:
    """A pod that no node has goes at once; one on a node waits for it, or is told to go."""
    container = {"containers": [{"name": "c", "image": "i"}]}
    pods, services = f"{CORE}/pods", f"{CORE}/services"
    pair.ask("POST", pods, of("free", container))
    pair.ask("POST", pods, of("bound", {**container, "nodeName": "node1"}))
    pair.ask("POST", services, service("short"))
    pair.ask("DELETE", f"{pods}/free")
    pair.ask("DELETE", f"{pods}/bound")
    pair.ask("GET", f"{pods}/bound")
    pair.ask("DELETE", f"{pods}/bound", {"gracePeriodSeconds": 0})
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    status, _ = pair.real.call("DELETE", f"{services}/short", wrong)
    assert (status, pair.lab.call("DELETE", f"{services}/short", wrong)[0]) == (409, 409)
    pair.ask("DELETE", f"{services}/short")
    for path in (f"{pods}/free", f"{pods}/bound", f"{services}/short"):
        pair.refuse("GET", path)
    pair.agree()


def test_refusals_are_worded_alike(pair: Pair) -> None:
    """Status, reason, message and details: what kubectl and controllers go by."""
    services = f"{CORE}/services"
    pair.ask("POST", services, service("taken", clusterIP="10.0.77.9"))
    for request in (
        ("GET", f"{services}/nobody"),
        ("DELETE", f"{services}/nobody"),
        ("PATCH", f"{services}/nobody", {}),
        ("PUT", f"{services}/nobody", service("nobody", clusterIP="10.0.77.8",
                                              metadata={"name": "nobody", "resourceVersion": "1"})),
        ("GET", f"{APPS}/deployments/nobody"),
        ("GET", "/api/v1/nodes/nobody"),
        ("POST", services, service("taken")),
        ("POST", services, {**service("other"), "metadata": {"name": "other", "namespace": "a"}}),
        ("POST", "/api/v1/namespaces/nowhere/services", service("x")),
        ("PUT", f"{services}/taken", service("another")),
        ("GET", "/api/v1/nothing"),
        ("POST", f"{services}/taken"),
        ("PUT", services),
        ("DELETE", "/api/v1/namespaces/default"),
    ):  # fmt: skip
        method, path, *body = request
        headers = {"Content_Type": MERGE} if method == "PATCH" else {}
        pair.refuse(method, path, *body, **headers)
    pair.agree()


def test_mistakes_of_requests_are_refused_alike(pair: Pair) -> None:
    """With the same status and reason; the sentences name parts of either program."""
    services = f"{CORE}/services"
    failed = [{"op": "test", "path": "/metadata/name", "value": "x"}]
    pair.ask("POST", services, service("there"))
    for method, path, body, kind in (
        ("POST", f"{APPS}/deployments", of("bad", {}, kind="Pod"), JSON),
        ("POST", services, of("bad", {}, apiVersion="v2"), JSON),
        ("POST", services, ["no object"], JSON),
        ("GET", f"{services}?labelSelector=a%20b", None, JSON),
        ("GET", f"{services}?fieldSelector=spec.nothing=1", None, JSON),
        ("PATCH", f"{services}/there", {}, "text/plain"),
        ("PATCH", f"{services}/there", failed, JSON_PATCH),
        ("POST", services, service("bad", {"port": "http"}), JSON),
    ):
        found = faults(pair, method, path, body, Content_Type=kind)
        assert found[0]["status"] >= 400, path
        pair.same(f"{method} {path} {json.dumps(body)}", *[{**one, "about": None} for one in found])
    pair.agree()


INVALID: tuple[tuple[str, Json], ...] = (
    ("services", service("Bad_Name")),
    ("services", service("-", {"port": 0})),
    ("services", service("bad", {"port": 70000})),
    ("services", service("bad", {"port": 80}, {"port": 81})),
    ("services", service("bad", {"port": 80, "protocol": "ICMP"})),
    ("services", service("bad", {"port": 80, "name": "UP"})),
    ("services", service("bad", {"port": 80, "name": "a"}, {"port": 81, "name": "a"})),
    ("services", service("bad", {"port": 80, "targetPort": 99999})),
    ("services", service("bad", {"port": 80, "targetPort": "Not_A_Name"})),
    ("services", service("bad", {"port": 80, "nodePort": 99}, type="NodePort")),
    ("services", service("bad", {"port": 80, "nodePort": 31000})),
    ("services", service("bad", type="Strange")),
    ("services", service("bad", sessionAffinity="Strange")),
    ("services", service("bad", clusterIP="10.99.0.1")),
    ("services", service("bad", clusterIP="nonsense")),
    ("services", service("bad", clusterIP="None", type="NodePort")),
    ("services", service("bad", externalIPs=["nonsense"])),
    ("services", service("bad", externalIPs=["127.0.0.1"])),
    ("services", service("bad", externalTrafficPolicy="Local")),
    ("services", service("bad", type="LoadBalancer", loadBalancerSourceRanges=["x"])),
    ("services", service("bad", selector={"a b": "c"})),
    ("services", of("bad", {"type": "ExternalName"})),
    ("services", of("bad", {"ports": []})),
    ("services", {**service("bad"), "metadata": {"name": "bad", "labels": {"a": "b c"}}}),
    ("services", {**service("bad"), "metadata": {}}),
    ("endpoints", of("bad", subsets=[{"addresses": [{"ip": "127.0.0.1"}],
                                      "ports": [{"port": 1}]}])),
    ("endpoints", of("bad", subsets=[{"addresses": [{"ip": "x"}], "ports": [{"port": 0}]}])),
    ("replicationcontrollers", of("bad", {"selector": {"a": "b"}, "template": TEMPLATE})),
    ("replicationcontrollers", of("bad", {"replicas": -1, "template": TEMPLATE})),
    ("pods", of("bad", {"containers": []})),
    ("pods", of("bad", {"containers": [{"name": "Up", "image": "i"}]})),
    ("pods", of("bad", {"containers": [{"name": "a", "image": "i"}] * 2})),
    ("pods", of("bad", {"containers": [{"name": "a"}], "restartPolicy": "Strange"})),
)  # fmt: skip


def test_what_is_invalid_is_told_field_by_field_alike(pair: Pair) -> None:
    """Which fields, and why; the sentences differ from one Kubernetes to the next."""
    for plural, obj in INVALID:
        pair.same(
            f"POST {plural} {json.dumps(obj)}", *faults(pair, "POST", f"{CORE}/{plural}", obj)
        )
    deployment = of("bad", {"template": TEMPLATE, "selector": {"matchLabels": {"other": "x"}}})
    path = f"{APPS}/deployments"
    pair.same(f"POST {path}", *faults(pair, "POST", path, deployment))
    pair.agree()


def test_what_may_not_change_is_told_alike(pair: Pair) -> None:
    """A service's address, a pod's containers, a deployment's selector."""
    pair.ask("POST", f"{CORE}/services", service("fast", clusterIP="10.0.77.20"))
    pair.ask("POST", f"{CORE}/pods", of("fast", {"containers": [{"name": "c", "image": "i"}]}))
    made = of("fast", {"selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE})
    pair.ask("POST", f"{APPS}/deployments", made)
    for path, patch in (
        (f"{CORE}/services/fast", {"spec": {"clusterIP": "10.0.77.21"}}),
        (f"{CORE}/services/fast", {"spec": {"type": "NodePort", "ports": [
            {"port": 80, "nodePort": 30061}]}}),
        (f"{CORE}/pods/fast", {"spec": {"containers": [{"name": "c", "image": "i"},
                                                       {"name": "d", "image": "i"}]}}),
        (f"{APPS}/deployments/fast", {"spec": {"selector": {"matchLabels": {"app": "x"}}}}),
        (f"{CORE}/services/fast", {"metadata": {"name": "slow"}}),
    ):  # fmt: skip
        found = faults(pair, "PATCH", path, patch, Content_Type=MERGE)
        pair.same(f"PATCH {path} {json.dumps(patch)}", *found)
    pair.agree()


def test_lists_choose_by_labels_and_fields_alike(pair: Pair) -> None:
    pods = f"{CORE}/pods"
    for name, labels, node in (
        ("sel-1", {"app": "a", "tier": "x"}, "node1"),
        ("sel-2", {"app": "b"}, "node2"),
        ("sel-3", {"tier": "x"}, ""),
    ):
        spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": node}
        body = {"metadata": {"name": name, "labels": {"chosen": "yes", **labels}}, "spec": spec}
        pair.ask("POST", pods, body)
    for query in (
        "labelSelector=app", "labelSelector=!app,chosen", "labelSelector=app=a",
        "labelSelector=app!=a,chosen=yes", "labelSelector=app%20in%20(a,b)",
        "labelSelector=app%20notin%20(a),chosen", "labelSelector=tier==x",
        "fieldSelector=spec.nodeName=node2", "fieldSelector=metadata.name=sel-1",
        "fieldSelector=spec.nodeName!=node1,status.phase=Pending",
        "labelSelector=chosen&fieldSelector=spec.nodeName%3D",
    ):  # fmt: skip
        pair.ask("GET", f"{pods}?{query}")
    pair.ask("GET", "/api/v1/pods?labelSelector=chosen")
    pair.agree()


def test_watches_tell_alike(pair: Pair) -> None:
    """Everything from a version on; what comes into or leaves a selection; the end of history."""
    maps = f"{CORE}/configmaps"
    told = []
    for side in (pair.real, pair.lab):
        version = side.call("GET", maps)[1]["metadata"]["resourceVersion"]
        labelled = {"metadata": {"name": "w", "labels": {"on": "1"}}, "data": {"a": "1"}}
        assert side.call("POST", maps, labelled)[0] == 201
        for body in ({"data": {"a": "2"}}, {"metadata": {"labels": {"on": None}}},
                     {"data": {"a": "3"}}, {"metadata": {"labels": {"on": "2"}}}):  # fmt: skip
            assert side.call("PATCH", f"{maps}/w", body, Content_Type=MERGE)[0] == 200
        assert side.call("DELETE", f"{maps}/w")[0] == 200
        told.append({
            query: events(side, f"{maps}?watch=true&resourceVersion={version}{query}", count)
            for query, count in (("", 6), ("&labelSelector=on", 5), ("&labelSelector=on=2", 2),
                                 ("&fieldSelector=metadata.name=other&timeoutSeconds=1", 0))
        })  # fmt: skip
    pair.same("watch", *told)
    gone = []
    for side in (pair.real, pair.lab):
        (event,) = events(side, f"{maps}?watch=true&resourceVersion=1", 1)
        event["object"]["message"] = re.sub(r"\(\d+\)", "(N)", event["object"]["message"])
        gone.append(event)
    assert (gone[0]["type"], gone[0]["object"]["code"]) == ("ERROR", 410)
    pair.same("a watch from a version of which nobody knows", *gone)
    future = "resourceVersion=1000000"
    refused = [side.call("GET", f"{maps}?{future}")[1] for side in (pair.real, pair.lab)]
    pair.same("a list of the future", *[(one["reason"], one["code"]) for one in refused])
    pair.agree()


def test_kubectl_prints_alike(pair: Pair) -> None:
    """The commands of a working day; their output, errors and exit status. ``!``: it fails."""
    pair.kubectl("create", "-f", "-", stdin=RC)
    pair.kubectl("create", "-f", "-", stdin=RC, good=False)
    for command in (
        "get rc front", "get rc front -o wide", "get rc/front --show-labels", "! get rc nobody",
        "get rc front -o name", "get rc front -o jsonpath={.spec.replicas}",
        "describe rc front", "scale rc front --replicas=3", "! scale rc front --replicas=4 "
        "--current-replicas=1", "expose rc front --port=80 --name=front --type=NodePort",
        "! expose rc front --port=80 --name=front", "get svc front", "get svc front -o wide",
        "describe svc front", "label svc front tier=x", "! label svc front tier=y",
        "label svc front tier=y --overwrite", "annotate svc front note=hello",
        "get svc -l tier=y", "get svc -l tier=none", "label svc front tier-",
        "patch svc front -p {\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":8080}]}}",
        "! patch svc front -p {\"spec\":{\"clusterIP\":\"10.0.99.99\"}}", "get ep",
        "create deployment web --image=nginx --replicas=2", "get deploy web -o wide",
        "describe deploy web", "set image deploy/web nginx=nginx:2",
        "scale deploy web --replicas=5", "rollout history deploy web",
        "create configmap conf --from-literal=a=b", "get cm conf", "describe cm conf",
        "create namespace second", "get ns second", "! get nothing", "get all",
        "get svc,rc,deploy", "get pods --field-selector spec.nodeName=node7",
        "delete svc front", "! delete svc front", "delete rc front", "delete deploy web",
    ):  # fmt: skip
        words = command.removeprefix("! ").split()
        pair.kubectl(*words, good=not command.startswith("! "))
    applied = json.loads(RC) | {"metadata": {"name": "applied"}}
    for replicas in (1, 1, 2):
        applied["spec"]["replicas"] = replicas
        pair.kubectl("apply", "-f", "-", stdin=json.dumps(applied))
    pair.kubectl("replace", "-f", "-", stdin=json.dumps(applied))
    pair.kubectl("delete", "-f", "-", stdin=json.dumps(applied))
    pair.agree()
