"""A pod as the API and manifests spell it: the fields that nodeagent knows, decoded and typed.

Names and defaults are those of ``k8s.io/api/core/v1``; the API server fills most defaults in,
manifests rely on the ones here. Quantities stay as written (``resources`` reads them).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodeagent.pods.container import AppArmorProfile, Container, SeccompProfile, SELinuxOptions
from nodeagent.pods.known import Known, convert, unknown
from nodeagent.pods.volume import Volume

SOURCE = "kubernetes.io/config.source"
"""Annotation of static and mirror pods: ``file``."""
MIRROR = "kubernetes.io/config.mirror"
"""Annotation of mirror pods: the static pod's UID."""
SEEN = "kubernetes.io/config.seen"
"""Annotation of static and mirror pods: when the manifest was read first."""


class Sysctl(Known, frozen=True):
    """A kernel parameter of the pod's namespaces."""

    name: str
    value: str


class PodSecurityContext(Known, frozen=True):
    """Security settings of all containers of a pod."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: str = ""
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    se_linux_options: SELinuxOptions | None = None
    sysctls: tuple[Sysctl, ...] = ()


class DnsOption(Known, frozen=True):
    """One option line of resolv.conf."""

    name: str
    value: str | None = None


class DnsConfig(Known, frozen=True):
    """What the pod adds to its resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class HostAlias(Known, frozen=True):
    """A line of /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...] = ()


class LocalRef(Known, frozen=True):
    """The name of an object in the pod's namespace."""

    name: str = ""


class ReadinessGate(Known, frozen=True):
    """A condition of the pod that others set."""

    condition_type: str


class Toleration(Known, frozen=True):
    """Taints that the pod accepts."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSpec(Known, frozen=True):
    """What is wanted of a pod."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig | None = None
    node_name: str = ""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    share_process_namespace: bool = False
    security_context: PodSecurityContext = PodSecurityContext()
    image_pull_secrets: tuple[LocalRef, ...] = ()
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = msgspec.field(default=False, name="setHostnameAsFQDN")
    host_aliases: tuple[HostAlias, ...] = ()
    enable_service_links: bool = True
    readiness_gates: tuple[ReadinessGate, ...] = ()
    runtime_class_name: str = ""
    priority: int = 0
    tolerations: tuple[Toleration, ...] = ()


class Meta(Known, frozen=True):
    """Who a pod is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    resource_version: str = ""


class Pod(Known, frozen=True):
    """A pod; *status* is what the API server holds, undecoded."""

    metadata: Meta
    spec: PodSpec
    status: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def uid(self) -> str:
        """Its UID; that of a static pod is made from its manifest."""
        return self.metadata.uid

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def is_static(self) -> bool:
        """Whether a manifest is its source."""
        return SOURCE in self.metadata.annotations and MIRROR not in self.metadata.annotations

    @property
    def is_mirror(self) -> bool:
        """Whether it only shows a static pod at the API server."""
        return MIRROR in self.metadata.annotations


def decode(document: Mapping[str, Any]) -> Pod:
    """The pod of a decoded JSON or YAML *document*; raises ValueError naming the field."""
    return convert(dict(document), Pod)


def unknown_fields(spec: Mapping[str, Any]) -> list[str]:
    """Paths such as ``spec.containers[0].volumeDevices`` that ``PodSpec`` does not name."""
    return list(unknown(spec, PodSpec, "spec"))
