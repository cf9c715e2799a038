"""Resident memory of netd by number of peers, and its processor time while nothing happens."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.events import Recorder
from bench.peers import entries, peers
from bench.result import Aim, BenchError, Result
from bench.world import World

RSS_AIMS = {1000: Aim("<=", 60.0)}
"""MiB, by number of peers."""

CPU_AIM = Aim("<", 0.5)
"""Percent of one processor."""

_DEADLINE = 120.0
# netd saves its state a second after the last change; memory is read when that is over.
_SETTLE = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")
_BARE = (
    "import asyncio, sys\n"
    "async def main(): print(flush=True); await asyncio.to_thread(sys.stdin.read)\n"
    "asyncio.run(main())"
)


def measure(world: World, sizes: Sequence[int], idle: float, idle_peers: int) -> Iterator[Result]:
    """Yield memory for each of *sizes*; for *idle_peers* also the CPU over *idle* seconds."""
    baseline = _bare_python()
    for count in sizes:
        others = peers(count)
        prefix = world.records(f"memory-{count}", others)
        with world.host() as host, world.daemon(host, prefix) as daemon:
            with Recorder(host.space.path) as recorder:
                daemon.start()
                daemon.wait_entries(recorder, entries(others), _DEADLINE)
            daemon.wait_ready()
            time.sleep(_SETTLE)
            rss, pss = memory(daemon.pid)
            against = "python with asyncio only"
            label = f"{count} peer{'s' if count > 1 else ''}"
            note = f"most {_peak(daemon.pid):.1f} MiB"
            yield Result(
                f"RSS, {label}", rss, "MiB", baseline[0], against, RSS_AIMS.get(count), note=note
            )
            yield Result(f"PSS, {label}", pss, "MiB", baseline[1], against)
            if count == idle_peers and idle > 0:
                yield _idle(world, daemon.pid, label, idle)


def _idle(world: World, pid: int, label: str, seconds: float) -> Result:
    etcd = world.etcd_pid()
    begin = time.monotonic()
    before = processor_time(pid), processor_time(etcd)
    time.sleep(seconds)
    used = processor_time(pid) - before[0], processor_time(etcd) - before[1]
    took = time.monotonic() - begin
    return Result(
        f"idle CPU, {label}", used[0] / took * 100, "%", used[1] / took * 100,
        "etcd in the same time", CPU_AIM,
        note=f"{used[0]:.2f} s in {took:.0f} s, programs that it ran included",
    )  # fmt: skip


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process in MiB, proc_pid_smaps(5)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) / 1024
    return found["Rss"], found["Pss"]


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise BenchError("no VmHWM in /proc")


def processor_time(pid: int) -> float:
    """Seconds that a process and its ended children used, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[at]) for at in (11, 12, 13, 14)) / _TICKS


def _bare_python() -> tuple[float, float]:
    """RSS and PSS in MiB of an interpreter that runs an empty event loop."""
    with subprocess.Popen(
        [sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdout.readline()
            return memory(process.pid)
        finally:
            process.stdin.close()
