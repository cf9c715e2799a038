"""How much disk emptyDir volumes take, against their limits."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nodeagent.pods.model import Pod
from nodeagent.pods.quantity import format_bytes, parse, whole
from nodeagent.pods.resources import STORAGE, pod_limits

SHORTEST = 10.0
"""Seconds between two looks at the same pod."""


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that is exceeded, in bytes; *volume* is "" for the pod's ephemeral-storage."""

    volume: str
    used: int
    limit: int

    @property
    def message(self) -> str:
        """A sentence for an event and the pod's status."""
        limit = format_bytes(self.limit)
        if self.volume:
            return f"emptyDir volume {self.volume!r} is larger than its sizeLimit {limit}"
        return f"emptyDir volumes are larger than the pod's ephemeral-storage limit {limit}"


def disk_volumes(pod: Pod) -> dict[str, int | None]:
    """The emptyDir volumes on disk with their limits in bytes; a tmpfs limits itself."""
    found: dict[str, int | None] = {}
    for volume in pod.spec.volumes:
        if volume.empty_dir is not None and volume.empty_dir.medium != "Memory":
            limit = volume.empty_dir.size_limit
            amount = 0 if limit is None else whole(parse(limit))
            found[volume.name] = amount or None
    return found


def pod_limit(pod: Pod) -> int | None:
    """The pod's ephemeral-storage limit in bytes, where all its containers have one."""
    limit = pod_limits(pod).get(STORAGE)
    return None if not limit else whole(limit)


def exceeded(pod: Pod, folder_of: Callable[[str], Path]) -> tuple[Exceeded, ...]:
    """The limits that are exceeded; blocks while it walks. *folder_of* tells a volume's folder."""
    volumes, together = disk_volumes(pod), pod_limit(pod)
    found, total = [], 0
    for name, limit in volumes.items():
        if limit is None and together is None:
            continue
        used = size(folder_of(name))
        total += used
        if limit is not None and used > limit:
            found.append(Exceeded(name, used, limit))
    if together is not None and total > together:
        found.append(Exceeded("", total, together))
    return tuple(found)


def is_limited(pod: Pod) -> bool:
    """Whether there is anything to look at."""
    volumes = disk_volumes(pod)
    return any(limit is not None for limit in volumes.values()) or (
        bool(volumes) and pod_limit(pod) is not None
    )


def size(folder: Path) -> int:
    """Bytes on disk below *folder*, as du(1) counts: blocks, hard links once, one device."""
    try:
        device = folder.lstat().st_dev
    except FileNotFoundError:
        return 0
    total, linked = 0, set()
    waiting = [str(folder)]
    while waiting:
        for path, facts in _entries(waiting.pop()):
            if stat.S_ISDIR(facts.st_mode):
                # Files of overlayfs may show the device of their layer, folders do not.
                if facts.st_dev != device:
                    continue
                waiting.append(path)
            elif facts.st_nlink > 1:
                if facts.st_ino in linked:
                    continue
                linked.add(facts.st_ino)
            total += facts.st_blocks * 512
    return total


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    # Containers go on writing and deleting meanwhile: what cannot be read is not counted.
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with os.scandir(number) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    yield f"{folder}/{entry.name}", entry.stat(follow_symlinks=False)
    finally:
        os.close(number)
