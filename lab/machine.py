"""What a node's own file systems look like and which services it runs: pure plans.

The node sees the host's programs but never writes to the host: /etc and /var are overlays
whose upper layer lives in the node's own /run (a tmpfs, so a reboot clears them), and only the
``persistent`` directories reach the disk, below the lab's data directory. An upper layer on
the host's disk is not possible: it would lie inside the lower /var, which overlayfs refuses.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hostkit.mounts import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, MS_SHARED
from lab.errors import LabError
from lab.model import LabSpec, NodeSpec, Service

RUN = "/run/barenode"
DATA_IN_NODE = f"{RUN}/data"
SERVICES_FILE = f"{RUN}/services.json"
NOTIFY_DIR = f"{RUN}/notify"
WRAPPER = f"{RUN}/runc-lab"
DOCKER_OPTIONS = "/run/docker_opts.env"
MANIFESTS = "/etc/kubernetes/manifests"

PERSISTENT_NODE = (
    "/etc/docker",
    "/etc/kubernetes",
    MANIFESTS,
    "/etc/netd",
    "/etc/nodeagent",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/etcd-network",
    "/var/lib/kubelet",
    "/var/lib/netd",
    "/var/local",
    "/var/log",
)
PERSISTENT_FABRIC = ("/var/lib/etcd", "/var/log")

_CAP_SYS_RESOURCE = 24
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount; the target directory is made first. ``links`` are symlinks to it, beside it."""

    source: str
    target: str
    fstype: str = ""
    flags: int = 0
    data: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory to make, with its parents."""

    path: str
    mode: int = 0o755


Step = Mount | Directory


def cgroup_mounts(proc_self_cgroup: str) -> list[Step]:
    """The cgroup file systems of a node, from what the host's kernel has (/proc/self/cgroup).

    With any v1 hierarchy the node gets a v1 layout; Docker decides by the type of
    /sys/fs/cgroup. A v2 hierarchy beside v1 ones (systemd's hybrid mode) is left out.
    """
    names = [line.split(":", 2)[1] for line in proc_self_cgroup.splitlines() if line]
    v1 = sorted(n for n in names if n)
    if not v1:
        return [Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", _SAFE)]
    steps: list[Step] = [Mount("cgroup", "/sys/fs/cgroup", "tmpfs", _SAFE, "mode=755")]
    for name in v1:
        directory = name.removeprefix("name=")
        parts = tuple(directory.split(",")) if "," in directory else ()
        options = f"none,{name}" if name.startswith("name=") else name
        target = f"/sys/fs/cgroup/{directory}"
        steps.append(Mount("cgroup", target, "cgroup", _SAFE, options, parts))
    return steps


def _overlay(path: str) -> list[Step]:
    layers = f"{RUN}/overlay{path}"
    return [
        Directory(f"{layers}/upper"),
        Directory(f"{layers}/work"),
        Mount(
            "overlay",
            path,
            "overlay",
            0,
            f"lowerdir={path},upperdir={layers}/upper,workdir={layers}/work",
        ),
    ]


def mount_plan(data: str, persistent: Iterable[str], proc_self_cgroup: str) -> list[Step]:
    """Everything pid 1 mounts, in order, in its new mount and pid namespaces.

    *data* is the node's directory on the host; it must be reachable before /var is covered,
    therefore it is bound into /run first.
    """
    steps: list[Step] = [
        Mount("none", "/", "", MS_REC | MS_PRIVATE),
        # As systemd has it: volumes that are mounted later can be passed on to containers.
        Mount("none", "/", "", MS_REC | MS_SHARED),
        Mount("proc", "/proc", "proc", _SAFE),
        # A sysfs belongs to the network namespace it was mounted in: /sys/class/net.
        Mount("sysfs", "/sys", "sysfs", _SAFE),
        *cgroup_mounts(proc_self_cgroup),
        Mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"),
        Directory("/run/lock", 0o1777),
        Directory("/run/tmp", 0o1777),
        Directory(NOTIFY_DIR, 0o700),
        Mount(data, DATA_IN_NODE, "", MS_BIND),
        *_overlay("/etc"),
        *_overlay("/var"),
    ]
    for path in sorted(persistent):
        kept = f"{DATA_IN_NODE}{path}"
        steps += [Directory(kept), Mount(kept, path, "", MS_BIND)]
    return steps


def identity_files(
    node: str, machine_id: str, hosts: Sequence[tuple[str, str]]
) -> dict[PurePosixPath, str]:
    """The files that make a host itself: /etc/hostname, /etc/hosts, /etc/machine-id."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for name, address in hosts]
    return {
        PurePosixPath("/etc/hostname"): f"{node}\n",
        PurePosixPath("/etc/hosts"): "\n".join(lines) + "\n",
        PurePosixPath("/etc/machine-id"): f"{machine_id}\n",
    }


def lacks_sys_resource(proc_self_status: str) -> bool:
    """Whether CAP_SYS_RESOURCE is missing from the bounding set in /proc/self/status."""
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)$", proc_self_status, re.MULTILINE)
    return match is not None and not int(match[1], 16) >> _CAP_SYS_RESOURCE & 1


def fabric_services(spec: LabSpec, python: str) -> tuple[Service, ...]:
    """etcd, and the API server if the lab has one, on the fabric bridge's address.

    *python* runs the API server. A lab with masters has both there.
    """
    if spec.masters:
        return ()
    etcd = Service(
        name="etcd",
        notify=True,
        argv=(
            "etcd",
            "--name=fabric",
            "--data-dir=/var/lib/etcd/data",
            f"--listen-client-urls={spec.etcd},http://127.0.0.1:2379",
            f"--advertise-client-urls={spec.etcd}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=fabric=http://127.0.0.1:2380",
            "--logger=zap",
        ),
    )
    if not spec.api:
        return (etcd,)
    arguments = (
        f"--etcd={spec.etcd}",
        f"--listen={spec.api.removeprefix('http://')}",
        f"--service-cluster-ip-range={spec.service_range}",
        f"--advertise-address={spec.fabric.address}",
    )
    api = Service(name="api", after=("etcd",), argv=(python, "-m", "lab.api", *arguments))
    return (etcd, api)


def node_services(
    spec: LabSpec, node: NodeSpec, netd: str, nodeagent: str, *, wrapper: bool
) -> tuple[Service, ...]:
    """netd, dockerd once netd is ready, then nodeagent: as units of a real host order them.

    *netd* and *nodeagent* are programs; with *wrapper* Docker runs through assets/runc-lab. A
    node without control plane has no nodeagent.
    """
    if spec.masters:
        # Settings are in the files of lab.master.provision, as on a real host.
        options = ["--iface=eth0"]
    else:
        options = [f"--etcd-endpoints={spec.etcd}", "--iface=eth0", "--ip-masq"]
    if spec.api and not spec.masters:
        options += [f"--master={spec.api}", f"--hostname-override={node.name}"]
    docker = [
        "dockerd",
        "--host=unix:///run/docker.sock",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--userland-proxy=false",
    ]
    if wrapper:
        docker += [f"--add-runtime=runc-lab={WRAPPER}", "--default-runtime=runc-lab"]
    services = [
        Service(name="netd", notify=True, argv=(netd, "run", *options)),
        Service(
            name="dockerd",
            notify=True,
            after=("netd",),
            environment_file=DOCKER_OPTIONS,
            argv=(*docker, "$DOCKER_OPTS"),
        ),
    ]
    if spec.api:
        agent: tuple[str, ...] = (nodeagent, "run")
        if not spec.masters:
            who = (f"--hostname-override={node.name}", f"--node-ip={node.address}")
            agent += (f"--api-servers={spec.api}", f"--config={MANIFESTS}", *who)
        services.append(Service(name="nodeagent", notify=True, wants=("dockerd",), argv=agent))
    return tuple(services)


def hosts_of(spec: LabSpec) -> tuple[tuple[str, str], ...]:
    """Every host of the lab with its address, for /etc/hosts."""
    return tuple((member.name, member.address) for member in spec.members)


def persistent_of(node: NodeSpec, spec: LabSpec) -> tuple[str, ...]:
    """The directories of *node* that survive a reboot."""
    return PERSISTENT_FABRIC if node.name == spec.fabric.name else PERSISTENT_NODE


def parse_environment(text: str) -> dict[str, str]:
    """An EnvironmentFile: KEY=value lines, the value quoted as in a shell; '#' comments.

    Raises LabError for a line that is neither.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.strip().partition("=")
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise LabError(f"environment line {line!r}: {error}") from error
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key) or len(words) > 1:
            raise LabError(f"environment line {line!r} is not KEY=value")
        found[key] = words[0] if words else ""
    return found


def expand(argv: Iterable[str], variables: Mapping[str, str]) -> list[str]:
    """*argv* with each argument ``$NAME`` replaced by the words of that variable (systemd.exec)."""
    result: list[str] = []
    for argument in argv:
        if argument.startswith("$"):
            result += shlex.split(variables.get(argument[1:], ""))
        else:
            result.append(argument)
    return result
