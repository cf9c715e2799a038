"""Volumes as the API and manifests spell them (``k8s.io/api/core/v1``)."""

import msgspec

from nodeagent.pods.container import FieldRef, ResourceFieldRef
from nodeagent.pods.known import Known, Quantity


class KeyToPath(Known, frozen=True):
    """A key of a ConfigMap or Secret as a file."""

    key: str
    path: str
    mode: int | None = None


class EmptyDir(Known, frozen=True):
    """A folder that lives as long as the pod; medium Memory is a tmpfs."""

    medium: str = ""
    size_limit: Quantity | None = None


class HostPath(Known, frozen=True):
    """A path of the host; an empty type checks nothing."""

    path: str
    type: str = ""


class ConfigMapVolume(Known, frozen=True):
    """The keys of a ConfigMap as files."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretVolume(Known, frozen=True):
    """The keys of a Secret as files."""

    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class DownwardItem(Known, frozen=True):
    """A field of the pod as a file."""

    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardVolume(Known, frozen=True):
    """Fields of the pod as files."""

    items: tuple[DownwardItem, ...] = ()
    default_mode: int = 0o644


class ProjectedRef(Known, frozen=True):
    """A ConfigMap or Secret within a projected volume."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False


class ProjectedDownward(Known, frozen=True):
    """Fields of the pod within a projected volume."""

    items: tuple[DownwardItem, ...] = ()


class ServiceAccountToken(Known, frozen=True):
    """A token of the pod's service account for *audience* (empty: the API server)."""

    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class ProjectedSource(Known, frozen=True):
    """One source of a projected volume."""

    config_map: ProjectedRef | None = None
    secret: ProjectedRef | None = None
    downward_api: ProjectedDownward | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountToken | None = None


class ProjectedVolume(Known, frozen=True):
    """Several sources in one folder."""

    sources: tuple[ProjectedSource, ...] = ()
    default_mode: int = 0o644


class ClaimVolume(Known, frozen=True):
    """A PersistentVolumeClaim of the pod's namespace."""

    claim_name: str
    read_only: bool = False


class NfsVolume(Known, frozen=True):
    """An NFS export."""

    server: str
    path: str
    read_only: bool = False


class Volume(Known, frozen=True):
    """A volume: its name and one source."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    nfs: NfsVolume | None = None
