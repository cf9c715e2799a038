"""What this machine is: read from files below a root, so that tests read others.

What cannot be read is left empty or 0 rather than raised: a node without DMI or os-release is a
node. Architectures have Go's names, since ``kubernetes.io/arch`` is compared with those.
"""

import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_GO_NAMES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv8l": "arm", "armv7l": "arm", "armv6l": "arm",
    "i386": "386", "i686": "386",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system in bytes and inodes: sizes, and what is free for us (0 inodes: not counted)."""

    size: int
    free: int
    inodes: int = 0
    inodes_free: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """This machine. *memory* and *disk* (that of ``--root-dir``) are bytes.

    *hugepages* maps a page's size in bytes to the bytes that are set aside for such pages.
    """

    hostname: str = ""
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel: str = ""
    os_image: str = ""
    architecture: str = "amd64"
    cpus: int = 1
    memory: int = 0
    disk: int = 0
    hugepages: Mapping[int, int] = field(default_factory=dict)


class Machine:
    """Reads files below *root* (``/``) and the file system that holds *storage*.

    *machine* is the kernel's name of the architecture, *disk* reads a file system.
    """

    def __init__(
        self,
        storage: Path,
        *,
        root: Path = Path("/"),
        machine: str | None = None,
        disk: Callable[[Path], "Disk | None"] | None = None,
    ) -> None:
        self._storage = storage
        self._root = root
        self._machine = platform.machine() if machine is None else machine
        self._disk = disk or disk_of
        self._size: int | None = None

    def facts(self) -> Facts:
        """All facts as they are now; never raises."""
        machine_id = self._first("etc/machine-id", "var/lib/dbus/machine-id")
        uuid = self._first("sys/class/dmi/id/product_uuid", "sys/hypervisor/uuid")
        # A file system that hangs would hang the caller: `disk` is for a thread, and refreshes it.
        if self._size is None:
            self.disk(self._storage)
        return Facts(
            hostname=self._first("proc/sys/kernel/hostname"),
            machine_id=machine_id,
            # Boards without DMI have no other name for the hardware.
            system_uuid=uuid or machine_id,
            boot_id=self._first("proc/sys/kernel/random/boot_id"),
            kernel=self._first("proc/sys/kernel/osrelease"),
            os_image=self._os_image(),
            architecture=_GO_NAMES.get(self._machine, self._machine),
            cpus=cpu_count(self._first("sys/devices/system/cpu/online")) or os.cpu_count() or 1,
            memory=meminfo(self._text("proc/meminfo")).get("MemTotal", 0),
            disk=self._size or 0,
            hugepages=self._hugepages(),
        )

    def memory(self) -> tuple[int, int]:
        """Bytes available without swapping, and in all; (0, 0) when the kernel does not say."""
        found = meminfo(self._text("proc/meminfo"))
        # Kernels before 3.14 have no MemAvailable.
        rough = sum(found.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
        return found.get("MemAvailable", rough), found.get("MemTotal", 0)

    def pids(self) -> tuple[int, int]:
        """Process ids that are free, and in all: threads have one each; (0, 0) if unknown."""
        limits = [
            int(text)
            for name in ("pid_max", "threads-max")
            if (text := self._first(f"proc/sys/kernel/{name}")).isdecimal()
        ]
        # proc(5): the fourth field of loadavg is runnable/existing scheduling entities.
        fields = self._first("proc/loadavg").split()
        used = fields[3].partition("/")[2] if len(fields) > 3 else ""
        if not limits or not used.isdecimal():
            return 0, 0
        most = min(limits)
        return max(most - int(used), 0), most

    def disk(self, path: Path) -> Disk | None:
        """The file system that holds *path*, or its nearest parent that exists."""
        found = self._disk(path)
        if path == self._storage and found is not None:
            self._size = found.size
        return found

    def _first(self, *names: str) -> str:
        """The first of these files that has text, stripped."""
        return next((text for name in names if (text := self._text(name).strip())), "")

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text(errors="replace")
        except OSError:
            return ""

    def _os_image(self) -> str:
        text = self._first("etc/os-release", "usr/lib/os-release")
        return pretty_name(text) or "Linux"

    def _hugepages(self) -> dict[int, int]:
        found = {}
        for folder in sorted(self._root.glob("sys/kernel/mm/hugepages/hugepages-*kB")):
            size = folder.name.removeprefix("hugepages-").removesuffix("kB")
            count = self._first(f"sys/kernel/mm/hugepages/{folder.name}/nr_hugepages")
            if size.isdecimal() and count.isdecimal():
                found[int(size) * 1024] = int(size) * 1024 * int(count)
        return found


def disk_of(path: Path) -> Disk | None:
    """The file system that holds *path*, or its nearest parent that exists; None if unreadable."""
    for place in (path, *path.parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return Disk(
            size=found.f_blocks * found.f_frsize,
            free=found.f_bavail * found.f_frsize,
            inodes=found.f_files,
            inodes_free=found.f_favail,
        )
    return None


def process_age(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Seconds since a process began, by the clock since boot; None when it is not there."""
    try:
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        # Field 22 of proc(5)'s stat, the third being the first after the name.
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def meminfo(text: str) -> dict[str, int]:
    """The amounts of /proc/meminfo that are in kB, as bytes (proc(5))."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if number.isdecimal() and unit == "kB":
            found[name] = int(number) * 1024
    return found


def cpu_count(text: str) -> int:
    """How many CPUs the kernel's list *text* names, as in ``0-3,8``; 0 when it is no such list."""
    count = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return 0
        count += int(last or first) - int(first) + 1
    return max(count, 0)


def pretty_name(text: str) -> str:
    """PRETTY_NAME of os-release(5), "" when it has none."""
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        if name == "PRETTY_NAME":
            try:
                return " ".join(shlex.split(value))
            except ValueError:
                return value.strip("\"'")
    return ""
