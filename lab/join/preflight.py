"""Whether this host can become a master or a worker: looked at first, then decided, all at once.

``look`` collects facts, ``findings`` decides by them alone, ``check`` raises what was found.
A host that remembers what it is (``lab.join.record``) may hold its own ports and files.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hostkit.command import Runner
from lab.errors import BusyError, LabError, PrerequisiteError
from lab.join import record
from lab.join.hostservices import DOCKER, NETD, NODEAGENT, Report, Systemd
from lab.join.model import RECORD_FILE, Record
from lab.master import certificates

Role = Literal["master", "worker"]

KUBELET_PORT = 10250
MASTER_PORTS: Mapping[int, str] = {
    6443: "kube-apiserver",
    2379: "etcd",
    2380: "etcd",
    12379: "the network's etcd",
    12380: "the network's etcd",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
}
"""What a master's ports are for."""

MADE_BY_US = "made by barenode"
"""In the first line of every manifest and every file of settings that barenode writes."""

_RIVALS = {
    "kubelet": "nodeagent does its work",
    "flanneld": "netd does its work",
    "kube-proxy": "netd does its work",
}
# Files that kubeadm leaves; none of them is made by barenode.
_OF_KUBEADM = ("etc/kubernetes/kubelet.conf", "var/lib/kubelet/config.yaml")
_PLANE = frozenset({"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"})
_LISTEN = "0A"
# proc(5), net/tcp: number, local address:port in hexadecimal, remote, state, ..., inode.
_SOCKET = re.compile(
    r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) \S+ ([0-9A-F]{2}) (?:\S+\s+){5}(\d+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process: *unit* is the systemd service that it belongs to, "" for none."""

    pid: int
    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}{f', {self.unit}' if self.unit else ''})"

    @property
    def end(self) -> str:
        """How to get rid of it."""
        return f"systemctl disable --now {self.unit}" if self.unit else f"kill {self.pid}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. *taken* maps a port to its holder, None where that cannot be told.

    *units* maps netd, nodeagent and Docker to systemd's LoadState. *foreign* are files of another
    cluster, *own* manifests of a control plane that barenode wrote.
    """

    root: bool = True
    systemd: bool = True
    units: Mapping[str, str] = field(default_factory=dict)
    docker_command: bool = True
    rivals: tuple[Process, ...] = ()
    taken: Mapping[int, Process | None] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    record: Record | None = None


def findings(facts: Facts, role: Role) -> list[str]:
    """What keeps the host from becoming *role*, each with what to do about it."""
    if not facts.root:
        return ["this needs root: run it with sudo"]
    found = _missing(facts)
    for process in facts.rivals:
        found.append(f"{process} runs, and {_RIVALS[process.name]}: '{process.end}'")
    found += _ports(facts, role)
    if facts.foreign:
        found.append(
            f"another cluster was here: {', '.join(facts.foreign)}: take it away, 'kubeadm reset'"
            " for one of kubeadm, or move the files"
        )
    if facts.own and facts.record is None:
        found.append(
            f"this host was made a master by other means: {', '.join(facts.own)}: 'barenode reset'"
            " removes that control plane"
        )
    return found


def _missing(facts: Facts) -> list[str]:
    if not facts.systemd:
        return ["this host was not booted by systemd, which starts netd, Docker and nodeagent"]
    found = []
    if facts.units.get(DOCKER) == "not-found" or not facts.docker_command:
        found.append("Docker is not installed: 'apt-get install docker.io'")
    missing = [name for name in (NETD, NODEAGENT) if facts.units.get(name) == "not-found"]
    found += [f"{name} is not installed: install the package barenode" for name in missing]
    for name, load in facts.units.items():
        if load == "masked":
            found.append(f"{name} is masked and cannot start: 'systemctl unmask {name}'")
        elif load not in {"loaded", "not-found"}:
            found.append(f"{name} cannot be used ({load}): 'systemctl status {name}' tells why")
    return found


def _ports(facts: Facts, role: Role) -> list[str]:
    wanted = {KUBELET_PORT: "nodeagent"}
    if role == "master":
        wanted |= MASTER_PORTS
    rivals = {process.pid for process in facts.rivals}
    found = []
    for port, purpose in wanted.items():
        if port not in facts.taken or facts.record is not None:
            continue
        holder = facts.taken[port]
        if holder is not None and (holder.pid in rivals or holder.name == "nodeagent"):
            continue
        by = (
            f"by {holder}: '{holder.end}'" if holder else f"'ss -tlnp sport = {port}' tells by whom"
        )
        found.append(f"port {port}, which {purpose} needs, is taken {by}")
    return found


def taken_by(facts_of_another: Record, role: Role) -> str:
    """Why a host with this record cannot become *role*; "" when it is one already."""
    if facts_of_another.role == role:
        return ""
    return (
        f"this host is a {facts_of_another.role} already, {facts_of_another.name} of the cluster at"
        f" {facts_of_another.server}: 'barenode reset' first"
    )


def listening(table: str) -> dict[int, str]:
    """The TCP ports on which *table*, a ``/proc/net/tcp``, has listeners; port to socket inode."""
    return {
        int(port, 16): inode for port, state, inode in _SOCKET.findall(table) if state == _LISTEN
    }


def unit_of(cgroups: str) -> str:
    """The systemd service that a ``/proc/PID/cgroup`` names, "" for none."""
    match = re.search(r"/system\.slice/([^/\n]+\.service)", cgroups)
    return match[1] if match else ""


async def look(runner: Runner, *, root: Path = Path("/")) -> Facts:
    """The facts of this host; raises LabError when systemd does not answer."""
    systemd = Systemd(runner, booted_at=root / "run/systemd/system")
    if os.geteuid() != 0:
        return Facts(root=False)
    units = {}
    if systemd.booted():
        for name in (NETD, NODEAGENT, DOCKER):
            units[name] = (await systemd.unit(name)).load
    proc = root / "proc"
    foreign, own = _control_plane(root)
    return Facts(
        systemd=systemd.booted(),
        units=units,
        docker_command=shutil.which("docker") is not None,
        rivals=_rivals(proc),
        taken=_taken(proc),
        foreign=foreign,
        own=own,
        record=record.load(root / RECORD_FILE.lstrip("/")),
    )


async def check(
    runner: Runner,
    *,
    role: Role,
    name: str,
    report: Report | None = None,
    root: Path = Path("/"),
) -> Record | None:
    """What the host remembers of having become *role*, maybe of a try that was cut short.

    *name* is the node's name. Write the record (``record.save``, with ``at`` 0) before anything
    else: by it a second try knows that ports and files are its own. Raises UsageError for a name
    that no node can have, BusyError on a host that is something else already, PrerequisiteError
    with all that is in the way.
    """
    certificates.check_node(name, "node name")
    facts = await look(runner, root=root)
    if facts.record is not None and (other := taken_by(facts.record, role)):
        raise BusyError(other)
    if found := findings(facts, role):
        raise PrerequisiteError(_listed(role, found))
    if report is not None:
        report("check", "this host has what is needed")
    return facts.record


def _listed(role: Role, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    lines = "".join(f"\n  - {one}" for one in found)
    return f"this host cannot become a {role} yet:{lines}"


def _process(folder: Path) -> Process | None:
    try:
        name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
        cgroups = (folder / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return Process(int(folder.name), name, unit_of(cgroups))


def _rivals(proc: Path) -> tuple[Process, ...]:
    seen = (_process(folder) for folder in proc.glob("[0-9]*"))
    found = [one for one in seen if one is not None and one.name in _RIVALS]
    return tuple(sorted(found, key=lambda one: one.pid))


def _taken(proc: Path) -> dict[int, Process | None]:
    inodes: dict[int, str] = {}
    for name in ("tcp6", "tcp"):
        try:
            inodes |= listening((proc / "net" / name).read_text(encoding="ascii"))
        except OSError:
            # A kernel without IPv6 has no tcp6.
            continue
    wanted = {port: inodes[port] for port in (KUBELET_PORT, *MASTER_PORTS) if port in inodes}
    if not wanted:
        return {}
    holders = _holders(proc, set(wanted.values()))
    return {port: holders.get(inode) for port, inode in wanted.items()}


def _holders(proc: Path, inodes: set[str]) -> dict[str, Process]:
    """The process behind each of the sockets *inodes*, as far as can be seen."""
    found: dict[str, Process] = {}
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for folder in proc.glob("[0-9]*"):
        try:
            held = {os.readlink(one) for one in (folder / "fd").iterdir()}  # noqa: PTH115 - as text
        except OSError:
            # It ended meanwhile.
            continue
        for link in held & links.keys():
            if (process := _process(folder)) is not None:
                found.setdefault(links[link], process)
    return found


def _control_plane(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files of a cluster that barenode did not make, and manifests of one that it made."""
    foreign = [root / name for name in _OF_KUBEADM if (root / name).exists()]
    own: list[Path] = []
    for path in sorted((root / "etc/kubernetes/manifests").glob("[!.]*.yaml")):
        # An operator's own static pods may stay.
        if path.stem in _PLANE:
            (own if made_by_us(path) else foreign).append(path)

    def names(paths: list[Path]) -> tuple[str, ...]:
        return tuple(f"/{path.relative_to(root)}" for path in paths)

    return names(foreign), names(own)


def made_by_us(path: Path) -> bool:
    """Whether the first line of the file says that barenode made it; raises LabError."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return MADE_BY_US in file.readline(1000)
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
