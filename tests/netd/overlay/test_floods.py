"""Floods: one line a period and kind, with nothing left uncounted."""

import asyncio
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from netd.overlay.floods import Floods

events = st.lists(st.tuples(st.floats(0, 7), st.sampled_from("ab"), st.integers(1, 5)))


class Log:
    """A clock that is set, and the lines with the time at which they were said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[tuple[float, str, int, float]] = []

    def say(self, kind: str, count: int, seconds: float) -> None:
        self.lines.append((self.now, kind, count, seconds))


@given(events)
def test_every_event_is_told_once_and_no_kind_twice_in_a_period(
    given_events: list[tuple[float, str, int]],
) -> None:
    """Whatever comes when: the counts add up and the lines keep their distance."""
    log = Log()

    async def play() -> None:
        floods = Floods(log.say, lambda: log.now, period=10.0)
        for pause, kind, count in given_events:
            log.now += pause
            floods.note(kind, count)
        log.now += 10
        floods.stop()

    asyncio.run(play())
    noted, told = Counter[str](), Counter[str]()
    for _pause, kind, count in given_events:
        noted[kind] += count
    for _when, kind, count, _seconds in log.lines:
        told[kind] += count
    assert told == noted
    for wanted in "ab":
        times = [when for when, kind, *_ in log.lines if kind == wanted]
        assert all(later - sooner >= 10 - 1e-6 for sooner, later in pairwise(times))


async def test_held_events_are_told_without_a_further_one() -> None:
    """The end of a flood is told by itself when its period is over."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    lines: list[tuple[str, int]] = []

    def say(kind: str, count: int, _seconds: float) -> None:
        lines.append((kind, count))
        if len(lines) == 2:
            told.set()

    floods = Floods(say, loop.time, period=0.01)
    floods.note("mtu")
    floods.note("mtu", 3)
    async with asyncio.timeout(60):
        await told.wait()
    assert sum(count for _kind, count in lines) == 4
    floods.stop()
    assert len(lines) == 2


def test_after_a_quiet_period_an_event_is_news() -> None:
    """It is told at once and not as part of the last seconds."""
    log = Log()
    floods = Floods(log.say, lambda: log.now, period=10.0)
    floods.note("mtu")
    log.now = 25.0
    floods.note("mtu", 2)
    assert log.lines == [(0.0, "mtu", 1, 0.0), (25.0, "mtu", 2, 0.0)]
