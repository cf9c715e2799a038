"""Pods from an API server: good, bad, mirrored, replaced, and none lost."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.kube.config import KubeConfig
from hostkit.kube.listwatch import Changed, Listed
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.pods.model import MIRROR
from nodeagent.sources.apipods import ApiPod, ApiPods, _decode
from tests.fakes.kube import Json
from tests.fakes.kubeapi import KubeApi
from tests.support.poll import eventually


def a_pod(name: str, uid: Any, node: str = "node1", **spec: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app:1"}], **spec},
    }


class World:
    """A source that follows a server."""

    def __init__(self, server: KubeApi) -> None:
        self.server = server
        self.client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=5)
        self.heard: list[str] = []
        self.listed = 0
        self.connected = 0
        self.problems = Problems()
        self.source = ApiPods(
            self.client, "node1", self.heard.append, self.problems,
            on_listed=self._list, on_connected=self._connect,
        )  # fmt: skip

    def _list(self) -> None:
        self.listed += 1

    def _connect(self) -> None:
        self.connected += 1


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with KubeApi() as server:
        found = World(server)
        running = asyncio.create_task(found.source.run())
        await eventually(lambda: found.connected == 1)
        yield found
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await found.client.close()


async def test_pods_of_this_node_come_change_and_go(world: World) -> None:
    assert world.source.listed
    world.server.create("pods", a_pod("other", "u9", node="node2"))
    world.server.create("pods", a_pod("web", "u1"))
    await eventually(lambda: world.heard == ["u1"])
    item = world.source.pods()["u1"]
    assert item.pod.key == "default/web"
    assert item.raw["containers"] == [{"name": "app", "image": "app:1"}]
    world.server.change("pods", "default/web", status={"phase": "Running"})
    await eventually(lambda: world.heard == ["u1", "u1"])
    assert world.source.pods()["u1"].pod.status == {"phase": "Running"}
    world.server.remove("pods", "default/web")
    await eventually(lambda: world.heard == ["u1"] * 3)
    assert not world.source.items


async def test_what_went_while_nobody_watched_is_told_after_the_next_list(world: World) -> None:
    world.server.create("pods", a_pod("web", "u1"))
    world.server.create("pods", a_pod("db", "u2"))
    await eventually(lambda: len(world.heard) == 2)
    await world.server.down()
    world.server.remove("pods", "default/web")
    world.server.store.compact()
    await eventually(lambda: not world.source.connected)
    assert world.source.pods().keys() == {"u1", "u2"}
    assert "api pods" in world.problems
    await world.server.up()
    await eventually(lambda: world.source.connected)
    world.server.create("pods", a_pod("last", "u3"))
    await eventually(lambda: world.source.pods().keys() == {"u2", "u3"})
    assert "api pods" not in world.problems


async def test_a_successor_of_the_same_name_is_another_pod(world: World) -> None:
    world.server.create("pods", a_pod("web-0", "u1"))
    await eventually(lambda: world.heard == ["u1"])
    world.server.create("pods", a_pod("web-0", "u2"))
    await eventually(lambda: len(world.heard) == 3)
    assert world.heard == ["u1", "u1", "u2"]
    assert world.source.items.keys() == {"u2"}


async def test_a_pod_of_surprising_types_is_kept_to_be_told_so(world: World) -> None:
    world.server.create("pods", a_pod("odd", "u1", hostNetwork="perhaps"))
    world.server.create("pods", a_pod("web", "u2"))
    await eventually(lambda: world.source.pods().keys() == {"u2"})
    bad = world.source.bad()[0]
    assert (bad.namespace, bad.name, bad.uid) == ("default", "odd", "u1")
    assert bad.text == "spec.hostNetwork: expected bool, got str"
    assert bad.pod.uid == "u1"
    world.server.create("pods", a_pod("odd", "u1"))
    await eventually(lambda: not world.source.bad())
    assert world.source.pods().keys() == {"u1", "u2"}


async def test_a_pod_without_a_usable_uid_is_a_problem(world: World) -> None:
    world.server.create("pods", a_pod("odd", 7))
    await eventually(lambda: "pod default/odd" in world.problems)
    assert not world.source.items
    world.server.remove("pods", "default/odd")
    await eventually(lambda: "pod default/odd" not in world.problems)


async def test_mirror_pods_are_shown_and_not_run(world: World) -> None:
    mirror = a_pod("static-node1", "u1")
    mirror["metadata"]["annotations"] = {MIRROR: "abc"}
    world.server.create("pods", mirror)
    await eventually(lambda: world.heard == ["u1"])
    assert not world.source.pods()
    assert world.source.by_name()["default", "static-node1"].is_mirror


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
fields = ["metadata", "spec", "status", "kind", "apiVersion"]
metas = st.dictionaries(st.sampled_from(["name", "namespace", "uid", "labels"]), values)
specs = st.dictionaries(
    st.sampled_from(["containers", "volumes", "restartPolicy", "nodeName", "tolerations"]), values
)


@given(st.dictionaries(st.sampled_from(fields), values | metas | specs), st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_an_api_server_sends_the_good_pods_stay(odd: Json, is_named: bool) -> None:
    async def scene() -> None:
        client = KubeClient(KubeConfig(("http://127.0.0.1:1",)), user_agent="test")
        source = ApiPods(client, "node1", lambda _uid: None, Problems())
        if is_named and isinstance(odd.get("metadata"), dict):
            odd["metadata"] |= {"name": "odd", "uid": "u2"}
        take = source._mirror.take
        good = raw(a_pod("web", "u1"))
        take(Listed([raw(odd), good], "1"))
        take(Changed("MODIFIED", raw(odd), "2"))
        assert "u1" in source.pods()
        assert source.listed
        await client.close()

    asyncio.run(scene())


def raw(document: Json) -> Any:
    return msgspec.Raw(msgspec.json.encode(document))


def test_a_pod_takes_little_memory() -> None:
    document = a_pod("web", "u1", volumes=[{"name": f"v{n}", "emptyDir": {}} for n in range(10)])
    document["metadata"]["managedFields"] = [{"fieldsV1": {f"f:{n}": {} for n in range(500)}}]
    _, item = _decode(msgspec.Raw(msgspec.json.encode(document)))
    assert isinstance(item, ApiPod)
    assert len(item.spec) + sys.getsizeof(item.pod) < 2000
    assert b"f:1" not in msgspec.json.encode(item.pod)
