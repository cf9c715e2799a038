"""Names and keys: reversible, all different, and short enough for the kernel."""

from hypothesis import given
from hypothesis import strategies as st

from netd.services import names
from netd.services.names import (
    ADDRESS_BITS,
    PORT_BITS,
    address_chain,
    address_key,
    address_of,
    affinity_list,
    port_chain,
    port_key,
    port_of,
)
from netd.services.tree import ROOT, Node
from netd.services.values import PROTOCOLS

places = st.tuples(st.sampled_from(PROTOCOLS), st.integers(1, 65535))


def nodes(bits: int) -> st.SearchStrategy[Node]:
    """Prefixes of *bits* bits at most, of an even length as the tree makes them."""
    lengths = st.integers(1, bits // 2).map(lambda half: half * 2)
    return lengths.flatmap(
        lambda length: st.integers(0, (1 << length) - 1).map(
            lambda top: Node(top << (bits - length), length)
        )
    )


@given(st.integers(0, 2**32 - 1))
def test_an_addresss_key_is_reversible(key: int) -> None:
    assert address_key(address_of(key)) == key


@given(places, places)
def test_a_node_ports_key_is_reversible_and_orders_by_protocol_then_port(
    one: tuple[str, int], other: tuple[str, int]
) -> None:
    assert port_of(port_key(*one)) == one
    assert port_key(*one) < 1 << PORT_BITS
    order = [(PROTOCOLS.index(place[0]), place[1]) for place in (one, other)]
    assert (port_key(*one) < port_key(*other)) == (order[0] < order[1])


@given(nodes(ADDRESS_BITS), nodes(ADDRESS_BITS))
def test_chains_of_different_prefixes_have_different_names_that_fit(one: Node, other: Node) -> None:
    assert (address_chain(one) == address_chain(other)) == (one == other)
    assert len(address_chain(one)) <= 28
    assert address_chain(one).startswith(names.PREFIXES)


@given(st.tuples(nodes(PORT_BITS), nodes(PORT_BITS)))
def test_chains_of_different_port_ranges_have_different_names_that_fit(
    pair: tuple[Node, Node],
) -> None:
    # Two bits are the protocol, of which there are three.
    one, other = pair
    if one.value >> 16 == 3 or other.value >> 16 == 3:
        return
    assert (port_chain(one) == port_chain(other)) == (one == other)
    assert len(port_chain(one)) <= 28
    assert port_chain(one).startswith(names.PREFIXES)


def test_the_trees_begin_at_chains_of_their_own() -> None:
    assert address_chain(ROOT) == "KUBE-PORTALS"
    assert port_chain(ROOT) == "KUBE-NODEPORT-TREE"
    assert address_chain(Node(address_key("10.96.0.0"), 14)) == "KUBE-VIP-10.96.0.0-14"
    assert port_chain(Node(port_key("udp", 30208), 12)) == "KUBE-NP-udp-30208-30271"
    assert port_chain(Node(port_key("tcp", 30061), PORT_BITS)) == "KUBE-NP-tcp-30061-30061"


def test_all_fixed_chains_are_ours_by_their_prefix() -> None:
    fixed = [
        names.PORTALS_CONTAINER, names.PORTALS_HOST, names.NODEPORT_CONTAINER, names.NODEPORT_HOST,
        names.PORTALS, names.NODEPORTS, names.MASQUERADE, names.FILTER, names.FORWARD, names.CANARY,
    ]  # fmt: skip
    assert all(name.startswith(names.PREFIXES) for name in fixed)
    assert len(set(fixed)) == len(fixed)


def test_no_chain_of_kube_proxy_or_the_kubelet_is_taken_for_ours() -> None:
    foreign = (
        "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-X", "KUBE-SEP-X",
        "KUBE-EXT-X", "KUBE-FW-X", "KUBE-FORWARD", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY",
        "KUBE-MARK-MASQ", "KUBE-FIREWALL", "KUBE-KUBELET-CANARY",
    )  # fmt: skip
    assert not any(name.startswith(names.PREFIXES) for name in foreign)


def test_each_endpoint_of_each_port_has_a_list_of_clients_of_its_own() -> None:
    asked = [
        (service, port, protocol, endpoint)
        for service in ("default/web", "default/w")
        for port in ("", "http", "eb:http")
        for protocol in ("tcp", "udp")
        for endpoint in ("10.1.1.2:80", "10.1.1.2:8080")
    ]
    made = {affinity_list(*one) for one in asked}
    assert len(made) == len(asked)
    # A list is a file below /proc/net/xt_recent.
    assert all("/" not in name and name.startswith("KUBE-AFF-") for name in made)


def test_a_list_of_clients_is_the_same_after_a_restart() -> None:
    name = affinity_list("default/web", "http", "tcp", "10.1.1.2:8080")
    assert name == "KUBE-AFF-30d16f5e0004fe75"
