"""The plans of the controllers: reordered, interrupted, and with odd input."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.controllers import cleanup, deployments, endpoints, nodes, replicas
from lab.api.controllers.views import selects, view
from lab.api.controllers.world import Bind, Create, Delete, SetStatus, Update, World
from lab.api.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    LEASE,
    NODE,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SERVICE,
)
from lab.api.scheduler import plan as schedule
from tests.lab.api.world import Raw, pod_template, service, workload

NOW = "2026-01-01T00:00:00Z"


def stored(raw: Raw, uid: str, **meta: Any) -> Raw:
    """*raw* as the server keeps it."""
    return {**raw, "metadata": {"namespace": "default", "uid": uid, **raw["metadata"], **meta}}


def pod(name: str, *, owner: str = "", ready: bool = True, node: str = "a", **meta: Any) -> Raw:
    """A pod with label app=web that runs on *node*."""
    references = [{"kind": "X", "name": "web", "uid": owner, "controller": True}] if owner else []
    ip = f"10.1.0.{int.from_bytes(name.encode(), 'big') % 250 + 1}"
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "ownerReferences": references, **meta,
        },
        "spec": {**pod_template("web")["spec"], "nodeName": node},
        "status": {"phase": "Running", "podIP": ip, "conditions": conditions},
    }  # fmt: skip


PODS = st.lists(st.tuples(st.booleans(), st.sampled_from(["", "a", "b"])), max_size=8).map(
    lambda rows: [pod(f"p{i}", owner="rc", ready=r, node=n) for i, (r, n) in enumerate(rows)]
)


@given(PODS, st.integers(0, 8), st.randoms())
def test_a_set_comes_to_its_size_whatever_the_order_of_the_list(
    pods: list[Raw], size: int, shuffle: Any
) -> None:
    """The same pods go for every order, and never one that is ready before one that is not."""
    owner = stored(workload("web", size, labels=False), "rc")

    def actions(found: list[Raw]) -> list[Any]:
        return replicas.plan(
            REPLICATION_CONTROLLER, World({POD: found, REPLICATION_CONTROLLER: [owner]}, NOW)
        )

    planned = actions(pods)
    other = list(pods)
    shuffle.shuffle(other)
    gone = {a.thing.metadata.name for a in planned if isinstance(a, Delete)}
    made = sum(isinstance(a, Create) for a in planned)
    assert {a.thing.metadata.name for a in actions(other) if isinstance(a, Delete)} == gone
    assert len(pods) - len(gone) + made == size
    assert not (gone and made)
    ranks = {p["metadata"]["name"]: p["status"]["conditions"][0]["status"] == "True" for p in pods
             if p["spec"]["nodeName"]}  # fmt: skip
    if any(ranks.get(name) for name in gone):
        assert not any(ready is False for name, ready in ranks.items() if name not in gone)


@given(
    st.integers(0, 5),
    st.sampled_from([0, 1, 2, "0%", "25%", "100%"]),
    st.sampled_from([0, 1, 2, "0%", "25%", "100%"]),
    st.lists(st.sampled_from(["sets", "pods", "plan", "half"]), max_size=40),
)
def test_a_rollout_keeps_its_bounds_and_comes_to_its_end(
    size: int, surge: Any, missing: Any, events: list[str]
) -> None:
    """Replica sets follow late and plans are interrupted; availability holds at each moment."""
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}
    wanted = stored(workload("web", size, labels=True, strategy=strategy), "d")
    old = deployments.new_set(view(wanted), "old", size)
    old = stored(old, "old")
    old["status"] = {"replicas": size, "availableReplicas": size}
    sets: dict[str, Raw] = {"old": old}
    most, fewest = deployments.bounds(view(wanted))
    most, fewest = size + most, size - fewest

    def advance(event: str) -> None:
        if event in {"plan", "half"}:
            world = World({POD: [], REPLICA_SET: [*sets.values()], DEPLOYMENT: [wanted]}, NOW)
            actions = [a for a in deployments.plan(world) if not isinstance(a, SetStatus)]
            for action in actions[: 1 if event == "half" else None]:
                assert isinstance(action, Create | Update)
                made = copy.deepcopy(action.object)
                made["metadata"].setdefault("uid", "new")
                sets[made["metadata"]["uid"]] = {"status": {}, **made}
        for found in sets.values():
            asked, status = found["spec"]["replicas"], found["status"]
            if event == "sets" or status.get("replicas", 0) > asked:
                status["replicas"] = asked
            available = min(status.get("availableReplicas", 0), status.get("replicas", 0))
            status["availableReplicas"] = status["replicas"] if event == "pods" else available
        assert sum(s["spec"]["replicas"] for s in sets.values()) <= max(most, size)
        assert sum(s["status"]["availableReplicas"] for s in sets.values()) >= fewest

    for event in [*events, *(["plan", "sets", "pods"] * 20)]:
        for found in sets.values():
            found["status"].setdefault("replicas", 0)
            found["status"].setdefault("availableReplicas", 0)
        advance(event)
    assert sets["old"]["spec"]["replicas"] == 0
    assert sets["new"]["spec"]["replicas"] == size


def test_a_template_has_one_hash_whatever_the_order_of_its_keys() -> None:
    """And another one when anything in it changes."""
    template = pod_template("web")
    turned = dict(reversed(template.items()))
    assert deployments.template_hash(template) == deployments.template_hash(turned)
    assert deployments.template_hash(template) != deployments.template_hash(pod_template("x"))


@pytest.mark.parametrize(
    ("surge", "missing", "expected"),
    [("25%", "25%", (1, 0)), (0, 0, (0, 1)), ("50%", "50%", (2, 1)), (3, "0%", (3, 0))],
)
def test_percentages_are_rounded_so_that_a_rollout_can_move(
    surge: Any, missing: Any, expected: tuple[int, int]
) -> None:
    """Of 3 replicas: surge up, unavailable down, never both nothing."""
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}
    wanted = view(stored(workload("web", 3, labels=True, strategy=strategy), "d"))
    assert deployments.bounds(wanted) == expected


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, False),
        ({"app": "web"}, True),
        ({"app": "web", "tier": "x"}, False),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors_of_both_forms_mean_what_the_api_says(selector: Raw, selected: bool) -> None:
    """An empty one selects nothing."""
    assert selects(selector, {"app": "web"}) is selected


def endpoint_world(pods: list[Raw], *services: Raw) -> World:
    """What the endpoints controller sees before it wrote anything."""
    made = [stored(found, f"s{i}") for i, found in enumerate(services)]
    return World({POD: pods, SERVICE: made, ENDPOINTS: [], ENDPOINT_SLICE: []}, NOW)


def slices(actions: list[Any]) -> list[Raw]:
    """The slices that a plan makes."""
    return [a.object for a in actions if isinstance(a, Create) and a.kind is ENDPOINT_SLICE]


@given(PODS, st.randoms())
def test_endpoints_do_not_depend_on_the_order_of_pods(pods: list[Raw], shuffle: Any) -> None:
    """Otherwise every look would be a change for all proxies."""
    other = list(pods)
    shuffle.shuffle(other)
    spec = service("web")
    assert endpoints.plan(endpoint_world(pods, spec)) == endpoints.plan(endpoint_world(other, spec))


def test_a_port_s_name_may_lead_to_different_numbers() -> None:
    """Pods with different numbers are in different slices; one without the name is in none."""
    first, second, third = pod("a"), pod("b"), pod("c")
    second["spec"]["containers"] = [{"ports": [{"name": "http", "containerPort": 9090}]}]
    third["spec"]["containers"] = [{"ports": [{"name": "other", "containerPort": 1}]}]
    made = slices(endpoints.plan(endpoint_world([first, second, third], service("web"))))
    found = {s["ports"][0]["port"]: len(s["endpoints"]) for s in made}
    assert found == {8080: 1, 9090: 1}
    assert len({s["metadata"]["name"] for s in made}) == 2


def test_more_endpoints_than_fit_go_into_further_slices() -> None:
    """A hundred in each, as kube's controller does."""
    pods = [pod(f"p{i}") for i in range(230)]
    for number, found in enumerate(pods):
        found["status"]["podIP"] = f"10.1.{number // 200}.{number % 200 + 1}"
    made = slices(endpoints.plan(endpoint_world(pods, service("web"))))
    assert sorted(len(s["endpoints"]) for s in made) == [30, 100, 100]


def test_unready_addresses_are_published_when_the_service_asks_for_them() -> None:
    """Also of a headless service, which is labelled as such; finished pods never are."""
    done = pod("done")
    done["status"]["phase"] = "Succeeded"
    pods = [pod("a", ready=False), pod("b", deletionTimestamp=NOW), done]
    spec = service("web", publishNotReadyAddresses=True, clusterIP="None")
    (made,) = slices(endpoints.plan(endpoint_world(pods, spec)))
    assert [e["conditions"]["ready"] for e in made["endpoints"]] == [True, True]
    assert "service.kubernetes.io/headless" in made["metadata"]["labels"]
    assert slices(endpoints.plan(endpoint_world(pods, service("web", type="ExternalName")))) == []


def test_a_service_that_cannot_be_read_does_not_stop_the_others() -> None:
    """It is named with what is wrong."""
    odd = service("odd", selector={"app": "web"}, ports=[{"port": 80, "targetPort": ["x"]}])
    world = endpoint_world([pod("a")], odd, service("web"))
    made = slices(endpoints.plan(world))
    assert [s["metadata"]["labels"]["kubernetes.io/service-name"] for s in made] == ["web"]
    assert list(world.bad) == ["Service odd"]


def node(name: str, ready: str = "True", beat: str = "1", **spec: Any) -> Raw:
    """A node."""
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}
    metadata = {"name": name, "uid": name, "labels": {"name": name}}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": [condition]}}


@given(st.lists(st.sampled_from(["x", "y", ""]), min_size=1, max_size=9))
def test_pods_of_one_owner_are_spread_evenly(owners: list[str]) -> None:
    """No node gets two more of an owner than another."""
    pods = [pod(f"p{i}", owner=o, node="") for i, o in enumerate(owners)]
    world = World({POD: pods, NODE: [node("a"), node("b"), node("c", unschedulable=True)]}, NOW)
    placed = [(a.thing.owner, a.node) for a in schedule(world) if isinstance(a, Bind)]
    assert len(placed) == len(pods)
    for owner in set(owners):
        counts = [placed.count((owner, name)) for name in ("a", "b")]
        assert abs(counts[0] - counts[1]) <= 1
    assert all(name != "c" for _, name in placed)


def test_a_node_selector_is_honoured() -> None:
    """And said when no node carries the label."""
    fits, not_so = pod("p", node=""), pod("q", node="")
    fits["spec"]["nodeSelector"] = {"name": "b"}
    not_so["spec"]["nodeSelector"] = {"name": "z"}
    bind, status, event = schedule(World({POD: [fits, not_so], NODE: [node("a"), node("b")]}, NOW))
    assert isinstance(bind, Bind)
    assert bind.node == "b"
    assert isinstance(status, SetStatus)
    message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    assert status.object["status"]["conditions"][-1]["message"] == message
    assert isinstance(event, Create)
    assert event.object["message"] == message


def test_heartbeats_age_by_when_they_were_seen_not_by_the_node_s_clock() -> None:
    """A lease renews as well as the Ready condition does."""
    now = 0.0
    lifecycle = nodes.NodeLifecycle(40.0, 10.0, clock=lambda: now)
    lease = {"metadata": {"name": "b", "namespace": "kube-node-lease"}, "spec": {}}
    members = [node("a", beat="1970-01-01T00:00:00Z"), node("b")]

    def plan() -> list[Any]:
        return lifecycle.plan(World({POD: [pod("p")], LEASE: [lease], NODE: members}, NOW))

    assert plan() == []
    now, lease["spec"] = 39.0, {"renewTime": "x"}
    assert plan() == []
    now = 41.0
    marked, unready = plan()
    assert marked.object["metadata"]["name"] == "a"
    assert marked.object["status"]["conditions"][0]["status"] == "Unknown"
    assert unready.object["status"]["conditions"][0]["status"] == "False"


def test_an_owner_of_a_kind_that_is_not_kept_here_may_exist_elsewhere() -> None:
    """Only what is known to be gone takes its dependents along; any living owner keeps them."""

    def owned(*owners: tuple[str, str]) -> Raw:
        references = [{"kind": kind, "name": "x", "uid": uid} for kind, uid in owners]
        return pod("-".join(["of", *(uid for _, uid in owners)]), ownerReferences=references)

    alive = stored(workload("web", 1, labels=True), "alive")
    pods = [
        owned(("ReplicaSet", "gone")),
        owned(("ReplicaSet", "gone"), ("ReplicaSet", "alive")),
        owned(("Robot", "elsewhere")),
        pod("free"),
    ]
    objects: dict[Any, list[Raw]] = {kind: [] for kind in cleanup.KINDS}
    world = World({**objects, POD: pods, REPLICA_SET: [alive]}, NOW)
    (only,) = cleanup.plan_orphans(world)
    assert isinstance(only, Delete)
    assert only.thing.metadata.uid == "of-gone"
