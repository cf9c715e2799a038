"""The controllers and the scheduler on a real registry, with the nodes' part played."""

from typing import Any

import pytest

from lab.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SERVICE,
    Kind,
)
from lab.api.registry import StatusError
from tests.lab.api.world import Cluster, Raw, cluster, pod_template, service, workload


def condition(thing: Raw, kind: str) -> dict[str, str]:
    """One condition of an object's status, empty when it is not there."""
    found = (c for c in thing["status"].get("conditions", ()) if c["type"] == kind)
    return dict(next(found, {}))


async def ready(world: Cluster, app: str, count: int) -> None:
    """Wait until so many pods of *app* are ready."""

    async def holds() -> bool:
        pods = await world.pods(app)
        return (
            len(pods) == count == sum(condition(p, "Ready").get("status") == "True" for p in pods)
        )

    await world.until(holds, f"{count} pods of {app} are ready")


@pytest.mark.parametrize("kind", [REPLICATION_CONTROLLER, REPLICA_SET])
async def test_a_set_has_as_many_pods_as_asked_spread_over_the_nodes(kind: Kind) -> None:
    """Made, counted in the status, and fewer again when scaled down; then nothing moves."""
    async with cluster() as world:
        for name in ("a", "b"):
            await world.node(name)
        made = await world.registry.create(
            kind, "default", workload("web", 4, labels=kind is REPLICA_SET)
        )
        await ready(world, "web", 4)
        nodes = sorted(pod["spec"]["nodeName"] for pod in await world.pods("web"))
        assert nodes == ["a", "a", "b", "b"]
        await world.quiet(POD)
        made = await world.registry.get(kind, "default", "web")
        assert made["status"]["readyReplicas"] == 4
        await world.registry.update(kind, {**made, "spec": {**made["spec"], "replicas": 1}})
        await ready(world, "web", 1)
        await world.quiet(kind)
        assert (await world.registry.get(kind, "default", "web"))["status"]["replicas"] == 1


async def test_a_deleted_pod_is_replaced_and_a_relabelled_one_is_let_go() -> None:
    """A pod without owner that the selector means counts and is taken over."""
    async with cluster() as world:
        await world.node("a")
        loose = {"metadata": {"name": "loose", "labels": {"app": "web"}}}
        await world.registry.create(POD, "default", {**pod_template("web"), **loose})
        await world.registry.create(
            REPLICATION_CONTROLLER, "default", workload("web", 2, labels=False)
        )
        await ready(world, "web", 2)
        taken = await world.registry.get(POD, "default", "loose")
        assert taken["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController"
        await world.registry.delete(POD, "default", "loose")
        await world.quiet(POD)
        await ready(world, "web", 2)
        pod = (await world.pods("web"))[0]
        metadata = {**pod["metadata"], "labels": {"app": "other"}}
        await world.registry.update(POD, {**pod, "metadata": metadata})
        await ready(world, "web", 2)
        (other,) = await world.pods("other")
        assert not other["metadata"].get("ownerReferences")


async def test_a_deleted_owner_takes_its_pods_along_unless_they_are_orphaned() -> None:
    """Also over two steps, from deployment to replica set to pods."""
    async with cluster() as world:
        await world.node("a")
        for kind, name in (
            (REPLICATION_CONTROLLER, "one"),
            (DEPLOYMENT, "two"),
            (REPLICA_SET, "x"),
        ):
            body = workload(name, 2, labels=kind is not REPLICATION_CONTROLLER)
            await world.registry.create(kind, "default", body)
            await ready(world, name, 2)
        await world.registry.delete(REPLICATION_CONTROLLER, "default", "one")
        await world.registry.delete(DEPLOYMENT, "default", "two")
        await world.registry.delete(REPLICA_SET, "default", "x", orphan=True)
        await ready(world, "one", 0)
        await ready(world, "two", 0)
        await world.quiet(POD)
        assert len(await world.pods("x")) == 2


async def test_a_deployment_replaces_its_pods_without_losing_any_that_answers() -> None:
    """Never fewer available than maxUnavailable allows, never more than maxSurge allows."""
    async with cluster() as world:
        await world.node("a")
        strategy = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
        made = await world.registry.create(
            DEPLOYMENT, "default", workload("web", 4, labels=True, strategy=strategy)
        )
        await ready(world, "web", 4)
        await world.quiet(DEPLOYMENT)
        made = await world.registry.get(DEPLOYMENT, "default", "web")
        template = pod_template("web", image="web:2")
        await world.registry.update(
            DEPLOYMENT, {**made, "spec": {**made["spec"], "template": template}}
        )
        fewest, most = 4, 4

        async def rolled() -> bool:
            nonlocal fewest, most
            pods = await world.pods("web")
            answering = sum(condition(pod, "Ready").get("status") == "True" for pod in pods)
            fewest, most = min(fewest, answering), max(most, len(pods))
            images = {pod["spec"]["containers"][0]["image"] for pod in pods}
            return images == {"web:2"} and answering == 4

        await world.until(rolled, "all pods have the new image")
        assert fewest >= 3
        assert most <= 5
        await world.quiet(DEPLOYMENT)
        status = (await world.registry.get(DEPLOYMENT, "default", "web"))["status"]
        assert (status["updatedReplicas"], status["availableReplicas"]) == (4, 4)
        assert condition({"status": status}, "Available")["status"] == "True"
        sizes = sorted(s["spec"]["replicas"] for s in await world.registry.list(REPLICA_SET))
        assert sizes == [0, 4]


async def test_recreate_has_no_old_pod_beside_a_new_one() -> None:
    """The new replica set waits until the old pods are gone, terminating ones included."""
    async with cluster() as world:
        await world.node("a")
        made = await world.registry.create(
            DEPLOYMENT, "default", workload("web", 2, labels=True, strategy={"type": "Recreate"})
        )
        await ready(world, "web", 2)
        await world.quiet(DEPLOYMENT)
        world.kubelets = False
        made = await world.registry.get(DEPLOYMENT, "default", "web")
        template = pod_template("web", image="web:2")
        await world.registry.update(
            DEPLOYMENT, {**made, "spec": {**made["spec"], "template": template}}
        )
        await world.quiet(POD)
        left = await world.registry.list(POD)
        assert [p["spec"]["containers"][0]["image"] for p in left] == ["web:1"] * 2
        for pod in left:
            await world.registry.delete(POD, "default", pod["metadata"]["name"], grace=0)

        async def renewed() -> bool:
            images = [p["spec"]["containers"][0]["image"] for p in await world.pods("web")]
            return images == ["web:2"] * 2

        await world.until(renewed, "two new pods are there")


async def targets(world: Cluster, name: str) -> dict[str, list[Any]]:
    """What Endpoints and slices of a service say: addresses, and (address, ready, port)."""
    endpoints = await world.registry.list(ENDPOINTS)
    ready_ones = [
        address["ip"]
        for found in endpoints
        if found["metadata"]["name"] == name
        for subset in found.get("subsets") or ()
        for address in subset.get("addresses") or ()
    ]
    slices = await world.registry.list(ENDPOINT_SLICE, "", {"kubernetes.io/service-name": name})
    sliced = [
        (end["addresses"][0], end["conditions"]["ready"], port["port"])
        for found in slices
        for end in found.get("endpoints") or ()
        for port in found["ports"]
    ]
    return {"ready": sorted(ready_ones), "slices": sorted(sliced)}


async def test_endpoints_follow_the_pods_of_a_service() -> None:
    """Named target ports are looked up; a pod that is not ready is listed as such."""
    async with cluster() as world:
        await world.node("a")
        await world.registry.create(SERVICE, "default", service("web"))
        await world.registry.create(
            REPLICATION_CONTROLLER, "default", workload("web", 2, labels=False)
        )
        await ready(world, "web", 2)
        addresses = sorted(pod["status"]["podIP"] for pod in await world.pods("web"))
        await world.quiet(ENDPOINT_SLICE)
        found = await targets(world, "web")
        assert found["ready"] == addresses
        assert found["slices"] == [(address, True, 8080) for address in addresses]
        pod = (await world.pods("web"))[0]
        unready = {**pod["status"], "conditions": [{"type": "Ready", "status": "False"}]}
        await world.registry.update_status(POD, {**pod, "status": unready})
        await world.quiet(ENDPOINT_SLICE)
        found = await targets(world, "web")
        assert found["ready"] == [a for a in addresses if a != pod["status"]["podIP"]]
        assert (pod["status"]["podIP"], False, 8080) in found["slices"]
        assert await world.quiet(ENDPOINT_SLICE) == await world.quiet(ENDPOINT_SLICE)


async def test_a_terminating_pod_still_serves_in_its_slice_but_is_not_ready() -> None:
    """KEP-1669; in Endpoints it is not any more."""
    async with cluster() as world:
        await world.node("a")
        await world.registry.create(SERVICE, "default", service("web"))
        pod = {
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "spec": pod_template("")["spec"],
        }
        await world.registry.create(POD, "default", pod)
        await ready(world, "web", 1)
        await world.quiet(ENDPOINT_SLICE)
        world.kubelets = False
        await world.registry.delete(POD, "default", "p")
        await world.quiet(ENDPOINT_SLICE)
        (found,) = await world.registry.list(ENDPOINT_SLICE)
        assert found["endpoints"][0]["conditions"] == {
            "ready": False,
            "serving": True,
            "terminating": True,
        }
        assert (await targets(world, "web"))["ready"] == []


async def test_endpoints_written_by_hand_are_mirrored_and_go_with_their_service() -> None:
    """A service without selector answers for readers of slices too."""
    async with cluster() as world:
        hand = {
            "metadata": {"name": "db"},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}],
        }
        bare = {"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}}
        await world.registry.create(ENDPOINTS, "default", hand)
        await world.registry.create(SERVICE, "default", bare)

        async def mirrored() -> bool:
            return bool((await targets(world, "db"))["slices"] == [("192.0.2.7", True, 5432)])

        await world.until(mirrored, "the slice is there")
        await world.registry.delete(SERVICE, "default", "db")

        async def gone() -> bool:
            return not (await targets(world, "db"))["slices"]

        await world.until(gone, "the slice is gone")


async def test_a_pod_that_fits_nowhere_says_why_and_runs_when_it_fits() -> None:
    """Unready, closed and wrongly labelled nodes are counted; the event is made once."""
    async with cluster() as world:
        await world.node("a")
        await world.node("b", ready="False")
        closed = await world.registry.get(NODE, "", "a")
        await world.registry.update(NODE, {**closed, "spec": {"unschedulable": True}})
        await world.quiet(NODE)
        pod = {
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "spec": pod_template("")["spec"],
        }
        await world.registry.create(POD, "default", pod)

        async def told() -> bool:
            found = await world.registry.get(POD, "default", "p")
            return condition(found, "PodScheduled").get("message") == (
                "0/2 nodes are available: 1 node(s) were not ready, 1 node(s) were unschedulable."
            )

        await world.until(told, "the condition says why")
        await world.quiet(POD)
        events = [e["reason"] for e in await world.registry.list(EVENT)]
        assert events == ["FailedScheduling"]
        await world.node("b", ready="True", beat="2")
        await ready(world, "web", 1)


async def test_a_silent_node_is_not_ready_and_its_pods_are_made_anew_elsewhere() -> None:
    """Its own pods stay, terminating, until it confirms; they are no endpoints meanwhile."""
    async with cluster(node_grace=0.2, eviction=0.1) as world:
        await world.registry.create(SERVICE, "default", service("web"))
        await world.node("dead")
        await world.registry.create(
            REPLICATION_CONTROLLER, "default", workload("web", 2, labels=False)
        )
        await world.until(lambda: bound(world, {"dead": 2}), "both pods are on the node")
        world.kubelets = False
        beats = 0

        async def moved() -> bool:
            nonlocal beats
            beats += 1
            await world.node("alive", beat=str(beats))
            return await bound(world, {"alive": 2})

        await world.until(moved, "both pods are on the other node")
        dead = await world.registry.get(NODE, "", "dead")
        assert condition(dead, "Ready")["status"] == "Unknown"
        old = [p for p in await world.registry.list(POD) if p["spec"]["nodeName"] == "dead"]
        assert len(old) == 2
        assert all("deletionTimestamp" in pod["metadata"] for pod in old)
        await world.registry.delete(NODE, "", "dead")

        async def forgotten() -> bool:
            await world.node("alive", beat="last")
            pods = await world.registry.list(POD)
            return all(pod["spec"].get("nodeName") != "dead" for pod in pods)

        await world.until(forgotten, "pods of a node that was deleted are gone")


async def bound(world: Cluster, wanted: dict[str, int]) -> bool:
    """Whether the pods that are not being deleted are on these nodes."""
    nodes = [pod["spec"].get("nodeName") for pod in await world.pods("web")]
    return {name: nodes.count(name) for name in nodes} == wanted


async def test_a_deleted_namespace_goes_with_all_that_is_in_it() -> None:
    """Pods are asked to end; what is in other namespaces stays."""
    async with cluster() as world:
        await world.node("a")
        await world.registry.create(NAMESPACE, "", {"metadata": {"name": "team"}})
        await world.registry.create(CONFIG_MAP, "team", {"metadata": {"name": "x"}})
        await world.registry.create(CONFIG_MAP, "default", {"metadata": {"name": "x"}})
        await world.registry.create(
            REPLICATION_CONTROLLER, "team", workload("web", 2, labels=False)
        )
        await ready(world, "web", 2)
        await world.registry.delete(NAMESPACE, "", "team")

        async def gone() -> bool:
            names = {n["metadata"]["name"] for n in await world.registry.list(NAMESPACE)}
            return "team" not in names

        await world.until(gone, "the namespace is gone")
        assert await world.registry.list(POD) == []
        assert [c["metadata"]["namespace"] for c in await world.registry.list(CONFIG_MAP)] == [
            "default"
        ]


async def test_an_object_that_cannot_be_read_is_named_and_the_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was stored past the server's checks, straight into etcd."""
    async with cluster() as world:
        await world.node("a")
        bad = b'{"kind":"Pod","metadata":{"name":"bad","namespace":"default","labels":[1]}}'
        client = world.registry._client  # the same etcd, without the checks in front of it
        await client.put("/registry/pods/default/bad", bad)
        await world.registry.create(
            REPLICATION_CONTROLLER, "default", workload("web", 1, labels=False)
        )
        await ready(world, "web", 1)
        assert "leaves out Pod" in caplog.text
        assert "labels" in caplog.text
        with pytest.raises(StatusError):
            await world.registry.get(POD, "default", "nobody")
