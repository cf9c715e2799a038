"""A container as the API and manifests spell it (``k8s.io/api/core/v1``)."""

import hashlib

import msgspec

from nodeagent.pods.known import IntOrString, Known, Quantity


class KeyRef(Known, frozen=True):
    """A key of a ConfigMap or Secret."""

    key: str
    name: str = ""
    optional: bool = False


class FieldRef(Known, frozen=True):
    """A field of the pod, such as ``metadata.labels['app']``."""

    field_path: str
    api_version: str = "v1"


class ResourceFieldRef(Known, frozen=True):
    """A request or limit of a container."""

    resource: str
    container_name: str = ""
    divisor: Quantity = "0"


class EnvVarSource(Known, frozen=True):
    """Where the value of a variable comes from: one of these."""

    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(Known, frozen=True):
    """One variable."""

    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class NameRef(Known, frozen=True):
    """The name of a ConfigMap or Secret, all keys of it."""

    name: str = ""
    optional: bool = False


class EnvFromSource(Known, frozen=True):
    """All keys of a ConfigMap or Secret as variables."""

    prefix: str = ""
    config_map_ref: NameRef | None = None
    secret_ref: NameRef | None = None


class ContainerPort(Known, frozen=True):
    """A port that a container serves."""

    container_port: int
    host_port: int = 0
    protocol: str = "TCP"
    name: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")


class VolumeMount(Known, frozen=True):
    """Where a volume appears in a container."""

    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = ""
    recursive_read_only: str = ""


class HttpHeader(Known, frozen=True):
    """One header of an HTTP probe or hook."""

    name: str
    value: str = ""


class HttpGet(Known, frozen=True):
    """An HTTP GET; an empty host is the pod's address."""

    port: IntOrString
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocket(Known, frozen=True):
    """A TCP connection; an empty host is the pod's address."""

    port: IntOrString
    host: str = ""


class Exec(Known, frozen=True):
    """A command in the container."""

    command: tuple[str, ...] = ()


class Sleep(Known, frozen=True):
    """A pause in seconds."""

    seconds: int


class Handler(Known, frozen=True):
    """What a hook does: one of these."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    sleep: Sleep | None = None


class Probe(Known, frozen=True):
    """A check repeated every *period_seconds*; thresholds count results in a row."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(Known, frozen=True):
    """Hooks after the start and before the stop."""

    post_start: Handler | None = None
    pre_stop: Handler | None = None


class ResourceRequirements(Known, frozen=True):
    """Amounts by resource name: cpu, memory, ephemeral-storage, hugepages-*."""

    limits: dict[str, Quantity] = msgspec.field(default_factory=dict)
    requests: dict[str, Quantity] = msgspec.field(default_factory=dict)


class Capabilities(Known, frozen=True):
    """Names without CAP_, or ALL."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Known, frozen=True):
    """RuntimeDefault, Unconfined, or Localhost with a file below the seccomp folder."""

    type: str
    localhost_profile: str = ""


class AppArmorProfile(Known, frozen=True):
    """RuntimeDefault, Unconfined, or Localhost with a loaded profile."""

    type: str
    localhost_profile: str = ""


class SELinuxOptions(Known, frozen=True):
    """The label of the container's processes."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SecurityContext(Known, frozen=True):
    """Security settings of one container; None leaves it to the pod's."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    se_linux_options: SELinuxOptions | None = None
    proc_mount: str = ""


class Container(Known, frozen=True):
    """A container as wanted."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext = SecurityContext()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False

    @property
    def hash(self) -> str:
        """8 hexadecimal digits over what may change in a running pod: name and image."""
        # The whole container is not hashed: a release that knows more fields would otherwise
        # restart every container that it adopts.
        return hashlib.sha256(f"{self.name}\0{self.image}".encode()).hexdigest()[:8]

    @property
    def pull_policy(self) -> str:
        """Always, IfNotPresent or Never, with the API's default."""
        if self.image_pull_policy:
            return self.image_pull_policy
        last = self.image.rpartition("/")[2]
        untagged = "@" not in last and (":" not in last or last.endswith(":latest"))
        return "Always" if untagged else "IfNotPresent"
