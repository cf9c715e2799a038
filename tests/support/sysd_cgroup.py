"""The control groups of one systemd host: its processes are found and ended by them."""

import contextlib
import os
import signal
import time
from pathlib import Path

from lab.cgroups import parse_hierarchies

TOP = "barenode-sysd"


class HostCgroups:
    """``barenode-sysd/NAME`` in every hierarchy; names are unique on this machine."""

    def __init__(self, name: str) -> None:
        found = parse_hierarchies(Path("/proc/self/mountinfo").read_text())
        # The v2 hierarchy beside v1's, too: nspawn takes the host's place in name=systemd from it.
        self._roots = tuple(h.root for h in found)
        self._name = name

    @property
    def paths(self) -> tuple[Path, ...]:
        """The directories that the host's first process joins."""
        return tuple(root / TOP / self._name for root in self._roots)

    def create(self) -> None:
        """Make them. Raises OSError."""
        for path in self.paths:
            for directory in (path.parent, path):
                directory.mkdir(exist_ok=True)
                # A v1 cpuset admits no process before it has CPUs and memory nodes.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    file = directory / name
                    if file.exists() and not file.read_text().strip():
                        file.write_text((directory.parent / name).read_text())

    def processes(self) -> set[int]:
        """What lives in them, as numbered here."""
        found: set[int] = set()
        for path in self.paths:
            for directory, _, _ in os.walk(path):
                with contextlib.suppress(OSError):
                    text = (Path(directory) / "cgroup.procs").read_text()
                    found.update(int(pid) for pid in text.split())
        return found - {0, os.getpid()}

    def remove(self, deadline: float = 60.0) -> None:
        """Kill what still lives in them and remove them; AssertionError when it does not end."""
        end = time.monotonic() + deadline
        while True:
            self._thaw()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._removed():
                return
            assert time.monotonic() < end, f"{self._name}: {self.processes()} do not end"
            time.sleep(0.02)

    def _thaw(self) -> None:
        # A v1-frozen process (a paused container) does not act on SIGKILL before it is thawed.
        for path in self.paths:
            for directory, _, names in os.walk(path):
                if "freezer.state" in names:
                    with contextlib.suppress(OSError):
                        (Path(directory) / "freezer.state").write_text("THAWED")

    def _removed(self) -> bool:
        for path in self.paths:
            for directory, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return not any(path.exists() for path in self.paths)


def leftovers() -> set[str]:
    """The names of hosts that have control groups now."""
    roots = parse_hierarchies(Path("/proc/self/mountinfo").read_text())
    tops = [h.root / TOP for h in roots]
    return {d.name for top in tops if top.is_dir() for d in top.iterdir() if d.is_dir()}
