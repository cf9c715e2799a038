"""Removes what test runs with systemd hosts left behind because they were killed."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.sysd_cgroup import HostCgroups, leftovers
from tests.support.sysd_root import cache_directory


def _alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def sweep() -> None:
    """Remove control groups, network namespaces and disks whose test process is gone."""
    for name in leftovers():
        if not _alive(name.partition("-")[0]):
            HostCgroups(name).remove()
    for space in Path("/run/netns").glob("bnt-*-sysd-*"):
        if not _alive(re.sub(r"^bnt-(\d+)-.*", r"\1", space.name)):
            subprocess.run(["ip", "netns", "del", space.name], check=False, capture_output=True)
    for directory in (cache_directory() / "hosts").glob("*-*"):
        if not _alive(directory.name.partition("-")[0]):
            shutil.rmtree(directory, ignore_errors=True)
