"""The loop: waits for its sources, coalesces, backs off, and never resumes a failed pass."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hostkit.reconcile import Backoff, Reconciler


class Work:
    """Work that counts its passes and fails as told; ``during`` is called within a pass."""

    def __init__(self) -> None:
        self.passes = 0
        self.failures: list[BaseException] = []
        self.during: Callable[[], None] = lambda: None
        self.seen: list[int] = []
        self.world = 0

    async def __call__(self) -> None:
        self.passes += 1
        self.seen.append(self.world)
        self.during()
        if self.failures:
            raise self.failures.pop(0)


class Sleeper:
    """A sleep that notes how long it was asked to be and only lets others run."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


def make(
    work: Callable[[], Awaitable[None]],
    *,
    sources: tuple[str, ...] = (),
    sleeper: Sleeper | None = None,
    settle: float = 0.0,
    resync: float = 0.0,
) -> Reconciler:
    """A loop whose pauses are exact and cost no time."""
    return Reconciler(
        "test", work, sources=sources, settle=settle, resync=resync,
        backoff=Backoff(first=1.0, most=8.0, jitter=0.0),
        sleep=sleeper or Sleeper(), clock=lambda: 42.0,
    )  # fmt: skip


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition*; fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def test_nothing_is_touched_before_every_source_has_listed() -> None:
    work = Work()
    loop = make(work, sources=("config", "records"))
    loop.trigger()
    assert not (await loop.step()).ran
    loop.listed("config")
    assert not (await loop.step()).ran
    assert loop.waiting_for == {"records"}
    loop.listed("records")
    assert (await loop.step()).ran
    assert work.passes == 1


async def test_the_last_source_to_list_asks_for_a_pass_by_itself() -> None:
    loop = make(Work(), sources=("records",))
    assert not loop.dirty
    loop.listed("records")
    assert loop.dirty


async def test_a_source_that_lists_again_does_not_ask_for_another_pass() -> None:
    loop = make(Work(), sources=("records",))
    loop.listed("records")
    await loop.step()
    loop.listed("records")
    loop.listed("unknown")
    assert not loop.dirty


async def test_many_triggers_are_one_pass_and_no_trigger_is_none() -> None:
    work = Work()
    loop = make(work)
    assert not (await loop.step()).ran
    for _ in range(5):
        loop.trigger()
    assert (await loop.step()).ran
    assert not (await loop.step()).ran
    assert work.passes == 1
    assert loop.last_success == 42.0


async def test_a_trigger_during_a_pass_causes_another_pass() -> None:
    work = Work()
    loop = make(work)
    work.during = loop.trigger
    loop.trigger()
    await loop.step()
    assert loop.dirty
    work.during = lambda: None
    assert (await loop.step()).ran
    assert not loop.dirty


async def test_a_failed_pass_stays_due_and_the_next_one_observes_anew() -> None:
    work = Work()
    fault = OSError("kernel says no")
    work.failures = [fault]
    loop = make(work)
    loop.trigger()
    outcome = await loop.step()
    assert outcome.ran
    assert outcome.error is fault
    assert (loop.dirty, loop.failures, loop.last_error) == (True, 1, fault)
    assert loop.last_success is None
    work.world = 7
    assert (await loop.step()).error is None
    assert work.seen == [0, 7]
    assert (loop.dirty, loop.failures, loop.last_error) == (False, 0, None)


async def test_an_error_that_is_not_tolerated_is_raised_and_the_pass_stays_due() -> None:
    work = Work()
    work.failures = [KeyError("a bug")]
    loop = make(work)
    loop.trigger()
    with pytest.raises(KeyError):
        await loop.step()
    assert loop.dirty
    assert loop.failures == 0


async def test_a_pass_that_was_cancelled_stays_due() -> None:
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    loop = make(hang)
    loop.trigger()
    task = asyncio.create_task(loop.step())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loop.dirty


async def test_the_endless_loop_backs_off_doubling_and_starts_over_after_a_success() -> None:
    work, sleeper = Work(), Sleeper()
    work.failures = [OSError(str(number)) for number in range(5)]
    loop = make(work, sleeper=sleeper)
    task = asyncio.create_task(loop.run())
    loop.trigger()
    await until(lambda: work.passes == 6)
    assert sleeper.asked == [1.0, 2.0, 4.0, 8.0, 8.0]
    work.failures = [OSError("again")]
    loop.trigger()
    await until(lambda: work.passes == 8)
    assert sleeper.asked[5:] == [1.0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_trigger_does_not_cut_a_back_off_short() -> None:
    work, gate = Work(), asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await gate.wait()

    work.failures = [OSError("first")]
    loop = Reconciler("test", work, sleep=sleep)
    task = asyncio.create_task(loop.run())
    loop.trigger()
    await until(lambda: work.passes == 1)
    loop.trigger()
    for _ in range(20):
        await asyncio.sleep(0)
    assert work.passes == 1
    gate.set()
    await until(lambda: work.passes == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_endless_loop_gathers_triggers_for_the_settling_time() -> None:
    work, sleeper = Work(), Sleeper()
    loop = make(work, sleeper=sleeper, settle=0.5)
    task = asyncio.create_task(loop.run())
    loop.trigger()
    loop.trigger()
    await until(lambda: work.passes == 1)
    assert sleeper.asked == [0.5]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_endless_loop_makes_a_pass_by_itself_after_quiet_time() -> None:
    work = Work()
    loop = make(work, resync=0.001)
    task = asyncio.create_task(loop.run())
    await until(lambda: work.passes >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_quiet_time_does_not_make_the_loop_touch_anything_before_the_sources_list() -> None:
    work = Work()
    loop = make(work, sources=("records",), resync=0.001)
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.dirty)
    assert work.passes == 0
    loop.listed("records")
    await until(lambda: work.passes >= 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_endless_loop_ends_on_an_error_that_is_not_tolerated() -> None:
    work = Work()
    work.failures = [KeyError("a bug")]
    loop = make(work)
    loop.trigger()
    with pytest.raises(KeyError):
        await asyncio.wait_for(loop.run(), 10)


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (10_000, 3.0)]
)
def test_delays_double_up_to_the_most(failures: int, expected: float) -> None:
    assert Backoff(first=0.5, most=3.0, jitter=0.0).delay(failures) == expected


def test_jitter_spreads_delays_by_no_more_than_its_share() -> None:
    delays = {Backoff(first=1.0, most=9.0, jitter=0.2).delay(1) for _ in range(200)}
    assert len(delays) > 1
    assert all(0.8 <= delay <= 1.2 for delay in delays)
