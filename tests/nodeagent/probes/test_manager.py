"""Which checks are made when, and what their results come to."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import pytest

from hostkit.metrics import Metrics
from nodeagent.docker.api import Engine
from nodeagent.pods.container import Container, Exec, HttpGet, Probe
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import Seen
from nodeagent.probes.manager import UNKNOWN, Probes, Verdict
from tests.nodeagent.probes.stand import (
    FakeEngine,
    FakeRecorder,
    FakeTime,
    instance,
    pod_of,
    settle,
)

LIVE = Probe(exec=Exec(("live",)), period_seconds=10, failure_threshold=2)
READY = Probe(exec=Exec(("ready",)), period_seconds=10, failure_threshold=2)
START = Probe(exec=Exec(("start",)), period_seconds=5, failure_threshold=3)
ALL = Container("app", liveness_probe=LIVE, readiness_probe=READY, startup_probe=START)


class Stand:
    """Probes with all that they work with; *spread* places the first checks after a restart."""

    def __init__(self, spread: float = 0.5) -> None:
        self.engine = FakeEngine()
        self.recorder = FakeRecorder()
        self.time = FakeTime()
        self.metrics = Metrics("nodeagent")
        self.changed: list[str] = []
        self.probes = Probes(
            cast("Engine", self.engine), self.recorder, self.changed.append,
            clock=self.time.clock, sleep=self.time.sleep, spread=lambda: spread,
            metrics=self.metrics,
        )  # fmt: skip

    def sync(
        self,
        pod: Pod,
        *running: Seen,
        carried: Mapping[str, tuple[bool, bool]] | None = None,
        terminating: bool = False,
    ) -> None:
        self.probes.sync(
            pod, {one.name: one for one in running}, "10.0.0.2", carried or {},
            terminating=terminating,
        )  # fmt: skip

    def fresh(self, pod: Pod, *running: Seen) -> None:
        """A pod whose containers this agent has started."""
        self.sync(pod)
        self.sync(pod, *running)

    def fail(self, command: str, container: str = "c1") -> None:
        self.engine.codes[container, command] = 1

    def pass_(self, command: str, container: str = "c1") -> None:
        self.engine.codes[container, command] = 0

    def asked(self) -> list[str]:
        """The commands since the last question."""
        found = [line for _, line in self.engine.asked]
        self.engine.asked.clear()
        return found

    def verdict(self, container: str = "c1") -> Verdict:
        return self.probes.verdict(container)


@asynccontextmanager
async def standing(spread: float = 0.5) -> AsyncIterator[Stand]:
    stand = Stand(spread)
    try:
        yield stand
    finally:
        await stand.probes.stop()


async def test_a_container_without_probes_is_started_and_ready_at_once() -> None:
    async with standing() as stand:
        assert stand.verdict() == UNKNOWN
        stand.fresh(pod_of(Container("app")), instance())
        assert stand.verdict() == Verdict(ready=True, started=True)


async def test_a_new_container_is_checked_at_once_and_ready_with_its_first_success() -> None:
    async with standing() as stand:
        stand.fresh(pod_of(Container("app", readiness_probe=READY)), instance())
        assert stand.verdict() == Verdict(ready=False, started=True)
        await stand.time.advance()
        assert stand.verdict().ready
        assert stand.changed == ["u1"]
        assert stand.asked() == ["ready"]
        await stand.time.advance(9)
        assert stand.asked() == []
        await stand.time.advance(1)
        assert stand.asked() == ["ready"]
        assert stand.changed == ["u1"]


async def test_the_initial_delay_is_waited_for() -> None:
    async with standing() as stand:
        probe = Probe(exec=Exec(("ready",)), initial_delay_seconds=7)
        stand.fresh(pod_of(Container("app", readiness_probe=probe)), instance())
        await stand.time.advance(6.9)
        assert stand.asked() == []
        await stand.time.advance(0.1)
        assert stand.verdict().ready


async def test_one_that_is_not_ready_is_asked_more_often_at_first_and_then_by_its_period() -> None:
    async with standing() as stand:
        stand.fail("ready")
        stand.fresh(pod_of(Container("app", readiness_probe=READY)), instance())
        times = []
        for _ in range(40):
            await stand.time.advance(1)
            times += [stand.time.now - 1000] * len(stand.asked())
        assert times == [1, 1, 3, 7, 15, 25, 35]


async def test_successes_in_a_row_are_a_period_apart() -> None:
    async with standing() as stand:
        probe = Probe(exec=Exec(("ready",)), success_threshold=2)
        stand.fresh(pod_of(Container("app", readiness_probe=probe)), instance())
        await stand.time.advance(9)
        assert not stand.verdict().ready
        await stand.time.advance(1)
        assert stand.verdict().ready


async def test_readiness_is_lost_after_failures_in_a_row_and_each_is_an_event() -> None:
    async with standing() as stand:
        stand.fresh(pod_of(Container("app", readiness_probe=READY)), instance())
        await stand.time.advance()
        stand.fail("ready")
        stand.engine.output = b"no database"
        await stand.time.advance(10)
        assert stand.verdict().ready
        await stand.time.advance(10)
        assert stand.verdict() == Verdict(ready=False, started=True)
        assert stand.changed == ["u1", "u1"]
        event = ("Unhealthy", "Readiness probe failed: no database", "app")
        assert stand.recorder.events == [event] * 2


async def test_what_has_only_just_begun_and_does_not_answer_yet_is_no_event() -> None:
    async with standing() as stand:
        probe = Probe(http_get=HttpGet("nameless"), period_seconds=10)
        container = Container("app", readiness_probe=READY, liveness_probe=probe)
        stand.fresh(pod_of(container), instance())
        await stand.time.advance()
        (event,) = stand.recorder.events
        assert event[0] == "Unhealthy"
        assert event[1].startswith("Liveness probe errored: httpGet.port")


async def test_a_failed_liveness_probe_says_why_and_with_what_grace_and_asks_no_more() -> None:
    async with standing() as stand:
        probe = Probe(exec=Exec(("live",)), failure_threshold=2, termination_grace_period_seconds=3)
        stand.fail("live")
        stand.engine.output = b"stuck"
        stand.fresh(pod_of(Container("app", liveness_probe=probe)), instance())
        await stand.time.advance(9)
        assert stand.verdict() == Verdict(ready=True, started=True)
        await stand.time.advance(1)
        assert stand.verdict() == Verdict(True, True, "liveness", "stuck", 3)
        stand.asked()
        await stand.time.advance(100)
        assert stand.asked() == []


async def test_before_startup_succeeds_nothing_else_is_asked_and_then_all_at_once() -> None:
    async with standing() as stand:
        stand.fail("start")
        stand.fresh(pod_of(ALL), instance())
        await stand.time.advance(9)
        assert stand.asked() == ["start", "start"]
        assert stand.verdict() == UNKNOWN
        stand.pass_("start")
        await stand.time.advance(1)
        assert stand.asked() == ["start", "ready", "live"]
        assert stand.verdict() == Verdict(ready=True, started=True)
        await stand.time.advance(10)
        assert sorted(stand.asked()) == ["live", "ready"]


async def test_without_a_readiness_probe_it_is_ready_when_it_has_started() -> None:
    async with standing() as stand:
        stand.fresh(pod_of(Container("app", startup_probe=START)), instance())
        assert stand.verdict() == UNKNOWN
        await stand.time.advance()
        assert stand.verdict() == Verdict(ready=True, started=True)


async def test_a_failed_startup_probe_is_told() -> None:
    async with standing() as stand:
        stand.fail("start")
        stand.fresh(pod_of(ALL), instance())
        await stand.time.advance(10)
        verdict = stand.verdict()
        assert (verdict.failed, verdict.started, verdict.ready) == ("startup", False, False)
        await stand.time.advance(60)
        assert set(stand.asked()) == {"start"}


async def test_docker_trouble_changes_no_verdict() -> None:
    async with standing() as stand:
        stand.fresh(pod_of(ALL), instance())
        await stand.time.advance()
        stand.engine.down = True
        await stand.time.advance(300)
        assert stand.verdict() == Verdict(ready=True, started=True)


async def test_looking_again_starts_nothing_twice() -> None:
    async with standing() as stand:
        pod = pod_of(Container("app", readiness_probe=READY))
        stand.fresh(pod, instance())
        for _ in range(5):
            stand.sync(pod, instance())
        await stand.time.advance()
        assert stand.asked() == ["ready"]


async def test_another_instance_begins_anew_and_the_old_one_is_forgotten() -> None:
    async with standing() as stand:
        pod = pod_of(Container("app", readiness_probe=READY))
        stand.fresh(pod, instance("c1"))
        await stand.time.advance()
        stand.fail("ready", "c2")
        stand.sync(pod, instance("c2", attempt=1), carried={"app": (True, True)})
        await stand.time.advance(20)
        assert stand.verdict("c1") == UNKNOWN
        assert not stand.verdict("c2").ready
        assert {one for one, _ in stand.engine.asked[1:]} == {"c2"}


async def test_an_ended_container_is_asked_no_more() -> None:
    async with standing() as stand:
        pod = pod_of(ALL)
        stand.fresh(pod, instance())
        await stand.time.advance()
        stand.sync(pod)
        stand.asked()
        await stand.time.advance(60)
        assert stand.asked() == []


@pytest.mark.parametrize("spread", [0.0, 0.5, 0.99])
async def test_after_a_restart_of_the_agent_nothing_changes_but_by_failures(spread: float) -> None:
    async with standing(spread) as stand:
        stand.fail("start")
        stand.sync(pod_of(ALL), instance(), carried={"app": (True, True)})
        assert stand.verdict() == Verdict(ready=True, started=True)
        await stand.time.advance(60)
        assert stand.verdict() == Verdict(ready=True, started=True)
        assert "start" not in stand.asked()
        assert stand.changed == []
        stand.fail("ready")
        await stand.time.advance(20)
        assert not stand.verdict().ready


async def test_after_a_restart_the_first_checks_are_spread_over_the_period() -> None:
    async with standing(0.3) as stand:
        stand.sync(pod_of(ALL), instance(), carried={"app": (True, True)})
        await stand.time.advance(2.9)
        assert stand.asked() == []
        await stand.time.advance(0.1)
        assert sorted(stand.asked()) == ["live", "ready"]


async def test_after_a_restart_one_that_was_not_ready_is_asked_at_once() -> None:
    async with standing() as stand:
        probe = Probe(exec=Exec(("ready",)), initial_delay_seconds=60)
        container = Container("app", readiness_probe=probe)
        stand.sync(pod_of(container), instance(), carried={"app": (False, True)})
        await stand.time.advance()
        assert stand.verdict().ready


async def test_after_a_restart_liveness_waits_its_delay_again() -> None:
    async with standing(0.0) as stand:
        probe = Probe(exec=Exec(("live",)), initial_delay_seconds=60)
        container = Container("app", liveness_probe=probe)
        stand.sync(pod_of(container), instance(), carried={"app": (True, True)})
        await stand.time.advance(59)
        assert stand.asked() == []
        await stand.time.advance(1)
        assert stand.asked() == ["live"]


async def test_what_was_reported_of_an_earlier_instance_does_not_count() -> None:
    async with standing() as stand:
        stand.fail("ready")
        status = {"containerStatuses": [{"name": "app", "containerID": "docker://c0"}]}
        pod = pod_of(Container("app", readiness_probe=READY), status=status)
        stand.sync(pod, instance("c1"), carried={"app": (True, True)})
        assert stand.verdict() == Verdict(ready=False, started=True)


async def test_what_was_reported_of_this_instance_counts() -> None:
    async with standing() as stand:
        status = {"containerStatuses": [7, {"name": "app", "containerID": "docker://c1"}]}
        pod = pod_of(Container("app", readiness_probe=READY), status=status)
        stand.sync(pod, instance("c1"), carried={"app": (True, True)})
        assert stand.verdict().ready


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_terminating_pod_is_asked_for_readiness_only(restarted: bool) -> None:
    async with standing(0.0) as stand:
        pod = pod_of(ALL)
        if not restarted:
            stand.fresh(pod, instance())
            await stand.time.advance()
        stand.sync(pod, instance(), carried={"app": (True, True)}, terminating=True)
        stand.asked()
        stand.fail("ready")
        stand.fail("live")
        await stand.time.advance(40)
        assert set(stand.asked()) == {"ready"}
        assert stand.verdict() == Verdict(ready=False, started=True)


async def test_a_terminating_pod_that_has_not_started_is_asked_nothing() -> None:
    async with standing() as stand:
        stand.fail("start")
        pod = pod_of(ALL)
        stand.fresh(pod, instance())
        stand.sync(pod, instance(), terminating=True)
        stand.asked()
        await stand.time.advance(60)
        assert stand.asked() == []


async def test_a_forgotten_pod_leaves_nothing_behind() -> None:
    async with standing() as stand:
        pod = pod_of(ALL)
        stand.fresh(pod, instance())
        await stand.time.advance()
        stand.probes.forget("u1")
        stand.probes.forget("u1")
        await settle()
        stand.asked()
        await stand.time.advance(60)
        assert stand.asked() == []
        assert stand.verdict() == UNKNOWN


async def test_results_are_counted_by_kind_under_the_name_dashboards_know() -> None:
    async with standing() as stand:
        stand.fail("live")
        stand.fresh(pod_of(ALL), instance())
        await stand.time.advance()
        stand.engine.down = True
        await stand.time.advance(10)
        text = stand.metrics.render().decode()
    for kind, result in (
        ("Startup", "successful"), ("Readiness", "successful"), ("Liveness", "failed"),
        ("Readiness", "unknown"), ("Liveness", "unknown"),
    ):  # fmt: skip
        assert f'prober_probe_total{{probe_type="{kind}",result="{result}"}} 1.0' in text


async def test_numbers_that_make_no_sense_are_read_as_defaults() -> None:
    async with standing() as stand:
        probe = Probe(
            exec=Exec(("live",)), period_seconds=0, initial_delay_seconds=-5, failure_threshold=0
        )
        stand.fresh(pod_of(Container("app", liveness_probe=probe)), instance())
        await stand.time.advance(10)
        assert stand.asked() == ["live", "live"]


async def test_a_container_that_the_spec_does_not_have_is_left_alone() -> None:
    async with standing() as stand:
        stand.fresh(pod_of(Container("app")), instance("c9", "other"))
        assert stand.verdict("c9") == UNKNOWN
