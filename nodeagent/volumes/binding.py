"""What is bound into one container. Calls block, and raise PodError or OSError."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hostkit.mounts import MNT_DETACH, MS_BIND, MS_REC, MS_SLAVE, UMOUNT_NOFOLLOW, Mounts
from nodeagent.errors import PodError
from nodeagent.pods.container import Container, VolumeMount
from nodeagent.pods.environment import expand_strictly
from nodeagent.pods.host import Host
from nodeagent.pods.hosts import hosts_text
from nodeagent.pods.model import Pod
from nodeagent.volumes import subpath
from nodeagent.volumes.layout import check_name, pod_folder, subpath_target

ETC_HOSTS = "/etc/hosts"

_PROPAGATION = {
    "": "rprivate",
    "None": "rprivate",
    "HostToContainer": "rslave",
    "Bidirectional": "rshared",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A volume that is ready: its *path* on the host.

    *content* volumes are ours to write: nothing is made in them for a container, and what is
    missing is left empty if it is *optional*. *group* owns folders made for a subPath.
    """

    path: str
    read_only: bool = False
    content: bool = False
    optional: bool = False
    group: int | None = None


def propagation_of(mount: VolumeMount, container: Container) -> str:
    """Docker's word for the mount's propagation; raises PodError where it is not allowed."""
    what = f"volumeMount {mount.mount_path!r}"
    found = _PROPAGATION.get(mount.mount_propagation)
    if found is None:
        raise PodError(
            subpath.REASON,
            f"{what}: mountPropagation {mount.mount_propagation!r} is not one of None, "
            "HostToContainer, Bidirectional",
            final=True,
        )
    if found == "rshared" and not container.security_context.privileged:
        raise PodError(
            subpath.REASON,
            f"{what}: mountPropagation Bidirectional needs securityContext.privileged: true",
            final=True,
        )
    if mount.recursive_read_only == "Enabled":
        raise PodError(
            subpath.REASON,
            f"{what}: recursiveReadOnly Enabled cannot be had with Docker: use IfPossible",
            final=True,
        )
    return found


def path_within(mount: VolumeMount, env: Mapping[str, str]) -> str:
    """The subPath of a mount, its variables replaced; "" for the whole volume."""
    if mount.sub_path_expr:
        what = f"volumeMount {mount.mount_path!r}: subPathExpr {mount.sub_path_expr!r}"
        path = expand_strictly(mount.sub_path_expr, env, what)
        if not path:
            raise PodError(subpath.REASON, f"{what} is empty when its variables are replaced")
        return path
    return mount.sub_path


class Binder:
    """Makes what is bound beside whole volumes; *etc_hosts* is this host's own hosts file."""

    def __init__(self, host: Host, mounts: Mounts, etc_hosts: Path = Path(ETC_HOSTS)) -> None:
        self._host = host
        self._mounts = mounts
        self._etc_hosts = etc_hosts

    def part(self, pod: Pod, container: Container, index: int, source: Source, path: str) -> str:
        """The place where *path* within a volume is bound, for the container's mount *index*."""
        mount = container.volume_mounts[index]
        target = subpath_target(self._host, pod.uid, mount.name, container.name, index)
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            with subpath.opened(
                source.path,
                path,
                make=not source.content,
                group=source.group,
                what=f"volumeMount {mount.mount_path!r}",
            ) as number:
                self._bind(number, target, shared=mount.mount_propagation == "Bidirectional")
        except subpath.Missing:
            if not source.optional:
                raise
            self._clear(target)
            target.mkdir(mode=0o755)
        return str(target)

    def _bind(self, number: int, target: Path, *, shared: bool) -> None:
        facts = os.fstat(number)
        if _is_same(target, facts):
            return
        self._clear(target)
        if stat.S_ISDIR(facts.st_mode):
            target.mkdir(mode=0o755)
        else:
            target.touch(mode=0o644)
        # The descriptor's own name: nobody can put another file there any more.
        self._mounts.mount(f"/proc/self/fd/{number}", str(target), flags=MS_BIND | MS_REC)
        if not shared:
            # What is unmounted here later must not be unmounted in the volume.
            self._mounts.mount("none", str(target), flags=MS_SLAVE | MS_REC)

    def _clear(self, target: Path) -> None:
        """Remove what an earlier instance of the container had; it keeps its own binding."""
        shown = f"{os.path.realpath(target.parent)}/{target.name}"
        for one in [one for one in self._mounts.table() if one.target == shown]:
            self._mounts.unmount(one.target, UMOUNT_NOFOLLOW | MNT_DETACH)
        try:
            target.unlink()
        except IsADirectoryError:
            target.rmdir()
        except FileNotFoundError:
            pass

    def hosts_file(self, pod: Pod, pod_ip: str) -> str:
        """The pod's /etc/hosts; what a container has added to it stays while the pod's is same."""
        own = ""
        if pod.spec.host_network:
            own = self._etc_hosts.read_text(encoding="utf-8", errors="replace")
        text = hosts_text(pod, self._host, pod_ip, own)
        folder = pod_folder(self._host, pod.uid)
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = folder / "etc-hosts"
        try:
            there = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            there = None
        if there is None or not there.startswith(text):
            # In place: running containers have this very file bound.
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)
        return str(path)

    def termination_log(self, pod: Pod, container: Container, attempt: int) -> str:
        """An empty file for the last words of one instance of *container*."""
        pod_folder(self._host, pod.uid)
        check_name(container.name, "containers.name")
        path = self._host.termination_log(pod.uid, container.name, attempt)
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.write_bytes(b"")
        # Whoever the container runs as has to be able to write.
        path.chmod(0o666)
        return str(path)


def _is_same(target: Path, facts: os.stat_result) -> bool:
    try:
        there = target.lstat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (facts.st_dev, facts.st_ino)
