"""The files by which a host is a node: which of them barenode made, and their removal.

A file is ours when its name is one that ``init``, ``join`` or ``host prepare`` writes and its
content, where that can tell, says so. What else lies in the same folders stays, and is named.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hostkit.files import remove
from lab.join.hostservices import Outcome
from lab.join.model import NODE_PAIR, Record
from lab.join.preflight import made_by_us
from lab.master import agents
from lab.master.certificates import AUTHORITIES, KUBECONFIGS, NODE_KUBECONFIGS, USED_BY
from lab.master.etcdpods import ETCD_DATA, NETWORK_DATA
from lab.master.kubeconfig import holder
from lab.master.manifests import KUBERNETES, PKI

NETD_STATE = "/var/lib/netd"
SUBNET_FILE = "/run/flannel/subnet.env"

_PAIRS = (*AUTHORITIES, *USED_BY, "etcd/healthcheck-client", "etcd/netd", NODE_PAIR, "sa")
_SUFFIXES = (".crt", ".key", ".pub")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What was found below a host's root folder.

    *data* are folders of etcd, whose loss cannot be undone; *member* tells that the host's
    credentials are ours.
    """

    root: Path
    member: bool = False
    files: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def master(self) -> bool:
        """Whether there is a control plane's data."""
        return bool(self.data)


def find(root: Path, known: Record | None) -> Leftovers:
    """What barenode made on the host; *known* is what the host remembers. Raises LabError."""

    def at(name: str) -> Path:
        return root / name.lstrip("/")

    confs = [at(f"{KUBERNETES}/{name}.conf") for name in (*NODE_KUBECONFIGS, *KUBECONFIGS)]
    confs = [path for path in confs if _our_kubeconfig(path)]
    ours = known is not None or bool(confs)
    manifests = [
        path for path in sorted(at(agents.MANIFESTS).glob("[!.]*.yaml")) if made_by_us(path)
    ]
    settings = [
        path
        for path in map(at, (agents.NETD_FILE, agents.NODEAGENT_FILE))
        if path.exists() and made_by_us(path)
    ]
    files = [*manifests, *confs, *settings]
    if ours or settings:
        files += [path for path in (at(agents.NETWORK_FILE),) if path.exists()]
    if ours:
        files += [path for path in _pki(at(PKI)) if path.exists()]
    control_plane = any(path.stem.startswith("etcd") for path in manifests)
    was_master = control_plane or (known is not None and known.role == "master")
    data = [at(f"{ETCD_DATA}/data"), at(NETWORK_DATA)] if was_master else []
    return Leftovers(
        root,
        ours,
        tuple(files),
        tuple(path for path in data if path.exists()),
        tuple(
            at(name)
            for name in (
                f"{PKI}/etcd", f"{PKI}/network", PKI, agents.MANIFESTS, KUBERNETES, ETCD_DATA,
                str(Path(agents.NETD_FILE).parent), str(Path(agents.NODEAGENT_FILE).parent),
            )
        ),
    )  # fmt: skip


def clear(found: Leftovers) -> list[Outcome]:
    """Remove what was found, etcd's data too; what stays is named and is no failure."""
    done = []
    if found.data:
        done.append(_step("etcd", lambda: _trees(found.data)))
    done.append(_step("files", lambda: _files(found)))
    return done


def clear_network(root: Path) -> Outcome:
    """Remove what netd saved; only after ``netd cleanup`` did its work by it."""

    def work() -> str:
        gone = _trees([path] if (path := root / NETD_STATE.lstrip("/")).exists() else [])
        if remove(root / SUBNET_FILE.lstrip("/")):
            gone = f"{gone}, {SUBNET_FILE} removed"
        _rmdir(root / "run/flannel")
        return gone

    return _step("netd state", work)


def _our_kubeconfig(path: Path) -> bool:
    if not path.exists():
        return False
    return made_by_us(path) or bool(holder(path.read_text(encoding="utf-8", errors="replace")))


def _pki(folder: Path) -> Iterator[Path]:
    for name in dict.fromkeys(_PAIRS):
        for suffix in _SUFFIXES:
            yield folder / f"{name}{suffix}"
    yield folder / ".lock"


def _files(found: Leftovers) -> str:
    gone = sum(remove(path) for path in found.files)
    for folder in found.folders:
        _rmdir(folder)
    parts = [f"{gone} removed" if gone else "none of ours"]
    if stays := [str(folder) for folder in found.folders[2:5] if _has_files(folder)]:
        parts.append(f"what somebody else put into {', '.join(stays)} stays")
    return "; ".join(parts)


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not path.is_dir() for path in folder.iterdir())


def _trees(paths: Iterable[Path]) -> str:
    gone = []
    for path in paths:
        shutil.rmtree(path)
        gone.append(str(path))
    return f"{', '.join(gone)} removed" if gone else "none"


def _rmdir(folder: Path) -> None:
    # What others put there stays.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _step(what: str, work: Callable[[], str]) -> Outcome:
    try:
        return Outcome(what, work())
    except OSError as error:
        return Outcome(what, f"{error.filename or ''}: {error.strerror or error}", ok=False)
