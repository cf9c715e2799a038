"""Which UDP flows are stale: exactly those to a frontend of ours that lead elsewhere."""

from hypothesis import given
from hypothesis import strategies as st

from netd.netlink import conntrack as ct
from netd.netlink.requests import encode
from netd.services.conntrack import UdpView, is_stale
from tests.fakes.conntrack import TCP, Entry, attr, body, flows

CLIENT = "10.1.1.9:40000"
VIP, NODE = "10.96.0.10:53", "192.0.2.7:30053"
A, B, GONE = "10.1.1.1:5353", "10.1.2.1:5353", "10.1.3.1:5353"


def view(*endpoints: str, node_port: tuple[str, ...] | None = None) -> UdpView:
    """A service with *endpoints* at VIP and, if given, *node_port* at NODE."""
    ports = {} if node_port is None else {30053: frozenset(node_port)}
    return UdpView(
        {("10.96.0.10", 53): frozenset(endpoints)}, ports, frozenset({"192.0.2.7", "127.0.0.1"})
    )


def goes(entry: Entry, rules: UdpView) -> bool:
    (flow,) = flows([entry])
    return is_stale(flow, rules)


def test_a_flow_to_an_endpoint_that_stays_is_kept() -> None:
    assert not goes(Entry(CLIENT, VIP, A), view(A, B))


def test_a_flow_to_an_endpoint_that_is_gone_is_stale() -> None:
    assert goes(Entry(CLIENT, VIP, GONE), view(A, B))


def test_the_endpoints_port_counts_as_much_as_its_address() -> None:
    assert goes(Entry(CLIENT, VIP, "10.1.1.1:53"), view(A, B))


def test_a_flow_that_was_sent_on_as_it_was_is_stale_once_there_are_endpoints() -> None:
    assert goes(Entry(CLIENT, VIP), view(A))


def test_a_flow_that_was_sent_on_as_it_was_is_kept_while_there_are_no_endpoints() -> None:
    assert not goes(Entry(CLIENT, VIP), view())


def test_a_translated_flow_is_stale_when_no_endpoint_is_left_or_the_service_is_gone() -> None:
    assert goes(Entry(CLIENT, VIP, A), view())


def test_a_node_port_is_a_frontend_at_every_local_address_but_loopback() -> None:
    rules = view(A, node_port=(B,))
    assert goes(Entry(CLIENT, NODE, A), rules)
    assert not goes(Entry(CLIENT, NODE, B), rules)
    assert goes(Entry(CLIENT, NODE), rules)
    assert not goes(Entry(CLIENT, "127.0.0.1:30053", A), rules)
    assert not goes(Entry(CLIENT, "192.0.2.8:30053", A), rules)


def test_an_endpoint_that_is_itself_the_frontend_needs_no_translation() -> None:
    """A pod with the host's network that serves the node port on the same port."""
    assert not goes(Entry(CLIENT, NODE), view(node_port=(NODE,)))


def test_flows_to_places_that_are_no_frontends_are_foreign() -> None:
    for destination in ("10.96.0.10:54", "10.96.0.11:53", "8.8.8.8:53", "192.0.2.7:30054"):
        assert not goes(Entry(CLIENT, destination, GONE), view(A, node_port=(A,)))


def test_connections_of_other_protocols_are_no_flows() -> None:
    assert flows([Entry(CLIENT, VIP, GONE, protocol=TCP)]) == []


def test_an_untranslated_flow_in_another_zone_is_somebody_elses_view_of_the_packets() -> None:
    assert not goes(Entry(CLIENT, VIP, zone=7), view(A))
    assert goes(Entry(CLIENT, VIP, GONE, zone=7), view(A))


def test_a_view_without_frontends_is_false_and_one_with_a_removed_frontend_is_not() -> None:
    assert not UdpView()
    assert view()


PLACES = st.sampled_from([VIP, NODE, "10.96.0.11:53", "192.0.2.9:30053", "127.0.0.1:30053"])
ENDS = st.sampled_from(["", A, B, GONE])
TABLES = st.lists(st.builds(Entry, st.just(CLIENT), PLACES, ENDS), max_size=20)


@given(TABLES, st.frozensets(st.sampled_from([A, B])), st.frozensets(st.sampled_from([A, B])))
def test_what_is_left_leads_where_the_rules_lead_and_nothing_else_was_taken(
    entries: list[Entry], at_vip: frozenset[str], at_node: frozenset[str]
) -> None:
    """Against a model in words."""
    rules = UdpView({("10.96.0.10", 53): at_vip}, {30053: at_node}, frozenset({"192.0.2.7"}))
    ours = {VIP: at_vip, NODE: at_node}

    def right(entry: Entry) -> bool:
        endpoints = ours.get(entry.destination)
        if endpoints is None:
            return True
        return entry.target in endpoints if endpoints else not entry.target

    for entry in entries:
        assert goes(entry, rules) is not right(entry)


def test_a_deletion_names_reply_zone_and_id_and_nothing_more() -> None:
    entry = Entry(CLIENT, VIP, A, zone=3, number=0x1234)
    (flow,) = flows([entry])
    request = encode(ct.delete_flow(flow), 1)
    whole = body(entry)
    assert request[20:] == whole[56:108] + attr(18, b"\0\3") + attr(12, b"\0\0\x12\x34")


def test_a_body_that_is_cut_or_of_another_shape_is_no_flow() -> None:
    whole = body(Entry(CLIENT, VIP, A))
    for end in range(5, 4 + 52 + 52):
        assert ct.read_flow(whole[:end], 0, end) is None
    ipv6 = b"\x0a" + whole[1:]
    assert ct.read_flow(ipv6, 0, len(ipv6)) is None
    short = whole[:4] + attr(1 | 0x8000, b"")
    assert ct.read_flow(short, 0, len(short)) is None
