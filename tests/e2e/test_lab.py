"""The lab as its operator uses it, on real namespaces, etcd, netd and dockerd."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hostkit.command import SubprocessRunner
from lab.cgroups import Cgroups, parse_hierarchies
from lab.images import ImageCache
from lab.probe import process_ref
from tests.e2e.conftest import Operator, host_state

pytestmark = pytest.mark.e2e


def until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until *holds*; fails when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.05)


def lab_processes(name: str) -> list[int]:
    """The processes in the lab's cgroups."""
    hierarchies = parse_hierarchies(Path("/proc/self/mountinfo").read_text())
    return sorted(Cgroups(hierarchies).processes(name))


def busybox_image() -> Path:
    """The archive of the busybox image."""
    cache = ImageCache(SubprocessRunner(), Path("/var/cache/barenode"))
    return asyncio.run(cache.build("busybox"))


def test_three_nodes_come_up_one_loses_power_and_the_host_is_as_before(operator: Operator) -> None:
    """The issue's sequence: up, status, kill, down; the fixture compares the host."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "3")
    found = operator.status(name)
    assert found["state"] == "ready"
    assert [node["state"] for node in found["nodes"]] == ["ready"] * 3
    assert len({node["subnet"] for node in found["nodes"]}) == 3
    operator("lab", "kill", "--name", name, "node2")
    found = operator.status(name)
    assert found["state"] == "degraded"
    assert [node["state"] for node in found["nodes"]] == ["ready", "dead", "ready"]
    operator("lab", "down", "--name", name)
    assert operator.survivors() == {}
    operator("lab", "status", "--name", name, status=3)


def test_a_node_comes_back_from_a_power_failure_with_its_disk(operator: Operator) -> None:
    """Image, container and subnet survive; /run does not."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    image = busybox_image()
    operator("lab", "load", "--name", name, str(image))
    run = ("docker", "run", "-d", "--name", "kept", "barenode/busybox:lab", "sleep", "600")
    operator.in_node(name, "node1", *run)
    operator.in_node(name, "node1", "touch", "/run/before-the-reboot")
    before = operator.status(name)["nodes"][0]
    operator("lab", "kill", "--name", name, "node1")
    operator("lab", "start", "--name", name, "node1")
    after = operator.status(name)["nodes"][0]
    assert after["state"] == "ready"
    assert after["subnet"] == before["subnet"]
    assert after["pid"] != before["pid"]
    assert "kept" in operator.in_node(name, "node1", "docker", "ps", "--all")
    operator("lab", "exec", "--name", name, "node1", "--", "ls", "/run/before-the-reboot", status=2)
    operator("lab", "start", "--name", name, "node1", status=4)


def test_two_labs_live_side_by_side_and_one_goes_without_the_other(operator: Operator) -> None:
    """Their ranges differ, and a lab whose name begins like the other's is not touched."""
    first, second = operator.name(), operator.name("-a")
    operator("lab", "up", "--name", first, "--nodes", "1")
    operator("lab", "up", "--name", second, "--nodes", "1")
    one, two = operator.status(first), operator.status(second)
    assert one["underlay"] != two["underlay"]
    assert one["overlay"] != two["overlay"]
    operator("lab", "down", "--name", first)
    assert operator.status(second)["state"] == "ready"
    names = [lab["name"] for lab in json.loads(operator("lab", "list", "--json"))["labs"]]
    assert second in names
    assert first not in names


def test_down_removes_a_lab_half_of_whose_processes_were_killed(operator: Operator) -> None:
    """Also when its state file is gone: the names are enough."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "2")
    operator.status(name)
    processes = lab_processes(name)
    assert len(processes) >= 8
    for pid in processes[::2]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    shutil.rmtree(f"/run/barenode/labs/{name}")
    operator("lab", "status", "--name", name, status=3)
    operator("lab", "down", "--name", name)
    assert lab_processes(name) == []
    operator("lab", "down", "--name", name)


def test_an_interrupted_up_removes_what_it_made(operator: Operator) -> None:
    """Ctrl-C while nodes are starting: exit status 130 and nothing left."""
    name = operator.name()
    before = host_state(operator.prefix)
    # What a shell runs in the background ignores Ctrl-C, and its children inherit that.
    heeding = ["env", "--default-signal=INT"]
    process = subprocess.Popen(
        [*heeding, sys.executable, "-m", "lab", "lab", "up", "--name", name, "--nodes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        until(lambda: bool(lab_processes(name)), "the first node runs")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=180)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert lab_processes(name) == []
    assert host_state(operator.prefix) == before


def test_down_cleans_up_after_an_up_that_was_killed(operator: Operator) -> None:
    """SIGKILL leaves no time to tidy up; the next down does."""
    name = operator.name()
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "lab", "up", "--name", name, "--nodes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        until(lambda: bool(lab_processes(name)), "the first node runs")
        process.kill()
    operator("lab", "up", "--name", name, status=4)
    operator("lab", "down", "--name", name)
    assert lab_processes(name) == []


def test_a_service_that_dies_is_restarted_and_containers_stay(operator: Operator) -> None:
    """Pid 1 of a node starts netd again and leaves dockerd alone."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")

    def services() -> dict[str, dict[str, object]]:
        node = operator.status(name)["nodes"][0]
        return {service["name"]: service for service in node["services"]}

    before = services()
    operator.in_node(name, "node1", "kill", "-9", str(before["netd"]["pid"]))
    until(
        lambda: services()["netd"]["restarts"] == 1 and services()["netd"]["state"] == "ready",
        "netd is ready again",
    )
    assert services()["dockerd"]["pid"] == before["dockerd"]["pid"]


def test_a_command_in_a_node_gets_its_input_and_gives_its_exit_status(operator: Operator) -> None:
    """exec is transparent; the node is a host of its own."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    assert operator("lab", "exec", "--name", name, "node1", "--", "cat", stdin="in\n") == "in\n"
    operator("lab", "exec", "--name", name, "node1", "--", "sh", "-c", "exit 7", status=7)
    assert operator.in_node(name, "node1", "hostname") == "node1\n"
    assert operator.in_node(name, "node1", "cat", "/etc/hostname") == "node1\n"
    assert operator.in_node(name, "node1", "cat", "/proc/1/comm").startswith("python")
    wrong = operator("lab", "exec", "--name", name, "nod1", "--", "true", status=3)
    assert "did you mean 'node1'" in wrong


def test_sigterm_to_pid_1_stops_the_services_in_order(operator: Operator) -> None:
    """A node that is shut down ends by itself, dockerd before netd."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    ref = process_ref(operator.status(name)["nodes"][0]["pid"])
    assert ref is not None
    os.kill(ref.pid, signal.SIGTERM)
    until(lambda: process_ref(ref.pid) != ref, "pid 1 has ended")
    assert operator.status(name)["nodes"][0]["state"] == "dead"
    console = Path(f"/var/lib/barenode/labs/{name}/node1/console.log").read_text()
    assert re.search(r"dockerd ended.*netd ended", console, re.DOTALL)


def test_privileged_containers_and_execs_work(operator: Operator) -> None:
    """Also where CAP_SYS_RESOURCE is missing, through the runc wrapper."""
    name = operator.name()
    operator("lab", "up", "--name", name, "--nodes", "1")
    operator("lab", "load", "--name", name, str(busybox_image()), "node1")
    run = ("docker", "run", "-d", "--name", "strong", "--privileged", "--oom-score-adj=-500")
    operator.in_node(name, "node1", *run, "barenode/busybox:lab", "sleep", "600")
    execute = ("docker", "exec", "--privileged", "strong", "id", "-u")
    assert operator.in_node(name, "node1", *execute) == "0\n"
    # A paused container is frozen: the fixture's down must thaw it to end it.
    operator.in_node(name, "node1", "docker", "pause", "strong")


def test_a_network_that_is_in_use_is_refused(operator: Operator) -> None:
    """The clash is named and nothing is made."""
    said = operator("lab", "up", "--name", operator.name(), "--network", "127.0.0.0/16", status=2)
    assert "127.0.0.0/8" in said
    assert operator.name() not in operator("lab", "list")


def test_the_demo_reaches_every_page_and_every_pod_and_removes_its_lab(operator: Operator) -> None:
    """Exit status 0 says that all answered: over the overlay, and behind the service; and that a
    container that was taken away came back.

    The service is visited from each host, from a container on each host, and on each host's node
    port from outside, before and after scaling to 3. Needs netd's services.
    """
    shown = operator("lab", "demo", "--name", operator.name())
    lines = [line for line in shown.splitlines() if line.endswith("  yes")]
    assert len(lines) == 2 + 6 + 6 + 1
    assert "after docker rm -f" in shown
    for place in ("host node1", "container on node1", "host node2", "container on node2"):
        assert sum(line.startswith(f"{place} ") and ":80/" in line for line in lines) == 2
    outside = [line for line in lines if line.startswith("outside") and ":30061/" in line]
    assert [line.count("nginx-") for line in outside] == [2, 2, 3, 3]
    assert operator.name() not in operator("lab", "list")
