"""Where labs are kept on the host, the state file, and the locks.

/run/barenode/labs/LAB/lab.json   what was asked for (atomic rename)
/var/lib/barenode/labs/LAB/lab.json   the same of a lab that was taken down to be kept
/var/lib/barenode/labs/LAB/pki    the keys of a lab with a real Kubernetes
/run/barenode/locks/NAME          taken with flock while a command works on a lab
/var/lib/barenode/labs/LAB/NODE   a node's disk
/var/cache/barenode               images and packages, shared by all labs, kept by ``down``

Invariant: a lock file that exists is locked or about to be: whoever releases it removes it, so
the last ``down`` leaves nothing in /run or /var/lib.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hostkit.files import write_atomic
from hostkit.mounts import MNT_DETACH, unmount
from lab.errors import BusyError, LabError, PrerequisiteError
from lab.model import BootConfig, LabSpec


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of this machine that labs use."""

    run: Path
    data: Path
    cache: Path

    @classmethod
    def standard(cls, environment: Mapping[str, str]) -> "Paths":
        """The usual ones; BARENODE_DATA and BARENODE_CACHE move the latter two."""
        return cls(
            Path("/run/barenode"),
            Path(environment.get("BARENODE_DATA") or "/var/lib/barenode").absolute(),
            Path(environment.get("BARENODE_CACHE") or "/var/cache/barenode").absolute(),
        )

    def state(self, lab: str) -> Path:
        """The state file of *lab*."""
        return self.run / "labs" / lab / "lab.json"

    def kept(self, lab: str) -> Path:
        """The state file of *lab* while it is down to be kept."""
        return self.data / "labs" / lab / "lab.json"

    def pki(self, lab: str) -> Path:
        """The PKI folder of *lab*."""
        return self.data / "labs" / lab / "pki"

    def disk(self, lab: str, node: str) -> Path:
        """The directory that holds what a node keeps over a reboot."""
        return self.data / "labs" / lab / node


def filesystem_type(mountinfo: str, path: str) -> str:
    """The type of the file system that *path* (absolute, resolved) is on."""
    best = ("", "")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mountpoint = left.split()[4]
        inside = path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/")
        if inside and len(mountpoint) >= len(best[0]):
            best = (mountpoint, right.split()[0])
    return best[1]


class Store:
    """The files of all labs below *paths*."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def labs(self) -> set[str]:
        """Labs that left a directory, whether or not they can be read."""
        roots = (self.paths.run / "labs", self.paths.data / "labs")
        return {d.name for root in roots if root.is_dir() for d in root.iterdir()}

    def load(self, lab: str) -> LabSpec | None:
        """The spec of *lab*, or None when there is none; raises LabError when it is damaged."""
        for path in (self.paths.state(lab), self.paths.kept(lab)):
            try:
                return msgspec.json.decode(path.read_bytes(), type=LabSpec)
            except FileNotFoundError:
                continue
            except msgspec.MsgspecError as error:
                raise LabError(
                    f"{path} is damaged ({error}); 'barenode lab down --name {lab}' removes the lab"
                ) from error
        return None

    def is_kept(self, lab: str) -> bool:
        """Whether *lab* is down and kept."""
        return self.paths.kept(lab).exists() and not self.paths.state(lab).exists()

    def save(self, spec: LabSpec) -> None:
        """Write the state file, in one step."""
        write_atomic(self.paths.state(spec.name), _text(spec))

    def keep(self, spec: LabSpec) -> None:
        """Put *spec* beside the disks, where it outlasts the machine's reboot, and down in /run."""
        stopped = msgspec.structs.replace(spec, processes={})
        write_atomic(self.paths.kept(spec.name), _text(stopped), sync=True)
        _remove_tree(self.paths.state(spec.name).parent)

    def save_boot(self, boot: BootConfig) -> Path:
        """Write what a node's pid 1 reads; returns the file."""
        disk = Path(boot.data)
        disk.mkdir(parents=True, exist_ok=True)
        path = self.paths.state(boot.lab).parent / f"{boot.node}.boot.json"
        path.write_bytes(msgspec.json.encode(boot))
        return path

    def last_words(self, lab: str, node: str) -> str:
        """The last lines of a node's logs, for an error message."""
        disk = self.paths.disk(lab, node)
        found = []
        for log in (disk / "console.log", *sorted((disk / "var/log").glob("*.log"))):
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            if lines:
                found.append(f"{log.name}: {lines[-1]}")
        return "; ".join(found) or "no message"

    def check_disk(self) -> None:
        """Raise PrerequisiteError when nodes could not keep images in the data directory."""
        self.paths.data.mkdir(parents=True, exist_ok=True)
        mountinfo = Path("/proc/self/mountinfo").read_text()
        kind = filesystem_type(mountinfo, str(self.paths.data.resolve()))
        if kind in {"overlay", "tmpfs", "nfs", "nfs4"}:
            raise PrerequisiteError(
                f"{self.paths.data} is on {kind}, where Docker cannot stack its own overlayfs: "
                "set BARENODE_DATA to a directory on ext4 or xfs"
            )

    def remove(self, lab: str) -> None:
        """Remove the files of *lab*."""
        for directory in (*sorted(self._disks(lab)), self.paths.state(lab).parent):
            _unmount_below(directory)
            _remove_tree(directory)

    def _disks(self, lab: str) -> set[Path]:
        """The directories of the disks of *lab*, also those below an earlier BARENODE_DATA."""
        found = {self.paths.data / "labs" / lab}
        for file in self.paths.state(lab).parent.glob("*.boot.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                boot = msgspec.json.decode(file.read_bytes(), type=BootConfig)
                found.add(Path(boot.data).parent)
        return {directory for directory in found if directory.name == lab}

    def tidy(self) -> None:
        """Remove the directories above the labs if nothing is left in them."""
        for directory in (
            self.paths.data / "labs",
            self.paths.data,
            self.paths.run / "labs",
            self.paths.run / "locks",
            self.paths.run,
        ):
            with contextlib.suppress(OSError):  # not empty: another lab, or another command's lock
                directory.rmdir()

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock *name*; raises BusyError when another command has it, unless *wait*."""
        path = self.paths.run / "locks" / name
        descriptor = _acquire(path, wait)
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            self.tidy()


def _remove_tree(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"cannot remove {directory}: {error}") from error


def _text(spec: LabSpec) -> bytes:
    return msgspec.json.format(msgspec.json.encode(spec))


def _acquire(path: Path, wait: bool) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # another command tidied the directory away in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise BusyError(
                f"another command (process {holder}) works on lab {path.name!r}: try again later"
            ) from error
        except FileNotFoundError:  # its holder has just released and removed it: make a new one
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _unmount_below(directory: Path) -> None:
    # Nodes mount in namespaces of their own. Should a mount be found here all the same, removing
    # the tree would remove what is mounted.
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mountpoint in sorted(mounts, reverse=True):
        if mountpoint.startswith(f"{directory}/"):
            unmount(mountpoint, MNT_DETACH)
