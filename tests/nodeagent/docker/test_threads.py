"""Threads are bounded, can be let go, and never hold the process."""

import asyncio
import socket
import threading

import pytest

from nodeagent.docker.threads import Abandoned, Grip, Lane, Pump, finished, spawn
from nodeagent.errors import EngineUnavailable
from tests.support.poll import eventually


async def test_a_lane_never_runs_more_than_its_size_and_loses_no_call() -> None:
    lane, lock, running, most = Lane("t", 3), threading.Lock(), 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return number

    futures = [lane.submit(lambda n=n: work(n)) for n in range(200)]  # type: ignore[misc]
    assert [await finished(one, wait=True) for one in futures] == list(range(200))
    assert most <= 3
    lane.close()


async def test_what_a_call_raises_is_raised_where_it_is_awaited() -> None:
    lane = Lane("t", 1)

    def work() -> None:
        raise EngineUnavailable("no")

    with pytest.raises(EngineUnavailable, match="no"):
        await finished(lane.submit(work), wait=True)
    lane.close()


async def test_idle_threads_end_and_are_made_again() -> None:
    lane = Lane("t", 2, idle=0.001)
    for _ in range(5):
        assert await finished(lane.submit(lambda: 7), wait=True) == 7
        await eventually(lambda: lane.threads == 0)
    lane.close()


async def test_a_closed_lane_takes_no_call() -> None:
    lane = Lane("t", 1)
    lane.close()
    with pytest.raises(EngineUnavailable, match="ending"):
        lane.submit(lambda: None)


@pytest.mark.parametrize("wait", [True, False])
async def test_a_cancelled_call_is_waited_for_only_when_asked(*, wait: bool) -> None:
    lane, gate, begun = Lane("t", 1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait()

    task = asyncio.create_task(finished(lane.submit(work), wait=wait))
    await eventually(begun.is_set)
    for _ in range(2):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert task.done() is not wait
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    lane.close()


async def test_a_cancelled_call_is_waited_for_no_longer_than_until_it_is_let_go() -> None:
    lane, gate, begun = Lane("t", 1), threading.Event(), threading.Event()
    let_go = asyncio.Event()

    def work() -> None:
        begun.set()
        gate.wait()

    task = asyncio.create_task(finished(lane.submit(work), wait=True, let_go=let_go))
    await eventually(begun.is_set)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    lane.close()


async def test_a_call_that_waits_for_a_thread_is_taken_back_when_cancelled() -> None:
    lane, gate, done = Lane("t", 1), threading.Event(), []
    first = lane.submit(gate.wait)
    task = asyncio.create_task(finished(lane.submit(lambda: done.append(1)), wait=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await finished(first, wait=True)
    assert await finished(lane.submit(lambda: list(done)), wait=True) == []
    lane.close()


async def test_a_pump_carries_everything_in_order_and_then_the_error() -> None:
    pump: Pump[int] = Pump(depth=2)

    def work() -> None:
        for number in range(50):
            pump.put(number)
        pump.end(EngineUnavailable("over"))

    spawn(work, "t")
    found = []
    with pytest.raises(EngineUnavailable, match="over"):
        async for one in pump:
            found.append(one)  # noqa: PERF401 - what came before the error counts
    assert found == list(range(50))


async def test_closing_a_pump_ends_a_thread_that_waits_for_room() -> None:
    pump: Pump[int] = Pump(depth=1)
    ended = threading.Event()

    def work() -> None:
        try:
            while True:
                pump.put(1)
        except Abandoned:
            ended.set()

    spawn(work, "t")
    assert await anext(pump) == 1
    pump.close()
    await eventually(ended.is_set)


def test_loosening_a_grip_ends_a_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        grip, read = Grip(), []
        grip.watch(ours.fileno())
        thread = threading.Thread(target=lambda: read.append(ours.recv(1)))
        thread.start()
        grip.loosen()
        thread.join()
        assert read == [b""]
        grip.end()
        with pytest.raises(Abandoned):
            grip.watch(ours.fileno())
