"""SIGHUP at nodeagent beside a real Docker, and what its cleanup leaves of it all.

A lab of its own: in the end nodeagent is gone from it.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.pods import (
    DEADLINE,
    LOOK,
    SANDBOX,
    PodWorld,
    Raw,
    lab_with_agent,
    sleeper,
    status_of,
)
from tests.support.netns import eventually

AGENT = """\
#!/bin/sh
# Keeps nodeagent running, except while /run/agent.off is there. Its name and flags stay in
# /run/agent.args for the commands of the tests.
printf '%s\\n' "$@" > /run/agent.args
while :; do
    [ -e /run/agent.off ] || {program} "$@" || :
    sleep 0.1
done
"""
PROGRAM = Path(sys.executable).with_name("nodeagent")
STATIC = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kept"},
    "spec": {"containers": [sleeper()]},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodWorld]:
    """A lab of one node."""
    program = tmp_path_factory.mktemp("agent") / "nodeagent"
    text = AGENT.format(program=PROGRAM)
    with lab_with_agent(f"h{os.getpid() % 100000}", program, text, "v = 1\n") as made:
        yield made


def alive(world: PodWorld, name: str) -> dict[str, str]:
    """The pod's running containers, by ID, with the time at which each began."""
    found = [world.container(name, one) for one in ("main", SANDBOX)]
    return {one["Id"]: one["State"]["StartedAt"] for one in found if one["State"]["Running"]}


def hang_up(world: PodWorld, text: str) -> None:
    """Write the settings and send SIGHUP."""
    (world.root / "etc/nodeagent/nodeagent.toml").write_text(text)
    world.node_run("kill", "-HUP", str(world.agent()["pid"]))


def test_pods_live_on_while_nodeagent_takes_other_settings_in_the_same_process(
    world: PodWorld,
) -> None:
    """Same pid, no restart, the node stays Ready; a bad file changes nothing."""
    volumes = [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    world.create("web", {"containers": [sleeper(volumeMounts=mounts)], "volumes": volumes})
    world.ready("web")
    before, running = world.agent(), alive(world, "web")
    assert len(running) == 2
    hang_up(world, "max-podz = 20\n")

    def refused() -> bool:
        found = {one["key"]: one["text"] for one in world.agent().get("problems", [])}
        return "unknown setting max-podz; did you mean max-pods?" in found.get("settings", "")

    eventually(refused, "the problem", deadline=DEADLINE, interval=LOOK)
    hang_up(world, "max-pods = 20\n")

    def taken() -> Raw:
        now = world.agent()
        return now if now and now["ready"] and now["started"] != before["started"] else {}

    after = eventually(taken, "nodeagent anew", deadline=DEADLINE, interval=LOOK)
    assert after["pid"] == before["pid"]
    assert all(one["key"] != "settings" for one in after["problems"])

    def capacity() -> bool:
        (node,) = world.api("GET", "/api/v1/nodes")["items"]
        return bool(node["status"]["capacity"]["pods"] == "20")

    eventually(capacity, "20 pods", deadline=DEADLINE, interval=LOOK)
    assert alive(world, "web") == running
    assert status_of(world.get("web"))["restartCount"] == 0
    ready = next(c for c in world.get("web")["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"


def test_cleanup_leaves_nothing_of_nodeagent_on_the_host(world: PodWorld) -> None:
    """Containers, image, mounts, cgroups, files, sockets, locks: all are gone."""
    world.manifest("kept.yaml", json.dumps(STATIC))
    memory = world.root / "var/lib/kubelet/static-pods.json"
    eventually(memory.exists, "the memory of static pods", deadline=DEADLINE, interval=LOOK)
    (world.root / "run/agent.off").touch()
    process = world.root / "proc" / str(world.agent()["pid"])
    world.node_run("kill", "-TERM", process.name)
    eventually(lambda: not process.exists(), "nodeagent ends", deadline=DEADLINE, interval=LOOK)
    _, *flags = (world.root / "run/agent.args").read_text().splitlines()
    told = json.loads(world.node_run(str(PROGRAM), "cleanup", "--json", *flags))
    assert [step for step in told if not step["ok"]] == []
    of_ours = '/containers/json?all=1&filters={"label":["barenode.nodeagent"]}'
    assert world.docker("GET", of_ours) == []
    tags = [tag for one in world.docker("GET", "/images/json") for tag in one["RepoTags"] or ()]
    assert not [tag for tag in tags if "pause" in tag]
    mounts = Path(f"/proc/{world.pid}/mountinfo").read_text().splitlines()
    assert [line for line in mounts if line.split()[4].startswith("/var/lib/kubelet/")] == []
    for name in ("var/lib/kubelet", "run/nodeagent"):
        folder = world.root / name
        assert not folder.exists() or list(folder.rglob("*")) == []
    groups = world.node_run("find", "/sys/fs/cgroup", "-maxdepth", "3", "-name", "kubepods*")
    assert groups == ""
