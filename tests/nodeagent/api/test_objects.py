"""Objects that pods refer to: read at once, kept fresh, shared, and let go."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.api.objects import ApiObjects, NoObjects
from nodeagent.api.port import SecretData
from nodeagent.errors import PodError
from nodeagent.pods.model import Pod, decode
from tests.fakes.kube import Json, Refused
from tests.fakes.kubeapi import KubeApi
from tests.support.poll import eventually


def a_pod(uid: str = "u1") -> Pod:
    return decode({"metadata": {"name": "web", "namespace": "default", "uid": uid}, "spec": {}})


def a_map(name: str, **data: str) -> Json:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


def a_secret(name: str, value: bytes) -> Json:
    text = base64.b64encode(value).decode()
    meta = {"name": name, "namespace": "default"}
    return {"metadata": meta, "type": "Opaque", "data": {"key": text}}


class World:
    """Objects of a server; watches begin when ``settled`` is set."""

    def __init__(self, server: KubeApi) -> None:
        self.server = server
        self.client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=5)
        self.heard: list[str] = []
        self.now = 0.0
        self.settled = asyncio.Event()
        self.objects = ApiObjects(
            self.client, self.heard.append, Problems(), deadline=5.0, services_within=0.05,
            clock=lambda: self.now, sleep=self.sleep,
        )  # fmt: skip

    async def sleep(self, _seconds: float) -> None:
        await self.settled.wait()

    def gets(self) -> list[str]:
        return [
            path for verb, path, query, _ in self.server.requests if verb == "list" and not query
        ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with KubeApi() as server:
        found = World(server)
        yield found
        await found.objects.close()
        await found.client.close()


async def test_data_and_binary_data_are_bytes(world: World) -> None:
    document = a_map("conf", text="grüße") | {"binaryData": {"raw": "AAEC"}}
    world.server.create("configmaps", document)
    world.server.create("secrets", a_secret("key", b"\x00\xff"))
    assert await world.objects.config_map("default", "conf") == {
        "text": "grüße".encode(),
        "raw": b"\x00\x01\x02",
    }
    assert await world.objects.secret("default", "key") == SecretData(
        "Opaque", {"key": b"\x00\xff"}
    )


async def test_what_does_not_exist_is_none(world: World) -> None:
    assert await world.objects.config_map("default", "conf") is None
    assert await world.objects.secret("default", "conf") is None
    assert await world.objects.get("/api/v1/namespaces/default/persistentvolumeclaims/x") is None


async def test_a_held_object_is_asked_for_once_and_then_watched(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    world.settled.set()
    await eventually(lambda: world.server.watches == 1)
    for _ in range(3):
        assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    assert len(world.gets()) == 1
    assert world.heard == []
    world.server.create("configmaps", a_map("conf", a="2"))
    await eventually(lambda: world.heard == ["u1"])
    assert await world.objects.config_map("default", "conf") == {"a": b"2"}
    world.server.remove("configmaps", "default/conf")
    await eventually(lambda: world.heard == ["u1", "u1"])
    assert await world.objects.config_map("default", "conf") is None
    assert len(world.gets()) == 1


async def test_a_change_between_the_first_answer_and_the_watch_is_told(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    world.server.create("configmaps", a_map("conf", a="2"))
    world.settled.set()
    await eventually(lambda: world.heard == ["u1"])


async def test_what_changes_in_its_labels_only_wakes_nobody(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    world.settled.set()
    await eventually(lambda: world.server.watches == 1)
    document = a_map("conf", a="1")
    document["metadata"]["labels"] = {"x": "y"}
    world.server.create("configmaps", document)
    world.server.create("configmaps", a_map("conf", a="2"))
    await eventually(lambda: bool(world.heard))
    assert world.heard == ["u1"]


async def test_pods_share_a_watch_until_the_last_lets_go(world: World) -> None:
    world.server.create("secrets", a_secret("key", b"1"))
    world.settled.set()
    for uid in ("u1", "u2"):
        world.objects.hold(a_pod(uid), frozenset({("Secret", "key")}))
    await eventually(lambda: world.server.watches == 1)
    world.server.create("secrets", a_secret("key", b"2"))
    await eventually(lambda: world.heard == ["u1", "u2"])
    world.objects.release("u1")
    world.server.create("secrets", a_secret("key", b"3"))
    await eventually(lambda: world.heard == ["u1", "u2", "u2"])
    world.objects.release("u2")
    await eventually(lambda: world.server.watches == 0)
    world.objects.release("u2")


async def test_holding_something_else_lets_go_of_the_former(world: World) -> None:
    world.settled.set()
    world.objects.hold(a_pod(), frozenset({("Secret", "key"), ("ConfigMap", "conf")}))
    await eventually(lambda: world.server.watches == 2)
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    await eventually(lambda: world.server.watches == 1)


async def test_an_immutable_object_is_not_watched(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1") | {"immutable": True})
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf"), ("ConfigMap", "other")}))
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    world.settled.set()
    await eventually(lambda: world.server.watches == 1)
    assert [q["fieldSelector"] for q in world.server.queries("watch")] == ["metadata.name=other"]
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    assert len(world.gets()) == 1


async def test_many_who_ask_at_once_share_one_answer(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    world.server.pause()
    asking = [asyncio.create_task(world.objects.config_map("default", "conf")) for _ in range(20)]
    await eventually(lambda: bool(world.gets()))
    asking.pop().cancel()
    world.server.resume()
    assert await asyncio.gather(*asking) == [{"a": b"1"}] * 19
    assert len(world.gets()) == 1


async def test_while_no_server_answers_what_is_known_is_given(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    await world.server.down()
    assert await world.objects.config_map("default", "conf") == {"a": b"1"}
    with pytest.raises(PodError, match="ConfigMap default/other cannot be read") as caught:
        await world.objects.config_map("default", "other")
    assert caught.value.reason == "ObjectUnavailable"
    assert not caught.value.final


async def test_who_asked_in_vain_is_told_when_the_object_can_be_had(world: World) -> None:
    world.server.create("configmaps", a_map("conf", a="1"))
    await world.server.down()
    world.objects.hold(a_pod(), frozenset({("ConfigMap", "conf")}))
    with pytest.raises(PodError):
        await world.objects.config_map("default", "conf")
    world.settled.set()
    await world.server.up()
    await eventually(lambda: world.heard == ["u1"])


async def test_a_refusal_says_why(world: World) -> None:
    world.server.fail("list", Refused(403, "Forbidden", "node may not"))
    with pytest.raises(PodError, match=r"Secret default/key cannot be read: .*node may not"):
        await world.objects.secret("default", "key")


@pytest.mark.parametrize("data", [{"key": 7}, {"key": "*no base64*"}, "text"])
async def test_a_secret_of_surprising_types_is_told(world: World, data: Any) -> None:
    world.server.create("secrets", a_secret("key", b"1") | {"data": data})
    with pytest.raises(PodError, match="Secret default/key makes no sense: "):
        await world.objects.secret("default", "key")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "A"])
async def test_a_name_that_no_object_can_have_is_not_asked_for(world: World, name: str) -> None:
    world.settled.set()
    world.objects.hold(a_pod(), frozenset({("ConfigMap", name)}))
    with pytest.raises(PodError, match="cannot exist"):
        await world.objects.config_map("default", name)
    assert not world.server.requests


async def test_any_object_is_read_by_its_path(world: World) -> None:
    world.server.create("persistentvolumeclaims", a_map("data"))
    path = "/api/v1/namespaces/default/persistentvolumeclaims/data"
    found = await world.objects.get(path)
    assert found is not None
    assert found["metadata"]["name"] == "data"
    world.server.fail("list", Refused(200, text="[]"))
    with pytest.raises(PodError, match="persistentvolumeclaims/data cannot be read"):
        await world.objects.get(path)


async def test_services_are_waited_for(world: World) -> None:
    with pytest.raises(PodError, match="services are not listed yet"):
        await world.objects.services()
    before = world.objects.services_listed
    running = asyncio.create_task(world.objects.run())
    while True:
        try:
            assert await world.objects.services() == ()
            break
        except PodError:
            continue
    assert (before, world.objects.services_listed) == (False, True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_token_is_bound_to_the_pod_and_kept_for_most_of_its_life(world: World) -> None:
    world.server.create("serviceaccounts", a_map("default"))
    assert await world.objects.token(a_pod(), "vault", 1000) == ("token-1", 800.0)
    _, path, body = world.server.writes[0]
    assert path == "/api/v1/namespaces/default/serviceaccounts/default/token"
    assert body["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 1000,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u1"},
    }
    world.now = 799.0
    assert await world.objects.token(a_pod(), "vault", 1000) == ("token-1", 1.0)
    world.now = 800.0
    assert await world.objects.token(a_pod(), "vault", 1000) == ("token-2", 800.0)
    assert (await world.objects.token(a_pod(), "", 1000))[0] == "token-3"
    assert (await world.objects.token(a_pod("u2"), "vault", 1000))[0] == "token-4"
    world.objects.release("u1")
    assert (await world.objects.token(a_pod(), "vault", 1000))[0] == "token-5"


async def test_a_long_life_is_renewed_every_day_and_the_servers_word_counts(world: World) -> None:
    world.server.create("serviceaccounts", a_map("default"))
    assert (await world.objects.token(a_pod(), "", 10**6))[1] == 86400.0
    world.server.lifetime = 600
    assert (await world.objects.token(a_pod(), "x", 10**6))[1] == 480.0


async def test_a_token_that_cannot_be_renewed_is_used_while_it_is_good(world: World) -> None:
    world.server.create("serviceaccounts", a_map("default"))
    await world.objects.token(a_pod(), "", 1000)
    world.server.fail("write", Refused(403, "Forbidden", "not now"), times=2)
    world.now = 850.0
    assert await world.objects.token(a_pod(), "", 1000) == ("token-1", 30.0)
    world.now = 980.0
    with pytest.raises(PodError, match=r"no token of service account default/default: .*not now"):
        await world.objects.token(a_pod(), "", 1000)


async def test_many_who_need_a_token_ask_for_one(world: World) -> None:
    world.server.create("serviceaccounts", a_map("default"))
    found = await asyncio.gather(*(world.objects.token(a_pod(), "", 1000) for _ in range(5)))
    assert {text for text, _ in found} == {"token-1"}


async def test_without_an_api_server_nothing_is_to_be_had() -> None:
    objects = NoObjects()
    objects.hold(a_pod(), frozenset({("Secret", "key")}))
    for asked in (
        objects.config_map("default", "conf"),
        objects.secret("default", "key"),
        objects.token(a_pod(), "", 1000),
        objects.get("/api/v1/persistentvolumes/x"),
    ):
        with pytest.raises(PodError, match="static pod cannot have") as caught:
            await asked
        assert caught.value.final
    assert await objects.services() == ()
    objects.release("u1")
