"""Making the folders of volumes. Calls block, and raise PodError or OSError.

Each can be repeated: what is ready is left as it is, since containers may have changed it.
"""

import errno
import os
import tempfile
from pathlib import Path

import msgspec

from hostkit.files import write_atomic
from hostkit.mounts import MS_NODEV, MS_NOSUID, Mounts
from nodeagent.errors import PodError
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.quantity import parse, whole
from nodeagent.pods.resources import MEMORY, pod_limits
from nodeagent.pods.volume import EmptyDir, Volume
from nodeagent.volumes import atomic, hostpath, ownership
from nodeagent.volumes.backing import Backing
from nodeagent.volumes.layout import NFS, claim_file, kind_of, pod_folder, volume_folder
from nodeagent.volumes.payload import REASON, Payload

_SECRET_FLAGS = MS_NOSUID | MS_NODEV


class Maker:
    """Makes folders below ``host.root``, with tmpfs where they have to be in memory."""

    def __init__(self, host: Host, mounts: Mounts) -> None:
        self._host = host
        self._mounts = mounts
        self._noswap = True

    def empty_dir(self, pod: Pod, volume: Volume, source: EmptyDir) -> None:
        """The folder of an emptyDir: all may write, and fsGroup owns what is made in it."""
        if source.medium not in ("", "Memory"):
            raise PodError(
                REASON,
                f"volume {volume.name!r}: emptyDir.medium {source.medium!r} cannot be had here: "
                "use Memory, or leave it out for the disk",
                final=True,
            )
        group = pod.spec.security_context.fs_group
        folder = self._folder(pod, volume)
        if not folder.exists():
            # What has the name is complete: a kill in between leaves another name only.
            made = Path(tempfile.mkdtemp(prefix=f".{volume.name}.", dir=folder.parent))
            made.chmod(0o777)
            if group is not None:
                ownership.own(made, group)
            made.rename(folder)
        if source.medium == "Memory" and not self.is_mounted(folder):
            options = "mode=0777" if group is None else f"mode=2777,gid={group}"
            size = memory_size(pod, volume.name, source)
            self._tmpfs(folder, 0, f"{options},size={size}" if size else options)

    def contents(self, pod: Pod, volume: Volume, payload: Payload) -> bool:
        """The folder of a configMap, secret, downwardAPI or projected volume, filled.

        Returns whether its contents changed.
        """
        folder = self._folder(pod, volume)
        folder.mkdir(mode=0o755, exist_ok=True)
        if self._in_memory(volume) and not self.is_mounted(folder):
            self._secret_tmpfs(folder)
        return self.rewrite(pod, volume, payload)

    def rewrite(self, pod: Pod, volume: Volume, payload: Payload) -> bool:
        """Bring a filled folder up to date; whether its contents changed."""
        folder = volume_folder(self._host, pod.uid, kind_of(volume), volume.name)
        group = pod.spec.security_context.fs_group
        if group is not None and folder.stat().st_gid != group:
            os.chown(folder, -1, group)
        return atomic.write(folder, payload, group)

    def is_filled(self, pod: Pod, volume: Volume) -> bool:
        """Whether the volume has contents, be they old ones."""
        return atomic.written(volume_folder(self._host, pod.uid, kind_of(volume), volume.name))

    def claim(self, pod: Pod, volume: Volume) -> Backing | None:
        """What a claim was found to be bound to when the pod was new; None if it is new now."""
        try:
            text = claim_file(self._host, pod.uid, volume.name).read_bytes()
            return msgspec.json.decode(text, type=Backing)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def keep_claim(self, pod: Pod, volume: Volume, backing: Backing) -> None:
        """Remember what is behind a claim."""
        self._pod(pod)
        path = claim_file(self._host, pod.uid, volume.name)
        write_atomic(path, msgspec.json.encode(backing), mode=0o600)

    def path_of_host(self, pod: Pod, volume: Volume, backing: Backing, *, new: bool) -> None:
        """A path of this host, checked; a *new* local persistent volume is given to fsGroup."""
        hostpath.ensure(backing, volume.name)
        context = pod.spec.security_context
        if new and backing.local and not backing.read_only and context.fs_group is not None:
            policy = context.fs_group_change_policy or "Always"
            try:
                ownership.give(Path(backing.path), context.fs_group, policy=policy)
            except RecursionError as error:
                raise PodError(
                    REASON,
                    f"volume {volume.name!r}: folders below {backing.path} are too deep for "
                    "fsGroup: give the pod none, or change the owner by hand",
                ) from error

    def nfs_folder(self, pod: Pod, volume: Volume) -> tuple[Path, bool]:
        """Where an export is mounted, and whether it is already."""
        folder = self._below(pod, NFS, volume.name)
        if self.is_mounted(folder):
            return folder, True
        folder.mkdir(mode=0o755, exist_ok=True)
        return folder, False

    def is_mounted(self, folder: Path) -> bool:
        """Whether something is mounted on *folder*, which itself is not touched."""
        # The file system on the folder may hang, the one of the folder above does not.
        target = f"{os.path.realpath(folder.parent)}/{folder.name}"
        return any(one.target == target for one in self._mounts.table())

    def _pod(self, pod: Pod) -> None:
        pod_folder(self._host, pod.uid).mkdir(mode=0o750, parents=True, exist_ok=True)

    def _folder(self, pod: Pod, volume: Volume) -> Path:
        return self._below(pod, kind_of(volume), volume.name)

    def _below(self, pod: Pod, kind: str, name: str) -> Path:
        self._pod(pod)
        folder = volume_folder(self._host, pod.uid, kind, name)
        folder.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return folder

    @staticmethod
    def _in_memory(volume: Volume) -> bool:
        return volume.secret is not None or volume.projected is not None

    def _secret_tmpfs(self, folder: Path) -> None:
        if self._noswap:
            try:
                return self._tmpfs(folder, _SECRET_FLAGS, "mode=0755,noswap")
            except OSError as error:
                # Linux before 6.4 does not know the option.
                if error.errno != errno.EINVAL:
                    raise
                self._noswap = False
        return self._tmpfs(folder, _SECRET_FLAGS, "mode=0755")

    def _tmpfs(self, folder: Path, flags: int, data: str) -> None:
        self._mounts.mount("tmpfs", str(folder), "tmpfs", flags, data)


def memory_size(pod: Pod, name: str, source: EmptyDir) -> int:
    """Bytes of an emptyDir in memory: the least of its limit and the pod's, 0 for the kernel's.

    What is written counts as the containers' memory, so more than the pod's could not be used.
    """
    try:
        asked = 0 if source.size_limit is None else whole(parse(source.size_limit))
    except ValueError as error:
        raise PodError(
            REASON, f"volume {name!r}: emptyDir.sizeLimit: {error}", final=True
        ) from error
    pods = whole(pod_limits(pod).get(MEMORY) or parse(0))
    return min((size for size in (asked, pods) if size > 0), default=0)
