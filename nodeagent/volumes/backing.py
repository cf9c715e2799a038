"""What is behind a volume that is not made here: a path of this host or an NFS export.

A claim is resolved once in a pod's life: what it is bound to does not change while it is bound.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from nodeagent.api.port import Objects
from nodeagent.errors import PodError
from nodeagent.pods.affinity import NodeSelector, matches
from nodeagent.pods.known import Known, convert
from nodeagent.pods.model import Pod
from nodeagent.pods.volume import HostPath, NfsVolume, Volume
from nodeagent.volumes.payload import REASON

MOUNT_OPTIONS = "volume.beta.kubernetes.io/mount-options"
"""Annotation of older persistent volumes, before ``spec.mountOptions``."""

T = TypeVar("T", bound=msgspec.Struct)


class Backing(Known, frozen=True):
    """*path* is the host's or, with a *server*, that of an NFS export; *options* are mount(8)'s.

    *type* is that of a hostPath. *local* is a local persistent volume: only there fsGroup is
    applied, other paths belong to the host or the server.
    """

    path: str
    type: str = ""
    server: str = ""
    options: tuple[str, ...] = ()
    read_only: bool = False
    local: bool = False


class _ObjectRef(Known, frozen=True):
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Meta(Known, frozen=True):
    uid: str = ""
    deletion_timestamp: str = ""
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class _ClaimSpec(Known, frozen=True):
    volume_name: str = ""


class _ClaimStatus(Known, frozen=True):
    phase: str = ""


class _Claim(Known, frozen=True):
    metadata: _Meta = _Meta()
    spec: _ClaimSpec = _ClaimSpec()
    status: _ClaimStatus = _ClaimStatus()


class _NodeMeta(Known, frozen=True):
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class _Node(Known, frozen=True):
    metadata: _NodeMeta = _NodeMeta()


class _Local(Known, frozen=True):
    path: str


class _VolumeAffinity(Known, frozen=True):
    required: NodeSelector | None = None


class _PvSpec(Known, frozen=True):
    claim_ref: _ObjectRef | None = None
    host_path: HostPath | None = None
    local: _Local | None = None
    nfs: NfsVolume | None = None
    mount_options: tuple[str, ...] = ()
    volume_mode: str = "Filesystem"
    node_affinity: _VolumeAffinity = _VolumeAffinity()


class _PersistentVolume(Known, frozen=True):
    spec: _PvSpec
    metadata: _Meta = _Meta()


def inline(volume: Volume) -> Backing | None:
    """What is behind a volume that the pod itself describes; None for other kinds."""
    if volume.host_path is not None:
        return _checked(Backing(volume.host_path.path, volume.host_path.type), volume.name)
    if volume.nfs is not None:
        return _checked(_export(volume.nfs, f"volume {volume.name!r}"), volume.name)
    return None


async def claimed(objects: Objects, pod: Pod, volume: Volume, node: str) -> Backing:
    """What the claim of *volume* is bound to; *node* is this Node's name.

    Raises PodError: for most causes another try may help, a claim is bound later than the pod.
    """
    assert volume.persistent_volume_claim is not None  # noqa: S101 - for the type checker
    source = volume.persistent_volume_claim
    namespace, name = pod.metadata.namespace, source.claim_name
    what = f"PersistentVolumeClaim {name!r}"
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/persistentvolumeclaims"
    claim = _decoded(await objects.get(f"{path}/{quote(name, safe='')}"), _Claim, what)
    if claim.metadata.deletion_timestamp:
        raise PodError(REASON, f"{what} is being deleted")
    bound = claim.spec.volume_name
    if claim.status.phase != "Bound" or not bound:
        raise PodError(REASON, f"{what} is not bound to a PersistentVolume yet")
    what = f"PersistentVolume {bound!r}"
    document = await objects.get(f"/api/v1/persistentvolumes/{quote(bound, safe='')}")
    found = _decoded(document, _PersistentVolume, what)
    holder = found.spec.claim_ref
    if holder is None or (holder.namespace, holder.name) != (namespace, name) or (
        holder.uid and claim.metadata.uid and holder.uid != claim.metadata.uid
    ):  # fmt: skip
        raise PodError(REASON, f"{what} is bound to another claim than {namespace}/{name}")
    await _check_node(objects, found, node, what)
    return _checked(_behind(found, document or {}, source.read_only, what), volume.name)


def _decoded(document: Mapping[str, Any] | None, kind: type[T], what: str) -> T:
    if document is None:
        raise PodError(REASON, f"{what} does not exist")
    try:
        return convert(document, kind)
    except ValueError as error:
        raise PodError(REASON, f"{what}: {error}") from error


async def _check_node(objects: Objects, found: _PersistentVolume, node: str, what: str) -> None:
    required = found.spec.node_affinity.required
    if required is None:
        return
    document = await objects.get(f"/api/v1/nodes/{quote(node, safe='')}")
    here = _decoded(document, _Node, f"Node {node!r}")
    if not matches(required, here.metadata.labels, node):
        raise PodError(REASON, f"{what} cannot be used on node {node}: its nodeAffinity says so")


def _behind(
    found: _PersistentVolume, document: Mapping[str, Any], read_only: bool, what: str
) -> Backing:
    spec = found.spec
    if spec.volume_mode not in ("", "Filesystem"):
        raise PodError(REASON, f"{what}: volumeMode {spec.volume_mode} cannot be had here")
    old = found.metadata.annotations.get(MOUNT_OPTIONS, "")
    options = spec.mount_options or tuple(one for one in old.split(",") if one)
    if spec.nfs is not None:
        return _export(spec.nfs, what, options, read_only=read_only)
    if spec.local is not None:
        return Backing(spec.local.path, type="Directory", read_only=read_only, local=True)
    if spec.host_path is not None:
        return Backing(spec.host_path.path, spec.host_path.type, read_only=read_only)
    raise PodError(
        REASON,
        f"{what} is of kind {_kind_of(document)}, which nodeagent cannot mount: use hostPath, "
        "local or nfs",
    )


def _export(
    nfs: NfsVolume, what: str, options: tuple[str, ...] = (), *, read_only: bool = False
) -> Backing:
    # Without a server it would pass for a path of this host.
    if not nfs.server:
        raise PodError(REASON, f"{what}: nfs.server is empty: name the NFS server", final=True)
    read_only = read_only or nfs.read_only
    return Backing(nfs.path, server=nfs.server, options=options, read_only=read_only)


_NO_KIND = frozenset(
    {
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    }
)


def _kind_of(document: Mapping[str, Any]) -> str:
    spec = document.get("spec")
    kinds = sorted(set(spec) - _NO_KIND) if isinstance(spec, dict) else []
    return ", ".join(kinds)[:100] or "unknown"


def _checked(backing: Backing, name: str) -> Backing:
    """*backing*, if its values can be handed to the kernel and to mount.nfs."""
    what = f"volume {name!r}"
    parts: Sequence[str] = (backing.path, backing.server, *backing.options)
    if any("\0" in part for part in parts):
        raise PodError(REASON, f"{what}: NUL in a path or option", final=True)
    if not backing.path.startswith("/"):
        raise PodError(REASON, f"{what}: path {backing.path!r} must begin with '/'", final=True)
    if ".." in backing.path.split("/"):
        raise PodError(REASON, f"{what}: path {backing.path!r} must not have '..'", final=True)
    if backing.server.startswith("-") or any(one.isspace() for one in backing.server):
        raise PodError(REASON, f"{what}: server {backing.server!r} is no host name", final=True)
    return backing
