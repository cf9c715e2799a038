"""Processes that Docker has forgotten, found by their control groups. Blocking.

A dockerd that is killed between making a container's process and starting it leaves the process
behind; the next one removes the container without a look at it.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

Kill = Callable[[int, signal.Signals], None]


def is_unborn(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is one that runc has made, and that waits to become a container's."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:2] == [b"runc", b"init"]
    except OSError:
        return False


def end_processes(
    folders: Iterable[Path],
    container: str = "",
    only: Callable[[int], bool] = lambda _pid: True,
    *,
    kill: Kill = os.kill,
) -> int:
    """SIGKILL to those processes in *folders* and below that *only* accepts; how many there were.

    With *container* only those of its group, which has its ID in its name, are meant.
    """
    found: set[int] = set()
    for folder in folders:
        for procs in folder.glob("**/cgroup.procs"):
            if container in str(procs.relative_to(folder)):
                # ENODEV and ENOENT: the group went meanwhile.
                with contextlib.suppress(OSError, ValueError):
                    found |= {int(text) for text in procs.read_text().split()}
    # A process of a PID namespace that is not below ours shows as 0, which kill(2) takes for us.
    found = {pid for pid in found if pid and only(pid)}
    if found:
        whose = f"container {container[:12]}" if container else "a pod that is gone"
        log.warning("%d processes of %s, forgotten by Docker, are ended", len(found), whose)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    return len(found)
