"""The bodies of POST /containers/create: a pod's sandbox, and the containers that join it.

Fields are those of Docker Engine API 1.38 and later. The sandbox owns network, IPC and host name
(and, where asked, the process ids); Docker refuses these settings to containers that join.
"""

from dataclasses import dataclass
from typing import Any

from nodeagent.docker.api import Image
from nodeagent.docker.labels import labels_for
from nodeagent.errors import PodError
from nodeagent.pods.container import Container
from nodeagent.pods.dns import Dns, engine_lists
from nodeagent.pods.host import Host, Mount
from nodeagent.pods.hosts import domain_of, hostname_of
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX
from nodeagent.pods.resources import (
    MIN_SHARES,
    PERIOD,
    SANDBOX_OOM_SCORE,
    cpu_memory,
    oom_score_adj,
)
from nodeagent.pods.security import (
    groups_of,
    security_options,
    selinux_options,
    sysctl_name,
    user_of,
)

Body = dict[str, Any]

LONGEST_HOSTNAME = 64
"""Characters of a host name: __NEW_UTS_LEN of ``linux/utsname.h``."""


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """What one instance of a container needs beside its spec, ready for use.

    *env* has ``NAME=value``; *mounts* are all of them: volumes, /etc/hosts, termination log.
    *seccomp* is the content of the file that a Localhost profile names.
    """

    sandbox_id: str
    attempt: int
    image: Image
    env: tuple[str, ...]
    mounts: tuple[Mount, ...]
    cgroup_parent: str
    seccomp: str = ""


def sandbox_config(pod: Pod, host: Host, attempt: int, *, dns: Dns, cgroup_parent: str) -> Body:
    """The sandbox of *pod*; raises PodError when its host name is too long."""
    spec = pod.spec
    bindings = {} if spec.host_network else port_bindings(pod)
    settings: Body = {
        "NetworkMode": "host" if spec.host_network else "bridge",
        "IpcMode": "host" if spec.host_ipc else "shareable",
        "PidMode": "host" if spec.host_pid else "",
        "UTSMode": "host" if spec.host_network else "",
        "PortBindings": bindings,
        **engine_lists(dns),
        "Sysctls": {sysctl_name(one.name): one.value for one in spec.security_context.sysctls},
        "SecurityOpt": ["no-new-privileges", *selinux_options(pod)],
        "CpuShares": MIN_SHARES,
        "OomScoreAdj": SANDBOX_OOM_SCORE,
        "ReadonlyRootfs": True,
        **_common(host, cgroup_parent),
    }
    return {
        "Image": host.pause_image,
        # With the host's network the name is the host's, and Docker refuses another.
        "Hostname": "" if spec.host_network else full_name(pod, host),
        "Labels": labels_for(pod, SANDBOX, attempt),
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": settings,
    }


def container_config(pod: Pod, container: Container, inputs: ContainerInputs, host: Host) -> Body:
    """One instance of *container* in the sandbox of its pod; raises PodError for bad seccomp."""
    body: Body = {
        # The image that was looked at, not the tag: somebody may move the tag meanwhile.
        "Image": inputs.image.id or container.image,
        "User": user_of(pod, container, inputs.image.user),
        "Env": list(inputs.env),
        "WorkingDir": container.working_dir,
        "Tty": container.tty,
        "OpenStdin": container.stdin,
        "StdinOnce": container.stdin and container.stdin_once,
        # Kubernetes has its own probes; Docker's would run a process in each container as well.
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": labels_for(
            pod,
            container.name,
            inputs.attempt,
            hash=container.hash,
            sandbox_id=inputs.sandbox_id,
        ),
        "HostConfig": _container_host_config(pod, container, inputs, host),
    }
    if container.command:
        body["Entrypoint"] = list(container.command)
    if container.args:
        body["Cmd"] = list(container.args)
    return body


def full_name(pod: Pod, host: Host) -> str:
    """What hostname(1) says in the pod; raises PodError when it is too long for the kernel."""
    name, domain = hostname_of(pod, host), domain_of(pod, host)
    full = f"{name}.{domain}" if domain and pod.spec.set_hostname_as_fqdn else name
    if len(full) > LONGEST_HOSTNAME:
        raise PodError(
            "FailedCreatePodSandBox",
            f"the host name {full} is longer than {LONGEST_HOSTNAME} characters: shorten "
            "spec.hostname or spec.subdomain, or leave spec.setHostnameAsFQDN out",
        )
    return full


def port_bindings(pod: Pod) -> dict[str, list[dict[str, str]]]:
    """Docker's ``PortBindings`` for all ports that have a hostPort."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for container in pod.spec.containers:
        for port in container.ports:
            if port.host_port:
                bound = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
                key = f"{port.container_port}/{port.protocol.lower()}"
                bindings.setdefault(key, []).append(bound)
    return bindings


def _container_host_config(
    pod: Pod, container: Container, inputs: ContainerInputs, host: Host
) -> Body:
    spec, context = pod.spec, container.security_context
    joined = f"container:{inputs.sandbox_id}"
    amounts = cpu_memory(container)
    settings: Body = {
        "NetworkMode": joined,
        "IpcMode": "host" if spec.host_ipc else joined,
        "PidMode": "host" if spec.host_pid else joined if spec.share_process_namespace else "",
        "UTSMode": "host" if spec.host_network else "",
        "Privileged": context.privileged,
        "ReadonlyRootfs": context.read_only_root_filesystem,
        "GroupAdd": groups_of(pod),
        "SecurityOpt": security_options(pod, container, inputs.seccomp),
        "Mounts": [_mount(mount) for mount in inputs.mounts],
        "CpuShares": amounts.shares,
        "OomScoreAdj": oom_score_adj(pod, container, host.memory),
        **_common(host, inputs.cgroup_parent),
    }
    if amounts.memory:
        # Equal to Memory means no swap; Docker would allow as much again.
        settings |= {"Memory": amounts.memory, "MemorySwap": amounts.memory}
    if amounts.quota:
        settings |= {"CpuPeriod": PERIOD, "CpuQuota": amounts.quota}
    if context.capabilities is not None:
        settings["CapAdd"] = list(context.capabilities.add)
        settings["CapDrop"] = list(context.capabilities.drop)
    if context.proc_mount == "Unmasked":
        settings |= {"MaskedPaths": [], "ReadonlyPaths": []}
    return settings


def _common(host: Host, cgroup_parent: str) -> Body:
    return {
        "CgroupParent": cgroup_parent,
        # nodeagent restarts containers; Docker would do it behind its back.
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": host.log_max_size, "max-file": str(host.log_max_files)},
        },
    }


def _mount(mount: Mount) -> Body:
    # A bind among Docker's "Binds" would make a folder of a source that is missing.
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation},
    }
