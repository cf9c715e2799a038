"""Docker is on a bridge of its own again, and restarted only where it has to be."""

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lab.join.dockerbridge import follows, own_bridge, own_subnet, routed
from lab.join.hostservices import DOCKER
from tests.lab.join.booted import BRIDGE, Machine

SUBNET = IPv4Network("10.1.7.0/24")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A host whose Docker followed netd, which is gone."""
    made = Machine(tmp_path)
    (tmp_path / "sys/class/net/docker0").mkdir(parents=True)
    made.bridge = {"IPAM": {"Config": [{"Subnet": str(SUBNET)}]}}
    return made


async def test_a_docker_that_does_not_start_is_named_and_leaves_no_drop_in(
    machine: Machine,
) -> None:
    """The next start of Docker is as usual."""
    machine.units[DOCKER].course = [("failed", "")]
    machine.units[DOCKER].journal = "dockerd: conflicting options\n"
    outcome = await own_bridge(machine, machine.report, machine.systemd, SUBNET, machine.root)
    assert not outcome.ok
    assert "conflicting options" in outcome.result
    assert not [path for path in (machine.root / "run").rglob("*") if path.is_file()]


async def test_where_docker_is_told_its_address_one_start_is_enough(machine: Machine) -> None:
    """By daemon.json."""
    machine.write_options("192.168.3.1/24")
    outcome = await own_bridge(machine, machine.report, machine.systemd, SUBNET, machine.root)
    assert outcome.ok
    assert len([argv for argv in machine.ran if argv[1] == "restart"]) == 1


async def test_a_docker_that_does_not_run_is_not_started(machine: Machine) -> None:
    """Nor asked on a host without systemd."""
    machine.units[DOCKER].active = "inactive"
    assert (
        await own_bridge(machine, machine.report, machine.systemd, SUBNET, machine.root)
    ).result == "does not run"
    (machine.root / "run/systemd/system").rmdir()
    machine.units[DOCKER].active = "active"
    assert (
        await own_bridge(machine, machine.report, machine.systemd, SUBNET, machine.root)
    ).result == "does not run"
    assert not [argv for argv in machine.ran if argv[1] == "restart"]


@pytest.mark.parametrize(
    ("network", "subnet", "wanted"),
    [
        (json.dumps([{"IPAM": {"Config": [{"Subnet": "10.1.7.0/24"}]}}]), SUBNET, True),
        (json.dumps([BRIDGE]), SUBNET, False),
        (json.dumps([{"IPAM": {"Config": None}}]), SUBNET, False),
        (json.dumps([BRIDGE]), None, False),
        ("[]", SUBNET, False),
        ("", SUBNET, False),
        ('[{"IPAM": 1}]', SUBNET, False),
    ],
)
def test_a_docker_follows_netd_by_its_subnet(
    network: str, subnet: IPv4Network | None, wanted: bool
) -> None:
    """What cannot be read does not."""
    assert follows(network, subnet) is wanted


@pytest.mark.parametrize(
    ("taken", "daemon", "wanted"),
    [
        ([], "", "172.17.0.0/16"),
        (["192.168.0.0/24", "172.17.5.0/24"], "", "172.18.0.0/16"),
        ([], '{"default-address-pools": [{"base": "10.9.0.0/16", "size": 24}]}', "10.9.0.0/24"),
        (["10.9.0.0/24"], '{"default-address-pools": [{"base": "10.9.0.0/16", "size": 24}]}',
         "10.9.1.0/24"),
        ([], '{"default-address-pools": [{"base": "x"}]}', "172.17.0.0/16"),
        ([], "[]", "172.17.0.0/16"),
        ([], "{", "172.17.0.0/16"),
        (["172.16.0.0/12"], "", "None"),
    ],
)  # fmt: skip
def test_docker_gets_the_network_that_it_would_choose_itself(
    taken: list[str], daemon: str, wanted: str
) -> None:
    """The first of its pools that nobody uses."""
    assert str(own_subnet(map(IPv4Network, taken), daemon)) == wanted


def test_routes_are_read_without_the_default_and_hosts() -> None:
    """As ip prints them."""
    text = json.dumps([{"dst": "default"}, {"dst": "10.1.0.0/16"}, {"dst": "10.2.0.1"}, {}])
    assert [str(one) for one in routed(text)] == ["10.1.0.0/16", "10.2.0.1/32"]
    assert routed("") == []
