"""securityContext: what the kernel says of a process in the container."""

import json
from typing import Any

import pytest

from tests.engine.pods import SANDBOX, ApiError, PodWorld, Raw, shell, sleeper, state

ROOT_FOLDER = "/var/lib/kubelet/seccomp"
CHOWN, NET_ADMIN, NET_RAW = 0, 12, 13
"""Numbers of capabilities (linux/capability.h)."""


def process(pods: PodWorld, name: str, container: str = "main") -> dict[str, str]:
    """/proc/PID/status of a fresh process of the container."""
    text = pods.exec(name, container, "cat", "/proc/self/status")
    return {key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}


def first(pods: PodWorld, name: str) -> dict[str, str]:
    """The same of the container's first process."""
    text = pods.exec(name, "main", "cat", "/proc/1/status")
    return {key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}


def has(status: dict[str, str], capability: int) -> bool:
    """Whether a process may use *capability*."""
    return bool(int(status["CapEff"], 16) >> capability & 1)


def secured(context: Raw, name: str = "main") -> Raw:
    return sleeper(name, securityContext=context)


def test_user_group_and_supplemental_groups_of_the_pod_and_of_a_container(pods: PodWorld) -> None:
    context = {"runAsUser": 1000, "runAsGroup": 2000, "supplementalGroups": [3000, 3001]}
    own = {"runAsUser": 1001, "runAsGroup": 2001}
    pods.create(
        "users",
        {"securityContext": context, "containers": [sleeper(), secured(own, "other")]},
    )
    pods.ready("users")
    status = first(pods, "users")
    assert [status[name].split()[0] for name in ("Uid", "Gid")] == ["1000", "2000"]
    assert set(status["Groups"].split()) == {"2000", "3000", "3001"}
    other = process(pods, "users", "other")
    assert [other[name].split()[0] for name in ("Uid", "Gid")] == ["1001", "2001"]
    assert set(other["Groups"].split()) == {"2001", "3000", "3001"}


def test_capabilities_are_added_and_dropped(pods: PodWorld) -> None:
    pods.create("usual", [sleeper()])
    changed = {"capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}}
    none = {"capabilities": {"drop": ["ALL"]}}
    pods.create("changed", [secured(changed), secured(none, "none")])
    pods.ready("usual")
    pods.ready("changed")
    usual, status = first(pods, "usual"), first(pods, "changed")
    assert [has(usual, one) for one in (CHOWN, NET_ADMIN, NET_RAW)] == [True, False, True]
    assert [has(status, one) for one in (CHOWN, NET_ADMIN, NET_RAW)] == [False, True, True]
    assert int(process(pods, "changed", "none")["CapEff"], 16) == 0


def test_a_privileged_container_has_the_nodes_devices_and_all_capabilities(pods: PodWorld) -> None:
    pods.create("privileged", [secured({"privileged": True})])
    pods.ready("privileged")
    assert pods.container("privileged")["HostConfig"]["Privileged"] is True
    status = first(pods, "privileged")
    assert has(status, NET_ADMIN)
    assert status["Seccomp"] == "0"
    assert int(pods.exec("privileged", "main", "sh", "-c", "ls /dev | wc -l")) > 20
    pods.exec("privileged", "main", "mount", "-t", "tmpfs", "none", "/mnt", check=False)
    pods.exec("privileged", "main", "sh", "-c", "mkdir -p /m && mount -t tmpfs none /m")
    assert pods.container("privileged", SANDBOX)["HostConfig"]["Privileged"] is False


def test_a_read_only_root_can_be_written_in_volumes_alone(pods: PodWorld) -> None:
    container = sleeper(
        securityContext={"readOnlyRootFilesystem": True},
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    volumes = [{"name": "data", "emptyDir": {}}]
    pods.create("frozen", {"containers": [container], "volumes": volumes})
    pods.ready("frozen")
    for path in ("/file", "/etc/file", "/tmp/file", "/etc/hosts"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            pods.exec("frozen", "main", "sh", "-c", f"echo x >> {path}")
    pods.exec("frozen", "main", "touch", "/data/file")


def test_seccomp_profiles_docker_s_own_none_and_one_of_a_file(pods: PodWorld) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    pods.node_run("mkdir", "-p", f"{ROOT_FOLDER}/profiles")
    pods.node_run("sh", "-c", f"cat > {ROOT_FOLDER}/profiles/no-mkdir.json",
                  stdin=json.dumps(profile))  # fmt: skip

    def with_profile(kind: str, **more: str) -> Raw:
        return secured({"seccompProfile": {"type": kind, **more}}, kind.lower())

    containers = [
        sleeper(), with_profile("RuntimeDefault"), with_profile("Unconfined"),
        with_profile("Localhost", localhostProfile="profiles/no-mkdir.json"),
    ]  # fmt: skip
    pods.create("filtered", containers)
    pods.ready("filtered")
    modes = [process(pods, "filtered", one["name"])["Seccomp"] for one in containers]
    assert modes == ["2", "2", "0", "2"]
    pods.exec("filtered", "unconfined", "mkdir", "/new")
    with pytest.raises(AssertionError, match="Operation not permitted"):
        pods.exec("filtered", "localhost", "mkdir", "/new")

    pods.create("unfiltered", [with_profile("Localhost", localhostProfile="profiles/later.json")])
    found = pods.waiting("unfiltered", "CreateContainerConfigError", container="localhost")
    message = state(found, "localhost")["waiting"]["message"]
    assert f"{ROOT_FOLDER}/profiles/later.json is missing" in message
    pods.node_run("sh", "-c", f"cd {ROOT_FOLDER}/profiles && cp no-mkdir.json later.json")
    pods.ready("unfiltered")
    pods.node_run("rm", "-r", ROOT_FOLDER)


def test_safe_sysctls_are_set_for_the_pod_alone_and_others_are_refused(pods: PodWorld) -> None:
    def with_sysctls(**values: str) -> Raw:
        sysctls = [{"name": name.replace("__", "."), "value": v} for name, v in values.items()]
        return {"containers": [sleeper()], "securityContext": {"sysctls": sysctls}}

    safe = {"net__ipv4__ip_local_port_range": "20000 20100", "net__ipv4__tcp_syncookies": "0"}
    pods.create("tuned", with_sysctls(**safe))
    pods.create("unsafe", with_sysctls(net__ipv4__tcp_mtu_probing="1"))
    pods.create("of-the-node", with_sysctls(vm__swappiness="1"))
    found = pods.phase("unsafe", "Failed")
    assert found["status"]["reason"] == "SysctlForbidden"
    assert "net.ipv4.tcp_mtu_probing" in found["status"]["message"]
    assert "--allowed-unsafe-sysctls" in found["status"]["message"]
    pods.event("unsafe", "SysctlForbidden", "tcp_mtu_probing")
    found = pods.phase("of-the-node", "Failed")
    assert "vm.swappiness is not one that a pod can have" in found["status"]["message"]
    assert not pods.containers("unsafe")
    pods.ready("tuned")
    name = "/proc/sys/net/ipv4/ip_local_port_range"
    assert pods.exec("tuned", "main", "cat", name).split() == ["20000", "20100"]
    assert pods.exec("tuned", "main", "cat", "/proc/sys/net/ipv4/tcp_syncookies").strip() == "0"
    assert pods.node_run("cat", name).split() != ["20000", "20100"]


def test_privileges_can_be_gained_only_where_that_is_allowed(pods: PodWorld) -> None:
    never = secured({"allowPrivilegeEscalation": False}, "never")
    always = secured({"allowPrivilegeEscalation": True}, "always")
    pods.create("escalation", [sleeper(), never, always])
    pods.ready("escalation")
    found = {name: process(pods, "escalation", name)["NoNewPrivs"]
             for name in ("main", "never", "always")}  # fmt: skip
    assert found == {"main": "0", "never": "1", "always": "0"}


def test_a_container_that_must_not_be_root_and_would_be_is_refused(pods: PodWorld) -> None:
    must = {"runAsNonRoot": True}
    pods.create("root", {"containers": [sleeper()], "securityContext": must})
    pods.create("explicit", [secured({**must, "runAsUser": 0})])
    pods.create("plain", {"containers": [secured({"runAsUser": 1000})], "securityContext": must})
    for name, words in (("root", "the image runs as root"), ("explicit", "runAsUser is 0")):
        message = state(pods.waiting(name, "CreateContainerConfigError"))["waiting"]["message"]
        assert words in message
        assert "set securityContext.runAsUser" in message
        pods.event(name, "Failed", words)
        assert not pods.containers(name, "main")
    pods.ready("plain")


def test_masked_paths_of_proc_are_open_where_proc_is_unmasked(pods: PodWorld) -> None:
    pods.create("proc", [sleeper(), secured({"procMount": "Unmasked"}, "unmasked")])
    pods.ready("proc")
    assert " /proc/" in pods.exec("proc", "main", "cat", "/proc/mounts")
    assert " /proc/" not in pods.exec("proc", "unmasked", "cat", "/proc/mounts")


BROKEN: dict[str, tuple[Raw, str]] = {
    "escalation": (
        {"allowPrivilegeEscalation": False, "privileged": True},
        "spec.containers[0].securityContext.allowPrivilegeEscalation",
    ),
    "windows": (
        {"windowsOptions": {"runAsUserName": "x"}},
        "spec.containers[0].securityContext.windowsOptions",
    ),
    "user": ({"runAsUser": -5}, "spec.containers[0].securityContext.runAsUser"),
    "seccomp": (
        {"seccompProfile": {"type": "Magic"}},
        "spec.containers[0].securityContext.seccompProfile.type",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_settings_that_cannot_be_honoured_are_refused_by_name(pods: PodWorld, name: str) -> None:
    context, field = BROKEN[name]
    try:
        pods.create(name, [secured(context)])
    except ApiError as error:
        pytest.fail(f"the lab's API server refuses it first: {error}")
    found = pods.phase(name, "Failed")
    assert field in found["status"]["message"]
    pods.event(name, found["status"]["reason"], field)
    assert not pods.containers(name)


def test_an_app_armor_profile_is_not_passed_over_in_silence(pods: PodWorld) -> None:
    """Docker would start the container without it where the kernel has no AppArmor."""
    profile: dict[str, Any] = {"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}
    pods.create("armoured", [shell("sleep 1", securityContext=profile)])
    if "name=apparmor" in pods.docker("GET", "/info")["SecurityOptions"]:
        pods.waiting("armoured", "RunContainerError")
    else:
        found = pods.phase("armoured", "Failed")
        assert found["status"]["reason"] == "AppArmor"
        pods.event("armoured", "AppArmor", "no AppArmor")
