"""Statuses on their way to an API server that fails in all ways."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.api.statuses import STRATEGIC, StatusWriter
from nodeagent.pods.model import Pod, decode
from tests.fakes.kube import Refused
from tests.fakes.kubeapi import KubeApi
from tests.support.poll import eventually


class World:
    """A writer in front of a server with pods; time passes by ``now`` only."""

    def __init__(self, server: KubeApi) -> None:
        self.server = server
        self.client = KubeClient(KubeConfig((server.url,)), user_agent="test", deadline=5)
        self.problems = Problems()
        self.metrics = Metrics("nodeagent")
        self.now = 0.0
        self.naps: list[float] = []
        self.asleep = asyncio.Event()
        self.blocked = False
        self.writer = StatusWriter(
            self.client,
            self.problems,
            self.metrics,
            deadline=1.0,
            backoff=Backoff(first=0.01, most=0.02),
            calm=Backoff(first=1.0, most=60.0, jitter=0.0),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.asleep.set()
        if self.blocked:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def pod(self, name: str = "web", uid: str = "u1", **status: Any) -> Pod:
        meta = {"name": name, "namespace": "default", "uid": uid}
        return decode(self.server.create("pods", {"metadata": meta, "spec": {}, "status": status}))

    def status(self, name: str = "web") -> dict[str, Any]:
        found = self.server.object("pods", f"default/{name}")
        return dict(found["status"]) if found else {}

    def seen(self, name: str = "web") -> Pod:
        return decode(self.server.object("pods", f"default/{name}") or {})

    def result(self, name: str) -> float:
        sample = self.metrics.registry.get_sample_value
        return sample("nodeagent_status_writes_total", {"result": name}) or 0.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with KubeApi() as server:
        found = World(server)
        yield found
        await found.writer.close()
        await found.client.close()


async def test_a_status_is_written_and_says_whose_it_is(world: World) -> None:
    pod = world.pod()
    world.writer.put(pod, {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]})
    await world.writer.flush("u1")
    assert world.status() == {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}
    method, path, body = world.server.writes[0]
    assert (method, path) == ("PATCH", "/api/v1/namespaces/default/pods/web/status")
    assert body["metadata"] == {"uid": "u1"}
    headers = world.server.requests[0][3]
    assert headers["Content-Type"] == STRATEGIC
    assert world.writer.pending == 0
    assert world.result("written") == 1


async def test_what_says_nothing_new_costs_nothing(world: World) -> None:
    pod = world.pod(phase="Running", reason=None)
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.writer.put(pod, {"phase": "Pending"})
    await world.writer.flush("u1")
    world.writer.put(pod, {"phase": "Pending", "conditions": []})
    await world.writer.flush("u1")
    assert len(world.server.writes) == 1


async def test_only_the_newest_is_written(world: World) -> None:
    pod = world.pod()
    for number in range(20):
        world.writer.put(pod, {"phase": "Running", "podIP": f"10.0.0.{number}"})
    await world.writer.flush("u1")
    assert world.status()["podIP"] == "10.0.0.19"
    assert len(world.server.writes) == 1


async def test_what_comes_while_a_write_is_under_way_is_written_after_it(world: World) -> None:
    pod = world.pod()
    world.server.pause()
    world.writer.put(pod, {"phase": "Pending"})
    await eventually(lambda: bool(world.server.requests))
    world.writer.put(pod, {"phase": "Running"})
    world.server.resume()
    await eventually(lambda: world.status().get("phase") == "Running")
    assert len(world.server.writes) == 2


async def test_many_pods_are_written_beside_each_other_within_the_bound(world: World) -> None:
    pods = [world.pod(f"web-{n}", f"u{n}") for n in range(30)]
    world.server.pause()
    for pod in pods:
        world.writer.put(pod, {"phase": "Running"})
    await eventually(lambda: len(world.server.requests) == 8)
    world.server.resume()
    for pod in pods:
        await world.writer.flush(pod.uid)
    assert all(world.status(pod.metadata.name) == {"phase": "Running"} for pod in pods)


@pytest.mark.parametrize(
    "fault",
    ["cut", "hang", Refused(500, "InternalError"), Refused(403, "Forbidden"),
     Refused(409, "Conflict", "the object has been modified")],
)  # fmt: skip
async def test_after_a_failure_the_newest_is_tried_until_it_is_written(
    world: World, fault: Any
) -> None:
    pod = world.pod()
    world.server.fail("write", fault, times=3)
    world.writer.put(pod, {"phase": "Running"})
    await eventually(lambda: world.status() == {"phase": "Running"})
    await eventually(lambda: not list(world.problems.all()))
    assert len(world.naps) == 3


async def test_after_a_write_of_unknown_fate_the_server_is_asked_what_it_has(world: World) -> None:
    pod = world.pod(phase="Pending")
    world.server.lose_answers = 1
    world.blocked = True
    world.writer.put(pod, {"phase": "Running", "podIP": "10.0.0.1"})
    await world.asleep.wait()
    assert world.status()["phase"] == "Running"
    # Back to what the server had before: the difference to that is empty.
    world.writer.put(pod, {"phase": "Pending"})
    world.writer.hurry()
    await eventually(lambda: world.status() == {"phase": "Pending"})


async def test_a_refusal_that_would_be_repeated_is_named_and_left(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(422, "Invalid", "phase: unsupported"))
    world.writer.put(pod, {"phase": "Odd"})
    await world.writer.flush("u1")
    problem = world.problems.all()[0]
    assert problem.key == "status of pod default/web"
    assert "phase: unsupported" in problem.text
    assert len(world.server.requests) == 1
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    assert world.status() == {"phase": "Running"}
    assert not world.problems.all()


async def test_the_problem_of_an_object_goes_with_the_object(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(422, "Invalid", "phase: unsupported"))
    world.writer.put(pod, {"phase": "Odd"})
    await world.writer.flush("u1")
    assert world.problems.all()
    world.writer.forget("u1")
    assert not world.problems.all()


async def test_what_comes_while_a_write_is_refused_is_written_after_it(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(422, "Invalid", "phase: unsupported"))
    world.server.pause()
    world.writer.put(pod, {"phase": "Odd"})
    await eventually(lambda: bool(world.server.requests))
    world.writer.put(pod, {"phase": "Running"})
    world.server.resume()
    await eventually(lambda: world.status() == {"phase": "Running"})


async def test_flush_ends_at_a_refusal_and_waits_for_a_server(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(403, "Forbidden"), times=1000)
    world.blocked = True
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    assert world.writer.pending == 1


async def test_an_object_that_is_gone_is_let_go(world: World) -> None:
    pod = world.pod()
    world.server.remove("pods", "default/web")
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.writer.put(pod, {"phase": "Failed"})
    await world.writer.flush("u1")
    assert len(world.server.requests) == 1
    assert world.result("gone") == 1


async def test_another_pod_of_the_same_name_is_not_touched(world: World) -> None:
    pod = world.pod()
    world.pod(uid="u2")
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    assert world.status() == {}
    assert world.result("gone") == 1


async def test_a_field_that_an_older_server_does_not_know_is_left_out(world: World) -> None:
    world.server.unknown = {"hostIPs"}
    for number in (1, 2):
        pod = world.pod(f"web-{number}", f"u{number}")
        world.writer.put(pod, {"phase": "Running", "hostIPs": [{"ip": "192.0.2.1"}]})
        await world.writer.flush(pod.uid)
        assert world.status(f"web-{number}") == {"phase": "Running"}
    assert len(world.server.writes) == 3


async def test_what_others_overwrite_is_corrected_ever_more_slowly(world: World) -> None:
    pod = world.pod()
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.writer.observed(world.seen())
    assert len(world.server.writes) == 1
    for _ in range(4):
        world.server.change("pods", "default/web", status={"phase": "Pending"})
        world.writer.observed(world.seen())
        await eventually(lambda: world.status()["phase"] == "Running")
        # The writer has the answer, too.
        await world.writer.flush("u1")
    assert world.naps == [1.0, 2.0, 4.0]
    world.now += 1000.0
    world.server.change("pods", "default/web", status={"phase": "Pending"})
    world.writer.observed(world.seen())
    await eventually(lambda: world.status()["phase"] == "Running")
    assert len(world.naps) == 3


async def test_a_new_status_does_not_wait_for_a_quarrel_to_calm_down(world: World) -> None:
    pod = world.pod()
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.blocked = True
    for _ in range(2):
        world.server.change("pods", "default/web", status={"phase": "Pending"})
        world.writer.observed(world.seen())
        await eventually(lambda: world.status()["phase"] == "Running" or world.asleep.is_set())
    assert world.status()["phase"] == "Pending"
    world.writer.put(pod, {"phase": "Running", "podIP": "10.0.0.1"})
    await eventually(lambda: world.status().get("podIP") == "10.0.0.1")


async def test_a_flush_does_not_wait_for_a_quarrel_to_calm_down(world: World) -> None:
    pod = world.pod()
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.blocked = True
    for _ in range(2):
        world.server.change("pods", "default/web", status={"phase": "Pending"})
        world.writer.observed(world.seen())
        await world.writer.flush("u1")
        assert world.status()["phase"] == "Running"


async def test_an_echo_of_former_times_is_no_overwriting(world: World) -> None:
    pod = world.pod(phase="Pending")
    old = world.seen()
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    world.writer.observed(old)
    await world.writer.flush("u1")
    assert len(world.server.writes) == 1
    # An etcd that was rebuilt counts from its backup.
    world.now += 100.0
    world.writer.observed(old)
    await world.writer.flush("u1")
    assert len(world.server.writes) == 2


async def test_conditions_of_others_are_no_overwriting(world: World) -> None:
    pod = world.pod()
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    foreign = [{"type": "lb/attached", "status": "True"}]
    world.server.change("pods", "default/web", status={"phase": "Running", "conditions": foreign})
    world.writer.observed(world.seen())
    await world.writer.flush("u1")
    assert len(world.server.writes) == 1


async def test_a_mirror_that_was_made_again_gets_its_status(world: World) -> None:
    status = {"phase": "Running"}
    world.writer.put(world.pod(), status)
    await world.writer.flush("u1")
    world.writer.put(world.pod(uid="u2"), status)
    await world.writer.flush("u2")
    assert world.status() == {"phase": "Running"}


async def test_the_deletion_follows_the_last_status(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", "cut", times=2)
    world.writer.put(pod, {"phase": "Failed"})
    assert await world.writer.confirm_gone(pod)
    assert world.server.object("pods", "default/web") is None
    assert [method for method, _, _ in world.server.writes] == ["PATCH", "DELETE"]
    body = world.server.writes[-1][2]
    assert body["gracePeriodSeconds"] == 0
    assert body["preconditions"] == {"uid": "u1"}


async def test_a_deletion_is_tried_until_the_object_is_gone(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", "cut", times=2)
    world.server.fail("write", Refused(503, "ServiceUnavailable"))
    world.server.lose_answers = 1
    assert await world.writer.confirm_gone(pod)
    assert world.server.object("pods", "default/web") is None


async def test_a_successor_of_the_same_name_is_not_deleted(world: World) -> None:
    pod = world.pod()
    world.pod(uid="u2")
    assert await world.writer.confirm_gone(pod)
    assert world.server.object("pods", "default/web") is not None


async def test_a_refused_deletion_is_told(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(403, "Forbidden"))
    assert not await world.writer.confirm_gone(pod)


async def test_a_server_that_answers_nonsense_does_no_harm(world: World) -> None:
    pod = world.pod()
    world.server.fail("write", Refused(200, text="no json"))
    world.writer.put(pod, {"phase": "Running"})
    await world.writer.flush("u1")
    assert world.writer.pending == 0
    assert json.dumps(world.server.writes) == "[]"
