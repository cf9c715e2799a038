"""Which address a host is reached at, and which ranges are free on it."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import UsageError
from lab.join import addresses
from lab.join.addresses import Facts, Reached

PODS, SERVICES = IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/12")


def link(name: str, *texts: str) -> dict[str, Any]:
    """An interface as ``ip -json address`` shows it."""
    infos = []
    for text in texts:
        local, _, length = text.partition("/")
        infos.append({"family": "inet", "local": local, "prefixlen": int(length)})
    return {"ifname": name, "addr_info": infos}


def route(dst: str, dev: str, **more: Any) -> dict[str, Any]:
    """A route as ``ip -json route`` shows it."""
    return {"dst": dst, "dev": dev, **more}


LO = link("lo", "127.0.0.1/8")
NAT = link("eth0", "10.0.2.15/24")
PRIVATE = link("eth1", "192.168.56.10/24")
DOCKER = link("docker0", "172.17.0.1/16")


def test_the_address_is_that_of_the_default_routes_interface() -> None:
    """Whatever other interfaces there are."""
    links = [LO, link("eth0", "192.0.2.7/24"), PRIVATE, DOCKER]
    facts = addresses.read(links, [route("default", "eth0"), route("192.0.2.0/24", "eth0")])
    assert addresses.choose("", facts) == "192.0.2.7"


def test_of_two_default_routes_the_better_one_counts() -> None:
    """A lower metric, which the kernel leaves out when it is 0."""
    links = [link("eth0", "192.0.2.7/24"), link("wlan0", "198.51.100.7/24")]
    routes = [route("default", "wlan0", metric=600), route("default", "eth0", metric=100)]
    assert addresses.choose("", addresses.read(links, routes)) == "192.0.2.7"
    routes.append(route("default", "wlan0"))
    assert addresses.choose("", addresses.read(links, routes)) == "198.51.100.7"


def test_virtualboxs_shared_address_is_never_chosen() -> None:
    """Every machine behind that NAT has it, and its default route goes there."""
    facts = addresses.read([LO, NAT, PRIVATE, DOCKER], [route("default", "eth0")])
    assert addresses.choose("", facts) == "192.168.56.10"
    with pytest.raises(UsageError, match=r"only 10\.0\.2\.15 \(eth0\).*give it a private network"):
        addresses.choose("", addresses.read([LO, NAT], [route("default", "eth0")]))


@pytest.mark.parametrize(
    "name", ["lo", "docker0", "docker_gwbridge", "br-0123456789ab", "veth1a2b3c", "flannel.1"]
)
def test_addresses_of_containers_and_overlays_are_no_candidates(name: str) -> None:
    """No other host reaches them."""
    links = [link(name, "10.244.3.1/24"), link("ens3", "192.0.2.7/24")]
    assert addresses.choose("", addresses.read(links, [])) == "192.0.2.7"


def test_a_host_with_a_bridge_of_its_own_is_reached_at_it() -> None:
    """Hosts of virtual machines have their address there."""
    links = [link("br0", "192.0.2.7/24"), DOCKER]
    assert addresses.choose("", addresses.read(links, [route("default", "br0")])) == "192.0.2.7"


def test_several_candidates_are_listed() -> None:
    """For the operator to choose."""
    links = [link("eth0", "192.0.2.7/24", "192.0.2.8/24"), PRIVATE]
    with pytest.raises(UsageError, match=r"192\.0\.2\.7 \(eth0\), 192\.0\.2\.8 \(eth0\): say by"):
        addresses.choose("", addresses.read(links, [route("default", "eth0")]))
    with pytest.raises(UsageError, match=r"192\.168\.56\.10 \(eth1\): say by --address"):
        addresses.choose("", addresses.read(links, []))


def test_a_host_without_a_network_is_told_so() -> None:
    """Link-local addresses are none."""
    links = [LO, link("eth0", "169.254.3.4/16")]
    with pytest.raises(UsageError, match="has no address that others reach"):
        addresses.choose("", addresses.read(links, []))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("192.0.2.9", r"no interface of this host has it.*it has 192\.0\.2\.7 \(eth0\)"),
        ("127.0.0.1", "other hosts cannot reach it"),
        ("0.0.0.0", "other hosts cannot reach it"),
        ("master1", "this is no IPv4 address"),
        ("fe80::1", "this is no IPv4 address"),
    ],
)
def test_an_address_that_cannot_be_is_refused(asked: str, why: str) -> None:
    """Servers have to listen there, and others to reach it."""
    facts = addresses.read([LO, link("eth0", "192.0.2.7/24")], [])
    with pytest.raises(UsageError, match=f"--address {asked}.*{why}"):
        addresses.choose(asked, facts)


def test_what_is_asked_for_counts() -> None:
    """Even VirtualBox's, for somebody whose own network is that."""
    facts = addresses.read([LO, NAT, PRIVATE], [route("default", "eth0")])
    assert addresses.choose("10.0.2.15", facts) == "10.0.2.15"


def test_free_ranges_are_accepted() -> None:
    """On a host with Docker, and on one that is a master already."""
    ours = [link("docker0", "10.244.255.1/24"), link("flannel.1", "10.244.255.0/32")]
    routes = [route("default", "eth1"), route("10.244.255.0/24", "docker0"),
              route("10.244.1.0/24", "flannel.1"),
              route("10.244.255.1", "docker0", type="local")]  # fmt: skip
    addresses.check_ranges(PODS, SERVICES, addresses.read([LO, PRIVATE, *ours], routes))


@pytest.mark.parametrize(
    ("links", "routes", "what"),
    [
        ([link("eth0", "10.244.3.9/24")], [], r"--network .* the host's own 10\.244\.3\.0/24"),
        ([link("eth0", "10.100.0.9/24")], [], r"--service-range .* own 10\.100\.0\.0/24 \(eth0\)"),
        ([], [route("10.0.0.0/8", "tun0")], r"--network .* route to 10\.0\.0\.0/8 \(tun0\)"),
        ([], [route("10.244.9.0/24", "br-0123456789ab")], r"--network .* route to 10\.244\.9\.0"),
    ],
)
def test_a_range_that_the_host_uses_is_refused(
    links: list[dict[str, Any]], routes: list[dict[str, Any]], what: str
) -> None:
    """Whatever it uses it for."""
    with pytest.raises(UsageError, match=what):
        addresses.check_ranges(PODS, SERVICES, addresses.read([LO, *links], routes))


def test_a_name_server_in_a_range_is_a_clash() -> None:
    """Pods would ask each other."""
    facts = Facts((), (), (IPv4Network("10.96.0.10/32"), IPv4Network("127.0.0.53/32")))
    with pytest.raises(UsageError, match=r"overlaps the name server 10\.96\.0\.10: choose"):
        addresses.check_ranges(PODS, SERVICES, facts)


def test_all_clashes_are_named_at_once() -> None:
    """One run tells what has to be changed."""
    facts = addresses.read([link("eth0", "10.96.3.9/24")], [])
    with pytest.raises(UsageError) as caught:
        addresses.check_ranges(IPv4Network("10.96.0.0/16"), SERVICES, facts)
    assert str(caught.value).count("overlap") == 3


@given(st.lists(st.tuples(st.ip_addresses(v=4), st.sampled_from(["eth0", "eth1", "docker0"]))))
def test_the_choice_is_one_of_the_hosts_own_or_none(
    given_addresses: list[tuple[IPv4Address, str]],
) -> None:
    """Never an inner one, whatever order they come in."""
    links = [link(name, f"{address}/24") for address, name in given_addresses]
    facts = addresses.read(links, [route("default", "eth0")])
    try:
        chosen = addresses.choose("", facts)
    except UsageError:
        return
    assert any(str(one.address.ip) == chosen and one.device != "docker0" for one in facts.addresses)
    assert chosen == addresses.choose(chosen, facts)


def test_only_routes_of_packets_to_others_count() -> None:
    """Not the kernel's own entries for broadcasts and local addresses."""
    facts = addresses.read(
        [], [route("10.244.0.255", "eth0", type="broadcast"), route("default", "eth0")]
    )
    assert [str(one.destination) for one in facts.routes] == ["0.0.0.0/0"]
    assert str(Reached(facts_address(), "eth0")) == "192.0.2.7 (eth0)"


def facts_address() -> Any:
    """An interface's address."""
    return addresses.read([link("eth0", "192.0.2.7/24")], []).addresses[0].address
