"""Who this host is: the kernel's word, then the saved state, then flannel's file."""

import json
import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from netd.identity import expected_vni, identify, new_mac
from netd.state import State

KERNEL, SAVED = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def subnet_file(tmp_path: Path) -> Path:
    """flannel's file with 10.1.44.0/24."""
    path = tmp_path / "subnet.env"
    path.write_text("FLANNEL_SUBNET=10.1.44.1/24\n")
    return path


def test_the_running_device_s_mac_goes_before_the_saved_one_and_both_are_known(
    subnet_file: Path,
) -> None:
    who = identify(State(vtep_mac=SAVED), KERNEL, subnet_file)
    assert (who.vtep_mac, who.mac_is_new) == (KERNEL, False)
    assert who.known_macs == {KERNEL, SAVED}


def test_without_a_device_the_saved_mac_is_used(subnet_file: Path) -> None:
    who = identify(State(vtep_mac=SAVED), None, subnet_file)
    assert (who.vtep_mac, who.mac_is_new, who.known_macs) == (SAVED, False, frozenset({SAVED}))


def test_without_any_mac_a_new_one_is_made_and_said_to_be_new(subnet_file: Path) -> None:
    who = identify(State(), None, subnet_file)
    assert who.mac_is_new
    assert who.known_macs == frozenset()
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", who.vtep_mac)


def test_the_saved_subnet_goes_before_flannel_s_file(subnet_file: Path) -> None:
    assert identify(State(subnet="10.1.33.0/24"), None, subnet_file).remembered == IPv4Network(
        "10.1.33.0/24"
    )
    assert identify(State(), None, subnet_file).remembered == IPv4Network("10.1.44.0/24")
    assert identify(State(subnet="x"), None, subnet_file).remembered == IPv4Network("10.1.44.0/24")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"FLANNEL_SUBNET=x\n", None])
def test_without_a_usable_file_nothing_is_remembered(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "subnet.env"
    if content is not None:
        path.write_bytes(content)
    assert identify(State(), None, path).remembered is None
    assert identify(State(), None, tmp_path).remembered is None


def test_new_macs_are_locally_administered_unicast_and_differ() -> None:
    macs = {new_mac() for _ in range(100)}
    assert len(macs) == 100
    assert all(int(mac[:2], 16) & 0b11 == 0b10 for mac in macs)


@pytest.mark.parametrize(
    ("backend", "vni"),
    [
        ({"Type": "vxlan"}, 1),
        ({"Type": "vxlan", "VNI": 77}, 77),
        ({"Type": "host-gw"}, 0),
        ({"Type": "udp"}, 1),
    ],
)
def test_the_device_to_look_for_is_that_of_the_saved_configuration(
    backend: dict[str, object], vni: int
) -> None:
    config = json.dumps({"Network": "10.1.0.0/16", "Backend": backend})
    assert expected_vni(State(config=config)) == vni


@pytest.mark.parametrize("config", ["", "{", "[]"])
def test_without_a_usable_configuration_it_is_flannel_s_default_device(config: str) -> None:
    assert expected_vni(State(config=config)) == 1
