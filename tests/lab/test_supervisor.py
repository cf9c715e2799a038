"""The service manager of a node, driven without processes."""

import signal

from hypothesis import given
from hypothesis import strategies as st

from lab.model import Service
from lab.supervisor import FIRST_DELAY, GOOD_RUN, MOST_DELAY, Action, Kill, Start, Supervisor

NETD = Service(name="netd", argv=("netd",), notify=True)
DOCKERD = Service(name="dockerd", argv=("dockerd",), notify=True, after=("netd",), stop_seconds=5)

DOCKER_ALONE = Service(name="dockerd", argv=("dockerd",), notify=True)


class World:
    """A clock and a table of processes around a Supervisor."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.supervisor = Supervisor((NETD, DOCKERD), lambda: self.now)
        self.next_pid = 1
        self.running: dict[int, str] = {}
        self.signals: list[Kill] = []

    def step(self) -> list[Action]:
        """Do what is due; every start succeeds."""
        done: list[Action] = []
        while actions := self.supervisor.next():
            for action in actions:
                done.append(action)
                if isinstance(action, Start):
                    self.next_pid += 1
                    self.running[self.next_pid] = action.service.name
                    self.supervisor.started(action.service.name, self.next_pid)
                else:
                    self.signals.append(action)
        return done

    def pid(self, name: str) -> int:
        """The process of a service."""
        return next(pid for pid, owner in self.running.items() if owner == name)

    def die(self, name: str) -> None:
        """A service's process ends."""
        pid = self.pid(name)
        del self.running[pid]
        assert self.supervisor.exited(pid, "exit status 1") == name

    def state(self, name: str) -> str:
        """What is published about a service."""
        return next(s.state for s in self.supervisor.states() if s.name == name)


def test_what_is_merely_wanted_may_fail() -> None:
    """nodeagent starts after dockerd, and also when dockerd cannot be started."""
    agent = Service(name="agent", argv=("agent",), wants=("dockerd",))
    for ready in (True, False):
        supervisor = Supervisor((DOCKER_ALONE, agent), lambda: 1000.0)
        assert supervisor.next() == [Start(DOCKER_ALONE)]
        supervisor.started("dockerd", 2)
        assert supervisor.next() == []
        if ready:
            supervisor.ready("dockerd")
        else:
            supervisor.exited(2, "exit status 1")
        assert supervisor.next() == [Start(agent)]


def test_dockerd_starts_only_when_netd_is_ready() -> None:
    """docker0 must be right before Docker starts."""
    world = World()
    assert [a.service.name for a in world.step() if isinstance(a, Start)] == ["netd"]
    assert world.step() == []
    assert world.state("dockerd") == "waiting"
    world.supervisor.ready("netd")
    assert [a.service.name for a in world.step() if isinstance(a, Start)] == ["dockerd"]


def test_a_netd_that_restarts_does_not_take_dockerd_down() -> None:
    """And dockerd may restart while netd is not ready again yet."""
    world = World()
    world.step()
    world.supervisor.ready("netd")
    world.step()
    world.supervisor.ready("dockerd")
    world.die("netd")
    assert world.step() == []
    assert world.state("dockerd") == "ready"
    world.die("dockerd")
    world.now += FIRST_DELAY
    assert {a.service.name for a in world.step() if isinstance(a, Start)} == {"netd", "dockerd"}
    assert world.signals == []


def test_restarts_back_off_and_a_good_run_resets_the_delay() -> None:
    """Delays double to their maximum."""
    world = World()
    delays = []
    for _ in range(8):
        world.step()
        world.die("netd")
        delay = world.supervisor.wait()
        assert delay is not None
        delays.append(delay)
        assert world.step() == []
        world.now += delay
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == MOST_DELAY
    world.step()
    world.now += GOOD_RUN
    world.die("netd")
    assert world.supervisor.wait() == FIRST_DELAY
    assert next(s.restarts for s in world.supervisor.states() if s.name == "netd") == 9


def test_a_service_that_cannot_be_started_is_tried_again() -> None:
    """Its environment file may appear later."""
    world = World()
    assert world.supervisor.next() == [Start(NETD)]
    world.supervisor.start_failed("netd", "no such file")
    assert world.supervisor.next() == []
    world.now += FIRST_DELAY
    assert world.supervisor.next() == [Start(NETD)]


def test_stop_ends_services_in_reverse_order_one_at_a_time() -> None:
    """With SIGTERM first, and SIGKILL when the service's time is over."""
    world = World()
    world.step()
    world.supervisor.ready("netd")
    world.step()
    world.supervisor.stop()
    docker = world.pid("dockerd")
    assert world.step() == [Kill(docker, signal.SIGTERM)]
    assert world.supervisor.wait() == 5
    world.now += 5
    assert world.step() == [Kill(docker, signal.SIGKILL)]
    assert not world.supervisor.done
    world.die("dockerd")
    assert world.step() == [Kill(world.pid("netd"), signal.SIGTERM)]
    world.die("netd")
    assert world.step() == []
    assert world.supervisor.done


def test_orphans_of_the_node_are_nobody_s_service() -> None:
    """Pid 1 reaps every process that lost its parent."""
    world = World()
    world.step()
    assert world.supervisor.exited(4711, "exit status 0") is None
    assert world.state("netd") == "starting"


@given(st.lists(st.sampled_from(["netd dies", "dockerd dies", "netd ready", "time", "stop"])))
def test_whatever_happens_the_order_holds_and_stop_ends(events: list[str]) -> None:
    """dockerd never runs before netd was ready once; after stop nothing is started."""
    world = World()
    was_ready = stopped = False
    for event in events:
        started = [a.service.name for a in world.step() if isinstance(a, Start)]
        assert not (stopped and started)
        assert was_ready or "dockerd" not in started
        if event == "netd ready" and "netd" in world.running.values():
            world.supervisor.ready("netd")
            was_ready = was_ready or not stopped
        elif event.endswith("dies") and event.split()[0] in world.running.values():
            world.die(event.split()[0])
        elif event == "time":
            world.now += MOST_DELAY
        elif event == "stop":
            world.supervisor.stop()
            stopped = True
    world.supervisor.stop()
    for _ in range(4):
        world.step()
        for name in list(world.running.values()):
            world.die(name)
    assert world.supervisor.done
