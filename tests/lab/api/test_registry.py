"""What the registry accepts, refuses, fills in, keeps and tells."""

import asyncio
from typing import Any

import pytest

from lab.api.kinds import (
    DEPLOYMENT,
    ENDPOINTS,
    NAMESPACE,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SECRET,
    SERVICE,
)
from lab.api.objects import StatusError
from tests.fakes.etcd import Store
from tests.lab.api.serving import Raw, pod, service, serving
from tests.support.poll import eventually


def template(**labels: str) -> Raw:
    """A pod template."""
    return {"metadata": {"labels": labels}, "spec": pod("x")["spec"]}


async def refused(call: Any) -> StatusError:
    """The refusal that *call* has to end with."""
    with pytest.raises(StatusError) as caught:
        await call
    return caught.value


async def test_a_service_is_completed_as_kube_does() -> None:
    """Address from the range, node port, target port, affinity's timeout, policies."""
    async with serving() as api:
        made = await api.registry.create(
            SERVICE, "default", service("web", type="NodePort", sessionAffinity="ClientIP")
        )
        spec = made["spec"]
        assert spec["clusterIP"].startswith("10.0.0.") and spec["clusterIPs"] == [spec["clusterIP"]]
        (port,) = spec["ports"]
        assert 30000 <= port["nodePort"] <= 32767
        assert (port["protocol"], port["targetPort"]) == ("TCP", 80)
        assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
        assert spec["externalTrafficPolicy"] == spec["internalTrafficPolicy"] == "Cluster"
        assert made["status"] == {"loadBalancer": {}}
        assert made["metadata"]["uid"] and made["metadata"]["creationTimestamp"]


async def test_addresses_are_never_given_twice_and_come_back() -> None:
    """A /28 has 14 addresses, one of them for kubernetes; the next request is told it is full."""
    async with serving() as api:
        made = await asyncio.gather(
            *(api.registry.create(SERVICE, "default", service(f"s{at}")) for at in range(13))
        )
        assert len({one["spec"]["clusterIP"] for one in made}) == 13
        error = await refused(api.registry.create(SERVICE, "default", service("more")))
        assert error.code == 500 and "range is full" in error.message
        await api.registry.delete(SERVICE, "default", "s3")
        again = await api.registry.create(SERVICE, "default", service("more"))
        assert again["spec"]["clusterIP"] == made[3]["spec"]["clusterIP"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"clusterIP": "10.0.0.1"}, "already allocated"),
        ({"clusterIP": "10.9.0.1"}, "not in the valid range"),
        ({"clusterIP": "x"}, "must be a valid IP address"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}, "30000-32767"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30061}]}, "already allocated"),
        ({"ports": []}, "spec.ports: Required value"),
        ({"ports": [{"port": 0}]}, "between 1 and 65535"),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name: Required value"),
        ({"ports": [{"port": 1, "protocol": "ICMP"}]}, '"SCTP", "TCP", "UDP"'),
        ({"ports": [{"port": 1, "nodePort": 30000}]}, "may not be used when `type` is"),
        ({"externalIPs": ["127.0.0.1"]}, "loopback"),
        ({"sessionAffinity": "Cookie"}, "supported values"),
        ({"type": "NodePort", "clusterIP": "None"}, "may not be set to 'None'"),
    ],
)
async def test_a_service_that_cannot_be_is_refused_with_the_field(spec: Raw, why: str) -> None:
    """422 Invalid, and nothing is stored."""
    async with serving() as api:
        ports = [{"port": 1, "nodePort": 30061}]
        await api.registry.create(SERVICE, "default", service("a", type="NodePort", ports=ports))
        error = await refused(api.registry.create(SERVICE, "default", service("b", **spec)))
        assert (error.code, error.reason) == (422, "Invalid")
        assert why in error.message and error.details["causes"]
        assert (await refused(api.registry.get(SERVICE, "default", "b"))).code == 404


async def test_an_update_keeps_what_was_assigned_and_never_moves_the_address() -> None:
    """A manifest without address and node port can be applied again; another address cannot."""
    async with serving() as api:
        made = await api.registry.create(SERVICE, "default", service("web", type="NodePort"))
        wish = {**service("web", type="NodePort")}
        wish["metadata"] = {"name": "web", "namespace": "default"}
        again = await api.registry.update(SERVICE, wish)
        assert again["spec"] == made["spec"]
        other = "10.0.0.9" if made["spec"]["clusterIP"] != "10.0.0.9" else "10.0.0.8"
        again["spec"] |= {"clusterIP": other, "clusterIPs": [other]}
        error = await refused(api.registry.update(SERVICE, again))
        assert "may not change once set" in error.message
        plain = await api.registry.update(
            SERVICE, {"metadata": wish["metadata"], "spec": {**made["spec"], "type": "ClusterIP"}}
        )
        assert "nodePort" not in plain["spec"]["ports"][0]
        assert "externalTrafficPolicy" not in plain["spec"]


async def test_an_old_version_is_a_conflict_and_an_equal_one_writes_nothing() -> None:
    """Optimistic concurrency, in kube's words."""
    async with serving() as api:
        first = await api.registry.create(SERVICE, "default", service("web"))
        changed = {**first, "metadata": {**first["metadata"], "labels": {"a": "b"}}}
        second = await api.registry.update(SERVICE, changed)
        assert int(second["metadata"]["resourceVersion"]) > int(
            first["metadata"]["resourceVersion"]
        )
        error = await refused(api.registry.update(SERVICE, changed))
        assert (error.code, error.reason) == (409, "Conflict")
        assert "the object has been modified" in error.message
        assert await api.registry.update(SERVICE, second) == second


async def test_changes_at_the_same_time_all_take_place() -> None:
    """A change that names no version is worked out again from the newer object."""
    async with serving() as api:
        await api.registry.create(SERVICE, "default", service("web"))

        async def label(name: str) -> None:
            def add(obj: Raw) -> Raw:
                obj["metadata"].setdefault("labels", {})[name] = "x"
                return obj

            await api.registry.change(SERVICE, "default", "web", add)

        await asyncio.gather(*(label(f"l{at}") for at in range(5)))
        found = await api.registry.get(SERVICE, "default", "web")
        assert {f"l{at}" for at in range(5)} <= found["metadata"]["labels"].keys()


async def test_wish_and_status_have_different_writers() -> None:
    """update leaves the status, update_status the wish; the generation counts wishes alone."""
    async with serving() as api:
        made = await api.registry.create(
            REPLICATION_CONTROLLER, "default",
            {"metadata": {"name": "rc"}, "spec": {"template": template(app="x")}},
        )  # fmt: skip
        assert made["spec"]["replicas"] == 1 and made["spec"]["selector"] == {"app": "x"}
        assert made["metadata"]["labels"] == {"app": "x"}
        seen = await api.registry.update_status(
            REPLICATION_CONTROLLER, {**made, "spec": {}, "status": {"replicas": 7}}
        )
        assert (seen["spec"], seen["status"]) == (made["spec"], {"replicas": 7})
        assert seen["metadata"]["generation"] == 1
        seen["spec"]["replicas"] = 3
        more = await api.registry.update(REPLICATION_CONTROLLER, {**seen, "status": {}})
        assert (more["spec"]["replicas"], more["status"]) == (3, {"replicas": 7})
        assert more["metadata"]["generation"] == 2


async def test_a_pod_is_bound_once_and_goes_when_its_node_says_so() -> None:
    """Bound: marked with its grace, then removed with grace 0. Not bound: removed at once."""
    async with serving() as api:
        registry = api.registry
        for name in ("a", "b"):
            await registry.create(POD, "default", pod(name))
        await registry.bind("default", "a", "node1")
        bound = await registry.get(POD, "default", "a")
        assert bound["spec"]["nodeName"] == "node1"
        assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
        assert (await refused(registry.bind("default", "a", "node2"))).code == 409
        bound["spec"]["nodeName"] = "node2"
        error = await refused(registry.update(POD, bound))
        assert error.code == 422
        assert "pod updates may not change fields" in error.message
        del bound["spec"]["nodeName"]
        assert (await registry.update(POD, bound))["spec"]["nodeName"] == "node1"
        await registry.delete(POD, "default", "b")
        assert [one["metadata"]["name"] for one in await registry.list(POD)] == ["a"]
        await registry.delete(POD, "default", "a", grace=5)
        await registry.delete(POD, "default", "a")
        going = await registry.get(POD, "default", "a")
        assert going["metadata"]["deletionGracePeriodSeconds"] == 5
        error = await refused(registry.delete(POD, "default", "a", grace=0, uid="another"))
        assert error.code == 409
        await registry.delete(POD, "default", "a", grace=0)
        assert await registry.list(POD) == []


async def test_a_pods_wish_is_fixed_but_for_its_images() -> None:
    """As in kube."""
    async with serving() as api:
        made = await api.registry.create(POD, "default", pod("a"))
        made["spec"]["containers"][0]["image"] = "busybox:2"
        made = await api.registry.update(POD, made)
        made["spec"]["restartPolicy"] = "Never"
        error = await refused(api.registry.update(POD, made))
        assert "pod updates may not change fields other than" in error.message


async def test_orphans_lose_an_owner_that_is_already_leaving() -> None:
    """In this order, or the owner's controller would take them back; not if the uid is wrong."""
    async with serving() as api:
        body = {
            "metadata": {"name": "rs"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(a="b")},
        }
        owner = await api.registry.create(REPLICA_SET, "default", body)
        child = pod("child")
        child["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
             "uid": owner["metadata"]["uid"], "controller": True}
        ]  # fmt: skip
        await api.registry.create(POD, "default", child)
        wrong = api.registry.delete(REPLICA_SET, "default", "rs", orphan=True, uid="another")
        assert (await refused(wrong)).code == 409
        (held,) = await api.registry.list(POD)
        assert held["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
        position = api.registry.shelf(REPLICA_SET).end()
        await api.registry.delete(REPLICA_SET, "default", "rs", orphan=True)
        (left,) = await api.registry.list(POD)
        assert left["metadata"]["ownerReferences"] == []
        marked, gone = api.registry.shelf(REPLICA_SET).since(position)
        assert marked.after is not None and gone.after is None
        assert "deletionTimestamp" in marked.after.obj()["metadata"]
        disowned = int(left["metadata"]["resourceVersion"])
        assert marked.revision < disowned < gone.revision


async def test_selectors_of_deployments_fit_and_stay() -> None:
    """The template has to carry what the selector wants, and the selector never changes."""
    async with serving() as api:
        body: Raw = {
            "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(a="c")},
        }
        error = await refused(api.registry.create(DEPLOYMENT, "default", body))
        assert "`selector` does not match template `labels`" in error.message
        body["spec"]["template"] = template(a="b", c="d")
        made = await api.registry.create(DEPLOYMENT, "default", body)
        assert made["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": "25%", "maxUnavailable": "25%",
        }  # fmt: skip
        made["spec"]["selector"] = {"matchLabels": {"c": "d"}}
        assert "field is immutable" in (
            await refused(api.registry.update(DEPLOYMENT, made))
        ).message  # fmt: skip


async def test_namespaces_hold_things_and_go_in_two_steps() -> None:
    """Nothing without its namespace, nothing new while it ends, and two of them never end."""
    async with serving() as api:
        registry = api.registry
        error = await refused(registry.create(POD, "shop", pod("a")))
        assert error.message == 'namespaces "shop" not found'
        await registry.create(NAMESPACE, "", {"metadata": {"name": "shop"}})
        await registry.delete(NAMESPACE, "", "shop")
        assert (await registry.get(NAMESPACE, "", "shop"))["status"]["phase"] == "Terminating"
        assert (await refused(registry.create(POD, "shop", pod("a")))).code == 403
        await registry.delete(NAMESPACE, "", "shop", grace=0)
        assert (await refused(registry.get(NAMESPACE, "", "shop"))).code == 404
        assert (await refused(registry.delete(NAMESPACE, "", "default"))).code == 403


async def test_secrets_and_endpoints_are_put_in_order() -> None:
    """Text becomes base64; the protocol of an endpoint's port is TCP; host addresses are none."""
    async with serving() as api:
        secret = {"metadata": {"name": "s"}, "stringData": {"pass": "word"}}
        made = await api.registry.create(SECRET, "default", secret)
        assert (made["data"], made["type"]) == ({"pass": "d29yZA=="}, "Opaque")
        subset = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 1}]}
        body = {"metadata": {"name": "e"}, "subsets": [subset]}
        error = await refused(api.registry.create(ENDPOINTS, "default", body))
        assert "subsets[0].addresses[0].ip" in error.message
        subset["addresses"] = [{"ip": "10.1.0.1"}]
        made = await api.registry.create(ENDPOINTS, "default", body)
        assert made["subsets"][0]["ports"] == [{"port": 1, "protocol": "TCP"}]


async def test_what_is_in_etcd_survives_the_server_and_bad_values_stand_alone() -> None:
    """Garbage is left out, an invalid object is served as it is, the rest is all there."""
    store = Store()
    async with serving(store) as api:
        await api.registry.create(SERVICE, "default", service("web"))
    store.put("/registry/services/default/torn", b'{"metadata":')
    store.put("/registry/services/default/list", b"[1]")
    store.put("/registry/services/default/odd", b'{"metadata":{"name":"odd"},"spec":7}')
    async with serving(store) as api:
        names = [one["metadata"]["name"] for one in await api.registry.list(SERVICE)]
        assert names == ["kubernetes", "odd", "web"]
        assert (await api.registry.get(SERVICE, "default", "odd"))["spec"] == 7
        store.put("/registry/services/default/web", b"\xff")
        await eventually(lambda: len(api.registry.shelf(SERVICE).items) == 2)
        await api.registry.delete(SERVICE, "default", "odd")
        assert [one["metadata"]["name"] for one in await api.registry.list(SERVICE)] == [
            "kubernetes"
        ]


async def test_a_follower_sees_what_is_there_then_every_change_and_a_rebuilt_etcd() -> None:
    """Also when the history was lost in between: then the difference."""
    async with serving() as api:
        seen: list[tuple[str, str]] = []

        async def follow() -> None:
            async for kind, obj in api.registry.watch(POD):
                seen.append((kind, obj["metadata"]["name"]))

        await api.registry.create(POD, "default", pod("a"))
        task = asyncio.create_task(follow())
        await eventually(lambda: seen == [("ADDED", "a")])
        await api.registry.create(POD, "default", pod("b"))
        await api.registry.bind("default", "b", "node1")
        await api.registry.delete(POD, "default", "a")
        expected = [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]
        await eventually(lambda: seen == expected)
        api.etcd.store.rebuild(cluster_id=5)
        api.etcd.cut_streams()
        await eventually(lambda: seen[4:] == [("DELETED", "b")])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_etcd_reads_go_on_and_writes_say_why() -> None:
    """503 with etcd's trouble as a sentence."""
    async with serving() as api:
        await api.registry.create(POD, "default", pod("a"))
        api.etcd.fail("kv/txn", "cut", times=10)
        error = await refused(api.registry.create(POD, "default", pod("b")))
        assert error.code == 503 and "etcd does not answer" in error.message
        assert len(await api.registry.list(POD)) == 1
