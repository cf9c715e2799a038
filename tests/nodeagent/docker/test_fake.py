"""The fake Docker refuses and survives as the real one does; other tests lean on that."""

import asyncio
from contextlib import aclosing

import pytest

from nodeagent.docker.api import Engine, ExecResult, LogOptions
from nodeagent.docker.labels import container_name, labels_for
from nodeagent.errors import EngineConflict, EngineNotFound, EngineUnavailable
from nodeagent.pods.observed import SANDBOX
from tests.fakes.docker import AgentKilled, FakeEngine, Program
from tests.nodeagent.docker.support import pod


def world() -> FakeEngine:
    engine = FakeEngine()
    engine.world.add_image("nginx:1.25")
    return engine


async def make(engine: Engine, name: str = "c", mode: str = "", image: str = "nginx:1.25") -> str:
    body = {"Image": image, "Labels": labels_for(pod(), name, 0)}
    if mode:
        body |= {"HostConfig": {"NetworkMode": mode}}
    return await engine.create(container_name(pod(), name, 0), body)


async def test_names_are_unique_and_images_have_to_be_here() -> None:
    engine = world()
    await make(engine)
    with pytest.raises(EngineConflict, match="already in use by container"):
        await make(engine)
    with pytest.raises(EngineNotFound, match="No such image"):
        await make(engine, "d", image="other:1")


async def test_nobody_joins_the_network_of_the_dead() -> None:
    engine = world()
    sandbox = await make(engine, SANDBOX)
    one = await make(engine, mode=f"container:{sandbox}")
    with pytest.raises(EngineConflict, match="cannot join network of a non running container"):
        await engine.start(one)
    assert (await engine.inspect(one)).state == "created"
    await engine.start(sandbox)
    await engine.start(one)
    await engine.kill(sandbox, "SIGKILL")
    assert (await engine.inspect(one)).running
    assert (await engine.inspect(sandbox)).address == ""


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("KILL", 137), ("3", 131)])
async def test_signals_end_processes(signal: str, code: int) -> None:
    engine = world()
    one = await make(engine)
    await engine.kill(one, signal)
    assert (await engine.inspect(one)).state == "created"
    await engine.start(one)
    await engine.kill(one, signal)
    assert (await engine.inspect(one)).exit_code == code


async def test_a_process_may_ignore_the_polite_signal_only() -> None:
    engine = world()
    engine.world.run("c", Program(ignores=frozenset({"SIGTERM", "SIGKILL"})))
    one = await make(engine)
    await engine.start(one)
    await engine.kill(one, "SIGTERM")
    assert (await engine.inspect(one)).running
    await engine.kill(one, "SIGKILL")
    assert not (await engine.inspect(one)).running


async def test_an_agent_killed_before_a_call_has_done_nothing() -> None:
    engine = world()
    engine.kill_before(1)
    with pytest.raises(AgentKilled):
        await make(engine)
    assert engine.world.containers == {}
    with pytest.raises(AgentKilled):
        await engine.containers()


async def test_an_agent_killed_after_a_call_has_done_it_and_the_next_one_sees_that() -> None:
    engine = world()
    engine.kill_after(2)
    one = await make(engine)
    with pytest.raises(AgentKilled):
        await engine.start(one)
    successor = engine.successor()
    assert [entry.state for entry in await successor.containers("u-1")] == ["running"]
    await successor.remove(one)
    assert await successor.containers() == []


async def test_calls_fail_before_or_after_their_effect() -> None:
    engine = world()
    engine.fail_next("create", EngineUnavailable("lost"), done=True)
    with pytest.raises(EngineUnavailable):
        await make(engine)
    assert len(engine.world.containers) == 1


async def test_a_killed_daemon_takes_containers_along_unless_it_restores_them() -> None:
    engine = world()
    one = await make(engine)
    for live in (True, False):
        await engine.start(one)
        engine.world.stop_daemon(live_restore=live)
        with pytest.raises(EngineUnavailable):
            await engine.containers()
        engine.world.start_daemon()
        assert (await engine.inspect(one)).running is live


async def test_commands_and_logs_are_as_told() -> None:
    engine = world()
    engine.world.commands["c check"] = ExecResult(3, b"x" * 50)
    engine.world.run("c", Program(output=b"hello\n"))
    one = await make(engine)
    with pytest.raises(EngineConflict, match="is not running"):
        await engine.exec(one, ["check"], timeout=5)
    await engine.start(one)
    assert await engine.exec(one, ["check"], timeout=5, limit=9) == ExecResult(3, b"x" * 9)
    assert await engine.exec(one, ["other"], timeout=5) == ExecResult(0, b"")
    async with aclosing(engine.logs(one, LogOptions(follow=True))) as logs:
        assert await anext(logs) == (1, b"hello\n")
        reading = asyncio.ensure_future(anext(logs))
        await asyncio.sleep(0)
        engine.world.write(one, b"more", 2)
        assert await reading == (2, b"more")


async def test_images_in_use_stay() -> None:
    engine = world()
    await make(engine)
    [image] = await engine.images()
    with pytest.raises(EngineConflict, match="stopped container"):
        await engine.remove_image(image.id)
