"""nodeagent, dockerd or the whole host are killed: afterwards the pods are as they should be.

A lab of its own: other tests must not see their Docker or host vanish.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import leftovers
from tests.engine.docker_story import told
from tests.engine.pods import (
    DEADLINE,
    LOOK,
    NODE,
    SANDBOX,
    PodWorld,
    Raw,
    barenode,
    lab_with_agent,
    shell,
    sleeper,
    status_of,
)
from tests.support.netns import eventually

SETTINGS = """\
container-backoff-first = "200ms"
container-backoff-max = "1s"
"""


AGENT = """\
#!/bin/sh
# Keeps nodeagent running without the pauses that a supervisor makes after many ends.
trap 'kill "$child"; wait "$child"; exit 0' TERM
while :; do
    {program} "$@" & child=$!
    echo "$child" > /run/agent.pid.new
    mv /run/agent.pid.new /run/agent.pid
    wait "$child"
done
"""


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodWorld]:
    """A lab of one node that may be broken."""
    program = tmp_path_factory.mktemp("agent") / "nodeagent"
    text = AGENT.format(program=Path(sys.executable).with_name("nodeagent"))
    with lab_with_agent(f"k{os.getpid() % 100000}", program, text, SETTINGS) as made:
        yield made


@pytest.fixture
def world(breakable: PodWorld) -> Iterator[PodWorld]:
    """The same; after the test, nothing of its pods may be left."""
    try:
        yield breakable
    finally:
        breakable.clean()
        set_live_restore(breakable, on=False)
    leftovers.clean(breakable)


def service(world: PodWorld, name: str) -> Raw:
    """What the node's pid 1 says of one of its services."""
    found = json.loads((world.root / "run/barenode/services.json").read_text())
    one: Raw = next(one for one in found if one["name"] == name)
    return one


def docker_up(world: PodWorld, *, other_than: int) -> None:
    """Wait until the node's supervisor has another dockerd that is ready."""

    def ready() -> bool:
        now = service(world, "dockerd")
        return bool(now["state"] == "ready" and now["pid"] != other_than)

    eventually(ready, "dockerd is ready", deadline=DEADLINE, interval=LOOK)


def kill_docker(world: PodWorld) -> None:
    """SIGKILL to dockerd; wait for the next one."""
    before = service(world, "dockerd")["pid"]
    world.node_run("kill", "-KILL", str(before))
    docker_up(world, other_than=before)


def agent_pid(world: PodWorld) -> int:
    """The nodeagent that runs, or ran last."""
    return int((world.root / "run/agent.pid").read_text())


def agent_up(world: PodWorld) -> None:
    """Wait until the nodeagent that runs is ready."""

    def ready() -> bool:
        now = world.agent()
        return bool(now and now["ready"] and now["pid"] == agent_pid(world))

    eventually(ready, "nodeagent is ready", deadline=DEADLINE, interval=LOOK)


def set_live_restore(world: PodWorld, *, on: bool) -> None:
    """Whether containers are to live on without dockerd, which reads its file at SIGHUP."""
    path = world.root / "etc/docker/daemon.json"
    if on == path.exists():
        return
    path.write_text(json.dumps({"live-restore": on}))
    world.node_run("kill", "-HUP", str(service(world, "dockerd")["pid"]))

    def taken() -> bool:
        return bool(world.docker("GET", "/info")["LiveRestoreEnabled"] == on)

    eventually(taken, f"live-restore {on}", deadline=DEADLINE, interval=LOOK)
    if not on:
        path.unlink()


def lives(world: PodWorld, name: str) -> dict[str, str]:
    """The containers of a pod that should run, by ID, with the time at which each began."""
    found = [world.container(name, one) for one in ("main", SANDBOX)]
    return {one["Id"]: one["State"]["StartedAt"] for one in found if one["State"]["Running"]}


def web(**more: object) -> Raw:
    """A pod with a tmpfs and files of a ConfigMap, so that there is something to leave behind."""
    mounts = [{"name": "scratch", "mountPath": "/scratch"},
              {"name": "settings", "mountPath": "/settings"}]  # fmt: skip
    return {
        "containers": [sleeper(volumeMounts=mounts)],
        "volumes": [
            {"name": "scratch", "emptyDir": {"medium": "Memory"}},
            {"name": "settings", "configMap": {"name": "settings", "optional": True}},
        ],
        "terminationGracePeriodSeconds": 1,
        **more,
    }


def static(name: str) -> str:
    """The manifest of a static pod."""
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    return json.dumps({**document, "spec": {"containers": [sleeper()]}})


def test_a_killed_nodeagent_is_followed_by_one_that_adopts_all_pods(world: PodWorld) -> None:
    """No process ends, nothing counts as a restart, and pod and node do not cease to be Ready."""
    world.create("web", web())
    before = world.ready("web")
    node = world.api("GET", f"/api/v1/nodes/{NODE}")
    alive = lives(world, "web")
    assert len(alive) == 2
    with told(world) as story:
        for _ in range(3):
            world.restart_agent(kill=True)
            after = world.get("web")
            assert ready_since(after) == ready_since(before)
            assert ready_since(world.api("GET", f"/api/v1/nodes/{NODE}")) == ready_since(node)
            assert status_of(after)["restartCount"] == 0
        assert lives(world, "web") == alive
        assert story.of("web") == story.of("web", SANDBOX) == []


def ready_since(thing: Raw) -> tuple[str, str]:
    """The status of a pod's or node's Ready condition, and since when it has that."""
    found = next(one for one in thing["status"]["conditions"] if one["type"] == "Ready")
    return found["status"], found["lastTransitionTime"]


class Churn:
    """Pods that are made, crash and are deleted, by chance; each name has one pod after another."""

    NAMES = ("p1", "p2", "p3", "p4")

    def __init__(self, world: PodWorld, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.counts: dict[tuple[str, str], int] = {}
        self.deleted: set[str] = set()

    def step(self) -> None:
        """One thing happens to one pod."""
        name = self.chance.choice(self.NAMES)
        pod = self.world.find(name)
        if pod is None:
            self.world.create(name, self._some_pod())
        elif "deletionTimestamp" in pod["metadata"]:
            return
        else:
            self._note(pod)
            what = self.chance.choice(("delete", "force", "kill", "rm", "rm sandbox", "leave"))
            if what in {"delete", "force"}:
                self.world.delete(name, grace=0 if what == "force" else 1)
            elif what != "leave":
                self._hurt(name, what)

    def _some_pod(self) -> Raw:
        kind = self.chance.choice(("web", "crash", "init"))
        if kind == "crash":
            return {"containers": [shell("sleep 0.2; exit 3")], "terminationGracePeriodSeconds": 1}
        inits = [shell("sleep 0.1", name="init")] if kind == "init" else []
        return web(initContainers=inits)

    def _hurt(self, name: str, what: str) -> None:
        found = self.world.containers(name, SANDBOX if what == "rm sandbox" else "main")
        if found:
            verb = "kill" if what == "kill" else "rm -f"
            self.world.node_run("docker", *verb.split(), found[0]["Id"], check=False)

    def _note(self, pod: Raw) -> None:
        for one in pod["status"].get("containerStatuses", ()):
            key = pod["metadata"]["uid"], one["name"]
            assert one["restartCount"] >= self.counts.get(key, 0), f"{key} counts backwards"
            self.counts[key] = one["restartCount"]


@pytest.mark.parametrize("seed", [1, 2])
def test_nodeagent_killed_at_any_moment_of_a_churn_of_pods(world: PodWorld, seed: int) -> None:
    """No instance ever ran beside another, attempts only grew, and what is wanted runs at last."""
    world.config_map("settings", {"color": "blue"})
    chance = random.Random(seed)
    churn = Churn(world, chance)
    with told(world) as story:
        for _ in range(10):
            for _ in range(chance.randint(2, 8)):
                churn.step()
            # Anywhere in what the steps have set going.
            time.sleep(chance.random() * 0.5)
            world.node_run("kill", "-KILL", str(agent_pid(world)), check=False)
            if chance.random() < 0.5:
                agent_up(world)
        for name in churn.NAMES:
            settled(world, name)
        assert story.faults() == []
    leftovers.clean(world)


def settled(world: PodWorld, name: str) -> None:
    """Wait until the pod is gone, runs, or waits for its next crash."""

    def holds() -> bool:
        pod = world.find(name)
        if pod is None:
            return True
        status = status_of(pod)
        crashes = pod["spec"]["containers"][0]["command"][-1].endswith("exit 3")
        done = status.get("restartCount", 0) > 0 if crashes else status.get("ready")
        return bool(done) and "deletionTimestamp" not in pod["metadata"]

    eventually(holds, f"{name} is settled", deadline=DEADLINE, interval=LOOK)


def test_with_live_restore_a_killed_dockerd_ends_no_container(world: PodWorld) -> None:
    """And nodeagent counts none as ended, and works with the next dockerd."""
    set_live_restore(world, on=True)
    world.create("web", web())
    world.ready("web")
    alive = lives(world, "web")
    kill_docker(world)
    world.create("next", web())
    world.ready("next")
    assert lives(world, "web") == alive
    pod = world.ready("web")
    assert status_of(pod)["restartCount"] == 0
    world.delete("web", grace=1)
    world.gone("web")


def test_without_live_restore_pods_run_again_after_dockerd_was_killed(world: PodWorld) -> None:
    """One new instance of each, numbered one up; a pod that never restarts has Failed.

    The next dockerd ends what it finds by SIGTERM.
    """
    ends = shell("trap 'exit 3' TERM; while :; do sleep 1000 & wait; done")
    world.create("web", web(containers=[ends]))
    world.create("once", web(containers=[ends], restartPolicy="Never"))
    for name in ("web", "once"):
        world.ready(name)
        world.obeys(name)
    kill_docker(world)
    pod = world.restarted("web", 1)
    assert [one["State"] for one in world.containers("web", SANDBOX)] == ["running"]
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 3
    assert status_of(world.phase("once", "Failed"))["restartCount"] == 0
    world.ready("web")


def test_dockerd_and_nodeagent_killed_together_while_pods_come_and_go(world: PodWorld) -> None:
    """Both are killed in the middle of starts and deletions, and what is wanted runs at last."""
    chance = random.Random(3)
    churn = Churn(world, chance)
    for _ in range(2):
        for _ in range(8):
            churn.step()
        time.sleep(chance.random() * 0.5)
        docker = service(world, "dockerd")["pid"]
        world.node_run("kill", "-KILL", str(docker), str(agent_pid(world)))
        docker_up(world, other_than=docker)
    for name in churn.NAMES:
        settled(world, name)
    leftovers.clean(world)


def test_a_host_whose_power_was_cut_runs_its_pods_again(world: PodWorld) -> None:
    """Each as one new instance, numbered one up; one deleted meanwhile leaves nothing behind."""
    world.manifest("static.json", static("static"))
    for name in ("web", "force"):
        world.create(name, web())
    world.create("once", web(restartPolicy="Never"))
    for name in ("web", "force", "once", f"static-{NODE}"):
        world.ready(name)
    barenode("lab", "kill", "--name", world.lab, NODE)
    world.delete("force", grace=0)
    barenode("lab", "start", "--name", world.lab, NODE)
    for name in ("web", f"static-{NODE}"):
        pod = world.restarted(name, 1)
        assert "terminated" in status_of(pod)["lastState"]
    world.phase("once", "Failed")
    world.gone("force")
    for name in ("web", f"static-{NODE}"):
        world.ready(name)
    leftovers.clean(world)
