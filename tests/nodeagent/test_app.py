"""The whole agent on a fake Docker and a fake API server: what it begins with, and its ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostkit.command import Completed
from nodeagent import app as module
from nodeagent.app import NodeAgentApp
from nodeagent.config import load_settings
from nodeagent.docker.pause import PAUSE
from nodeagent.node.address import AddressError, NodeAddress
from nodeagent.node.pressure import Level
from nodeagent.server.server import KubeletServer
from tests.fakes.docker_world import Program, World
from tests.fakes.kubeapi import KubeApi
from tests.nodeagent.pods.agent import Engine
from tests.support.poll import eventually

NAME = "192.0.2.7"
IMAGE = "app:1"


class NoRunner:
    """No command is needed for these pods."""

    async def run(self, argv: Any, **_more: Any) -> Completed:
        """As ``Runner``."""
        raise AssertionError(f"nobody asked for {argv}")


@pytest.fixture
def world() -> World:
    """A Docker with the images that pods need."""
    made = World()
    made.add_image(IMAGE)
    made.add_image(PAUSE)
    return made


Start = Callable[..., Awaitable[NodeAgentApp]]


@pytest.fixture
async def start(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Starts agents of that Docker with some flags; what still runs is ended."""
    running: list[tuple[NodeAgentApp, asyncio.Task[int]]] = []
    monkeypatch.setattr(module, "DockerEngine", lambda *_a, **_k: Engine(world))
    monkeypatch.setattr(module, "RETRY", 0.01)

    async def begin(*flags: str) -> NodeAgentApp:
        settings = load_settings(
            [
                f"--root-dir={tmp_path / 'root'}", f"--run-dir={tmp_path / 'run'}",
                f"--hostname-override={NAME}", "--enable-server=false", "--healthz-port=0",
                "--read-only-port=0", "--cgroups-per-qos=false", "--register-node=false",
                "--eviction-hard=", *flags,
            ],
            {},
        )  # fmt: skip
        made = NodeAgentApp(settings, NoRunner())
        task = asyncio.create_task(made.run())
        running.append((made, task))
        return made

    yield begin
    for made, task in running:
        made.service.stop()
        assert await task == 0


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A folder of manifests."""
    made = tmp_path / "manifests"
    made.mkdir()
    return made


def document(name: str, **spec: Any) -> dict[str, Any]:
    """A pod as a client writes it."""
    usual: dict[str, Any] = {
        "containers": [{"name": "app", "image": IMAGE}],
        "terminationGracePeriodSeconds": 1,
        "nodeName": NAME,
    }
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": usual | spec,
    }  # fmt: skip


@asynccontextmanager
async def api() -> AsyncIterator[KubeApi]:
    """An API server."""
    async with KubeApi() as server:
        yield server


def phase(server: KubeApi, name: str) -> str:
    """The phase of a pod as it was reported."""
    found = server.object("pods", f"default/{name}")
    return "" if found is None else str((found.get("status") or {}).get("phase") or "")


def runs(world: World) -> bool:
    """Whether a container of a pod runs."""
    return any(one.running for one in world.find("app"))


def engine_of(agent: NodeAgentApp) -> Engine:
    """An agent's hold on the fake Docker."""
    found: Any = agent.engine
    assert isinstance(found, Engine)
    return found


# --- what it begins with ---


async def test_manifests_alone_are_run_and_no_api_server_is_asked(
    world: World, start: Start, manifests: Path
) -> None:
    (manifests / "web.json").write_text(json.dumps(document("web")))
    agent = await start(f"--pod-manifest-path={manifests}")
    await eventually(lambda: runs(world))
    await eventually(lambda: agent.service.not_ready() == [])
    status = agent.status()
    assert status["api"] is None
    assert [(one["source"], one["name"]) for one in status["pods"]] == [("file", f"web-{NAME}")]
    assert status["docker"]["trouble"] == ""
    (manifests / "web.json").unlink()
    await eventually(lambda: world.containers == {})


async def test_pods_of_an_api_server_are_run_and_reported(world: World, start: Start) -> None:
    async with api() as server:
        server.create("pods", document("web"))
        agent = await start(f"--api-servers={server.url}")
        await eventually(lambda: phase(server, "web") == "Running")
        assert agent.status()["manifests"] is None
        server.change(
            "pods", "default/web",
            metadata=document("web")["metadata"]
            | {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1},
        )  # fmt: skip
        await eventually(lambda: server.object("pods", "default/web") is None)
        assert world.containers == {}


async def test_an_agent_without_docker_says_so_and_begins_when_docker_comes(
    world: World, start: Start, manifests: Path
) -> None:
    world.stop_daemon()
    (manifests / "web.json").write_text(json.dumps(document("web")))
    agent = await start(f"--pod-manifest-path={manifests}")
    await eventually(lambda: "refused" in agent.trouble())
    assert any("docker" in one for one in agent.service.not_ready())
    assert agent.status()["node"]["ready"] is False
    assert agent.status()["pods"] == []
    assert agent.service.not_alive() == []
    world.start_daemon()
    await eventually(lambda: runs(world))
    await eventually(lambda: agent.service.not_ready() == [])


async def test_an_agent_without_an_address_names_that_and_begins_when_there_is_one(
    world: World, start: Start, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[str] = []

    async def find(_self: Any) -> str:
        if not there:
            raise AddressError("there is no default route: set --node-ip")
        return there[0]

    monkeypatch.setattr("nodeagent.node.address.NodeAddress.find", find)
    (manifests / "web.json").write_text(json.dumps(document("web")))
    agent = await start(f"--pod-manifest-path={manifests}")
    await eventually(lambda: any("--node-ip" in one for one in agent.service.not_ready()))
    assert not runs(world)
    there.append("192.0.2.8")
    await eventually(lambda: runs(world))
    await eventually(lambda: agent.service.not_ready() == [])


async def test_a_pod_that_cannot_be_decoded_is_told_so_and_others_run(
    world: World, start: Start
) -> None:
    async with api() as server:
        server.create("pods", document("odd", containers="many"))
        server.create("pods", document("web"))
        await start(f"--api-servers={server.url}")
        await eventually(lambda: phase(server, "web") == "Running")
        await eventually(lambda: phase(server, "odd") == "Failed")
        found = server.object("pods", "default/odd")
        assert found is not None
        assert "containers" in found["status"]["message"]
        writes = [path for _, path, _ in server.writes if "/odd/" in path]
        for number in range(5):
            server.create("pods", document(f"more{number}"))
        await eventually(lambda: phase(server, "more4") == "Running")
        assert [path for _, path, _ in server.writes if "/odd/" in path] == writes


async def test_of_two_pods_of_a_name_the_server_shows_the_one_that_is_wanted(
    world: World, start: Start
) -> None:
    world.run("app", Program(ignores=frozenset({"TERM"})))
    async with api() as server:
        server.create("pods", document("web", terminationGracePeriodSeconds=600))
        agent = await start(f"--api-servers={server.url}")
        await eventually(lambda: phase(server, "web") == "Running")
        server.remove("pods", "default/web")
        again = document("web")
        again["metadata"]["uid"] = "uid-new"
        server.create("pods", again)
        await eventually(lambda: phase(server, "web") == "Running")
        found = module.AppParts(agent).find("default", "web")
        assert found is not None
        assert found[0].uid == "uid-new"
        assert len(module.AppParts(agent).pods()) == 2


async def test_only_a_pod_s_own_start_is_measured(world: World, start: Start) -> None:
    async with api() as server:
        server.create("pods", document("web"))
        first = await start(f"--api-servers={server.url}")
        await eventually(lambda: phase(server, "web") == "Running")
        world.exit(world.find("app")[0].id, 1)
        await eventually(lambda: len(world.find("app")) == 2)
        await eventually(
            lambda: '"restartCount": 1' in json.dumps(server.object("pods", "default/web"))
        )
        assert b"pod_start_duration_seconds_count 1.0" in first.metrics.render()
        first.service.stop()
        await eventually(engine_of(first).closed.is_set)
        second = await start(f"--api-servers={server.url}")
        await eventually(lambda: second.pods is not None and second.pods.manager.all_listed)
        world.exit(world.find("app")[-1].id, 1)
        await eventually(
            lambda: '"restartCount": 2' in json.dumps(server.object("pods", "default/web"))
        )
        assert b"pod_start_duration_seconds_count 0.0" in second.metrics.render()


# --- pressure ---


async def test_what_is_scarce_ends_one_pod_at_once_and_the_next_only_when_it_is_gone(
    world: World, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("app", Program(ignores=frozenset({"TERM"})))
    async with api() as server:
        for name in ("a", "b"):
            server.create("pods", document(name, terminationGracePeriodSeconds=600))
        agent = await start(f"--api-servers={server.url}", "--eviction-hard=pid.available<10%")
        await eventually(lambda: all(phase(server, name) == "Running" for name in "ab"))
        agent.pressure.observe({"pid.available": Level(1, 1000)}, 0.0)
        agent._pressed(True)
        await eventually(lambda: "Failed" in {phase(server, name) for name in "ab"})
        await eventually(lambda: len([c for c in world.find("app") if c.running]) == 1)
        assert sorted(phase(server, name) for name in "ab") == ["Failed", "Running"]
        agent.pressure.observe({"pid.available": Level(999, 1000)}, 1.0)


# --- its end ---


@pytest.mark.parametrize("call", ["start", "containers", "inspect", "remove"])
async def test_an_agent_that_is_told_to_end_does_so_though_docker_hangs(
    call: str, world: World, start: Start, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL", 0.05)
    world.run("app", Program(exits=1))
    agent = await start(f"--pod-manifest-path={manifests}", "--container-backoff-first=0.01s")
    await eventually(lambda: agent.service.not_ready() == [])
    engine = engine_of(agent)
    engine.hang(call)
    (manifests / "web.json").write_text(json.dumps(document("web")))
    before = engine.calls.count(call)
    await eventually(lambda: engine.calls.count(call) > before)
    agent.service.stop()


async def test_a_start_that_was_cut_short_by_the_end_is_finished_by_the_next_agent(
    world: World, start: Start, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL", 0.05)
    (manifests / "web.json").write_text(json.dumps(document("web")))
    first = await start(f"--pod-manifest-path={manifests}")
    engine = engine_of(first)
    engine.hang("start")
    await eventually(lambda: "start" in engine.calls)
    first.service.stop()
    await eventually(engine.closed.is_set)
    assert [one.status for one in world.containers.values()] == ["created"]
    await start(f"--pod-manifest-path={manifests}")
    await eventually(lambda: runs(world))
    assert [one.labels["annotation.io.kubernetes.container.restartCount"]
            for one in world.containers.values()] == ["0", "0"]  # fmt: skip


async def test_a_status_of_surprising_types_stops_nothing(world: World, start: Start) -> None:
    async with api() as server:
        for name, status in (("odd", {"phase": ["Failed"]}), ("web", {})):
            server.create("pods", {**document(name), "status": status})
        await start(f"--api-servers={server.url}")
        for name in ("web", "odd"):
            await eventually(lambda name=name: phase(server, name) == "Running")  # type: ignore[misc]


async def test_the_server_begins_once_the_address_for_its_certificate_is_known(
    start: Start, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate without it would be refused by clients, and soon be made anew."""
    names: list[tuple[str, ...]] = []
    may = asyncio.Event()

    async def find(_self: Any) -> str:
        await may.wait()
        return "192.0.2.9"

    async def run(self: Any) -> None:
        names.append(self._parts.names())
        await asyncio.Event().wait()

    monkeypatch.setattr(NodeAddress, "find", find)
    monkeypatch.setattr(KubeletServer, "run", run)
    await start(f"--pod-manifest-path={manifests}")
    await asyncio.sleep(0)
    assert names == []
    may.set()
    await eventually(lambda: bool(names))
    assert "192.0.2.9" in names[0]
