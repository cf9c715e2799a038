"""Whether a container makes sense by itself and within its pod."""

import posixpath
import re
from collections.abc import Iterator, Sequence

from nodeagent.pods import checknames as check
from nodeagent.pods import quantity
from nodeagent.pods.checkhandlers import lifecycle_problems, probe_problems
from nodeagent.pods.checkvolume import resource_field_problems
from nodeagent.pods.container import (
    AppArmorProfile,
    Container,
    EnvVar,
    EnvVarSource,
    KeyRef,
    ResourceRequirements,
    SeccompProfile,
    SecurityContext,
    VolumeMount,
)
from nodeagent.pods.fieldpath import supported
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import CPU, MEMORY, STORAGE
from nodeagent.pods.security import app_armor_of, is_admin, seccomp_of

PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
"""IANA_SVC_NAME (RFC 6335), in lower case."""
ENV_NAME = re.compile(r"[!-<>-~][ -<>-~]*")
"""Printable ASCII without =, as Kubernetes takes it since 1.30."""

PULL_POLICIES = ("", "Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("", "File", "FallbackToLogsOnError")
PROPAGATIONS = ("", "None", "HostToContainer", "Bidirectional")
PROTOCOLS = ("TCP", "UDP", "SCTP")
PROFILE_TYPES = ("RuntimeDefault", "Unconfined", "Localhost")

_REFERENCES = {
    "fieldRef": "field_ref", "resourceFieldRef": "resource_field_ref",
    "configMapKeyRef": "config_map_key_ref", "secretKeyRef": "secret_key_ref",
}  # fmt: skip


def container_problems(pod: Pod) -> Iterator[str]:
    """Sentences about all containers."""
    spec = pod.spec
    if not spec.containers:
        yield "spec.containers is empty: a pod needs at least one"
    names = (one.name for one in (*spec.init_containers, *spec.containers))
    yield from check.unique("spec.containers and spec.initContainers", names, "the name")
    for field, containers in (
        ("initContainers", spec.init_containers),
        ("containers", spec.containers),
    ):
        for number, container in enumerate(containers):
            path = f"spec.{field}[{number}]"
            yield from _basics(path, container)
            yield from _ports(path, container, host_network=spec.host_network)
            yield from _environment(path, container, pod)
            yield from resource_problems(f"{path}.resources", container.resources)
            yield from _security(f"{path}.securityContext", container, pod)
            yield from _mounts(path, container, pod)
            if field == "initContainers":
                yield from _not_for_init(path, container)
            else:
                yield from probe_problems(path, container)
                yield from lifecycle_problems(path, container)
    yield from _host_ports(pod)


def resource_problems(path: str, resources: ResourceRequirements) -> Iterator[str]:
    """Sentences about requests and limits."""
    bad = False
    for kind, amounts in (("limits", resources.limits), ("requests", resources.requests)):
        for name, value in amounts.items():
            wrong = [*check.amount(f"{path}.{kind}.{name}", value)]
            bad |= bool(wrong)
            yield from wrong
            if not wrong and name not in {CPU, MEMORY, STORAGE} and quantity.parse(value):
                yield (
                    f"{path}.{kind}.{name}: this node cannot give out {name}, only cpu, memory "
                    "and ephemeral-storage: leave it out"
                )
    for name in () if bad else sorted(resources.requests.keys() & resources.limits.keys()):
        request, limit = resources.requests[name], resources.limits[name]
        if quantity.parse(request) > quantity.parse(limit):
            yield f"{path}.requests.{name} {request} is more than its limit {limit}: lower it"


def seccomp_problems(path: str, profile: SeccompProfile | None) -> Iterator[str]:
    """Sentences about a seccomp profile."""
    if profile is None:
        return
    yield from check.one_of(f"{path}.type", profile.type, PROFILE_TYPES)
    if profile.type == "Localhost":
        if not profile.localhost_profile:
            yield f"{path}.localhostProfile is missing: name a file below the seccomp folder"
        yield from check.relative(f"{path}.localhostProfile", profile.localhost_profile)


def app_armor_problems(path: str, profile: AppArmorProfile | None) -> Iterator[str]:
    """Sentences about an AppArmor profile."""
    if profile is None:
        return
    yield from check.one_of(f"{path}.type", profile.type, PROFILE_TYPES)
    if profile.type == "Localhost" and not profile.localhost_profile.strip():
        yield f"{path}.localhostProfile is missing: name a profile that the kernel has loaded"


def _basics(path: str, container: Container) -> Iterator[str]:
    yield from check.label(f"{path}.name", container.name)
    if container.image != container.image.strip() or not container.image:
        yield f"{path}.image is {check.shown(container.image)}: name an image, without blanks"
    yield from check.one_of(f"{path}.imagePullPolicy", container.image_pull_policy, PULL_POLICIES)
    yield from check.one_of(
        f"{path}.terminationMessagePolicy", container.termination_message_policy, MESSAGE_POLICIES
    )
    if container.termination_message_path:
        yield from check.absolute(
            f"{path}.terminationMessagePath", container.termination_message_path
        )
    if container.working_dir and not container.working_dir.startswith("/"):
        yield (
            f"{path}.workingDir is {check.shown(container.working_dir)}: use a path that begins "
            "with /"
        )


def _ports(path: str, container: Container, *, host_network: bool) -> Iterator[str]:
    names = [port.name for port in container.ports if port.name]
    yield from check.unique(f"{path}.ports", names, "the name")
    for number, port in enumerate(container.ports):
        here = f"{path}.ports[{number}]"
        yield from check.port(f"{here}.containerPort", port.container_port)
        yield from check.between(f"{here}.hostPort", port.host_port, 0, 65535)
        yield from check.one_of(f"{here}.protocol", port.protocol, PROTOCOLS)
        if port.name and not PORT_NAME.fullmatch(port.name):
            yield (
                f"{here}.name is {check.shown(port.name)}: use at most 15 lower case letters, "
                "digits and -, with a letter among them"
            )
        if port.host_ip:
            yield from check.address(f"{here}.hostIP", port.host_ip)
        if host_network and port.host_port not in {0, port.container_port}:
            yield (
                f"{here}.hostPort is {port.host_port} and containerPort {port.container_port}: "
                "with hostNetwork they are the same, leave hostPort out"
            )


def _host_ports(pod: Pod) -> Iterator[str]:
    taken = [
        f"{port.host_port}/{port.protocol} on {port.host_ip or 'all addresses'}"
        for container in pod.spec.containers
        for port in container.ports
        if port.host_port
    ]
    yield from check.unique("spec.containers", taken, "the host port")


def _environment(path: str, container: Container, pod: Pod) -> Iterator[str]:
    containers = {one.name for one in (*pod.spec.containers, *pod.spec.init_containers)}
    for number, variable in enumerate(container.env):
        yield from _variable(f"{path}.env[{number}]", variable, containers)
    for number, source in enumerate(container.env_from):
        here = f"{path}.envFrom[{number}]"
        refs = {"configMapRef": source.config_map_ref, "secretRef": source.secret_ref}
        yield from check.exactly_one(here, (k for k, v in refs.items() if v is not None), refs)
        for name, reference in refs.items():
            if reference is not None:
                yield from check.subdomain(f"{here}.{name}.name", reference.name)
        if source.prefix and not ENV_NAME.fullmatch(source.prefix):
            yield f"{here}.prefix is {check.shown(source.prefix)}: use printable ASCII without ="


def _variable(path: str, variable: EnvVar, containers: set[str]) -> Iterator[str]:
    if not ENV_NAME.fullmatch(variable.name):
        yield f"{path}.name is {check.shown(variable.name)}: use printable ASCII without ="
    if "\0" in variable.value:
        yield f"{path}.value has a zero byte in it: remove it"
    if variable.value_from is None:
        return
    if variable.value:
        yield f"{path} has value and valueFrom: keep one of them"
    yield from _source(f"{path}.valueFrom", variable.value_from, containers)


def _source(path: str, source: EnvVarSource, containers: set[str]) -> Iterator[str]:
    present = [k for k, field in _REFERENCES.items() if getattr(source, field) is not None]
    yield from check.exactly_one(path, present, _REFERENCES)
    if source.field_ref is not None and not supported(source.field_ref.field_path):
        yield (
            f"{path}.fieldRef.fieldPath is {check.shown(source.field_ref.field_path)}: use a "
            "field such as metadata.name, metadata.labels['KEY'], spec.nodeName or status.podIP"
        )
    if source.resource_field_ref is not None:
        yield from resource_field_problems(
            f"{path}.resourceFieldRef", source.resource_field_ref, containers,
            needs_container=False,
        )  # fmt: skip
    if source.config_map_key_ref is not None:
        yield from _key(f"{path}.configMapKeyRef", source.config_map_key_ref)
    if source.secret_key_ref is not None:
        yield from _key(f"{path}.secretKeyRef", source.secret_key_ref)


def _key(path: str, reference: KeyRef) -> Iterator[str]:
    yield from check.subdomain(f"{path}.name", reference.name)
    yield from check.key(f"{path}.key", reference.key)


def _security(path: str, container: Container, pod: Pod) -> Iterator[str]:
    context = container.security_context
    yield from check.user_or_group(f"{path}.runAsUser", context.run_as_user)
    yield from check.user_or_group(f"{path}.runAsGroup", context.run_as_group)
    yield from check.one_of(f"{path}.procMount", context.proc_mount, ("", "Default", "Unmasked"))
    yield from _escalation(path, container, context)
    seccomp = seccomp_of(pod, container)
    if seccomp != pod.spec.security_context.seccomp_profile:
        yield from seccomp_problems(f"{path}.seccompProfile", seccomp)
    app_armor = app_armor_of(pod, container)
    if app_armor != pod.spec.security_context.app_armor_profile:
        yield from app_armor_problems(f"{path}.appArmorProfile", app_armor)
    capabilities = context.capabilities
    for word in (*capabilities.add, *capabilities.drop) if capabilities else ():
        if not re.fullmatch(r"[A-Za-z_]+", word):
            yield f"{path}.capabilities has {check.shown(word)}: use a name such as NET_ADMIN"


def _escalation(path: str, container: Container, context: SecurityContext) -> Iterator[str]:
    if context.allow_privilege_escalation is False and is_admin(container):
        what = "privileged" if context.privileged else "the capability SYS_ADMIN"
        yield f"{path}.allowPrivilegeEscalation cannot be false with {what}: drop one of them"


def _mounts(path: str, container: Container, pod: Pod) -> Iterator[str]:
    volumes = {volume.name for volume in pod.spec.volumes}
    places = (posixpath.normpath(mount.mount_path) for mount in container.volume_mounts)
    yield from check.unique(f"{path}.volumeMounts", places, "the mountPath")
    for number, mount in enumerate(container.volume_mounts):
        here = f"{path}.volumeMounts[{number}]"
        if mount.name not in volumes:
            yield f"{here}.name {check.shown(mount.name)} is no volume of this pod: add the volume"
        yield from check.absolute(f"{here}.mountPath", mount.mount_path)
        if mount.mount_path.strip("/") in {"", "."}:
            yield f"{here}.mountPath is the container's root: use a folder below it"
        yield from _sub_paths(here, mount)
        yield from check.one_of(f"{here}.mountPropagation", mount.mount_propagation, PROPAGATIONS)
        if mount.mount_propagation == "Bidirectional" and not container.security_context.privileged:
            yield f"{here}.mountPropagation Bidirectional needs securityContext.privileged: set it"
        if mount.recursive_read_only == "Enabled":
            yield f"{here}.recursiveReadOnly Enabled cannot be promised here: use IfPossible"
        else:
            yield from check.one_of(
                f"{here}.recursiveReadOnly", mount.recursive_read_only,
                ("", "Disabled", "IfPossible"),
            )  # fmt: skip


def _sub_paths(path: str, mount: VolumeMount) -> Iterator[str]:
    if mount.sub_path and mount.sub_path_expr:
        yield f"{path} has subPath and subPathExpr: keep one of them"
    yield from check.relative(f"{path}.subPath", mount.sub_path)
    yield from check.relative(f"{path}.subPathExpr", mount.sub_path_expr)


def _not_for_init(path: str, container: Container) -> Iterator[str]:
    fields: Sequence[tuple[str, object]] = (
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
        ("startupProbe", container.startup_probe),
        ("lifecycle.postStart", container.lifecycle.post_start),
        ("lifecycle.preStop", container.lifecycle.pre_stop),
    )
    for name, value in fields:
        if value is not None:
            yield f"{path}.{name} is not for init containers: leave it out"
