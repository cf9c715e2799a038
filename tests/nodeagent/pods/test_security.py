"""Security settings of containers."""

from dataclasses import replace
from typing import Any

import pytest

from nodeagent.errors import PodError
from nodeagent.pods.container import SeccompProfile
from nodeagent.pods.model import Pod
from nodeagent.pods.security import (
    SAFE_SYSCTLS,
    app_armor_of,
    check_user,
    forbidden_sysctls,
    groups_of,
    seccomp_of,
    security_options,
    sysctl_name,
    user_of,
)
from tests.nodeagent.pods.making import HOST, container, pod_of


def secured(own: dict[str, Any], pods: dict[str, Any] | None = None, **fields: Any) -> Pod:
    return pod_of(container(securityContext=own), securityContext=pods or {}, **fields)


@pytest.mark.parametrize(
    ("own", "pods", "image", "user"),
    [
        ({}, {}, "app", ""),
        ({"runAsUser": 5}, {"runAsUser": 6, "runAsGroup": 7}, "app", "5:7"),
        ({}, {"runAsUser": 6}, "app", "6"),
        ({"runAsUser": 0}, {"runAsUser": 6}, "", "0"),
        ({"runAsGroup": 7}, {}, "app:grp", "app:7"),
        ({"runAsGroup": 0}, {}, "", "0:0"),
    ],
)
def test_the_container_says_more_than_the_pod_and_that_more_than_the_image(
    own: dict[str, Any], pods: dict[str, Any], image: str, user: str
) -> None:
    pod = secured(own, pods)
    assert user_of(pod, pod.spec.containers[0], image) == user


@pytest.mark.parametrize(
    ("own", "image", "sentence"),
    [
        ({}, "", "the image runs as root"),
        ({}, "0:0", "the image's user is 0"),
        ({}, "000", "the image's user is 0"),
        ({}, "app", "the name 'app', which may be root"),
        ({"runAsUser": 0}, "7", "runAsUser is 0"),
    ],
)
def test_what_might_be_root_is_refused(own: dict[str, Any], image: str, sentence: str) -> None:
    pod = secured(own, {"runAsNonRoot": True})
    with pytest.raises(PodError, match=sentence) as caught:
        check_user(pod, pod.spec.containers[0], image)
    assert caught.value.reason == "CreateContainerConfigError"


@pytest.mark.parametrize(
    ("own", "image"),
    [({}, "7:0"), ({"runAsUser": 1}, ""), ({"runAsNonRoot": False}, "root")],
)
def test_what_is_not_root_may_run(own: dict[str, Any], image: str) -> None:
    pod = secured(own, {"runAsNonRoot": True})
    check_user(pod, pod.spec.containers[0], image)


def test_groups_are_named_once() -> None:
    assert groups_of(secured({}, {"supplementalGroups": [5, 6, 5], "fsGroup": 6})) == ["5", "6"]


def options(pod: Pod, seccomp: str = "") -> list[str]:
    return security_options(pod, pod.spec.containers[0], seccomp)


def test_without_settings_docker_decides() -> None:
    assert options(pod_of()) == []


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({"seccompProfile": {"type": "RuntimeDefault"}}, []),
        ({"seccompProfile": {"type": "Unconfined"}}, ["seccomp=unconfined"]),
        ({"appArmorProfile": {"type": "Unconfined"}}, ["apparmor=unconfined"]),
        (
            {"appArmorProfile": {"type": "Localhost", "localhostProfile": "k8s"}},
            ["apparmor=k8s"],
        ),
        (
            {"seLinuxOptions": {"level": "s0:c1", "user": "u", "role": "r", "type": "t"}},
            ["label=user:u", "label=role:r", "label=type:t", "label=level:s0:c1"],
        ),
        ({"allowPrivilegeEscalation": False}, ["no-new-privileges"]),
        ({"allowPrivilegeEscalation": True}, []),
    ],
)
def test_settings_in_dockers_words(own: dict[str, Any], found: list[str]) -> None:
    assert options(secured(own)) == found


def test_a_profile_of_this_host_is_given_as_json_on_one_line() -> None:
    pod = secured({"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}})
    assert options(pod, '{"defaultAction":\n "X"}') == ['seccomp={"defaultAction":"X"}']


def test_a_profile_that_is_no_json_is_named() -> None:
    pod = secured({}, {"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}})
    with pytest.raises(PodError, match=r"seccomp profile a\.json is no JSON"):
        options(pod, "oops")


def test_the_annotations_of_old_manifests_are_read_and_fields_go_first() -> None:
    notes = {
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/c": "localhost/x.json",
        "container.apparmor.security.beta.kubernetes.io/d": "runtime/default",
    }
    pod = pod_of(container("c"), container("d"), annotations=notes)
    first, second = pod.spec.containers
    assert seccomp_of(pod, first) == SeccompProfile("Localhost", "x.json")
    assert seccomp_of(pod, second) == SeccompProfile("Unconfined")
    assert app_armor_of(pod, first) is None
    found = app_armor_of(pod, second)
    assert found is not None
    assert found.type == "RuntimeDefault"
    newer = secured({}, {"seccompProfile": {"type": "RuntimeDefault"}}, annotations=notes)
    assert seccomp_of(newer, second) == SeccompProfile("RuntimeDefault")


def sysctls(*names: str, allowed: tuple[str, ...] = (), **fields: Any) -> tuple[str, ...]:
    context = {"sysctls": [{"name": name, "value": "1"} for name in names]}
    host = replace(HOST, allowed_unsafe_sysctls=allowed)
    return forbidden_sysctls(pod_of(securityContext=context, **fields), host)


def test_safe_sysctls_are_for_all() -> None:
    assert sysctls(*SAFE_SYSCTLS) == ()


@pytest.mark.parametrize(
    ("name", "allowed", "may"),
    [
        ("net.core.somaxconn", (), False),
        ("net.core.somaxconn", ("net.core.*",), True),
        ("net.core.somaxconn", ("net.core.somaxconn",), True),
        ("net.core.somaxconn", ("net.core.somax",), False),
        ("kernel.msgmax", ("kernel.msg*",), True),
        ("fs.mqueue.msg_max", ("fs.mqueue.*",), True),
        ("vm.swappiness", ("*",), False),
        ("kernel.panic", ("*",), False),
        ("net/core/somaxconn", ("net.core.*",), True),
    ],
)
def test_others_need_leave_and_a_namespace(name: str, allowed: tuple[str, ...], may: bool) -> None:
    assert (sysctls(name, allowed=allowed) == ()) is may


def test_what_would_change_the_node_is_forbidden() -> None:
    assert "hostNetwork" in sysctls("net.ipv4.tcp_syncookies", hostNetwork=True)[0]
    assert "hostIPC" in sysctls("kernel.shm_rmid_forced", hostIPC=True)[0]


def test_slashes_are_another_way_to_write_a_name() -> None:
    assert sysctl_name("net/ipv4/conf/eth0.1/forwarding") == "net.ipv4.conf.eth0/1.forwarding"
    assert sysctl_name("net.ipv4.conf.eth0/1.forwarding") == "net.ipv4.conf.eth0/1.forwarding"
