"""The lab's cables, and the ranges of the host that it stays away from."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hostkit.command import Completed
from lab import host, namespaces
from lab.errors import LabError, PrerequisiteError
from lab.plan import make_lab
from tests.lab.fakes import FakeRunner

SPEC = make_lab("x", 2, None, [])


class FakeIp(FakeRunner):
    """iproute2 with the ports of one bridge, which refuses to make a port twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: set[str] = set()

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What ip would do."""
        for line in (stdin or "").splitlines():
            words = line.split()
            if words[:2] == ["link", "add"] and "veth" in words:
                if words[2] in self.ports:
                    return self.fails(argv, "RTNETLINK answers: File exists")
                self.ports.add(words[2])
        if "-brief" in argv:
            return self.ok(argv, "".join(f"{p}@if2  UP  02:00\n" for p in sorted(self.ports)))
        if argv[3:5] == ["link", "delete"]:
            self.ports.remove(argv[5])
        return self.ok(argv)


async def test_a_node_is_plugged_again_after_a_power_failure(tmp_path: Path) -> None:
    """The kernel may keep the old cable for a while: it is pulled first."""
    ip = FakeIp()
    network = namespaces.Namespaces(ip, tmp_path / "marker")
    for node in SPEC.nodes:
        await network.create_node(SPEC, node)
    with pytest.raises(LabError, match="File exists"):
        await network.create_node(SPEC, SPEC.nodes[0])
    await network.unplug(SPEC, SPEC.nodes[0])
    assert ip.ports == {"p-node2"}
    await network.unplug(SPEC, SPEC.nodes[0])
    await network.create_node(SPEC, SPEC.nodes[0])
    assert ip.ports == {"p-node1", "p-node2"}


async def test_every_link_is_made_inside_a_namespace_of_the_lab(tmp_path: Path) -> None:
    """The host's own namespace never sees one."""
    ip = FakeIp()
    network = namespaces.Namespaces(ip, tmp_path / "marker")
    await network.create_node(SPEC, SPEC.nodes[1])
    for argv in ip.ran:
        assert argv[:3] == ("ip", "netns", "add") or argv[:2] == ("ip", "-n")


def test_the_cable_keeps_the_address_of_its_node() -> None:
    """Address, MAC and MTU come from the plan."""
    node = SPEC.nodes[0]
    assert "peer name eth0 mtu 1500 address 02:bd:c6:12:00:0b netns bn-x-node1" in (
        namespaces.cable_batch(node)
    )
    assert "address add 198.18.0.11/24 dev eth0" in namespaces.node_batch(SPEC, node)
    assert "route add default via 198.18.0.1" in namespaces.node_batch(SPEC, node)
    assert "address add 198.18.0.1/24 dev br0" in namespaces.fabric_batch(SPEC)


def test_addresses_routes_and_name_servers_of_the_host_are_ranges_in_use() -> None:
    """Except the default route."""
    addresses = [
        {"addr_info": [{"family": "inet", "local": "192.0.2.2", "prefixlen": 24}]},
        {"addr_info": [{"family": "inet6", "local": "fd00::2", "prefixlen": 64}]},
        {},
    ]
    routes = [{"dst": "default"}, {"dst": "10.9.0.0/16"}, {"type": "local", "dst": "127.0.0.1"}]
    assert host.parse_ranges(addresses, routes) == [
        IPv4Network("10.9.0.0/16"),
        IPv4Network("127.0.0.1/32"),
        IPv4Network("192.0.2.0/24"),
    ]
    resolv = "# x\nsearch a b\nnameserver 10.255.255.53\nnameserver fd00::1\n"
    assert host.parse_nameservers(resolv) == [IPv4Network("10.255.255.53/32")]


def test_a_missing_right_or_tool_is_one_sentence() -> None:
    """Before anything is made."""
    with pytest.raises(PrerequisiteError, match="needs root"):
        host.require_root(1000)
    host.require_root(0)
    with pytest.raises(PrerequisiteError, match="not installed: etcd, dockerd"):
        host.require_tools(lambda tool: None if tool in {"etcd", "dockerd"} else f"/bin/{tool}")


@pytest.mark.parametrize("name", ["netd", "nodeagent"])
def test_the_daemons_can_be_chosen(tmp_path: Path, name: str) -> None:
    """A file that cannot be run is not."""
    program, none = tmp_path / name, str(tmp_path / "none")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    variable = f"BARENODE_{name.upper()}"
    assert host.daemon(name, {variable: str(program)}) == str(program)
    assert host.daemon(name, {variable: none}) != none
