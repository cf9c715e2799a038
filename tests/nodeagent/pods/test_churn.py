"""Whole lives of pods on a fake Docker, with agents killed between any two calls to it."""

import asyncio
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.docker.api import ExecResult
from nodeagent.docker.labels import CONTAINER_NAME, POD_UID
from nodeagent.errors import EngineError
from nodeagent.pods.container import Exec, Handler, Lifecycle
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX
from tests.fakes.docker_world import Program
from tests.nodeagent.pods.agent import (
    IMAGE,
    OTHER,
    Agent,
    Cluster,
    Engine,
    make_pod,
    new_cluster,
    static_pod,
)
from tests.support.virtual import run


@dataclass(frozen=True)
class Step:
    """One thing that happens: *pod* and *container* by number, *amount* as it needs."""

    what: str
    pod: int = 0
    container: int = 0
    amount: int = 1


POLICIES = ("Always", "OnFailure", "Never")
CALLS = ("create", "start", "kill", "remove", "inspect", "containers", "image", "exec", "logs")
STEPS = st.builds(
    Step,
    what=st.sampled_from(
        ["add", "add", "delete", "force", "exit", "fail", "rm", "rm sandbox", "kill", "kill",
         "restart", "wait", "docker", "break", "image", "no image", "unhealthy", "hook",
         "hang", "error", "api", "api back", "static", "static", "evict", "annotate"]
    ),
    pod=st.integers(0, 2),
    container=st.integers(0, 2),
    amount=st.integers(1, 12),
)  # fmt: skip


def with_hooks(pod: Pod) -> Pod:
    """The pod with hooks in its last container."""
    *rest, last = pod.spec.containers
    command = Handler(exec=Exec(("hook",)))
    last = msgspec.structs.replace(
        last, lifecycle=Lifecycle(post_start=command, pre_stop=command),
        termination_message_policy="FallbackToLogsOnError",
    )  # fmt: skip
    spec = msgspec.structs.replace(pod.spec, containers=(*rest, last))
    return msgspec.structs.replace(pod, spec=spec)


def with_image(pod: Pod, image: str) -> Pod:
    """The pod with its first container changed."""
    first, *rest = pod.spec.containers
    first = msgspec.structs.replace(first, image=image)
    spec = msgspec.structs.replace(pod.spec, containers=(first, *rest))
    return msgspec.structs.replace(pod, spec=spec)


class Story:
    """Has steps happen to a cluster and its agents."""

    def __init__(self) -> None:
        self.cluster = new_cluster()
        self.cluster.world.run("init", Program(exits=0))
        self.agent = Agent(self.cluster, Engine(self.cluster.world))
        self.made = 0
        self.cluster.world.commands["b"] = ExecResult(0, b"")

    async def happen(self, step: Step) -> None:
        """One step, and a short while."""
        world = self.cluster.world
        pods = list(self.cluster.api)
        uid = pods[step.pod % len(pods)] if pods else ""
        if step.what == "add" and len(pods) < 3:
            self.made += 1
            pod = make_pod(f"p{self.made}", *("a", "b")[: 1 + step.container % 2],
                           inits=("init",) if step.amount % 2 else (),
                           restart_policy=POLICIES[step.pod % 3])  # fmt: skip
            self.cluster.put(with_hooks(pod) if step.amount > 8 else pod)
        elif step.what == "delete" and uid:
            self.cluster.delete(uid, grace=step.amount % 4)
        elif step.what == "force" and uid:
            self.cluster.api.pop(uid)
            self.cluster.tell()
        elif step.what in {"exit", "fail", "rm", "rm sandbox"}:
            sandboxes = step.what == "rm sandbox"
            found = [c for c in world.containers.values() if c.running
                     and (c.labels[CONTAINER_NAME] == SANDBOX) == sandboxes]  # fmt: skip
            if found and step.what.startswith("rm"):
                world.delete(found[step.container % len(found)].id)
            elif found:
                code = 0 if step.what == "exit" else 3
                world.exit(found[step.container % len(found)].id, code)
        elif step.what == "kill":
            kill = self.agent.engine.kill_after if step.pod else self.agent.engine.kill_before
            kill(step.amount)
        elif step.what == "restart":
            self.agent = await self.agent.next()
        elif step.what == "docker":
            world.stop_daemon(live_restore=bool(step.pod))
            await asyncio.sleep(step.amount / 2)
            world.start_daemon()
        elif step.what == "break":
            world.break_events()
        elif step.what == "wait":
            await asyncio.sleep(step.amount)
        else:
            self.trouble(step, uid)
        await asyncio.sleep(0.05 * step.container)

    def trouble(self, step: Step, uid: str) -> None:
        """What makes starting and ending hard."""
        world, engine = self.cluster.world, self.agent.engine
        call = CALLS[step.amount % len(CALLS)]
        if step.what == "no image":
            found = world.here(IMAGE)
            if found is not None:
                del world.images[found.id]
            else:
                world.add_image(IMAGE)
        elif step.what == "unhealthy":
            running = [c for c in world.containers.values() if c.running]
            for one in running[step.container :: 3]:
                if one.labels[CONTAINER_NAME] != SANDBOX:
                    self.agent.probes.failed[one.id] = "liveness"
                    self.agent.manager.probed(one.labels[POD_UID])
        elif step.what == "hook":
            world.commands["b"] = (ExecResult(1, b""), ExecResult(0, b""))[step.pod % 2]
        elif step.what == "hang":
            engine.hang(call)
        elif step.what == "error":
            error = EngineError("Docker is not well", 500)
            engine.fail_next(call, error, times=1 + step.container)
        else:
            self.change(step, uid)

    def change(self, step: Step, uid: str) -> None:
        """What is wanted otherwise."""
        cluster = self.cluster
        pod, worker = cluster.api.get(uid), self.agent.manager.workers.get(uid)
        if step.what == "image" and pod is not None:
            cluster.put(with_image(pod, (IMAGE, OTHER)[step.amount % 2]))
        elif step.what == "annotate" and pod is not None:
            meta = msgspec.structs.replace(pod.metadata, annotations={"at": str(step.amount)})
            cluster.put(msgspec.structs.replace(pod, metadata=meta))
        elif step.what == "evict" and worker is not None:
            worker.give_up("Evicted", "no memory is left", most_grace=step.container)
        elif step.what == "api":
            cluster.go_away()
        elif step.what == "api back":
            cluster.come_back()
        elif step.what == "static":
            cluster.static.clear()
            if step.pod:
                made = static_pod("etcd", str(step.container))
                cluster.static[made.uid] = made
            cluster.tell()

    async def rest(self) -> None:
        """The last agent is left alone for as long as any back-off can last."""
        self.agent.engine.heal()
        self.cluster.come_back()
        self.cluster.world.commands["b"] = ExecResult(0, b"")
        if self.cluster.world.here(IMAGE) is None:
            self.cluster.world.add_image(IMAGE)
        # A call that is under way may be its last yet.
        await asyncio.sleep(0.1)
        if self.agent.engine.dead:
            self.agent = await self.agent.next()
        await asyncio.sleep(60)


def check(cluster: Cluster) -> None:
    """What has to hold in the end, whatever happened."""
    world = cluster.world
    assert world.broken == []
    there = {one.labels[POD_UID] for one in world.containers.values()}
    wanted_here = {*cluster.api, *cluster.static}
    assert there <= wanted_here, "containers of a pod that is gone are left"
    for uid in cluster.static:
        assert cluster.running(uid) == ["app"]
    for uid, pod in cluster.api.items():
        assert not pod.metadata.deletion_timestamp, f"{uid} was never confirmed gone"
        phase = pod.status["phase"]
        wanted = sorted(container.name for container in pod.spec.containers)
        sandboxes = [one for one in world.find(SANDBOX, uid) if one.running]
        if phase in {"Succeeded", "Failed"}:
            assert pod.spec.restart_policy != "Always" or pod.status.get("reason") == "Evicted"
            assert cluster.running(uid) == []
            assert sandboxes == []
            continue
        assert phase == "Running"
        assert len(sandboxes) == 1
        running = cluster.running(uid)
        if pod.spec.restart_policy == "Always":
            assert running == wanted
        else:
            assert running, "nothing of a running pod runs"
        for status in pod.status["containerStatuses"]:
            newest = max((int(c.labels["annotation.io.kubernetes.container.restartCount"])
                          for c in world.find(status["name"], uid)), default=-1)  # fmt: skip
            if status["name"] in running:
                assert status["ready"]
                assert status["restartCount"] == newest


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=20))
def test_whatever_happens_and_whenever_the_agent_is_killed_pods_end_as_wanted(
    steps: list[Step],
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        story = Story()
        for step in steps:
            await story.happen(step)
        await story.rest()
        check(story.cluster)
        await story.agent.stop()

    run(main())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_agent_killed_at_each_call_of_a_start_leaves_a_start_that_goes_on(after: bool) -> None:
    async def main(number: int) -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        story = Story()
        engine = story.agent.engine
        await asyncio.sleep(1)
        (engine.kill_after if after else engine.kill_before)(number)
        story.cluster.put(make_pod("web", "a", "b", inits=("init",)))
        await asyncio.sleep(5)
        killed = engine.dead
        await story.rest()
        check(story.cluster)
        world = story.cluster.world
        for name in ("a", "b"):
            attempts = [one.labels["annotation.io.kubernetes.container.restartCount"]
                        for one in world.find(name)]  # fmt: skip
            assert attempts == ["0"], "a start that was cut short counts as a restart"
        await story.agent.stop()
        return killed

    number = 1
    while run(main(number)):
        number += 1
    assert number > 10, "the agent was killed at hardly any call"


def test_a_restart_of_the_agent_restarts_nothing() -> None:
    async def main() -> None:
        story = Story()
        for name in ("p1", "p2"):
            story.cluster.put(make_pod(name, "a", "b", inits=("init",)))
        await asyncio.sleep(5)
        before = {one.id for one in story.cluster.world.containers.values()}
        story.agent = await story.agent.next()
        await asyncio.sleep(120)
        assert {one.id for one in story.cluster.world.containers.values()} == before
        assert all(one.starts == 1 for one in story.cluster.world.containers.values())
        await story.agent.stop()

    run(main())


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_by_an_hour_restarts_nothing_and_changes_no_wait(hours: int) -> None:
    async def main() -> None:
        story = Story()
        world = story.cluster.world
        story.cluster.put(make_pod("web", "a", active_deadline_seconds=600))
        story.cluster.put(make_pod("crash", "c"))
        await asyncio.sleep(5)
        world.exit(world.find("c")[0].id, 1)
        await asyncio.sleep(1)
        story.agent.wall += hours * 3600.0
        world.time += hours * 3600.0
        before = {one.id for one in world.containers.values()}
        await asyncio.sleep(120)
        assert {one.id for one in world.containers.values()} == before
        assert story.cluster.status("uid-web")["phase"] == "Running"
        # Docker's own times are of the new clock from here on: attempts still go up by one.
        newest = max(world.find("c"), key=lambda one: one.name)
        world.exit(newest.id, 1)
        await asyncio.sleep(10)
        counts = story.cluster.status("uid-crash")["containerStatuses"]
        assert [entry["restartCount"] for entry in counts] == [2]
        await asyncio.sleep(600)
        assert story.cluster.status("uid-web")["reason"] == "DeadlineExceeded"
        await story.agent.stop()

    run(main())


def test_a_host_that_was_switched_off_has_its_pods_started_again() -> None:
    async def main() -> None:
        story = Story()
        world = story.cluster.world
        for name, policy in (("p1", "Always"), ("p2", "OnFailure"), ("p3", "Never")):
            story.cluster.put(make_pod(name, "a", restart_policy=policy))
        await asyncio.sleep(5)
        await story.agent.stop()
        world.stop_daemon()
        world.start_daemon()
        story.agent = await story.agent.next()
        await asyncio.sleep(10)
        check(story.cluster)
        phases = [story.cluster.status(uid)["phase"] for uid in story.cluster.api]
        assert phases == ["Running", "Running", "Failed"]
        await story.agent.stop()

    run(main())


def test_the_next_static_pod_of_a_name_waits_for_the_end_of_the_last() -> None:
    async def main() -> None:
        story = Story()
        world = story.cluster.world
        world.run("app", Program(ignores=frozenset({"TERM"})))
        first, second = static_pod("etcd", "1"), static_pod("etcd", "2")
        story.cluster.static[first.uid] = first
        story.cluster.tell()
        await asyncio.sleep(1)
        assert story.cluster.running(first.uid) == ["app"]
        del story.cluster.static[first.uid]
        story.cluster.static[second.uid] = second
        story.cluster.tell()
        await asyncio.sleep(3)
        assert (story.cluster.running(first.uid), story.cluster.running(second.uid)) == (
            ["app"],
            [],
        )
        await asyncio.sleep(4)
        assert (story.cluster.running(first.uid), story.cluster.running(second.uid)) == (
            [],
            ["app"],
        )
        await story.agent.stop()

    run(main())


def test_a_static_pod_that_is_taken_away_and_given_back_runs_in_the_end() -> None:
    async def main() -> None:
        story = Story()
        pod = static_pod("etcd")
        story.cluster.static[pod.uid] = pod
        story.cluster.tell()
        await asyncio.sleep(1)
        del story.cluster.static[pod.uid]
        story.cluster.tell()
        await asyncio.sleep(0.01)
        story.cluster.static[pod.uid] = pod
        story.cluster.tell()
        await asyncio.sleep(10)
        assert story.cluster.running(pod.uid) == ["app"]
        await story.agent.stop()

    run(main())


def test_a_container_taken_away_by_hand_comes_back_at_once_under_the_next_number() -> None:
    async def main() -> None:
        story = Story()
        world = story.cluster.world
        story.cluster.put(make_pod("web", "a"))
        await asyncio.sleep(5)
        loop = asyncio.get_running_loop()
        for number in (1, 2, 3):
            world.delete(world.find("a")[0].id)
            began = loop.time()
            await asyncio.sleep(0.1)
            assert loop.time() - began < 0.2
            assert story.cluster.running("uid-web") == ["a"]
            await asyncio.sleep(1)
            status = story.cluster.status("uid-web")["containerStatuses"][0]
            assert (status["restartCount"], status["ready"]) == (number, True)
        await story.agent.stop()

    run(main())


@pytest.mark.parametrize("way", ["delete", "exit"])
def test_that_a_sandbox_was_lost_is_told_in_an_event(way: str) -> None:
    """Taken away without a trace, too; and not at the first start."""

    async def main() -> None:
        story = Story()
        world = story.cluster.world
        story.cluster.put(make_pod("web", "a"))
        await asyncio.sleep(5)
        assert "SandboxChanged" not in dict(story.cluster.events)
        sandbox = world.find(SANDBOX)[0].id
        if way == "delete":
            world.delete(sandbox)
        else:
            world.exit(sandbox, 137)
        await asyncio.sleep(5)
        assert story.cluster.running("uid-web") == ["a"]
        assert [reason for reason, _ in story.cluster.events].count("SandboxChanged") == 1
        await story.agent.stop()

    run(main())


def test_a_pod_deleted_by_force_while_it_is_being_deleted_is_not_waited_for() -> None:
    """Its containers had an hour, and ignore SIGTERM; then its object is taken away."""

    async def main() -> None:
        story = Story()
        world = story.cluster.world
        world.run("a", Program(ignores=frozenset({"SIGTERM"})))
        story.cluster.put(make_pod("web", "a"))
        await asyncio.sleep(5)
        story.cluster.delete("uid-web", grace=3600)
        await asyncio.sleep(60)
        assert story.cluster.running("uid-web") == ["a"]
        story.cluster.api.pop("uid-web")
        story.cluster.tell()
        await asyncio.sleep(10)
        assert not world.containers
        await story.agent.stop()

    run(main())


def test_one_container_that_hangs_in_docker_leaves_all_other_pods_alone() -> None:
    async def main() -> None:
        story = Story()
        world = story.cluster.world
        story.cluster.put(make_pod("stuck", "a"))
        await asyncio.sleep(5)
        stuck = world.find("a")[0].id
        for call in ("inspect", "kill", "remove"):
            story.agent.engine.hang(f"{call}:{stuck}")
        world.exit(stuck, 1)
        story.cluster.put(make_pod("fine", "b"))
        await asyncio.sleep(5)
        assert story.cluster.status("uid-fine")["phase"] == "Running"
        story.cluster.delete("uid-fine", grace=1)
        await asyncio.sleep(5)
        assert "uid-fine" not in story.cluster.api
        assert story.agent.observer.trouble == ""
        await story.agent.stop()

    run(main())
