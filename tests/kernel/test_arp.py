"""find_owner on a real network: another host's kernel answers for its address, ours never does."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from netd.arp import find_owner
from netd.underlay import ask_network
from tests.support.netns import Fabric, Inside, Namespace

OURS = IPv4Address("198.18.0.1")
THEIRS = IPv4Address("198.18.0.2")
NOBODYS = IPv4Address("198.18.0.9")


@contextmanager
def inside(host: Namespace) -> Iterator[Inside]:
    """A thread in *host* for the time of the context."""
    thread = Inside(host)
    try:
        yield thread
    finally:
        thread.close()


def ask(host: Namespace, address: IPv4Address, interface: str = "eth0") -> str | None:
    """What *host* finds when it asks the network of *interface* for *address*."""
    with inside(host) as thread:
        return thread.wait(find_owner(interface, address))


def mac_of(host: Namespace, interface: str = "eth0") -> str:
    """The MAC of *interface*."""
    (link,) = host.json(f"ip link show dev {interface}")
    return str(link["address"])


@pytest.fixture
def us(fabric: Fabric) -> Namespace:
    """The host that asks."""
    return fabric.host("us", f"{OURS}/24")


def test_the_host_that_has_the_address_is_found_by_its_mac(fabric: Fabric, us: Namespace) -> None:
    other = fabric.host("other", f"{THEIRS}/24")
    assert ask(us, THEIRS) == mac_of(other)


def test_another_host_that_has_our_own_address_is_found(fabric: Fabric, us: Namespace) -> None:
    """The case that it is for: two hosts that were given one address."""
    double = fabric.host("double", f"{OURS}/24")
    assert ask(us, OURS) == mac_of(double)


def test_an_address_that_nobody_has_has_no_owner(fabric: Fabric, us: Namespace) -> None:
    fabric.host("other", f"{THEIRS}/24")
    assert ask(us, NOBODYS) is None


def test_our_own_address_has_no_owner_while_only_we_have_it(fabric: Fabric, us: Namespace) -> None:
    fabric.host("other", f"{THEIRS}/24")
    assert ask(us, OURS) is None


def test_to_ask_leaves_no_trace_in_the_caches_of_the_others(fabric: Fabric, us: Namespace) -> None:
    other = fabric.host("other", f"{THEIRS}/24")
    double = fabric.host("double", f"{OURS}/24")
    other.run(f"ip neigh replace {OURS} lladdr {mac_of(double)} dev eth0 nud reachable")
    assert ask(us, THEIRS) == mac_of(other)
    (entry,) = other.json(f"ip neigh show {OURS}")
    assert entry["lladdr"] == mac_of(double)
    assert us.json("ip neigh show") == []


def test_an_interface_without_a_mac_has_nobody_to_ask(us: Namespace) -> None:
    assert ask(us, THEIRS, "lo") is None


def test_an_interface_that_is_down_or_missing_is_an_os_error(us: Namespace) -> None:
    us.run("ip link set eth0 down")
    for interface in ("eth0", "eth7"):
        with pytest.raises(OSError, match=r"down|No such device"):
            ask(us, THEIRS, interface)


def test_a_second_interface_of_ours_on_the_same_network_is_not_another_host(
    fabric: Fabric, us: Namespace
) -> None:
    """With arp_ignore 0, the default, a kernel answers for all its addresses on each interface."""
    fabric.plug(us, "198.18.5.1/24", name="eth1")
    with inside(us) as thread:
        assert thread.wait(ask_network("eth0", OURS)) is None
