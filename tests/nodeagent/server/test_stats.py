"""Figures: read from files as the kernel writes them, sampled seldom, shown in three forms."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.errors import NodeAgentError
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import PodSeen, Seen
from nodeagent.server.readings import Reader
from nodeagent.server.sample import cadvisor_metrics, resource_metrics, summary
from nodeagent.server.stats import Stats
from tests.nodeagent.server.stand import pod_of, running

TICKS = os.sysconf("SC_CLK_TCK")
STARTED = "2023-11-14T22:13:20.123456789Z"


class Machine:
    """A /proc and a /sys/fs/cgroup in a folder, of cgroup version 1 or 2."""

    def __init__(self, folder: Path, version: int) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.version = version
        self.write(self.proc / "meminfo", "MemTotal: 1000 kB\nMemFree: 300 kB\n"
                   "MemAvailable: 500 kB\nInactive(file): 100 kB\nAnonPages: 80 kB\n")  # fmt: skip
        self.write(self.proc / "stat", f"cpu  {TICKS} 0 {TICKS} 99 99 0 0 0 0 0\ncpu0 1\ncpu1 2\n")
        self.write(self.proc / "uptime", "100.00 50.00\n")
        self.write(self.proc / "loadavg", "0.1 0.1 0.1 2/77 4000\n")
        self.write(self.proc / "vmstat", "pgfault 12\npgmajfault 3\n")
        self.write(self.proc / "sys" / "kernel" / "pid_max", "32768\n")
        self.net(self.proc / "net", eth0=(7, 8))

    @staticmethod
    def write(path: Path, text: str) -> None:
        """A file with its folders."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def net(self, folder: Path, **links: tuple[int, int]) -> None:
        """``dev`` with a loopback and *links* (bytes received and sent)."""
        row = "{:>6}: {} 1 0 0 0 0 0 0 {} 1 0 0 0 0 0 0\n"
        rows = "".join(row.format(name, rx, tx) for name, (rx, tx) in links.items())
        self.write(folder / "dev", "Inter-|\n face |\n" + row.format("lo", 1, 1) + rows)

    def process(self, pid: int, cpu: int, memory: int, inactive: int, limit: int | None) -> None:
        """A process in a cgroup of its own; *cpu* is nanoseconds."""
        folder = self.proc / str(pid)
        self.write(folder / "stat", f"{pid} (a) b (c) S {'0 ' * 18}{90 * TICKS} 0\n")
        place = f"/docker/{pid}"
        if self.version == 1:
            self.write(folder / "cgroup", f"9:name=systemd:{place}\n4:memory:{place}\n"
                       f"2:cpu,cpuacct:{place}\n0::/\n")  # fmt: skip
            group = self.cgroups / "memory" / place[1:]
            self.write(group / "memory.usage_in_bytes", f"{memory}\n")
            self.write(group / "memory.limit_in_bytes", f"{limit or 9223372036854771712}\n")
            self.write(group / "memory.stat", f"inactive_file 1\ntotal_inactive_file {inactive}\n"
                       "total_rss 5\ntotal_pgfault 6\ntotal_pgmajfault 7\n")  # fmt: skip
            self.write(self.cgroups / "cpuacct" / place[1:] / "cpuacct.usage", f"{cpu}\n")
        else:
            self.write(folder / "cgroup", f"0::{place}\n")
            group = self.cgroups / place[1:]
            self.write(group / "memory.current", f"{memory}\n")
            self.write(group / "memory.max", f"{limit or 'max'}\n")
            self.write(group / "memory.stat", f"anon 5\ninactive_file {inactive}\npgfault 6\n"
                       "pgmajfault 7\n")  # fmt: skip
            self.write(group / "cpu.stat", f"usage_usec {cpu // 1000}\nuser_usec 1\n")

    def reader(self) -> Reader:
        """A reader of these files."""
        return Reader(self.proc, self.cgroups)


class Clock:
    """Monotonic time and the time of day."""

    def __init__(self) -> None:
        self.now = 50.0
        self.day = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        """The time of day."""
        return self.day


@pytest.fixture(params=[1, 2])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A machine with either version of cgroups, with one pod of two processes."""
    made = Machine(tmp_path, request.param)
    made.process(11, 1_000_000_000, 400, 100, None)
    made.process(12, 4_000_000_000, 1000, 300, 2000)
    made.net(made.proc / "11" / "net", eth0=(70, 80))
    return made


POD = pod_of("web", "nginx")


def seen(name: str, pid: int, **changed: Any) -> Seen:
    """A running container."""
    fields: dict[str, Any] = {"started_at": STARTED, "image": f"{name}:1", **changed}
    return Seen(f"id-{name}", POD.uid, "web", "default", name, 0, "running", pid=pid, **fields)


def stats(
    machine: Machine, clock: Clock, *containers: Seen, asked: list[int] | None = None
) -> Stats:
    """Stats of one pod."""

    def observed() -> list[tuple[Pod, PodSeen]]:
        if asked is not None:
            asked.append(1)
        return [(POD, PodSeen.of(POD.uid, containers))]

    return Stats(
        observed, machine.proc, image_dir=machine.proc, reader=machine.reader(), clock=clock,
        wall=clock.wall,
    )  # fmt: skip


async def test_a_summary_has_what_metrics_server_reads(machine: Machine) -> None:
    clock = Clock()
    one = stats(machine, clock, seen("POD", 11), seen("nginx", 12))
    found = summary(await one.sample(), "node-1")
    node = found["node"]
    assert (node["nodeName"], node["startTime"]) == ("node-1", "2023-11-14T22:11:40Z")
    # Two seconds of CPU time in the hundred since the machine began.
    assert node["cpu"] == {
        "time": "2023-11-14T22:13:20Z", "usageNanoCores": 20_000_000,
        "usageCoreNanoSeconds": 2_000_000_000,
    }  # fmt: skip
    memory = node["memory"]
    assert (memory["usageBytes"], memory["workingSetBytes"]) == (700 * 1024, 600 * 1024)
    assert memory["availableBytes"] == 400 * 1024
    assert (memory["pageFaults"], memory["majorPageFaults"]) == (12, 3)
    assert (node["network"]["name"], node["network"]["rxBytes"]) == ("eth0", 7)
    assert node["rlimit"] == {"time": "2023-11-14T22:13:20Z", "maxpid": 32768, "curproc": 77}
    assert node["fs"]["capacityBytes"] > node["fs"]["availableBytes"] > 0
    assert node["runtime"]["imageFs"]["inodes"] >= 0
    (pod,) = found["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "uid-web"}
    (container,) = pod["containers"]
    assert (container["name"], container["startTime"]) == ("nginx", STARTED)
    # Four seconds in the ten that the process has run.
    assert container["cpu"]["usageNanoCores"] == 400_000_000
    assert container["memory"]["workingSetBytes"] == 700
    assert container["memory"]["availableBytes"] == 1300
    assert (container["memory"]["rssBytes"], container["memory"]["majorPageFaults"]) == (5, 7)
    assert pod["cpu"]["usageCoreNanoSeconds"] == 5_000_000_000
    assert pod["memory"]["workingSetBytes"] == 1000
    assert pod["network"]["txBytes"] == 80
    assert json.loads(json.dumps(found)) == found


async def test_rates_are_those_since_the_last_sample_whatever_the_clock_of_day_does(
    machine: Machine,
) -> None:
    clock = Clock()
    one = stats(machine, clock, seen("POD", 11), seen("nginx", 12))
    await one.sample()
    machine.process(12, 5_000_000_000, 1000, 300, None)
    clock.now += 10.0
    clock.day -= 3600.0
    sample = await one.sample()
    (pod,) = sample.pods
    rates = {container.name: container.rate for container in pod.containers}
    assert rates == {"POD": 0, "nginx": 100_000_000}
    assert sample.time == clock.day


async def test_a_sample_holds_for_five_seconds_and_who_asks_meanwhile_costs_nothing(
    machine: Machine,
) -> None:
    clock = Clock()
    asked: list[int] = []
    one = stats(machine, clock, seen("nginx", 12), asked=asked)
    first = await one.sample()
    clock.now += 4.9
    assert await one.sample() is first
    clock.now += 0.2
    assert await one.sample() is not first
    assert len(asked) == 2


async def test_a_container_that_ended_meanwhile_is_left_out_and_is_no_fault(
    machine: Machine,
) -> None:
    clock = Clock()
    ended = seen("gone", 99)
    asleep = Seen("id-x", POD.uid, "web", "default", "x", 0, "exited")
    sample = await stats(machine, clock, seen("nginx", 12), ended, asleep).sample()
    assert [one.name for one in sample.pods[0].containers] == ["nginx"]
    assert not sample.failed


async def test_what_the_kernel_says_differently_is_left_out_and_told(machine: Machine) -> None:
    machine.write(machine.proc / "12" / "stat", "nonsense")
    sample = await stats(machine, Clock(), seen("POD", 11), seen("nginx", 12)).sample()
    assert [one.name for one in sample.pods[0].containers] == ["POD"]
    assert sample.failed
    assert b"\nscrape_error 1\n" in resource_metrics(sample)


async def test_a_machine_that_cannot_be_read_is_an_error_in_words(machine: Machine) -> None:
    (machine.proc / "stat").unlink()
    with pytest.raises(NodeAgentError, match="figures cannot be read"):
        await stats(machine, Clock()).sample()


async def test_a_pod_on_the_hosts_network_does_not_claim_the_hosts_traffic(
    machine: Machine,
) -> None:
    sandbox = seen("POD", 11, host_network=True)
    found = summary(await stats(machine, Clock(), sandbox).sample(), "node-1")
    assert "network" not in found["pods"][0]


def metrics(text: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], tuple[float, float]]]:
    """Value and time by name and labels, as Prometheus' own parser reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], tuple[float, float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            stamp = float(one.timestamp) if one.timestamp is not None else 0.0
            found.setdefault(one.name, {})[tuple(sorted(one.labels.items()))] = one.value, stamp
    return found


async def test_resource_metrics_are_those_that_metrics_server_reads(machine: Machine) -> None:
    clock = Clock()
    sample = await stats(machine, clock, seen("POD", 11), seen("nginx", 12)).sample()
    found = metrics(resource_metrics(sample))
    pod = (("namespace", "default"), ("pod", "web"))
    container = (("container", "nginx"), *pod)
    at = clock.day
    assert found["container_cpu_usage_seconds_total"] == {container: (4.0, at)}
    assert found["container_memory_working_set_bytes"] == {container: (700.0, at)}
    assert found["container_start_time_seconds"][container][0] == pytest.approx(1.7e9 + 0.123456)
    assert found["pod_cpu_usage_seconds_total"] == {pod: (5.0, at)}
    assert found["pod_memory_working_set_bytes"] == {pod: (1000.0, at)}
    assert found["node_cpu_usage_seconds_total"] == {(): (2.0, at)}
    assert found["node_memory_working_set_bytes"] == {(): (600.0 * 1024, at)}
    assert found["scrape_error"][()][0] == found["resource_scrape_error"][()][0] == 0


async def test_cadvisors_metrics_have_the_sandbox_and_the_network_too(machine: Machine) -> None:
    sample = await stats(machine, Clock(), seen("POD", 11), seen("nginx", 12)).sample()
    found = metrics(cadvisor_metrics(sample))
    names = {dict(labels)["container"] for labels in found["container_memory_usage_bytes"]}
    assert names == {"POD", "nginx"}
    (link,) = found["container_network_receive_bytes_total"]
    assert dict(link) == {"interface": "eth0", "namespace": "default", "pod": "web"}
    limits = found["container_spec_memory_limit_bytes"]
    assert {dict(labels)["container"]: value for labels, (value, _) in limits.items()} == {
        "POD": 0, "nginx": 2000,
    }  # fmt: skip
    assert found["machine_cpu_cores"][()][0] == 2


async def test_labels_are_written_so_that_any_image_name_is_read_back(machine: Machine) -> None:
    image = 'a"b\\c\nd'
    sample = await stats(machine, Clock(), seen("nginx", 12, image=image)).sample()
    (labels,) = metrics(cadvisor_metrics(sample))["container_cpu_usage_seconds_total"]
    assert dict(labels)["image"] == image


async def test_this_very_machine_can_be_read(tmp_path: Path) -> None:
    async with running(tmp_path, anonymous=True, always_allow=True) as stand:
        node = json.loads((await stand.ask("/stats/summary"))[1])["node"]
        assert node["cpu"]["usageNanoCores"] > 0
        assert node["memory"]["workingSetBytes"] > 0
    usage = Reader().container(os.getpid())
    assert usage is not None
    assert usage.memory > 0
    assert 0 < usage.age < 1e6
