"""The clock of the host is set by an hour, back and forward, while nodeagent runs and before it.

nodeagent is given a wall clock whose offset the test sets; the monotonic clock is the machine's.
Docker and the API server keep the right time, so that nodeagent's differs from theirs too.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.docker_story import Story, told
from tests.engine.pods import (
    DEADLINE,
    LOOK,
    NODE,
    SANDBOX,
    PodWorld,
    Raw,
    condition,
    lab_with_agent,
    shell,
    sleeper,
    status_of,
)
from tests.support.netns import eventually

HOUR = 3600
BACKOFF, ACTIVE = 8, 25
"""Seconds of the first back-off, and of activeDeadlineSeconds."""
SETTINGS = f"""\
container-backoff-first = "{BACKOFF}s"
node-status-update-frequency = "1s"
"""
AGENT = """\
#!{python}
import datetime
import pathlib
import time

offset = pathlib.Path("{offset}")
now, now_ns, get = time.time, time.time_ns, time.clock_gettime
time.time = lambda: now() + int(offset.read_text())
time.time_ns = lambda: now_ns() + int(offset.read_text()) * 10**9
time.clock_gettime = lambda one: time.time() if one == time.CLOCK_REALTIME else get(one)


class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


datetime.datetime = Shifted

from nodeagent.__main__ import main

raise SystemExit(main())
"""


class Clock:
    """The wall clock of the lab's nodeagent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, hours: int) -> None:
        """So many hours off."""
        half = self.path.with_suffix(".half")
        half.write_text(str(hours * HOUR))
        half.rename(self.path)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """What the time of day is."""
    return Clock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture(scope="module")
def world(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodWorld]:
    """A lab whose nodeagent has that clock."""
    program = tmp_path_factory.mktemp("agent") / "nodeagent"
    text = AGENT.format(python=sys.executable, offset=clock.path)
    with lab_with_agent(f"c{os.getpid() % 100000}", program, text, SETTINGS) as made:
        yield made


@pytest.fixture
def pods(world: PodWorld, clock: Clock) -> Iterator[PodWorld]:
    """The lab with the right time; what a test leaves is removed after it."""
    clock.set(0)
    try:
        yield world
    finally:
        world.clean()


def probed(pods: PodWorld) -> int:
    """How often the pod ``web`` was probed, for readiness and for life."""
    text = pods.exec("web", "main", "cat", "/tmp/ready", "/tmp/life", check=False)
    return min(text.count("r"), text.count("l"))


def wait_for_probes(pods: PodWorld) -> None:
    """Until ``web`` was probed two more times in each way."""
    before = probed(pods)
    eventually(
        lambda: probed(pods) >= before + 2, "probes go on", deadline=DEADLINE, interval=0.2
    )  # fmt: skip


def wait_for_heartbeat(pods: PodWorld) -> Raw:
    """Until the node's lease was renewed; the node as it is then."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
    before = pods.api("GET", path)["spec"]["renewTime"]
    eventually(
        lambda: pods.api("GET", path)["spec"]["renewTime"] != before, "heartbeats go on",
        deadline=DEADLINE, interval=0.2,
    )  # fmt: skip
    return pods.api("GET", f"/api/v1/nodes/{NODE}")


def unharmed(pods: PodWorld, node: Raw, web: Raw) -> None:
    """Probes and heartbeats go on, and node and pod are what they were."""
    wait_for_probes(pods)
    now = wait_for_heartbeat(pods)
    assert condition(now, "Ready") == "True"
    assert since(now) == since(node)
    pod = pods.get("web")
    assert condition(pod, "Ready") == "True"
    assert since(pod) == since(web)
    assert status_of(pod) == status_of(web)


def since(thing: Raw) -> list[tuple[str, str]]:
    """Since when each of the conditions of a node or a pod is as it is."""
    found = thing["status"]["conditions"]
    return sorted((one["type"], one["lastTransitionTime"]) for one in found)


def starts_and_ends(story: Story) -> list[float]:
    """When the pod ``crash`` was started, ended, started, ended and so on."""
    return [one.time for one in story.of("crash") if one.action in {"start", "die"}]


def web() -> Raw:
    """A pod whose probes leave traces in files."""
    probe = {"periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 3}
    ready = {"exec": {"command": ["sh", "-c", "echo r >> /tmp/ready"]}}
    life = {"exec": {"command": ["sh", "-c", "echo l >> /tmp/life"]}}
    one = sleeper(readinessProbe={**probe, **ready}, livenessProbe={**probe, **life})
    return {"containers": [one], "terminationGracePeriodSeconds": 1}


def test_a_clock_that_is_set_by_an_hour_ends_and_hastens_nothing(
    pods: PodWorld, clock: Clock
) -> None:
    began = time.monotonic()
    pods.create("deadline", {"containers": [sleeper()], "activeDeadlineSeconds": ACTIVE})
    pods.create("web", web())
    pods.ready("web")
    node = wait_for_heartbeat(pods)
    before = pods.ready("web")
    with told(pods) as story:
        pods.create("crash", [shell("exit 3")])
        pods.waiting("crash", "CrashLoopBackOff")
        for hours in (1, -1):
            clock.set(hours)
            unharmed(pods, node, before)
        times = eventually(
            lambda: (found := starts_and_ends(story))[4:] and found, "a third start",
            deadline=DEADLINE, interval=LOOK,
        )  # fmt: skip
        assert times[4] - times[3] >= BACKOFF - 0.5, "the wait after the second end was cut short"
        # A nodeagent that begins while the clock is wrong.
        for hours in (-1, 1):
            clock.set(hours)
            pods.restart_agent()
            unharmed(pods, node, before)
            assert pods.log("web") == ""
            pods.create("new", web())
            pods.ready("new")
            pods.delete("new", grace=1)
            pods.gone("new")
        pods.phase("deadline", "Failed")
        assert time.monotonic() - began >= ACTIVE - 1
        assert pods.get("deadline")["status"]["reason"] == "DeadlineExceeded"
        assert story.of("web") == story.of("web", SANDBOX) == []
