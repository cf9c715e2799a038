"""docker0 between netd and a real dockerd."""

import json
from collections.abc import Iterator

import pytest

from tests.engine.conftest import Host
from tests.support.netns import eventually


@pytest.fixture(autouse=True)
def no_containers(host: Host) -> Iterator[None]:
    """Each test begins and ends without containers."""
    yield
    host.run("/bin/sh", "-c", "/usr/bin/docker ps -aq | xargs -r /usr/bin/docker rm -f")


def lease(host: Host) -> str:
    found = host.netd()["lease"]
    assert isinstance(found, dict)
    return str(found["subnet"])


def gateway(host: Host) -> str:
    return lease(host).replace(".0/24", ".1/24")


def test_dockerd_took_over_subnet_mtu_and_masquerading_from_netd(host: Host) -> None:
    """A container has an address of the lease and the overlay's MTU; Docker masquerades nothing."""
    address = host.container("one")
    assert address.rpartition(".")[0] == lease(host).rpartition(".")[0]
    assert "mtu 1450" in host.run("/usr/bin/docker", "exec", "one", "ip", "link", "show", "eth0")
    assert f"-s {lease(host)}" not in host.run("iptables", "-t", "nat", "-S", "POSTROUTING")
    assert "-j FLANNEL-POSTRTG" in host.run("iptables", "-t", "nat", "-S", "POSTROUTING")


def test_a_docker0_with_containers_is_never_moved_and_the_containers_are_named(host: Host) -> None:
    """Somebody renumbers docker0 under a container: refused by name; free again, it is moved."""
    right = gateway(host)
    host.container("precious")
    host.run("ip", "addr", "add", "10.9.9.1/24", "dev", "docker0")
    host.run("ip", "addr", "del", right, "dev", "docker0")

    def complaint() -> str:
        problems = host.netd()["problems"]
        assert isinstance(problems, list)
        return next((one["text"] for one in problems if one["key"] == "bridge"), "")

    text = eventually(complaint, "the refusal", deadline=60)
    assert "precious" in text
    assert "10.9.9.1/24" in text
    assert "10.9.9.1/24" in host.run("ip", "addr", "show", "docker0"), "nothing was moved"
    assert host.netd()["ready"] is False
    host.run("/usr/bin/docker", "rm", "-f", "precious")

    def moved_back() -> bool:
        shown = host.run("ip", "addr", "show", "docker0")
        return right in shown and "10.9.9.1/24" not in shown

    eventually(moved_back, "docker0 moved back", deadline=60)
    eventually(lambda: host.netd()["ready"], "ready again", deadline=60)
    assert host.container("later").rpartition(".")[0] == lease(host).rpartition(".")[0]


def test_kill_9_of_netd_goes_unnoticed_by_a_container(host: Host) -> None:
    """Its supervisor starts netd again; container, address and bridge stay what they were."""
    address = host.container("one")
    before = host.inspect("one", "{{.State.StartedAt}}")
    pid = host.netd()["pid"]
    host.run("kill", "-9", str(pid))
    eventually(lambda: running(host) not in {0, pid}, "another netd", deadline=60)
    eventually(lambda: host.netd()["ready"], "ready again", deadline=60)
    assert host.inspect("one", "{{.State.StartedAt}}") == before
    assert host.inspect("one", "{{.NetworkSettings.IPAddress}}") == address
    assert f"inet {gateway(host)}" in host.run("ip", "addr", "show", "docker0")


def running(host: Host) -> int:
    """The pid of the netd that answers, 0 when none does."""
    answer = host.run(
        "/usr/bin/curl",
        "-s",
        "--unix-socket",
        "/run/netd/netd.sock",
        "http://x/status",
        check=False,
    )
    return int(json.loads(answer)["pid"]) if answer else 0
