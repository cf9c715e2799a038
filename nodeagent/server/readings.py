"""Figures of the machine and of containers, read from /proc and the cgroup files.

CPU time is nanoseconds since the cgroup or the machine began; amounts are bytes. A container's
cgroups are those of its process (``/proc/PID/cgroup``, cgroups(7)), so it does not matter which
driver or parent Docker was given. What is gone by the time it is read is None.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodeagent.node.facts import Disk, disk_of, meminfo

_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU and memory of one cgroup; *age* is for how many seconds its process has run.

    *limit* is the memory limit, None without one.
    """

    cpu: int
    memory: int
    working_set: int
    rss: int = 0
    page_faults: int = 0
    major_faults: int = 0
    limit: int | None = None
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Interface:
    """The counters of a network interface."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The machine; *uptime* is seconds."""

    usage: Usage
    memory_total: int
    memory_available: int
    cpus: int
    uptime: float
    interfaces: tuple[Interface, ...] = ()
    disk: Disk | None = None
    image_disk: Disk | None = None
    max_pids: int = 0
    pids: int = 0


class Reader:
    """Reads below *proc* and *cgroups*."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._ticks = os.sysconf("SC_CLK_TCK")

    def container(self, pid: int) -> Usage | None:
        """The cgroup that process *pid* is in, None when it has ended.

        Raises OSError, ValueError or IndexError when the kernel does not say as expected.
        """
        try:
            places = _places(self._text(f"{pid}/cgroup"))
            age = self._uptime() - self._started(pid)
            if "memory" in places and "cpuacct" in places:
                return self._version1(places, age)
            return self._version2(places.get("", "/"), age)
        except OSError:
            if (self._proc / str(pid)).exists():
                raise
            return None

    def network(self, pid: int) -> tuple[Interface, ...]:
        """The interfaces in the network namespace of *pid*, without the loopback one."""
        try:
            return _interfaces(self._text(f"{pid}/net/dev"))
        except (OSError, ValueError, IndexError):
            return ()

    def node(self, root_dir: Path, image_dir: Path) -> NodeReading:
        """The machine, and the file systems of two folders; raises OSError."""
        memory = meminfo(self._text("meminfo"))
        total, free = memory.get("MemTotal", 0), memory.get("MemFree", 0)
        working_set = max(0, total - free - memory.get("Inactive(file)", 0))
        faults = _columns(self._text("vmstat"))
        stat = self._text("stat")
        pids = self._text("loadavg").split()
        return NodeReading(
            usage=Usage(
                cpu=self._cpu_time(stat),
                memory=total - free,
                working_set=working_set,
                rss=memory.get("AnonPages", 0),
                page_faults=faults.get("pgfault", 0),
                major_faults=faults.get("pgmajfault", 0),
            ),
            memory_total=total,
            memory_available=max(0, total - working_set),
            cpus=sum(line[3:4].isdigit() for line in stat.splitlines() if line.startswith("cpu")),
            uptime=self._uptime(),
            interfaces=_interfaces(self._text("net/dev")),
            disk=disk_of(root_dir),
            image_disk=disk_of(image_dir),
            max_pids=_number(self._text("sys/kernel/pid_max")),
            pids=_number(pids[3].partition("/")[2]) if len(pids) > 3 else 0,
        )

    def _cpu_time(self, stat: str) -> int:
        # proc(5): user nice system idle iowait irq softirq steal; guest is within user.
        fields = [int(one) for one in stat.partition("\n")[0].split()[1:9]]
        busy = sum(fields) - sum(fields[3:5])
        return busy * _NANO // self._ticks

    def _version1(self, places: Mapping[str, str], age: float) -> Usage:
        memory, cpu = self._folder("memory", places), self._folder("cpuacct", places)
        stat = _columns((memory / "memory.stat").read_text())
        usage = _number((memory / "memory.usage_in_bytes").read_text())
        limit = _number((memory / "memory.limit_in_bytes").read_text())
        return Usage(
            cpu=_number((cpu / "cpuacct.usage").read_text()),
            memory=usage,
            working_set=max(0, usage - stat.get("total_inactive_file", 0)),
            rss=stat.get("total_rss", 0),
            page_faults=stat.get("total_pgfault", 0),
            major_faults=stat.get("total_pgmajfault", 0),
            # Without a limit the kernel says the largest number of whole pages.
            limit=limit if limit < 2**62 else None,
            age=age,
        )

    def _version2(self, place: str, age: float) -> Usage:
        folder = self._cgroups / place.lstrip("/")
        stat = _columns((folder / "memory.stat").read_text())
        usage = _number((folder / "memory.current").read_text())
        limit = (folder / "memory.max").read_text().strip()
        return Usage(
            cpu=_columns((folder / "cpu.stat").read_text())["usage_usec"] * 1000,
            memory=usage,
            working_set=max(0, usage - stat.get("inactive_file", 0)),
            rss=stat.get("anon", 0),
            page_faults=stat.get("pgfault", 0),
            major_faults=stat.get("pgmajfault", 0),
            limit=None if limit == "max" else int(limit),
            age=age,
        )

    def _folder(self, controller: str, places: Mapping[str, str]) -> Path:
        return self._cgroups / controller / places[controller].lstrip("/")

    def _uptime(self) -> float:
        return float(self._text("uptime").split()[0])

    def _started(self, pid: int) -> float:
        # proc(5): starttime is field 22, the second field is in brackets and may hold anything.
        fields = self._text(f"{pid}/stat").rpartition(")")[2].split()
        return int(fields[19]) / self._ticks

    def _text(self, name: str) -> str:
        return (self._proc / name).read_text(errors="replace")


def _places(text: str) -> dict[str, str]:
    """The cgroup of each controller, "" for that of version 2."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _columns(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdecimal():
            found[name] = int(number)
    return found


def _interfaces(text: str) -> tuple[Interface, ...]:
    found = []
    # Two lines of headings, then NAME: 8 receive and 8 transmit counters.
    for line in text.splitlines()[2:]:
        name, _, rest = line.rpartition(":")
        counts = [int(one) for one in rest.split()]
        if name.strip() != "lo":
            found.append(Interface(name.strip(), counts[0], counts[2], counts[8], counts[10]))
    return tuple(sorted(found, key=lambda one: one.name))


def _number(text: str) -> int:
    return int(text.strip() or 0)
