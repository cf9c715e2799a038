"""Plans about nodes, claims and accounts: taints, room, binding."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.api import scheduler
from lab.api.controllers import accounts, nodes, taints, volumes
from lab.api.controllers.views import view
from lab.api.controllers.world import Bind, Create, Delete, SetStatus, Update, World
from lab.api.kinds import CLAIM, LEASE, NAMESPACE, NODE, POD, SERVICE_ACCOUNT, VOLUME
from tests.lab.api.world import Raw

NOW = "2024-01-01T00:00:00Z"


def node(name: str = "a", ready: str = "True", *, room: Raw | None = None, **spec: Any) -> Raw:
    """A node; *room* is what it can allocate."""
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": "1"}
    status = {"conditions": [condition], "allocatable": room or {}}
    return {"metadata": {"name": name, "uid": name}, "spec": spec, "status": status}


def pod(name: str, on: str = "", requests: Raw | None = None, **spec: Any) -> Raw:
    """A pod, of one container unless *spec* has others."""
    container = {"name": "c", "resources": {"requests": requests or {}}}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [container], **({"nodeName": on} if on else {}), **spec},
        "status": {"phase": "Pending"},
    }


def placed(pods: list[Raw], *members: Raw) -> dict[str, str]:
    """Where the scheduler puts the pods that it can place."""
    actions = scheduler.plan(World({POD: pods, NODE: list(members)}, NOW))
    return {a.thing.metadata.name: a.node for a in actions if isinstance(a, Bind)}


def refusal(pods: list[Raw], *members: Raw) -> str:
    """What is said of the one pod that fits nowhere."""
    actions = scheduler.plan(World({POD: pods, NODE: list(members)}, NOW))
    (said,) = [a for a in actions if isinstance(a, SetStatus)]
    return str(said.object["status"]["conditions"][-1]["message"])


# The scheduler


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_taint_keeps_pods_away_that_do_not_bear_it(effect: str) -> None:
    """Whether they name its value, any value, or any taint."""
    tainted = node(taints=[{"key": "gpu", "value": "v100", "effect": effect}])
    tolerations: list[Raw] = [
        {"key": "gpu", "value": "v100"},
        {"key": "gpu", "operator": "Exists", "effect": effect},
        {"operator": "Exists"},
    ]
    bearing = [pod(f"p{n}", tolerations=[one]) for n, one in enumerate(tolerations)]
    assert placed(bearing, tainted) == {"p0": "a", "p1": "a", "p2": "a"}
    others: list[Raw] = [
        {"key": "gpu", "value": "k80"},
        {"key": "gpu", "operator": "Exists", "effect": "PreferNoSchedule"},
        {"key": "cpu", "operator": "Exists"},
        {},
    ]
    assert placed([pod(f"q{n}", tolerations=[one]) for n, one in enumerate(others)], tainted) == {}
    assert refusal([pod("p")], tainted) == (
        "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: v100}."
    )


def test_a_taint_that_only_advises_is_no_hindrance() -> None:
    advised = node(taints=[{"key": "old", "effect": "PreferNoSchedule"}])
    assert placed([pod("p")], advised) == {"p": "a"}


def test_what_bears_everything_may_go_to_a_closed_or_unready_node() -> None:
    bearing = pod("p", tolerations=[{"operator": "Exists"}])
    assert placed([bearing], node(unschedulable=True)) == {"p": "a"}
    assert placed([bearing], node(ready="Unknown")) == {"p": "a"}
    assert placed([pod("q")], node(ready="Unknown")) == {}
    assert placed([pod("q")], node(unschedulable=True)) == {}


@pytest.mark.parametrize(
    ("room", "asked", "words"),
    [
        ({"pods": "1"}, {}, "Too many pods"),
        ({"cpu": "1"}, {"cpu": "600m"}, "Insufficient cpu"),
        ({"memory": "100Mi"}, {"memory": "60Mi"}, "Insufficient memory"),
    ],
)
def test_what_runs_takes_room_until_it_has_finished(room: Raw, asked: Raw, words: str) -> None:
    """Also what has been placed in the same pass, and what is being deleted."""
    running, new = pod("old", "a", asked), pod("new", "", asked)
    assert refusal([running, new], node(room=room)) == f"0/1 nodes are available: 1 {words}."
    running["metadata"]["deletionTimestamp"] = NOW
    assert placed([running, new], node(room=room)) == {}
    running["status"]["phase"] = "Succeeded"
    assert placed([running, new], node(room=room)) == {"new": "a"}
    assert placed([new, pod("newer", "", asked)], node(room=room)) == {"new": "a"}


def test_init_containers_need_what_the_greatest_of_them_needs() -> None:
    def wants(cpu: str) -> Raw:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}}

    one = pod("p", containers=[wants("1"), wants("500m")], initContainers=[wants("1"), wants("2")])
    assert scheduler.needs(view(one))["cpu"] == 2
    del one["spec"]["initContainers"]
    assert scheduler.needs(view(one))["cpu"] == 1.5


def test_a_pod_with_a_request_that_is_no_quantity_does_not_stop_the_others() -> None:
    odd, running = pod("odd", "", {"cpu": "much"}), pod("old", "a", {"cpu": "much"})
    assert placed([odd, running, pod("p")], node(room={"cpu": "1"})) == {"p": "a"}


@settings(max_examples=100)
@given(st.lists(st.integers(0, 900), max_size=12), st.integers(1, 5))
def test_no_node_is_ever_filled_beyond_its_room(amounts: list[int], count: int) -> None:
    pods = [pod(f"p{n}", "", {"cpu": f"{amount}m"}) for n, amount in enumerate(amounts)]
    found = placed(pods, *(node(n, room={"cpu": "1", "pods": count}) for n in "ab"))
    for name in "ab":
        mine = [amounts[int(p[1:])] for p, on in found.items() if on == name]
        assert len(mine) <= count
        assert sum(mine) <= 1000


# Taints of the node controller


def lifecycle(members: list[Raw], pods: list[Raw] | None = None, age: float = 0.0) -> list[Any]:
    """What the node controller does when heartbeats are *age* seconds old."""
    now = 0.0
    controller = nodes.NodeLifecycle(40.0, 10.0, clock=lambda: now)
    world = World({POD: pods or [], LEASE: [], NODE: members}, NOW)
    controller.plan(world)
    now = age
    return controller.plan(world)


def tainted(actions: list[Any]) -> set[tuple[str, str]]:
    """Keys and effects of the taints that a plan writes to the one node."""
    (update,) = [a for a in actions if isinstance(a, Update)]
    return {(t["key"].partition("/")[2], t["effect"]) for t in update.object["spec"]["taints"]}


def test_nodes_have_the_taints_that_their_conditions_call_for() -> None:
    both = ("NoSchedule", "NoExecute")
    assert lifecycle([node()]) == []
    assert tainted(lifecycle([node(ready="False")])) == {("not-ready", e) for e in both}
    assert tainted(lifecycle([node(ready="Unknown")])) == {("unreachable", e) for e in both}
    assert tainted(lifecycle([node(unschedulable=True)])) == {("unschedulable", "NoSchedule")}
    full = node()
    full["status"]["conditions"].append({"type": "DiskPressure", "status": "True"})
    assert tainted(lifecycle([full])) == {("disk-pressure", "NoSchedule")}


def test_taints_of_others_stay_and_ours_go_with_their_cause() -> None:
    other = {"key": "gpu", "effect": "NoSchedule", "value": "v100"}
    ours = {"key": taints.NOT_READY, "effect": "NoExecute", "timeAdded": "earlier"}
    (update,) = lifecycle([node(taints=[other, ours])])
    assert update.object["spec"]["taints"] == [other]
    (update,) = lifecycle([node(ready="False", taints=[other, ours])])
    added = {"key": taints.NOT_READY, "effect": "NoSchedule"}
    assert update.object["spec"]["taints"] == [other, added, ours]
    assert lifecycle([update.object]) == []


def test_a_node_that_falls_silent_is_marked_first_and_tainted_next() -> None:
    """Two writes to one object in a pass would be refused."""
    (marked,) = lifecycle([node()], age=41.0)
    assert isinstance(marked, SetStatus)
    assert ("unreachable", "NoExecute") in tainted(lifecycle([marked.object], age=41.0))


def test_pods_that_bear_an_unreachable_node_for_ever_are_not_evicted() -> None:
    silent = node(ready="Unknown", taints=taints.called_for(view(node(ready="Unknown"))))
    stays = pod("stays", "a", tolerations=[{"operator": "Exists"}])
    limited = [{"operator": "Exists", "tolerationSeconds": 300}]
    goes = [pod("goes", "a", tolerations=limited), pod("goes-too", "a")]
    actions = lifecycle([silent], [stays, *goes], age=51.0)
    assert [a.thing.metadata.name for a in actions if isinstance(a, Delete)] == ["goes", "goes-too"]


# Claims and volumes


def volume(name: str, size: str = "1Gi", **spec: Any) -> Raw:
    """A volume that is free."""
    spec = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], **spec}
    return {"metadata": {"name": name, "uid": name}, "spec": spec, "status": {"phase": "Available"}}


def claim(name: str, size: str = "1Gi", **spec: Any) -> Raw:
    """A claim that is not bound."""
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    resources = {"requests": {"storage": size}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": resources, **spec}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}


def settled(claims: list[Raw], found: list[Raw]) -> tuple[dict[str, str], dict[str, str]]:
    """Volume and phase by claim, phase by volume, once the plan has nothing left to do."""
    for _ in range(20):
        actions = volumes.plan(World({CLAIM: claims, VOLUME: found}, NOW))
        if not actions:
            bound = {
                c["metadata"]["name"]: f"{c['spec'].get('volumeName')} {c['status']['phase']}"
                for c in claims
            }
            return bound, {v["metadata"]["name"]: v["status"]["phase"] for v in found}
        for action in actions:
            assert isinstance(action, Update | SetStatus)
            kept = claims if action.kind is CLAIM else found
            name = action.object["metadata"]["name"]
            (at,) = [n for n, one in enumerate(kept) if one["metadata"]["name"] == name]
            kept[at] = action.object
    raise AssertionError("the plan never comes to an end")


def test_a_claim_gets_the_smallest_free_volume_that_fits() -> None:
    found = [volume("small", "512Mi"), volume("big", "9Gi"), volume("right", "2Gi")]
    bound, phases = settled([claim("c")], found)
    assert bound == {"c": "right Bound"}
    assert phases == {"small": "Available", "big": "Available", "right": "Bound"}


def test_a_claim_gets_the_volume_that_it_names_or_that_waits_for_it() -> None:
    waiting = volume("kept", "9Gi", claimRef={"namespace": "default", "name": "b"})
    claims = [claim("a", volumeName="big"), claim("b"), claim("c")]
    bound, phases = settled(claims, [volume("big", "9Gi"), waiting])
    assert bound == {"a": "big Bound", "b": "kept Bound", "c": "None Pending"}
    assert phases == {"big": "Bound", "kept": "Bound"}


@pytest.mark.parametrize(
    "spec",
    [
        {"storageClassName": "fast"},
        {"accessModes": ["ReadWriteMany"]},
        {"selector": {"matchLabels": {"disk": "ssd"}}},
        {"volumeName": "other"},
    ],
)
def test_a_claim_that_nothing_fits_waits(spec: Raw) -> None:
    bound, phases = settled([claim("c", **spec)], [volume("v")])
    assert bound["c"].endswith("Pending")
    assert phases == {"v": "Available"}


def test_a_volume_whose_claim_has_gone_is_nobody_else_s() -> None:
    gone = {"namespace": "default", "name": "c", "uid": "before"}
    bound, phases = settled([claim("c")], [volume("v", claimRef=gone)])
    assert bound == {"c": "None Pending"}
    assert phases == {"v": "Released"}


@settings(max_examples=100)
@given(st.lists(st.integers(1, 5), max_size=5), st.lists(st.integers(1, 5), max_size=5))
def test_no_volume_is_given_to_two_claims(asked: list[int], sizes: list[int]) -> None:
    claims = [claim(f"c{n}", f"{size}Gi") for n, size in enumerate(asked)]
    found = [volume(f"v{n}", f"{size}Gi") for n, size in enumerate(sizes)]
    bound, phases = settled(claims, found)
    taken = [text.split()[0] for text in bound.values() if text.endswith("Bound")]
    assert len(set(taken)) == len(taken)
    assert sorted(taken) == sorted(name for name, phase in phases.items() if phase == "Bound")


# Accounts


def test_every_namespace_has_a_default_account_unless_it_is_being_deleted() -> None:
    def of(name: str, namespace: str = "", **meta: str) -> Raw:
        return {"metadata": {"name": name, "namespace": namespace, "uid": name, **meta}}

    spaces = [of("a"), of("b"), of("c", deletionTimestamp=NOW)]
    there = [of("default", "a"), of("robot", "b")]
    (made,) = accounts.plan(World({SERVICE_ACCOUNT: there, NAMESPACE: spaces}, NOW))
    assert isinstance(made, Create)
    assert made.object["metadata"] == {"name": "default", "namespace": "b"}
