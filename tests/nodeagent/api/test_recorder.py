"""Events on their way to an API server; nobody ever waits for one."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from nodeagent.api.recorder import EventRecorder
from nodeagent.pods.model import MIRROR, SOURCE, Pod, decode
from tests.fakes.kube import Json, Refused
from tests.fakes.kubeapi import KubeApi
from tests.support.poll import eventually

NOON = 1714564800.0


def a_pod(uid: str = "u1", **annotations: str) -> Pod:
    meta = {
        "name": "web", "namespace": "apps", "uid": uid, "resourceVersion": "7",
        "annotations": {SOURCE: "file"} | annotations if annotations else {},
    }  # fmt: skip
    spec = {"containers": [{"name": "app"}], "initContainers": [{"name": "first"}]}
    return decode({"metadata": meta, "spec": spec})


class World:
    """A recorder whose time passes by its sleeping."""

    def __init__(self, server: KubeApi, **options: Any) -> None:
        self.server = server
        self.client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=1.0)
        self.now = 0.0
        self.naps: list[float] = []
        self.metrics = Metrics("nodeagent")
        self.recorder = EventRecorder(
            self.client, "node1", self.metrics, clock=lambda: self.now, wall=lambda: NOON,
            sleep=self.sleep, **options,
        )  # fmt: skip

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def send_all(self) -> None:
        while self.recorder.waiting:
            await self.recorder.step()

    def events(self) -> list[Json]:
        return list(self.server.store.at("/api/v1/events", self.server.store.version).values())

    def result(self, name: str) -> float:
        sample = self.metrics.registry.get_sample_value
        return sample("nodeagent_events_total", {"result": name}) or 0.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with KubeApi() as server:
        found = World(server)
        yield found
        await found.client.close()


async def test_an_event_is_sent_about_the_container_it_is_of(world: World) -> None:
    world.recorder.pod(a_pod(), "Normal", "Started", "Started container app", "app")
    world.recorder.pod(a_pod(), "Normal", "Started", "Started container first", "first")
    await world.send_all()
    first, second = world.events()
    assert first["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "apps", "name": "web", "uid": "u1",
        "resourceVersion": "7", "fieldPath": "spec.containers{app}",
    }  # fmt: skip
    assert first["firstTimestamp"] == "2024-05-01T12:00:00Z"
    assert first["metadata"]["namespace"] == "apps"
    assert first["metadata"]["name"].startswith("web.")
    assert second["involvedObject"]["fieldPath"] == "spec.initContainers{first}"


async def test_repeats_are_counted_in_one_object(world: World) -> None:
    for _ in range(3):
        world.recorder.pod(a_pod(), "Warning", "BackOff", "again", "app")
    await world.send_all()
    assert [event["count"] for event in world.events()] == [3]
    world.recorder.pod(a_pod(), "Warning", "BackOff", "again", "app")
    await world.send_all()
    assert [event["count"] for event in world.events()] == [4]
    assert [method for method, _, _ in world.server.writes] == ["POST", "PATCH"]


async def test_an_event_that_has_expired_there_is_made_anew(world: World) -> None:
    world.recorder.pod(a_pod(), "Warning", "BackOff", "again")
    await world.send_all()
    name = world.events()[0]["metadata"]["name"]
    world.server.remove("events", f"apps/{name}")
    world.recorder.pod(a_pod(), "Warning", "BackOff", "again")
    await world.send_all()
    assert [event["count"] for event in world.events()] == [2]
    assert world.events()[0]["metadata"]["name"] != name


async def test_a_static_pod_and_its_mirror_have_the_same_events(world: World) -> None:
    world.recorder.pod(a_pod("hash", static="yes"), "Normal", "Pulled", "m")
    world.recorder.pod(a_pod("other", **{MIRROR: "hash"}), "Normal", "Pulled", "m")
    await world.send_all()
    assert [event["involvedObject"]["uid"] for event in world.events()] == ["hash"]


async def test_an_event_of_the_node_names_it_as_kubectl_looks_for_it(world: World) -> None:
    world.recorder.node("Normal", "NodeReady", "Node node1 is ready")
    await world.send_all()
    event = world.events()[0]
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "node1",
    }  # fmt: skip
    assert event["metadata"]["namespace"] == "default"
    assert event["source"] == {"component": "kubelet", "host": "node1"}


async def test_an_answer_that_was_lost_makes_no_second_event(world: World) -> None:
    world.server.lose_answers = 1
    world.recorder.pod(a_pod(), "Normal", "Started", "m")
    await world.send_all()
    assert len(world.events()) == 1
    assert world.result("sent") == 1


@pytest.mark.parametrize("fault", ["cut", "hang", Refused(503, "ServiceUnavailable")])
async def test_events_wait_for_a_server_in_their_order(world: World, fault: Any) -> None:
    world.server.fail("write", fault, times=2)
    for number in range(3):
        world.recorder.pod(a_pod(), "Normal", "Started", f"m{number}")
    await world.send_all()
    assert [event["message"] for event in world.events()] == ["m0", "m1", "m2"]
    assert len(world.naps) == 2


async def test_an_event_that_is_refused_is_let_go(world: World) -> None:
    refusal = Refused(403, "Forbidden", "namespace apps is being terminated")
    world.server.fail("write", refusal)
    world.recorder.pod(a_pod(), "Normal", "Killing", "m")
    world.recorder.node("Normal", "NodeReady", "m")
    await world.send_all()
    assert [event["reason"] for event in world.events()] == ["NodeReady"]
    assert world.result("refused") == 1


async def test_the_queue_is_bounded_and_the_newest_stay() -> None:
    async with KubeApi() as server:
        world = World(server, most=5, most_waiting=2)
        for number in range(8):
            world.recorder.pod(a_pod(f"u{number}"), "Normal", "Started", "m")
        assert world.recorder.waiting == 5
        assert world.result("dropped") == 3
        await server.down()
        await world.recorder.step()
        assert world.recorder.waiting == 2
        await server.up()
        await world.send_all()
        assert [e["involvedObject"]["uid"] for e in world.events()] == ["u6", "u7"]
        world.recorder.pod(a_pod("u0"), "Normal", "Started", "m")
        await world.send_all()
        assert len(world.events()) == 3
        await world.client.close()


async def test_events_are_given_up_when_no_server_answers_for_long(world: World) -> None:
    await world.server.down()
    world.recorder.pod(a_pod(), "Normal", "Started", "m")
    await world.send_all()
    assert 600.0 < world.now < 650.0
    assert world.result("given_up") == 1


async def test_all_events_together_keep_to_the_rate() -> None:
    async with KubeApi() as server:
        world = World(server, qps=10.0, burst=5)
        for number in range(10):
            world.recorder.pod(a_pod(f"u{number}"), "Normal", "Started", "m")
        await world.send_all()
        assert len(world.events()) == 10
        assert sum(world.naps) == pytest.approx(0.5)
        await world.client.close()


async def test_a_flood_of_one_pod_is_limited(world: World) -> None:
    for number in range(40):
        world.recorder.pod(a_pod(), "Warning", "Unhealthy", f"m{number}")
    await world.send_all()
    assert len(world.events()) == 11
    assert sum(event["count"] for event in world.events()) == 25
    assert world.result("limited") == 15


async def test_warnings_are_in_the_log_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        world.recorder.pod(a_pod(), "Warning", "BackOff", "again", "app")
    world.recorder.pod(a_pod(), "Normal", "Started", "m")
    assert caplog.messages == ["pod apps/web: BackOff: again"]


async def test_without_an_api_server_events_are_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    recorder = EventRecorder(None, "node1", Metrics("nodeagent"))
    recorder.pod(a_pod(), "Normal", "Started", "m")
    recorder.node("Normal", "Starting", "begins")
    assert caplog.messages == ["pod apps/web: Started: m", "node node1: Starting: begins"]
    assert recorder.waiting == 0


async def test_what_waits_is_sent_before_the_end(world: World) -> None:
    running = asyncio.create_task(world.recorder.run())
    world.recorder.pod(a_pod(), "Normal", "Started", "m")
    await world.recorder.drain(20.0)
    assert len(world.events()) == 1
    world.server.pause()
    world.recorder.pod(a_pod(), "Normal", "Killing", "m")
    await eventually(lambda: len(world.server.requests) == 2)
    await world.recorder.drain(0.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
