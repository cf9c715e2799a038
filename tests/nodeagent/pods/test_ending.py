"""Ending one container: preStop, signal, SIGKILL, within a time that only shrinks."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nodeagent.docker.api import Engine
from nodeagent.errors import EngineUnavailable
from nodeagent.pods.ending import Ending
from nodeagent.pods.observed import Seen
from tests.support.virtual import run

SEEN = Seen("c1", "u1", "web", "default", "app", 0, "running", stop_signal="SIGQUIT")


class Process:
    """A container that ends on *obeys*, *delay* seconds after the signal."""

    def __init__(self, obeys: str = "SIGQUIT", delay: float = 0.0) -> None:
        self.obeys = obeys
        self.delay = delay
        self.alive = True
        self.signals: list[tuple[float, str]] = []
        self.failures = 0
        self.ending: Ending | None = None
        self.looked = 0

    async def kill(self, _container: str, signal: str) -> None:
        if self.failures:
            self.failures -= 1
            raise EngineUnavailable("docker is away")
        loop = asyncio.get_running_loop()
        self.signals.append((loop.time(), signal))
        if signal == "SIGKILL":
            self._exit()
        elif signal == self.obeys:
            loop.call_later(self.delay, self._exit)

    def _exit(self) -> None:
        self.alive = False
        if self.ending is not None:
            self.ending.heard()

    async def look(self) -> None:
        self.looked += 1


def make(
    process: Process, grace: float, hook: Callable[[float], Awaitable[None]] | None = None
) -> Ending:
    ending = Ending(
        SEEN, grace, engine=_engine(process), hook=hook, runs=lambda: process.alive,
        look=process.look, clock=asyncio.get_running_loop().time,
    )  # fmt: skip
    process.ending = ending
    return ending


def _engine(process: Process) -> Engine:
    return process  # type: ignore[return-value]


def test_one_that_obeys_gets_its_own_stop_signal_and_no_other() -> None:
    async def main() -> None:
        process = Process(delay=0.3)
        await make(process, 30).run()
        assert [signal for _, signal in process.signals] == ["SIGQUIT"]
        assert asyncio.get_running_loop().time() == pytest.approx(0.3)

    run(main())


def test_one_that_does_not_is_killed_when_its_grace_is_over() -> None:
    async def main() -> None:
        process = Process(obeys="none")
        await make(process, 5).run()
        assert process.signals == [(0.0, "SIGQUIT"), (5.0, "SIGKILL")]

    run(main())


def test_without_grace_it_is_killed_at_once() -> None:
    async def main() -> None:
        process = Process()
        await make(process, 0).run()
        assert process.signals == [(0.0, "SIGKILL")]

    run(main())


def test_the_time_of_a_pre_stop_hook_comes_out_of_the_grace_period_with_a_floor() -> None:
    async def hook(_limit: float) -> None:
        await asyncio.sleep(9.5)

    async def main() -> None:
        process = Process(obeys="none")
        await make(process, 10, hook).run()
        assert process.signals == [(9.5, "SIGQUIT"), (11.5, "SIGKILL")]

    run(main())


def test_a_hook_that_hangs_ends_with_the_grace_period() -> None:
    async def hook(_limit: float) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        process = Process()
        await make(process, 4, hook).run()
        assert process.signals == [(4.0, "SIGKILL")]

    run(main())


def test_a_deletion_that_allows_less_brings_the_end_forward_and_more_does_not() -> None:
    async def main() -> None:
        process = Process(obeys="none")
        ending = make(process, 30)
        loop = asyncio.get_running_loop()
        loop.call_later(2, ending.hasten, 60)
        loop.call_later(3, ending.hasten, 1)
        await ending.run()
        assert process.signals[-1] == (4.0, "SIGKILL")

    run(main())


def test_an_end_that_no_event_told_of_is_found_by_looking() -> None:
    async def main() -> None:
        process = Process(delay=0.1)
        ending = make(process, 30)
        process.ending = None
        await ending.run()
        assert process.looked >= 1
        assert asyncio.get_running_loop().time() < 3

    run(main())


def test_a_second_run_goes_on_where_a_failed_one_stopped() -> None:
    async def main() -> None:
        process = Process(obeys="none")
        process.failures = 1
        ending = make(process, 5)
        with pytest.raises(EngineUnavailable):
            await ending.run()
        await asyncio.sleep(2)
        await ending.run()
        assert process.signals == [(2.0, "SIGQUIT"), (5.0, "SIGKILL")]

    run(main())
