"""Names and address ranges of labs."""

from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import plan
from lab.errors import UsageError
from lab.model import KubernetesSpec

NETWORKS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 32),
)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True)


@given(NAMES, st.sampled_from(["fabric", "node1", "node64"]))
def test_a_netns_name_tells_its_lab(name: str, node: str) -> None:
    """Also for labs whose names end like a node or begin like another lab."""
    assert plan.lab_of_netns(plan.netns_name(name, node)) == name


@pytest.mark.parametrize("foreign", ["bn-", "bn-x", "bn-x-node", "bnt-x-node1", "x", "bn-X-node1"])
def test_foreign_network_namespaces_belong_to_no_lab(foreign: str) -> None:
    """down must not remove what others made."""
    assert plan.lab_of_netns(foreign) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "x" * 21])
def test_names_that_could_escape_a_directory_are_refused(name: str) -> None:
    """A lab's name becomes part of paths and namespace names."""
    with pytest.raises(UsageError):
        plan.check_name(name)


@given(st.lists(NETWORKS, max_size=8), st.integers(1, 8))
def test_a_lab_overlaps_nothing_in_use(used: list[IPv4Network], nodes: int) -> None:
    """Neither its hosts' network nor those of pods and services, nor these each other."""
    try:
        spec = plan.make_lab("x", nodes, None, used)
    except UsageError:
        return
    underlay, overlay = IPv4Network(spec.underlay), IPv4Network(spec.overlay)
    services = IPv4Network(spec.service_range)
    assert not plan.clashes(underlay, used)
    assert not plan.clashes(overlay, used)
    assert not plan.clashes(services, [*used, underlay, overlay])
    assert not underlay.overlaps(overlay)
    addresses = [IPv4Address(member.address) for member in spec.members]
    assert len(set(addresses)) == nodes + 1
    assert all(address in underlay for address in addresses)


def test_a_second_lab_gets_other_ranges() -> None:
    """Labs side by side."""
    first = plan.make_lab("a", 2, None, [])
    taken = [IPv4Network(text) for text in (first.underlay, first.overlay, first.service_range)]
    second = plan.make_lab("b", 2, None, taken)
    assert (first.overlay, second.overlay) == ("10.1.0.0/16", "10.2.0.0/16")
    assert (first.underlay, second.underlay) == ("198.18.0.0/24", "198.18.1.0/24")
    assert (first.service_range, second.service_range) == ("10.0.0.0/24", "10.0.1.0/24")


def test_a_default_route_is_no_clash_and_a_real_one_is_named() -> None:
    """A network the operator asked for is taken or refused, never changed."""
    asked = IPv4Network("10.9.0.0/16")
    assert plan.choose_overlay(asked, [IPv4Network("0.0.0.0/0")]) == asked
    with pytest.raises(UsageError, match=r"10\.9\.8\.0/24, in use"):
        plan.choose_overlay(asked, [IPv4Network("10.9.8.0/24")])


@pytest.mark.parametrize("text", ["10.1.0.0/24", "10.1.0.1/16", "x", "fd00::/64", "10.0.0.0/33"])
def test_a_network_that_cannot_be_used_is_refused(text: str) -> None:
    """Too small, host bits set, not IPv4."""
    with pytest.raises(UsageError, match="--network"):
        plan.parse_network(text)


def test_more_nodes_than_the_network_has_subnets_are_refused() -> None:
    """A /22 has four /24s, of which the first is not leased."""
    assert plan.make_lab("x", 3, IPv4Network("10.1.0.0/22"), []).nodes
    with pytest.raises(UsageError, match="holds 3"):
        plan.make_lab("x", 4, IPv4Network("10.1.0.0/22"), [])
    with pytest.raises(UsageError):
        plan.make_lab("x", 0, None, [])
    with pytest.raises(UsageError):
        plan.make_lab("x", 65, None, [])


def test_a_machine_without_free_ranges_gets_a_sentence() -> None:
    """Everything is in use."""
    with pytest.raises(UsageError, match="give one with --network"):
        plan.choose_overlay(None, [IPv4Network("10.0.0.0/8")])
    with pytest.raises(UsageError, match="no free /24"):
        plan.choose_underlay([IPv4Network("128.0.0.0/1")])
    with pytest.raises(UsageError, match="--control-plane none"):
        plan.choose_services([IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")])


def test_a_lab_without_control_plane_has_no_services_and_no_api_server() -> None:
    """Its address is known from the spec alone otherwise."""
    assert plan.make_lab("x", 1, None, []).api == "http://198.18.0.1:8080"
    bare = plan.make_lab("x", 1, None, [], control_plane=False)
    assert (bare.api, bare.service_range) == ("", "")


def test_masters_come_before_workers_with_addresses_of_their_own() -> None:
    """Clients prefer the first."""
    made = plan.make_lab("x", 2, None, [], masters=3)
    assert [n.name for n in made.nodes] == ["master1", "master2", "master3", "node1", "node2"]
    assert [n.address for n in made.masters] == ["198.18.0.2", "198.18.0.3", "198.18.0.4"]
    assert len({n.address for n in made.members}) == 6
    assert plan.lab_of_netns(made.masters[0].netns) == "x"


@pytest.mark.parametrize("masters", [0, 2, 4, 7, -1])
def test_a_number_of_masters_without_majority_is_refused(masters: int) -> None:
    """An even one survives no more losses than one less."""
    with pytest.raises(UsageError, match="odd number"):
        plan.check_masters(masters)


def test_the_kind_of_control_plane_tells_where_api_and_etcd_are() -> None:
    """On the fabric, on every master, or nowhere."""
    embedded = plan.make_lab("x", 1, None, [])
    assert (embedded.control_plane, embedded.plane) == ("embedded", None)
    assert embedded.etcds == ("http://198.18.0.1:2379",)
    assert plan.make_lab("x", 1, None, [], control_plane=False).control_plane == "none"
    real = KubernetesSpec(version="v1.20", hyperkube_image="h", etcd_image="e", pki="/pki")
    made = msgspec.structs.replace(plan.make_lab("x", 1, None, [], masters=3), kubernetes=real)
    assert made.control_plane == "kubernetes"
    assert made.apis == tuple(f"https://198.18.0.{n}:6443" for n in (2, 3, 4))
    assert made.etcds == tuple(f"https://198.18.0.{n}:2379" for n in (2, 3, 4))
    plain = msgspec.structs.replace(made, kubernetes=msgspec.structs.replace(real, insecure=True))
    assert plain.api == "http://198.18.0.2:8080"


def test_identities_are_stable_and_distinct() -> None:
    """A node that is started again is the same machine on the same network card."""
    assert plan.machine_id("a", "node1") == plan.machine_id("a", "node1")
    assert plan.machine_id("a", "node1") != plan.machine_id("a", "node2")
    assert len(plan.machine_id("a", "node1")) == 32
    assert plan.mac_of(IPv4Address("198.18.0.11")) == "02:bd:c6:12:00:0b"


def test_the_nearest_word_is_suggested() -> None:
    """And nothing when nothing is near."""
    assert plan.suggest("nod1", ["node1", "fabric"]) == " (did you mean 'node1'?)"
    assert plan.suggest("zzz", ["node1", "fabric"]) == ""
