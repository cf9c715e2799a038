"""What the pure parts have to know of this node: settings and facts, as one value."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """This node. *cpus* and *memory* (bytes) are its capacity; *cgroup_driver* is Docker's.

    *pod_cpus* and *pod_memory* (bytes) are what of that pods may ask for; None is all of it.

    *name* is the Node object's name, *hostname* the machine's. *root* is the folder of pods'
    files (``--root-dir``). *log_max_size* is in Docker's notation.
    """

    name: str
    address: str
    hostname: str
    root: Path
    cpus: int = 1
    memory: int = 0
    pod_cpus: Fraction | None = None
    pod_memory: int | None = None
    pause_image: str = "barenode/pause:lab"
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    cgroup_driver: str = "cgroupfs"
    cgroups_v2: bool = False
    cgroup_root: str = ""
    cgroup_per_pod: bool = True
    log_max_size: str = "10m"
    log_max_files: int = 5
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    seccomp_root: Path = Path("/var/lib/kubelet/seccomp")
    resolv_conf: Path = Path("/etc/resolv.conf")
    max_pods: int = 110

    def pod_dir(self, uid: str) -> Path:
        """Where the files of a pod are."""
        return self.root / "pods" / uid

    def termination_log(self, uid: str, container: str, attempt: int) -> Path:
        """The file behind terminationMessagePath of one instance of a container."""
        return self.pod_dir(uid) / "containers" / container / str(attempt)


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount: *source* on the host, *target* in the container."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"
