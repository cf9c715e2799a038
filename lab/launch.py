"""Turns into pid 1 of a node: joins the node's cgroups and namespaces, forks, reports, ends.

``python -m lab.launch BOOT.json`` prints the host's number of the new pid 1. The launcher does
not stay: on cgroup v2 a process left in the node's top cgroup would forbid to enable
controllers for its children.

The order is forced: cgroups before the cgroup namespace (its root is where we are then), the
network namespace before the mount of sysfs, the fork last because only a child enters a new
pid namespace.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from lab.model import BootConfig
from lab.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    enter,
    unshare,
)


def main() -> int:
    """Launch the node that the file named by the first argument describes."""
    try:
        return _launch(sys.argv[1])
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _launch(path: str) -> int:
    boot = msgspec.json.decode(Path(path).read_bytes(), type=BootConfig)
    os.chdir("/")
    for cgroup in boot.cgroups:
        (Path(cgroup) / "cgroup.procs").write_text("0")
    enter(f"/run/netns/{boot.netns}", CLONE_NEWNET)
    unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWCGROUP)
    child = os.fork()
    if not child:
        _become_pid_1(boot, path)
    sys.stdout.write(f"{child}\n")
    return 0


def _become_pid_1(boot: BootConfig, path: str) -> NoReturn:
    os.setsid()
    # systemd's default: the operator's own mask must not hide the node's files from its users.
    os.umask(0o022)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    console = os.open(Path(boot.data) / "console.log", flags, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(console, 1)
    os.dup2(console, 2)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "lab.node", path])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
