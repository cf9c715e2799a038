"""The HTTP API: reading, watching, writing, refusing, and failing on demand."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from lab.api.kinds import POD, SERVICE
from tests.lab.api.serving import CORE, PODS, SERVICES, Api, Raw, pod, service, serving
from tests.support.poll import eventually


async def revision(api: Api, path: str) -> str:
    """The resource version of the list at *path*."""
    _, listed = await api.call("GET", path)
    found: str = listed["metadata"]["resourceVersion"]
    return found


async def names(api: Api, path: str) -> list[str]:
    """The names in the list at *path*."""
    _, listed = await api.call("GET", path)
    return [one["metadata"]["name"] for one in listed["items"]]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/version", {"gitVersion": "v1.32.0-barenode.lab"}),
        ("/api", {"versions": ["v1"]}),
        ("/apis/apps", {"kind": "APIGroup", "name": "apps"}),
        ("/apis/apps/v1", {"kind": "APIResourceList", "groupVersion": "apps/v1"}),
    ],
)
async def test_a_client_finds_its_way(path: str, wanted: Raw) -> None:
    """Discovery, and a version that says what this is."""
    async with serving() as api:
        status, answer = await api.call("GET", path)
        assert status == 200 and wanted.items() <= answer.items()
        async with api.session.get("/readyz") as ready:
            assert await ready.text() == "ok"


async def test_the_service_kubernetes_leads_to_the_server() -> None:
    """With the first address of the range."""
    async with serving() as api:
        _, found = await api.call("GET", f"{SERVICES}/kubernetes")
        assert found["spec"]["clusterIP"] == "10.0.0.1"
        _, found = await api.call("GET", f"{CORE}/endpoints/kubernetes")
        assert found["subsets"][0]["addresses"] == [{"ip": "172.31.0.1"}]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("labelSelector=app%3Da", ["a"]),
        ("labelSelector=app!%3Da", ["b", "kubernetes"]),
        ("labelSelector=app%20in%20(a,b),app%20notin%20(b)", ["a"]),
        ("labelSelector=app", ["a", "b"]),
        ("labelSelector=!app", ["kubernetes"]),
        ("fieldSelector=metadata.name%3Db", ["b"]),
        ("fieldSelector=metadata.name!%3Db&labelSelector=app", ["a"]),
    ],
)
async def test_lists_are_sorted_and_selected(query: str, wanted: list[str]) -> None:
    """By labels and by fields."""
    async with serving() as api:
        for name in ("b", "a"):
            await api.made(SERVICES, service(name))
        assert await names(api, f"{SERVICES}?{query}") == wanted
        assert await names(api, f"/api/v1/services?{query}") == wanted


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "reason"),
    [
        ("GET", f"{SERVICES}/nope", None, 404, "NotFound"),
        ("GET", f"{CORE}/widgets", None, 404, "NotFound"),
        ("GET", "/api/v1/services/a", None, 404, "NotFound"),
        ("GET", f"{SERVICES}?fieldSelector=spec.type%3Dx", None, 400, "BadRequest"),
        ("GET", f"{SERVICES}?labelSelector=a%3D%3D%3D", None, 400, "BadRequest"),
        ("GET", f"{SERVICES}?resourceVersion=x", None, 400, "BadRequest"),
        ("GET", f"{SERVICES}?resourceVersion=99999", None, 504, "Timeout"),
        ("GET", f"{SERVICES}?watch=1&sendInitialEvents=true", None, 422, "Invalid"),
        ("POST", SERVICES, service("kubernetes"), 409, "AlreadyExists"),
        ("POST", SERVICES, {"kind": "Pod", **service("a")}, 400, "BadRequest"),
        ("POST", SERVICES, {"metadata": {"name": "a"}, "spec": {"ports": 7}}, 400, "BadRequest"),
        ("POST", SERVICES, [1], 400, "BadRequest"),
        ("POST", SERVICES, service("A_b"), 422, "Invalid"),
        ("POST", f"{SERVICES}?dryRun=All", service("a"), 400, "BadRequest"),
        ("PUT", f"{SERVICES}/kubernetes", service("other"), 400, "BadRequest"),
        ("PATCH", f"{SERVICES}/kubernetes", {}, 415, "UnsupportedMediaType"),
        ("DELETE", SERVICES, None, 405, "MethodNotAllowed"),
    ],
)
async def test_refusals_are_status_objects(
    method: str, path: str, body: object, code: int, reason: str
) -> None:
    """With kube's code and reason and a sentence."""
    async with serving() as api:
        status, answer = await api.call(method, path, body)
        assert (status, answer["kind"], answer["reason"]) == (code, "Status", reason)
        assert answer["code"] == code and answer["message"]


async def test_a_body_may_be_yaml_and_must_not_be_garbage_or_protobuf() -> None:
    """The demo's manifests come as they are."""
    async with serving() as api:
        for data, kind, code in (
            (b"metadata: {name: y}\nspec: {ports: [{port: 1}]}", "application/yaml", 201),
            (b"metadata: {name: [", "application/yaml", 400),
            (b"{", "application/json", 400),
            (b"[" * 5000, "application/json", 400),
            (b"k8s\x00\n", "application/vnd.kubernetes.protobuf", 415),
        ):
            headers = {"Content-Type": kind}
            async with api.session.post(SERVICES, data=data, headers=headers) as response:
                assert response.status == code


async def test_fields_that_do_not_exist_are_named() -> None:
    """Refused if asked to be strict, else a warning, and never stored."""
    async with serving() as api:
        body = service("web", prots=[])
        status, answer = await api.call("POST", f"{SERVICES}?fieldValidation=Strict", body)
        assert status == 400 and 'unknown field "spec.prots"' in answer["message"]
        async with api.session.post(SERVICES, json=body) as response:
            assert response.status == 201
            assert response.headers["Warning"] == '299 - "unknown field \\"spec.prots\\""'
            assert "prots" not in (await response.json())["spec"]


async def test_a_watch_begins_with_what_is_there_or_right_after_a_version() -> None:
    """And goes on with every change in order."""
    async with serving() as api:
        await api.made(PODS, pod("a"))
        at = await revision(api, PODS)
        await api.made(PODS, pod("b"))
        async with api.watch(PODS) as whole, api.watch(PODS, resourceVersion=at) as later:
            assert [await whole.seen(), await whole.seen()] == [("ADDED", "a"), ("ADDED", "b")]
            assert await later.seen() == ("ADDED", "b")
            await api.registry.bind("default", "a", "node1")
            await api.call("DELETE", f"{PODS}/b")
            for stream in (whole, later):
                assert await stream.seen() == ("MODIFIED", "a")
                event = await stream.next()
                assert event["type"] == "DELETED"
                gone = int(event["object"]["metadata"]["resourceVersion"])
                assert gone == api.registry.mirror.revision


async def test_an_object_that_ceases_to_be_selected_is_deleted_for_the_watch() -> None:
    """And added when it begins to be."""
    async with serving() as api:
        await api.made(PODS, pod("a"))
        fields = {"fieldSelector": "spec.nodeName=node1"}
        async with (
            api.watch(PODS, labelSelector="x=y") as labelled,
            api.watch(PODS, None, **fields) as bound,
        ):
            await api.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"x": "y"}}})
            assert await labelled.seen() == ("ADDED", "a")
            await api.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"x": None}}})
            assert await labelled.seen() == ("DELETED", "a")
            await api.registry.bind("default", "a", "node1")
            assert await bound.seen() == ("ADDED", "a")


async def test_a_version_that_is_forgotten_is_gone() -> None:
    """410 inside the watch, as kube does it; a slow reader gets the same."""
    async with serving(history=2) as api:
        at = await revision(api, PODS)
        for number in range(6):
            await api.made(PODS, pod(f"p{number}"))
        async with api.watch(PODS, resourceVersion=at) as stream:
            event = await stream.next()
            assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
            assert await stream.next() == {}


async def test_a_replaced_etcd_ends_watches_with_gone() -> None:
    """Its revisions have nothing to do with those that clients know."""
    async with serving() as api:
        await api.made(PODS, pod("a"))
        async with api.watch(PODS) as stream:
            assert await stream.seen() == ("ADDED", "a")
            api.etcd.store.rebuild(cluster_id=9)
            api.etcd.cut_streams()
            assert (await stream.next())["object"]["code"] == 410


async def test_a_quiet_watch_gets_bookmarks_if_it_wants_them_and_ends_in_time() -> None:
    """A bookmark carries the version up to which nothing was missed."""
    async with serving(bookmarks=0.01) as api:
        at = await revision(api, PODS)
        await api.made(SERVICES, service("web"))
        query = {"resourceVersion": at, "allowWatchBookmarks": "true"}
        async with api.watch(PODS, None, **query) as stream:
            event = await stream.next()
            assert (event["type"], event["object"]["kind"]) == ("BOOKMARK", "Pod")
            assert int(event["object"]["metadata"]["resourceVersion"]) > int(at)
        async with api.watch(PODS, resourceVersion=at, timeoutSeconds="1") as stream:
            assert await stream.next() == {}


async def test_scale_is_read_and_written_as_its_own_kind() -> None:
    """By replacing and by patching, with the version that it was based on."""
    async with serving() as api:
        containers = pod("x")["spec"]
        template = {"metadata": {"labels": {"a": "b"}}, "spec": containers}
        rc = f"{CORE}/replicationcontrollers"
        await api.made(rc, {"metadata": {"name": "rc"}, "spec": {"template": template}})
        _, scale = await api.call("GET", f"{rc}/rc/scale")
        assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 1})
        assert scale["status"] == {"replicas": 0, "selector": "a=b"}
        scale["spec"]["replicas"] = 3
        status, answer = await api.call("PUT", f"{rc}/rc/scale", scale)
        assert status == 200 and answer["spec"] == {"replicas": 3}
        status, answer = await api.call("PUT", f"{rc}/rc/scale", scale)
        assert (status, answer["reason"]) == (409, "Conflict")
        await api.patch(f"{rc}/rc/scale", "merge", {"spec": {"replicas": 2}})
        _, found = await api.call("GET", f"{rc}/rc")
        assert found["spec"]["replicas"] == 2
        status, answer = await api.patch(f"{rc}/rc/scale", "merge", {"spec": {"replicas": -1}})
        assert status == 422


async def test_binding_and_status_over_http() -> None:
    """As a scheduler and an agent of another make would do it."""
    async with serving() as api:
        await api.made(PODS, pod("a"))
        await api.made(f"{PODS}/a/binding", {"target": {"kind": "Node", "name": "node1"}})
        status, found = await api.patch(
            f"{PODS}/a/status", "strategic",
            {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
        )  # fmt: skip
        assert status == 200 and found["spec"]["nodeName"] == "node1"
        kinds = [one["type"] for one in found["status"]["conditions"]]
        assert (found["status"]["phase"], sorted(kinds)) == ("Running", ["PodScheduled", "Ready"])


async def test_a_pod_on_a_node_is_deleted_gracefully() -> None:
    """The answer is the pod that goes; gracePeriodSeconds 0 confirms."""
    async with serving() as api:
        await api.made(PODS, pod("a", terminationGracePeriodSeconds=7))
        await api.registry.bind("default", "a", "node1")
        _, going = await api.call("DELETE", f"{PODS}/a", {"propagationPolicy": "Background"})
        assert going["metadata"]["deletionGracePeriodSeconds"] == 7
        assert await names(api, PODS) == ["a"]
        status, _ = await api.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
        assert status == 200 and await names(api, PODS) == []
        _, answer = await api.call("DELETE", f"{SERVICES}/kubernetes")
        assert (answer["status"], answer["details"]["kind"]) == ("Success", "services")


async def test_a_table_for_kubectl_and_one_row_per_event() -> None:
    """Asked for by Accept; the columns come once."""
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    async with serving() as api:
        await api.made(SERVICES, service("web"))
        _, table = await api.call("GET", SERVICES, headers=accept)
        assert [one["name"] for one in table["columnDefinitions"]][:3] == [
            "Name", "Type", "Cluster-IP",
        ]  # fmt: skip
        assert [row["cells"][0] for row in table["rows"]] == ["kubernetes", "web"]
        assert table["rows"][1]["object"]["kind"] == "PartialObjectMetadata"
        async with api.watch(SERVICES, accept) as stream:
            events = [await stream.next(), await stream.next()]
        tables = [event["object"] for event in events]
        assert [bool(one["columnDefinitions"]) for one in tables] == [True, False]
        assert [one["rows"][0]["cells"][0] for one in tables] == ["kubernetes", "web"]


async def test_an_invalid_object_in_etcd_is_served_and_shown_as_it_is() -> None:
    """For tests of clients, which must stand that."""
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    odd = {"metadata": {"name": "odd"}, "spec": {"ports": [{"port": [1]}], "externalIPs": [[]]}}
    async with serving() as api:
        api.etcd.store.put("/registry/services/default/odd", json.dumps(odd).encode())
        await eventually(lambda: ("default", "odd") in api.registry.shelf(SERVICE).items)
        _, found = await api.call("GET", f"{SERVICES}/odd")
        assert found["spec"] == odd["spec"]
        _, table = await api.call("GET", SERVICES, headers=accept)
        assert [row["cells"][0] for row in table["rows"]] == ["kubernetes", "odd"]


async def test_the_next_watch_is_gone_once() -> None:
    """Switch gone."""
    async with serving() as api:
        await api.faults(gone=1)
        async with api.watch(PODS) as stream:
            assert (await stream.next())["object"]["reason"] == "Expired"
        await api.made(PODS, pod("a"))
        async with api.watch(PODS) as stream:
            assert await stream.seen() == ("ADDED", "a")


async def test_a_watch_is_cut_in_the_middle_of_an_object_once() -> None:
    """Switch cut: what arrived is no complete line."""
    async with serving() as api:
        await api.made(PODS, pod("a"))
        await api.faults(cut=40)
        async with api.watch(PODS) as stream:
            with pytest.raises(aiohttp.ClientError):
                await stream.response.content.read()
        async with api.watch(PODS) as stream:
            assert await stream.seen() == ("ADDED", "a")


async def test_garbage_comes_before_the_next_event() -> None:
    """Switch garbage: one line that is no JSON."""
    async with serving() as api, api.watch(PODS) as stream:
        await api.faults(garbage=1)
        await api.made(PODS, pod("a"))
        with pytest.raises(json.JSONDecodeError):
            await stream.next()
        assert await stream.seen() == ("ADDED", "a")


async def test_a_stalled_server_keeps_connections_and_says_nothing() -> None:
    """Switch stall: requests and watches wait until it is switched off."""
    async with serving() as api, api.watch(PODS) as stream:
        await api.faults(stall=True)
        await api.registry.create(POD, "default", pod("a"))
        request = asyncio.create_task(names(api, PODS))
        event = asyncio.create_task(stream.next())
        assert await pending(request, event)
        await api.faults(stall=False)
        assert await request == ["a"]
        assert (await event)["type"] == "ADDED"


async def pending(*tasks: "asyncio.Task[Any]") -> bool:
    """Whether all *tasks* wait, also after the server has had turns to answer them."""
    done, _ = await asyncio.wait(tasks, timeout=0.1)
    return not done


async def test_a_refusing_server_closes_connections_and_open_watches() -> None:
    """Switch refuse."""
    async with serving() as api:
        async with api.watch(PODS) as stream:
            await api.faults(refuse=True)
            with pytest.raises(aiohttp.ClientError):
                await stream.response.content.read()
        with pytest.raises(aiohttp.ClientError):
            await api.call("GET", PODS)
        await api.faults(refuse=False)
        assert await names(api, PODS) == []


async def test_a_refusing_server_cuts_the_watches_from_before_its_old_data() -> None:
    """They follow what is new, and are as open as all others."""
    async with serving() as api:
        async with api.watch(PODS) as stream:
            await api.faults(serve_old=True)
            await api.made(PODS, pod("a"))
            assert (await stream.next())["type"] == "ADDED"
            await api.faults(refuse=True)
            with pytest.raises(aiohttp.ClientError):
                await stream.response.content.read()
        await api.faults(refuse=False, serve_old=False)


async def test_old_data_is_served_until_the_switch_is_off() -> None:
    """Switch serve_old: then the watches that were open on it are gone."""
    async with serving() as api:
        at = await revision(api, PODS)
        await api.faults(serve_old=True)
        await api.made(PODS, pod("a"))
        assert (await names(api, PODS), await revision(api, PODS)) == ([], at)
        async with api.watch(PODS, resourceVersion=at) as stream:
            await api.faults(serve_old=False)
            assert (await stream.next())["object"]["code"] == 410
        assert await names(api, PODS) == ["a"]


async def test_faults_are_named_when_they_do_not_exist() -> None:
    """And nothing can be set on a server that was started without them."""
    async with serving() as api:
        status, answer = await api.call("POST", "/faults", {"explode": True})
        assert status == 400 and "explode is no fault" in answer["message"]
        assert (await api.call("GET", "/faults"))[1]["gone"] == 0
