"""What a node's agent asks of the API server."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lab.api.kinds import NODE, POD, SERVICE_ACCOUNT
from tests.lab.api.serving import CORE, PODS, Api, Raw, pod, serving
from tests.support import certs

OURS = "ours"
GATE = {"type": "x/gate", "status": "True"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
TOKEN_REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEW = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


async def bound(api: Api, name: str = "p", **spec: Any) -> Raw:
    """A pod on node1."""
    return await api.made(PODS, pod(name, nodeName="node1", **spec))


# Status


async def test_conditions_of_a_status_are_merged_by_type_and_addresses_by_ip() -> None:
    async with serving() as api:
        await bound(api)
        first = {
            "conditions": [{"type": "Ready", "status": "False"}, GATE],
            "podIPs": [{"ip": "10.1.0.2"}], "hostIPs": [{"ip": "10.0.0.1"}],
            "containerStatuses": [{"name": "c", "restartCount": 0}],
        }  # fmt: skip
        await api.patch(f"{PODS}/p/status", "strategic", {"status": first})
        then = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIPs": [{"ip": "10.1.0.3"}, {"$patch": "replace"}],
            "hostIPs": [{"ip": "10.0.0.2"}],
            "containerStatuses": [{"name": "d"}],
        }
        status, found = await api.patch(f"{PODS}/p/status", "strategic", {"status": then})
        assert status == 200
        assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == {
            "Ready": "True", "x/gate": "True",
        }  # fmt: skip
        assert found["status"]["podIPs"] == [{"ip": "10.1.0.3"}]
        assert {one["ip"] for one in found["status"]["hostIPs"]} == {"10.0.0.1", "10.0.0.2"}
        assert found["status"]["containerStatuses"] == [{"name": "d"}]


async def test_a_status_for_another_pod_of_the_name_is_refused() -> None:
    async with serving() as api:
        made = await bound(api)
        body = {"metadata": {"uid": "other"}, "status": {"phase": "Running"}}
        status, answer = await api.patch(f"{PODS}/p/status", "strategic", body)
        assert (status, answer["reason"]) == (409, "Conflict")
        body["metadata"] = {"uid": made["metadata"]["uid"]}
        status, answer = await api.patch(f"{PODS}/p/status", "strategic", body)
        assert (status, answer["status"]["phase"]) == (200, "Running")


async def test_a_status_changes_nothing_but_the_status() -> None:
    async with serving() as api:
        await bound(api)
        body = {"spec": {"nodeName": "node2"}, "status": {"phase": "Running"}}
        _, answer = await api.patch(f"{PODS}/p/status", "strategic", body)
        assert answer["spec"]["nodeName"] == "node1"


@pytest.mark.parametrize("before", ["", "node1"])
async def test_a_pod_s_node_cannot_be_patched(before: str) -> None:
    async with serving() as api:
        await api.made(PODS, pod("p", **({"nodeName": before} if before else {})))
        status, answer = await api.patch(f"{PODS}/p", "strategic", {"spec": {"nodeName": "node2"}})
        assert (status, answer["reason"]) == (422, "Invalid")


async def test_taints_are_written_as_a_whole_since_two_may_have_one_key() -> None:
    async with serving() as api:
        await api.made("/api/v1/nodes", {"metadata": {"name": "node1"}})
        taints = [{"key": "k", "effect": effect} for effect in ("NoSchedule", "NoExecute")]
        for some in (taints, taints[:1]):
            _, node = await api.patch(
                "/api/v1/nodes/node1", "strategic", {"spec": {"taints": some}}
            )
            assert node["spec"]["taints"] == some


# Leases, events


async def test_a_lease_is_made_and_renewed() -> None:
    async with serving() as api:
        spec = {"holderIdentity": "node1", "leaseDurationSeconds": 40}
        made = await api.made(LEASES, {"metadata": {"name": "node1"}, "spec": spec})
        made["spec"]["renewTime"] = "2024-01-01T00:00:00.000000Z"
        status, renewed = await api.call("PUT", f"{LEASES}/node1", made)
        assert (status, renewed["spec"]) == (200, made["spec"])
        status, _ = await api.call("PUT", f"{LEASES}/node1", made)
        assert status == 409


async def test_an_event_s_count_is_patched() -> None:
    async with serving() as api:
        about = {"kind": "Pod", "namespace": "default", "name": "p"}
        event = {
            "metadata": {"name": "p.1"},
            "involvedObject": about,
            "reason": "BackOff",
            "count": 1,
        }
        await api.made(f"{CORE}/events", event)
        status, found = await api.patch(f"{CORE}/events/p.1", "strategic", {"count": 7})
        assert (status, found["count"], found["reason"]) == (200, 7, "BackOff")


# Tokens


async def test_a_service_account_s_token_has_an_end() -> None:
    async with serving() as api:
        await api.registry.create(SERVICE_ACCOUNT, "default", {"metadata": {"name": "default"}})
        made = await bound(api)
        reference = {"kind": "Pod", "name": "p", "uid": made["metadata"]["uid"]}
        spec = {"audiences": ["vault"], "expirationSeconds": 900, "boundObjectRef": reference}
        found = await api.made(f"{CORE}/serviceaccounts/default/token", {"spec": spec})
        assert (found["kind"], found["spec"]) == ("TokenRequest", spec)
        assert found["status"]["token"]
        assert found["status"]["expirationTimestamp"] > found["metadata"]["creationTimestamp"]


@pytest.mark.parametrize(
    ("account", "spec", "code"),
    [
        ("nobody", {}, 404),
        ("default", {"expirationSeconds": 60}, 422),
        ("default", {"boundObjectRef": {"kind": "Pod", "name": "gone"}}, 404),
        ("default", {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "old"}}, 409),
        ("default", {"audiences": "vault"}, 400),
    ],
)
async def test_a_token_that_cannot_be_given_is_refused(account: str, spec: Raw, code: int) -> None:
    async with serving() as api:
        await api.registry.create(SERVICE_ACCOUNT, "default", {"metadata": {"name": "default"}})
        await bound(api)
        path = f"{CORE}/serviceaccounts/{account}/token"
        assert (await api.call("POST", path, {"spec": spec}))[0] == code


async def test_the_server_s_own_token_is_known_others_are_not_and_all_is_allowed() -> None:
    async with serving(token=OURS) as api:
        known = await api.made(TOKEN_REVIEW, {"spec": {"token": OURS, "audiences": ["a"]}})
        assert known["status"]["authenticated"] is True
        assert known["status"]["audiences"] == ["a"]
        assert known["status"]["user"]["username"]
        other = await api.made(TOKEN_REVIEW, {"spec": {"token": "other"}})
        assert not other["status"].get("authenticated")
        access = await api.made(ACCESS_REVIEW, {"spec": {"user": "x"}})
        assert (access["kind"], access["status"]) == ("SubjectAccessReview", {"allowed": True})


async def test_a_service_account_s_token_is_known_until_its_end() -> None:
    now = [1_700_000_000.0]
    async with serving(clock=lambda: now[0]) as api:
        await api.registry.create(SERVICE_ACCOUNT, "default", {"metadata": {"name": "reader"}})
        made = await api.made(
            f"{CORE}/serviceaccounts/reader/token", {"spec": {"expirationSeconds": 600}}
        )
        spec = {"token": made["status"]["token"]}
        status = (await api.made(TOKEN_REVIEW, {"spec": spec}))["status"]
        assert status["authenticated"] is True
        assert status["user"]["username"] == "system:serviceaccount:default:reader"
        assert "system:serviceaccounts:default" in status["user"]["groups"]
        now[0] += 600
        ended = await api.made(TOKEN_REVIEW, {"spec": spec})
        assert not ended["status"].get("authenticated")


# Mirror pods and deletion


async def test_a_mirror_pod_is_made_on_its_node_and_goes_when_the_agent_says_so() -> None:
    async with serving() as api:
        body = pod("static-node1", nodeName="node1")
        body["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "abc"}
        made = await api.made(PODS, body)
        assert made["spec"]["nodeName"] == "node1"
        path = f"{PODS}/static-node1"
        wrong = {"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}
        assert (await api.call("DELETE", path, wrong))[0] == 409
        _, marked = await api.call("DELETE", path)
        assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
        right = {"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}}
        assert (await api.call("DELETE", path, right))[0] == 200
        assert (await api.call("GET", path))[0] == 404


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_finished_pod_goes_at_once(phase: str) -> None:
    async with serving() as api:
        await bound(api)
        await api.patch(f"{PODS}/p/status", "strategic", {"status": {"phase": phase}})
        await api.call("DELETE", f"{PODS}/p")
        assert (await api.call("GET", f"{PODS}/p"))[0] == 404


# Logs

Handler = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


@asynccontextmanager
async def kubelet(folder: Path, handler: Handler) -> AsyncIterator[int]:
    """A node's server with a certificate that nobody knows; its port."""
    pair = certs.Authority(folder).issue("node1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def on_node(api: Api, port: int) -> None:
    """A node whose agent answers at *port*, and the pod p on it."""
    await api.registry.create(NODE, "", {"metadata": {"name": "node1"}})
    node = await api.registry.get(NODE, "", "node1")
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await api.registry.update_status(NODE, {**node, "status": status})
    await bound(api)


async def test_a_log_comes_from_the_node_with_the_server_s_token(tmp_path: Path) -> None:
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return web.Response(body=b"line\n\xff")

    async with kubelet(tmp_path, answer) as port, serving(token=OURS) as api:
        await on_node(api, port)
        query = {"tailLines": "5", "previous": "true", "container": "c", "odd": "1"}
        async with api.session.get(f"{PODS}/p/log", params=query) as response:
            assert response.status == 200
            assert await response.read() == b"line\n\xff"
    assert asked[0].path == "/containerLogs/default/p/c"
    assert dict(asked[0].query) == {"tailLines": "5", "previous": "true"}
    assert asked[0].headers["Authorization"] == f"Bearer {OURS}"


async def test_a_log_is_followed_as_it_grows_and_left_when_the_client_goes(
    tmp_path: Path,
) -> None:
    more, left = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        await more.wait()
        await response.write(b"two\n")
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return response

    async with kubelet(tmp_path, answer) as port, serving() as api:
        await on_node(api, port)
        async with api.session.get(f"{PODS}/p/log", params={"follow": "true"}) as response:
            assert await response.content.readline() == b"one\n"
            more.set()
            assert await response.content.readline() == b"two\n"
        async with asyncio.timeout(60):
            await left.wait()


async def test_a_log_that_breaks_off_is_not_passed_off_as_whole(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with kubelet(tmp_path, answer) as port, serving() as api:
        await on_node(api, port)
        with pytest.raises(aiohttp.ClientError):
            async with api.session.get(f"{PODS}/p/log") as response:
                await response.read()


async def test_what_the_node_says_against_it_is_told(tmp_path: Path) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text='container "c" is waiting to start')

    async with kubelet(tmp_path, answer) as port, serving() as api:
        await on_node(api, port)
        status, found = await api.call("GET", f"{PODS}/p/log")
    assert (status, found["reason"]) == (400, "BadRequest")
    assert found["message"] == 'container "c" is waiting to start'


async def test_a_log_that_cannot_be_had_is_refused_in_words() -> None:
    async with serving() as api:
        await api.made(PODS, pod("free"))
        async with api.session.get(f"{PODS}/free/log") as response:
            assert (response.status, await response.read()) == (200, b"")
        await bound(api)
        assert (await api.call("GET", f"{PODS}/gone/log"))[0] == 404
        assert (await api.call("GET", f"{PODS}/p/log"))[0] == 404
        await api.made("/api/v1/nodes", {"metadata": {"name": "node1"}})
        status, found = await api.call("GET", f"{PODS}/p/log")
        assert status == 500
        assert "does not say at which InternalIP" in found["message"]
        assert (await api.call("GET", f"{PODS}/p/log?container=x"))[0] == 400
        assert (await api.call("POST", f"{PODS}/p/log", {}))[0] == 405
        await api.registry.delete(POD, "default", "p", grace=0)
        two = [{"name": name, "image": "i"} for name in ("a", "b")]
        await bound(api, containers=two)
        status, found = await api.call("GET", f"{PODS}/p/log")
        assert status == 400
        assert "choose one of: [a b]" in found["message"]


async def test_a_node_that_does_not_answer_is_told() -> None:
    async with serving() as api:
        await on_node(api, 1)
        status, found = await api.call("GET", f"{PODS}/p/log")
        assert status == 500
        assert "cannot be had from node node1" in found["message"]


@pytest.mark.parametrize("sub", ["exec", "attach", "portforward"])
async def test_streams_into_pods_are_refused_in_words(sub: str) -> None:
    async with serving() as api:
        await bound(api)
        status, found = await api.call("POST", f"{PODS}/p/{sub}?command=ls", {})
        assert status == 501
        assert found["message"] == f"pods/{sub} is not supported by the lab's API server"
