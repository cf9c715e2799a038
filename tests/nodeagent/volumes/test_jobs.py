"""Calls in threads that may hang."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from nodeagent.volumes.jobs import Jobs


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """What a hanging call waits for; the test's end sets it."""
    event = threading.Event()
    yield event
    event.set()


async def test_results_and_errors_are_passed_on() -> None:
    jobs = Jobs()
    assert await jobs.run("a", lambda: 7, within=10) == 7
    with pytest.raises(ValueError, match="no"):
        await jobs.run("a", lambda: int("no"), within=10)
    assert jobs.running == frozenset()


async def test_a_call_that_hangs_ends_its_callers_wait_and_keeps_its_key(
    hang: threading.Event,
) -> None:
    jobs = Jobs()
    with pytest.raises(TimeoutError):
        await jobs.run("a", hang.wait, within=0.01)
    with pytest.raises(TimeoutError):
        await jobs.run("a", lambda: pytest.fail("it ran beside the one before"), within=0.01)
    assert jobs.running == {"a"}
    assert await jobs.run("b", lambda: 7, within=10) == 7
    hang.set()
    assert await jobs.run("a", lambda: 8, within=10) == 8


async def test_more_hanging_calls_than_places_hold_back_nobody(hang: threading.Event) -> None:
    jobs = Jobs(most=2)
    stuck = [jobs.run(f"stuck{number}", hang.wait, within=0.01) for number in range(4)]
    results = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(one, TimeoutError) for one in results)
    assert await jobs.run("a", lambda: 7, within=10) == 7


async def test_a_cancelled_call_goes_on_and_the_next_of_its_key_waits(
    hang: threading.Event,
) -> None:
    jobs = Jobs()
    order: list[str] = []
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        loop.call_soon_threadsafe(begun.set)
        hang.wait()
        order.append("first")

    task = asyncio.create_task(jobs.run("a", first, within=10))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = asyncio.create_task(jobs.run("a", lambda: order.append("second"), within=10))
    await asyncio.sleep(0)
    hang.set()
    await after
    assert order == ["first", "second"]


async def test_settle_waits_for_the_calls_of_a_prefix_only(hang: threading.Event) -> None:
    jobs = Jobs()
    task = asyncio.create_task(jobs.run("u1/a", hang.wait, within=10))
    await asyncio.sleep(0)
    assert await jobs.settle("u2/", within=10)
    assert not await jobs.settle("u1/", within=0.01)
    hang.set()
    assert await jobs.settle("u1/", within=10)
    assert await task


async def test_a_cancelled_wait_for_a_place_leaves_the_key_free(hang: threading.Event) -> None:
    jobs = Jobs(most=1)
    first = asyncio.create_task(jobs.run("a", hang.wait, within=10))
    await asyncio.sleep(0)
    second = asyncio.create_task(jobs.run("b", lambda: 7, within=10))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    hang.set()
    assert await first
    assert await jobs.run("b", lambda: 8, within=10) == 8
    assert jobs.running == frozenset()
