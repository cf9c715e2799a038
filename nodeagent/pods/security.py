"""Security settings: a container's over its pod's, in Docker's words, and what is forbidden.

A container without a seccomp profile gets Docker's default one, as ``docker run`` gives it;
Kubernetes leaves that to the node (``seccompDefault``).
"""

import json
from collections.abc import Iterator

from nodeagent.errors import PodError
from nodeagent.pods.container import (
    AppArmorProfile,
    Container,
    SeccompProfile,
    SecurityContext,
)
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod

SAFE_SYSCTLS = frozenset({
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
})  # fmt: skip
"""Those that touch the pod alone, so that any pod may set them (Kubernetes' safe set)."""

_OF_IPC = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")
_OF_NETWORK = "net."

SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"
APPARMOR_CONTAINER = "container.apparmor.security.beta.kubernetes.io/"
"""Annotations that came before the fields; manifests of that time have them."""


def user_of(pod: Pod, container: Container, image_user: str) -> str:
    """Docker's ``User``: ``uid``, ``uid:gid``, or "" for what the image says."""
    user, group = run_as(pod, container)
    if user is None and group is None:
        return ""
    name = str(user) if user is not None else image_user.partition(":")[0] or "0"
    return name if group is None else f"{name}:{group}"


def run_as(pod: Pod, container: Container) -> tuple[int | None, int | None]:
    """The user and group that are asked for."""
    own, pods = container.security_context, pod.spec.security_context
    user = own.run_as_user if own.run_as_user is not None else pods.run_as_user
    group = own.run_as_group if own.run_as_group is not None else pods.run_as_group
    return user, group


def check_user(pod: Pod, container: Container, image_user: str) -> None:
    """Raise PodError when runAsNonRoot is asked for and the container would, or might, be root.

    *image_user* is the image's own user, "" for root.
    """
    own, pods = container.security_context, pod.spec.security_context
    wanted = own.run_as_non_root if own.run_as_non_root is not None else pods.run_as_non_root
    if not wanted:
        return
    user, _ = run_as(pod, container)
    name = image_user.partition(":")[0]
    if user is not None:
        problem = "runAsUser is 0" if user == 0 else ""
    elif not name:
        problem = "the image runs as root"
    elif not (name.isascii() and name.isdigit()):
        problem = f"the image's user is the name {name!r}, which may be root"
    else:
        problem = "the image's user is 0" if int(name) == 0 else ""
    if problem:
        raise PodError(
            "CreateContainerConfigError",
            f"container {container.name} has runAsNonRoot, but {problem}: set "
            "securityContext.runAsUser to a number above 0",
        )


def groups_of(pod: Pod) -> list[str]:
    """Docker's ``GroupAdd``."""
    context = pod.spec.security_context
    groups = [*context.supplemental_groups]
    if context.fs_group is not None:
        groups.append(context.fs_group)
    return [str(group) for group in dict.fromkeys(groups)]


def seccomp_of(pod: Pod, container: Container) -> SeccompProfile | None:
    """The seccomp profile of a container; None for Docker's default."""
    notes = pod.metadata.annotations
    profile = container.security_context.seccomp_profile
    if profile is None and (note := notes.get(SECCOMP_CONTAINER + container.name)) is not None:
        profile = _seccomp_note(note)
    if profile is None:
        profile = pod.spec.security_context.seccomp_profile
    if profile is None and (note := notes.get(SECCOMP_POD)) is not None:
        profile = _seccomp_note(note)
    return profile


def app_armor_of(pod: Pod, container: Container) -> AppArmorProfile | None:
    """The AppArmor profile of a container; None for Docker's default."""
    profile = container.security_context.app_armor_profile
    note = pod.metadata.annotations.get(APPARMOR_CONTAINER + container.name)
    if profile is None and note is not None:
        kind, name = _profile_note(note)
        profile = AppArmorProfile(kind, name)
    return profile or pod.spec.security_context.app_armor_profile


def security_options(pod: Pod, container: Container, seccomp: str) -> list[str]:
    """Docker's ``SecurityOpt``; *seccomp* is the content of a Localhost profile's file.

    Raises PodError when that is no JSON.
    """
    return [
        *_seccomp_options(seccomp_of(pod, container), seccomp),
        *_app_armor_options(app_armor_of(pod, container)),
        *selinux_options(pod, container.security_context),
        *_privilege_options(container),
    ]


def selinux_options(pod: Pod, own: SecurityContext | None = None) -> Iterator[str]:
    """The part of ``SecurityOpt`` that is the SELinux label."""
    label = (own.se_linux_options if own else None) or pod.spec.security_context.se_linux_options
    if label is not None:
        parts = {"user": label.user, "role": label.role, "type": label.type, "level": label.level}
        yield from (f"label={key}:{value}" for key, value in parts.items() if value)


def is_admin(container: Container) -> bool:
    """Whether it may do nearly all that root may, so that it can always gain privileges."""
    context = container.security_context
    added = context.capabilities.add if context.capabilities else ()
    return context.privileged or bool({"SYS_ADMIN", "CAP_SYS_ADMIN"} & {*added})


def sysctl_name(name: str) -> str:
    """The name with dots between its parts; sysctl(8) takes slashes, too, and then keeps dots."""
    first = next((letter for letter in name if letter in "./"), ".")
    return name.translate(str.maketrans("./", "/.")) if first == "/" else name


def forbidden_sysctls(pod: Pod, host: Host) -> tuple[str, ...]:
    """A sentence for each sysctl that the pod may not set on this node."""
    found = []
    spec = pod.spec
    for one in spec.security_context.sysctls:
        name = sysctl_name(one.name)
        if name.startswith(_OF_NETWORK) and spec.host_network:
            found.append(f"sysctl {one.name} would change the node's network: hostNetwork is set")
        elif name.startswith(_OF_IPC) and spec.host_ipc:
            found.append(f"sysctl {one.name} would change the node's IPC: hostIPC is set")
        elif not name.startswith((_OF_NETWORK, *_OF_IPC)):
            found.append(f"sysctl {one.name} is not one that a pod can have for itself")
        elif name not in SAFE_SYSCTLS and not _allowed(name, host):
            found.append(
                f"sysctl {one.name} is not allowed on this node: name it in "
                "--allowed-unsafe-sysctls if pods may set it"
            )
    return tuple(found)


def _allowed(name: str, host: Host) -> bool:
    return any(
        name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in map(sysctl_name, host.allowed_unsafe_sysctls)
    )


def _seccomp_note(note: str) -> SeccompProfile:
    kind, name = _profile_note(note)
    return SeccompProfile(kind, name)


def _profile_note(note: str) -> tuple[str, str]:
    if note in {"runtime/default", "docker/default", ""}:
        return "RuntimeDefault", ""
    if note.startswith("localhost/"):
        return "Localhost", note.removeprefix("localhost/")
    return ("Unconfined" if note == "unconfined" else note), ""


def _seccomp_options(profile: SeccompProfile | None, content: str) -> Iterator[str]:
    if profile is None or profile.type == "RuntimeDefault":
        return
    if profile.type == "Unconfined":
        yield "seccomp=unconfined"
        return
    try:
        document = json.loads(content)
    except ValueError as error:
        raise PodError(
            "CreateContainerConfigError",
            f"seccomp profile {profile.localhost_profile} is no JSON: {error}",
        ) from None
    yield f"seccomp={json.dumps(document, separators=(',', ':'))}"


def _app_armor_options(profile: AppArmorProfile | None) -> Iterator[str]:
    if profile is not None and profile.type == "Unconfined":
        yield "apparmor=unconfined"
    elif profile is not None and profile.type == "Localhost":
        yield f"apparmor={profile.localhost_profile}"


def _privilege_options(container: Container) -> Iterator[str]:
    if container.security_context.allow_privilege_escalation is False and not is_admin(container):
        yield "no-new-privileges"
