"""The observer against a Docker that loses events, hangs, fails and restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.metrics import Metrics
from hostkit.reconcile import Backoff
from nodeagent.docker.labels import container_name, labels_for
from nodeagent.docker.observer import PATIENCE, Observer
from nodeagent.errors import EngineError, EngineUnavailable
from nodeagent.pods.observed import SANDBOX, PodSeen
from tests.fakes.docker import FakeEngine, World
from tests.nodeagent.docker.support import pod

IMAGE = "nginx:1.25"


class Time:
    """A clock that only ``sleep`` moves, and only when the test lets it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleepers: list[tuple[float, asyncio.Event]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self.sleepers.append((self.now + seconds, event))
        await event.wait()

    async def pass_by(self, seconds: float) -> None:
        """Let time go by, and everything happen that is due."""
        await settle()
        self.now += seconds
        for one in [one for one in self.sleepers if one[0] <= self.now]:
            self.sleepers.remove(one)
            one[1].set()
        await settle()


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


class Setup:
    """An observer of a world with an image."""

    def __init__(self) -> None:
        self.time = Time()
        self.world = World()
        self.world.add_image(IMAGE)
        self.engine = FakeEngine(self.world)
        self.changes: list[str] = []
        self.metrics = Metrics("kubelet")
        self.observer = Observer(
            self.engine,
            self.changes.append,
            clock=self.time.clock,
            sleep=self.time.sleep,
            metrics=self.metrics,
            backoff=Backoff(first=1.0, most=5.0, jitter=0.0),
        )

    def make(self, name: str = "c", uid: str = "u-1", attempt: int = 0, **host: Any) -> str:
        """Create and start a container from outside, without an event being heard of."""
        streams, self.world.streams = self.world.streams, set()
        made = self.create(name, uid, attempt, **host)
        self.world.start(self.world.containers[made])
        self.world.streams = streams
        return made

    def create(self, name: str = "c", uid: str = "u-1", attempt: int = 0, **host: Any) -> str:
        """Create a container from outside."""
        one = pod(uid=uid)
        body = {"Image": IMAGE, "Labels": labels_for(one, name, attempt), "HostConfig": host}
        return self.world.create(container_name(one, name, attempt), body)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Observer]:
        task = asyncio.create_task(self.observer.run())
        await settle()
        try:
            yield self.observer
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def count(self, call: str) -> int:
        return self.engine.calls.count(call)


async def test_everything_is_known_after_the_first_list() -> None:
    setup = Setup()
    setup.make(SANDBOX)
    setup.make("c")
    assert not setup.observer.listed
    async with setup.running() as observer:
        assert observer.listed
        seen = observer.pod("u-1")
        assert seen.sandbox is not None
        assert seen.sandbox.address
        assert list(seen.containers) == ["c"]
        assert observer.pod("u-2") == PodSeen("u-2")


async def test_nothing_is_inspected_again_while_nothing_happens() -> None:
    setup = Setup()
    for number in range(10):
        setup.make(uid=f"u-{number}")
    async with setup.running():
        await setup.time.pass_by(1)
        setup.changes.clear()
        lists = setup.count("containers")
        assert setup.count("inspect") == 10
        for _ in range(5):
            await setup.time.pass_by(10)
        assert setup.count("containers") == lists + 5
        assert setup.count("inspect") == 10
        assert setup.changes == []


async def test_an_event_is_enough_to_see_an_end() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        setup.changes.clear()
        setup.world.exit(made, 3)
        await settle()
        newest = observer.pod("u-1").newest("c")
        assert newest is not None
        assert (newest.state, newest.exit_code) == ("exited", 3)
        assert setup.changes == ["u-1"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_kill_for_memory_is_known_whenever_docker_tells_of_it(late: bool) -> None:
    """Docker's state lacks it when containerd has told of the end before the kill."""
    setup = Setup()
    made, other = setup.make(), setup.make("other")
    async with setup.running() as observer:
        if not late:
            setup.world.emit("oom", setup.world.containers[made])
            await settle()
        setup.world.exit(made, 137)
        setup.world.exit(other, 137)
        await settle()
        setup.changes.clear()
        if late:
            setup.world.emit("oom", setup.world.containers[made])
            await settle()
            assert setup.changes == ["u-1"]
        await setup.time.pass_by(20)
        await observer.refresh("u-1")
        ended = [observer.pod("u-1").newest(name) for name in ("c", "other")]
        assert [(one.exit_code, one.oom_killed) for one in ended if one is not None] == [
            (137, True), (137, False),
        ]  # fmt: skip
        setup.world.delete(made)
        await setup.time.pass_by(20)
        assert observer._out_of_memory == set(), "what is gone is forgotten"


async def test_a_removed_container_is_gone_with_the_event() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        setup.world.delete(made)
        await settle()
        assert observer.pods == {}


async def test_a_lost_event_is_made_good_by_the_list() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        await setup.time.pass_by(1)
        streams, setup.world.streams = setup.world.streams, set()
        setup.world.exit(made, 1)
        setup.world.streams = streams
        other = setup.make(uid="u-2")
        assert observer.pod("u-1").everything[0].running
        await setup.time.pass_by(10)
        assert not observer.pod("u-1").everything[0].running
        assert observer.pod("u-2").everything[0].id == other


async def test_a_container_that_cannot_be_inspected_is_there_all_the_same() -> None:
    setup = Setup()
    bad = setup.make(uid="u-1")
    setup.make(uid="u-2")
    setup.engine.fail_next(f"inspect:{bad}", EngineError("broken", 500), times=3)
    async with setup.running() as observer:
        assert observer.listed
        [seen] = observer.pod("u-1").everything
        assert (seen.running, seen.started_at) == (True, "")
        assert observer.pod("u-2").everything[0].started_at
        for _ in range(4):
            await setup.time.pass_by(10)
        assert observer.pod("u-1").everything[0].started_at


async def test_a_hanging_inspect_holds_up_nothing_else() -> None:
    setup = Setup()
    hung, other = setup.make(uid="u-1"), setup.make(uid="u-2")
    async with setup.running() as observer:
        await setup.time.pass_by(1)
        setup.engine.hang(f"inspect:{hung}")
        setup.world.exit(hung, 1)
        setup.world.exit(other, 1)
        for _ in range(3):
            await setup.time.pass_by(10)
        assert observer.trouble == ""
        assert observer.pod("u-1").everything[0].running  # as it was seen last
        assert not observer.pod("u-2").everything[0].running
        setup.engine.release(f"inspect:{hung}")
        await settle()
        assert not observer.pod("u-1").everything[0].running


async def test_docker_is_in_trouble_when_lists_fail_for_a_while_and_not_before() -> None:
    setup = Setup()
    async with setup.running() as observer:
        setup.world.stop_daemon()
        await setup.time.pass_by(10)
        assert observer.trouble == ""
        for _ in range(10):
            await setup.time.pass_by(PATIENCE / 8)
        assert "Connection refused" in observer.trouble
        setup.world.start_daemon()
        await setup.time.pass_by(10)
        assert observer.trouble == ""


async def test_docker_is_in_trouble_when_a_list_hangs() -> None:
    setup = Setup()
    async with setup.running() as observer:
        setup.engine.hang("containers")
        await setup.time.pass_by(10)
        await setup.time.pass_by(PATIENCE)
        assert "does not answer" in observer.trouble


async def test_after_a_broken_stream_of_events_all_is_looked_at_again() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        await setup.time.pass_by(1)
        setup.world.break_events()
        await settle()
        # Stopped and started within the gap: the list shows it running, as before.
        held = setup.world.containers[made]
        streams, setup.world.streams = setup.world.streams, set()
        setup.world.exit(made, 1)
        setup.world.start(held)
        setup.world.streams = streams
        await setup.time.pass_by(2)
        assert observer.pod("u-1").everything[0].started_at == held.started_at
        setup.world.exit(made, 9)
        await settle()
        assert observer.pod("u-1").everything[0].exit_code == 9


async def test_refresh_sees_what_the_caller_did_and_tells_only_the_caller() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        await setup.time.pass_by(1)
        setup.changes.clear()
        streams, setup.world.streams = setup.world.streams, set()
        await setup.engine.kill(made, "KILL")
        seen = await observer.refresh("u-1")
        assert seen.everything[0].exit_code == 137
        await setup.engine.remove(made)
        assert (await observer.refresh("u-1")).everything == ()
        setup.world.streams = streams
        assert setup.changes == []


async def test_a_refresh_that_fails_is_raised() -> None:
    setup = Setup()
    made = setup.make()
    async with setup.running() as observer:
        setup.engine.fail_next("containers", EngineUnavailable("gone"))
        for error in ("gone", "odd"):
            try:
                await observer.refresh("u-1")
            except EngineError as raised:
                assert str(raised) == error
            else:
                raise AssertionError("nothing was raised")
            setup.world.exit(made, 1)
            setup.engine.fail_next("inspect", EngineError("odd", 500), times=9)


async def test_a_start_that_its_event_has_shown_costs_no_further_question() -> None:
    setup = Setup()
    async with setup.running() as observer:
        made = setup.create()
        await setup.engine.start(made)
        await observer.started(made)
        assert observer.pod("u-1").everything[0].running
        await observer.started(made)
        assert setup.count("inspect") == 1


async def test_a_start_whose_event_was_lost_is_seen_with_one_question() -> None:
    setup = Setup()
    async with setup.running() as observer:
        setup.world.streams.clear()
        made = setup.create()
        await setup.engine.start(made)
        await observer.started(made)
        assert observer.pod("u-1").everything[0].running
        assert setup.changes[-1] == "u-1"
        assert setup.count("inspect") == 1


async def test_an_answer_from_before_a_start_does_not_stand_for_it() -> None:
    """The list has it inspected just then, and finds it created."""
    setup = Setup()
    async with setup.running() as observer:
        await setup.time.pass_by(1)
        setup.world.streams.clear()
        made = setup.create()
        await setup.time.pass_by(10)
        assert observer.pod("u-1").everything[0].state == "created"
        await setup.engine.start(made)
        await observer.started(made)
        assert observer.pod("u-1").everything[0].running


async def test_a_start_that_cannot_be_looked_at_is_raised() -> None:
    setup = Setup()
    async with setup.running() as observer:
        made = setup.create()
        setup.engine.fail_next("inspect", EngineError("odd", 500), times=9)
        await setup.engine.start(made)
        with pytest.raises(EngineError, match="odd"):
            await observer.started(made)


async def test_containers_with_broken_labels_are_left_alone() -> None:
    setup = Setup()
    body = {"Image": IMAGE, "Labels": {"barenode.nodeagent": "1"}}
    made = setup.world.create("odd", body)
    setup.make()
    async with setup.running() as observer:
        assert observer.listed
        setup.world.start(setup.world.containers[made])
        await setup.time.pass_by(10)
        assert list(observer.pods) == ["u-1"]


async def test_figures_count_pods_and_containers_by_state() -> None:
    setup = Setup()
    setup.make(SANDBOX)
    dead = setup.make("c")
    async with setup.running():
        setup.world.exit(dead, 1)
        await settle()
        get = setup.metrics.registry.get_sample_value
        assert get("kubelet_running_pods") == 1
        assert get("kubelet_running_containers", {"container_state": "running"}) == 1
        assert get("kubelet_running_containers", {"container_state": "exited"}) == 1
        assert get("kubelet_pleg_relist_duration_seconds_count") == 1


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["make", "exit", "delete", "break", "deaf", "fail", "list", "settle"]),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(DEEDS)
def test_whatever_happens_the_records_end_as_docker_has_it(deeds: list[tuple[str, int]]) -> None:
    asyncio.run(_through(deeds))


async def _through(deeds: list[tuple[str, int]]) -> None:
    setup, attempts = Setup(), 0
    async with setup.running() as observer:
        for deed, number in deeds:
            ids = list(setup.world.containers)
            chosen = ids[number % len(ids)] if ids else ""
            if deed == "make":
                attempts += 1
                setup.make(uid=f"u-{number}", attempt=attempts)
            elif deed == "exit" and chosen:
                setup.world.exit(chosen, number)
            elif deed == "delete" and chosen:
                setup.world.delete(chosen)
            elif deed == "break":
                setup.world.break_events()
            elif deed == "deaf":
                setup.world.streams.clear()
            elif deed == "fail":
                setup.engine.fail_next("inspect", EngineError("odd", 500))
            elif deed == "list":
                await setup.time.pass_by(10)
            else:
                await settle()
        for _ in range(40):
            await setup.time.pass_by(10)
        truth = [one for uid in observer.pods for one in observer.pod(uid).everything]
        shown = {one.id: (one.state, one.exit_code, one.started_at) for one in truth}
        assert shown == {
            one.id: (one.status, one.exit_code, one.started_at)
            for one in setup.world.containers.values()
        }
