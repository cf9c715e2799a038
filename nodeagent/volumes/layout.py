"""Where a pod's files are: the folders that kubelet uses, so that operators find them.

ROOT/pods/UID/volumes/kubernetes.io~KIND/NAME     volumes
ROOT/pods/UID/volume-subpaths/NAME/CONTAINER/N    what subPath names, bound
ROOT/pods/UID/claims/NAME.json                    what a claim was found to be bound to
ROOT/pods/UID/etc-hosts                           /etc/hosts of the containers
ROOT/pods/UID/containers/CONTAINER/ATTEMPT        termination messages
"""

from pathlib import Path

from nodeagent.errors import PodError
from nodeagent.pods.host import Host
from nodeagent.pods.volume import Volume
from nodeagent.volumes.payload import REASON

NFS = "nfs"


def check_name(name: str, what: str) -> str:
    """*name*, if it can be that of a folder; raises PodError that begins with *what* if not.

    An empty or climbing UID would name the folder of all pods.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 250:
        raise PodError(REASON, f"{what} {name[:100]!r} cannot be the name of a folder", final=True)
    return name


def pod_folder(host: Host, uid: str) -> Path:
    """The folder of the pod with this *uid*."""
    return host.pod_dir(check_name(uid, "metadata.uid"))


def kind_of(volume: Volume) -> str:
    """The name of a kind of volume that has a folder; "" for paths of the host and claims."""
    for kind, source in (
        ("empty-dir", volume.empty_dir),
        ("configmap", volume.config_map),
        ("secret", volume.secret),
        ("downward-api", volume.downward_api),
        ("projected", volume.projected),
        (NFS, volume.nfs),
    ):
        if source is not None:
            return kind
    return ""


def volume_folder(host: Host, uid: str, kind: str, name: str) -> Path:
    """The folder of the volume *name*."""
    check_name(name, "spec.volumes.name")
    return pod_folder(host, uid) / "volumes" / f"kubernetes.io~{kind}" / name


def subpath_target(host: Host, uid: str, volume: str, container: str, index: int) -> Path:
    """Where the subPath of a container's mount number *index* is bound."""
    return (
        pod_folder(host, uid)
        / "volume-subpaths"
        / check_name(volume, "volumeMounts.name")
        / check_name(container, "containers.name")
        / str(index)
    )


def claim_file(host: Host, uid: str, volume: str) -> Path:
    """Where it is kept what is behind a claim."""
    return pod_folder(host, uid) / "claims" / f"{check_name(volume, 'spec.volumes.name')}.json"
