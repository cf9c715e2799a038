"""What Docker is asked for."""

from dataclasses import replace
from typing import Any

import pytest

from nodeagent.docker.api import Entry, Image
from nodeagent.docker.creation import ContainerInputs, container_config, sandbox_config
from nodeagent.docker.labels import seen_of_entry
from nodeagent.errors import PodError
from nodeagent.pods.dns import Dns
from nodeagent.pods.host import Mount
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX
from tests.nodeagent.pods.making import HOST, asks, container, pod_of

DNS = Dns(("10.0.0.10",), ("shop.svc",), ("ndots:5",))
INPUTS = ContainerInputs("s" * 64, 3, Image("sha256:1", user="app"), ("A=b",), (), "/kubepods/podu")


def sandbox(pod: Pod, dns: Dns = DNS) -> dict[str, Any]:
    return sandbox_config(pod, HOST, 2, dns=dns, cgroup_parent="/kubepods/podu")


def body(pod: Pod, inputs: ContainerInputs = INPUTS) -> dict[str, Any]:
    return container_config(pod, pod.spec.containers[0], inputs, HOST)


def joined(pod: Pod) -> dict[str, Any]:
    found: dict[str, Any] = body(pod)["HostConfig"]
    return found


def test_the_sandbox_owns_network_ipc_and_name() -> None:
    found = sandbox(pod_of())
    host = found["HostConfig"]
    assert found["Image"] == HOST.pause_image
    assert found["Hostname"] == "p"
    assert (host["NetworkMode"], host["IpcMode"], host["PidMode"]) == ("bridge", "shareable", "")
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (
        ["10.0.0.10"], ["shop.svc"], ["ndots:5"],
    )  # fmt: skip
    assert host["OomScoreAdj"] == -998
    assert host["CpuShares"] == 2
    assert host["CgroupParent"] == "/kubepods/podu"


def test_containers_join_the_sandbox_and_set_nothing_that_docker_refuses_then() -> None:
    found = body(pod_of())
    host = found["HostConfig"]
    assert host["NetworkMode"] == host["IpcMode"] == f"container:{'s' * 64}"
    assert host["PidMode"] == ""
    assert not {"Hostname", "Domainname", "ExposedPorts"} & found.keys()
    assert not {"Dns", "DnsSearch", "DnsOptions", "PortBindings", "Sysctls"} & host.keys()


def test_process_ids_are_shared_where_asked() -> None:
    assert joined(pod_of(shareProcessNamespace=True))["PidMode"] == f"container:{'s' * 64}"
    assert joined(pod_of(hostPID=True))["PidMode"] == "host"


def test_the_hosts_namespaces() -> None:
    pod = pod_of(
        container(ports=[{"containerPort": 80, "hostPort": 80}]),
        hostNetwork=True, hostIPC=True, hostPID=True, hostname="other",
    )  # fmt: skip
    found = sandbox(pod)
    host = found["HostConfig"]
    assert [host[f"{name}Mode"] for name in ("Network", "Ipc", "Pid", "UTS")] == ["host"] * 4
    assert (found["Hostname"], found["ExposedPorts"], host["PortBindings"]) == ("", {}, {})
    assert joined(pod)["IpcMode"] == joined(pod)["UTSMode"] == "host"


def test_docker_never_restarts_and_limits_logs() -> None:
    for host in (sandbox(pod_of())["HostConfig"], joined(pod_of())):
        assert host["RestartPolicy"] == {"Name": "no"}
        assert host["LogConfig"] == {
            "Type": "json-file",
            "Config": {"max-size": "10m", "max-file": "5"},
        }


def test_labels_say_who_it_is() -> None:
    pod = pod_of()
    box = seen_of_entry(Entry("i", "running", sandbox(pod)["Labels"]))
    one = seen_of_entry(Entry("i", "running", body(pod)["Labels"]))
    assert (box.name, box.attempt, box.uid) == (SANDBOX, 2, "u-1")
    assert (one.name, one.attempt, one.sandbox_id) == ("c", 3, "s" * 64)
    assert one.hash == pod.spec.containers[0].hash


def test_host_ports_are_bound_by_the_sandbox() -> None:
    ports = [
        {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8081},
        {"containerPort": 9},
    ]
    found = sandbox(pod_of(container(ports=ports)))
    assert found["ExposedPorts"] == {"53/udp": {}, "80/tcp": {}}
    assert found["HostConfig"]["PortBindings"] == {
        "53/udp": [{"HostIp": "192.0.2.1", "HostPort": "5353"}],
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "", "HostPort": "8081"}],
    }


def test_a_long_pod_name_is_cut_to_a_host_name() -> None:
    assert sandbox(pod_of(name="a" * 62 + "-" + "b" * 9))["Hostname"] == "a" * 62


def test_the_full_name_is_the_host_name_where_asked() -> None:
    fields = {"hostname": "web", "subdomain": "sub"}
    assert sandbox(pod_of(**fields))["Hostname"] == "web"
    found = sandbox(pod_of(**fields, setHostnameAsFQDN=True))
    assert found["Hostname"] == "web.sub.shop.svc.cluster.local"
    with pytest.raises(PodError, match="longer than 64 characters"):
        sandbox(pod_of(hostname="w" * 60, subdomain="sub", setHostnameAsFQDN=True))


def test_sysctls_are_the_sandboxes() -> None:
    pod = pod_of(securityContext={"sysctls": [{"name": "net/core/somaxconn", "value": "9"}]})
    assert sandbox(pod)["HostConfig"]["Sysctls"] == {"net.core.somaxconn": "9"}


def test_command_and_args_replace_the_images_only_where_given() -> None:
    assert not {"Entrypoint", "Cmd"} & body(pod_of()).keys()
    found = body(pod_of(container(command=["a"], args=["b", "c"])))
    assert (found["Entrypoint"], found["Cmd"]) == (["a"], ["b", "c"])
    assert "Cmd" not in body(pod_of(container(command=["a"])))


def test_the_image_that_was_looked_at_is_run() -> None:
    assert body(pod_of())["Image"] == "sha256:1"


def test_the_images_health_check_is_off() -> None:
    assert body(pod_of())["Healthcheck"] == {"Test": ["NONE"]}


def test_standard_input_and_terminal() -> None:
    found = body(pod_of(container(tty=True, stdin=True, stdinOnce=True, workingDir="/w")))
    assert all(found[name] is True for name in ("Tty", "OpenStdin", "StdinOnce"))
    assert found["WorkingDir"] == "/w"
    assert body(pod_of(container(stdinOnce=True)))["StdinOnce"] is False


def test_memory_means_no_swap_and_cpu_is_quota_and_shares() -> None:
    host = joined(pod_of(asks({"cpu": "250m"}, {"cpu": "1", "memory": "64Mi"})))
    assert host["Memory"] == host["MemorySwap"] == 64 * 2**20
    assert (host["CpuShares"], host["CpuPeriod"], host["CpuQuota"]) == (256, 100_000, 100_000)
    assert not {"Memory", "MemorySwap", "CpuQuota"} & joined(pod_of()).keys()


def test_security_settings() -> None:
    context = {
        "runAsUser": 5, "privileged": True, "readOnlyRootFilesystem": True,
        "procMount": "Unmasked", "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
    }  # fmt: skip
    pod = pod_of(container(securityContext=context), securityContext={"fsGroup": 7})
    host = joined(pod)
    assert body(pod)["User"] == "5"
    assert host["Privileged"] is host["ReadonlyRootfs"] is True
    assert (host["CapAdd"], host["CapDrop"], host["GroupAdd"]) == (["NET_ADMIN"], ["ALL"], ["7"])
    assert host["MaskedPaths"] == host["ReadonlyPaths"] == []
    assert not {"CapAdd", "CapDrop", "MaskedPaths"} & joined(pod_of()).keys()


def test_mounts_are_binds_of_things_that_have_to_be_there() -> None:
    mounts = (Mount("/src", "/dst", read_only=True, propagation="rslave"),)
    assert body(pod_of(), replace(INPUTS, mounts=mounts))["HostConfig"]["Mounts"] == [
        {
            "Type": "bind", "Source": "/src", "Target": "/dst", "ReadOnly": True,
            "BindOptions": {"Propagation": "rslave"},
        }
    ]  # fmt: skip
    assert "Binds" not in joined(pod_of())
