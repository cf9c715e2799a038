"""Who serves UDP, kept up to date from what was affected."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from netd.services.book import Book
from netd.services.conntrack import UdpView
from netd.services.udp import UdpPlaces
from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Frontend,
    Kind,
    Service,
    ServicePort,
)
from tests.netd.services import strategies as some

LOCAL = frozenset({"198.18.0.11"})
DNS = Service("default/dns", 1.0, (ServicePort("dns", "udp", 53, 30053),), ("10.0.0.10",))
HERE = Endpoint("10.1.1.2", some.NODE)
THERE = Endpoint("10.1.2.2", "node2")

changes = st.one_of(
    st.tuples(st.sampled_from(some.KEYS), st.none() | some.services),
    st.tuples(st.sampled_from(["default/a", "default/b"]), some.slices),
    st.just("clean"),
)


def backed(*endpoints: Endpoint) -> tuple[EndpointSlice, ...]:
    """Endpoints of DNS."""
    return (EndpointSlice(DNS.key, (EndpointPort("dns", "udp", 5353),), endpoints),)


def served(one: Frontend) -> frozenset[str]:
    """Every endpoint that a client of *one* may reach, by the policies' own words."""
    if one.local_only and one.kind is Kind.CLUSTER:
        return frozenset(one.pool.local)
    return frozenset(one.pool.every) | (frozenset(one.pool.local) if one.local_only else set())


def truth(book: Book) -> dict[tuple[str, int], frozenset[str]]:
    """All places, looked up one by one."""
    found: dict[tuple[str, int], frozenset[str]] = {}
    for key in book.addresses:
        found |= {(one.address, one.port): served(one) for one in book.at_address(key)
                  if one.protocol == "udp"}  # fmt: skip
    for key in book.node_ports:
        found |= {("", one.port): served(one) for one in book.at_node_port(key)
                  if one.protocol == "udp"}  # fmt: skip
    return found


def told(view: UdpView) -> dict[tuple[str, int], frozenset[str]]:
    """The places of a view."""
    return {**view.vips, **{("", port): some for port, some in view.node_ports.items()}}


@given(st.lists(changes, max_size=15))
def test_the_view_is_the_present_state_and_what_went_since_the_last_cleaning(
    script: list[tuple[str, Service | EndpointSlice | None] | str],
) -> None:
    book, places = Book(some.NODE), UdpPlaces()
    known: set[tuple[str, int]] = set()
    for step in script:
        if isinstance(step, str):
            places.cleaned()
            known = set(truth(book))
            continue
        key, value = step
        if isinstance(value, EndpointSlice):
            book.put_slices(key, (value,))
        else:
            book.put_service(key, None if value is None else replace(value, key=key))
        places.refresh(book, book.take_affected())
        now = truth(book)
        known |= set(now)
        gone = dict.fromkeys(known - now.keys(), frozenset[str]())
        assert told(places.view(LOCAL)) == {**gone, **now}


def test_under_local_from_outside_the_endpoint_here_counts_though_others_are_ready() -> None:
    leaving = replace(HERE, ready=False, serving=True, terminating=True)
    book, places = Book(some.NODE), UdpPlaces()
    book.put_service(DNS.key, replace(DNS, external_local=True))
    book.put_slices("default/dns-1", backed(leaving, THERE))
    places.refresh(book, book.take_affected())
    view = places.view(LOCAL)
    assert view.node_ports[30053] == {"10.1.1.2:5353", "10.1.2.2:5353"}
    assert view.vips["10.0.0.10", 53] == {"10.1.2.2:5353"}
