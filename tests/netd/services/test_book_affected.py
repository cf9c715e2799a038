"""What a change affects: every place whose frontend changes, and nothing after no change."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from netd.services.book import Affected, Book
from netd.services.names import address_key, port_key
from netd.services.values import (
    EndpointSlice,
    Frontend,
    Service,
    ServicePort,
)
from tests.netd.services import strategies as some
from tests.netd.services.made import DNS, backed, web

WEB = "default/web"


def told(*services: Service, slices: tuple[EndpointSlice, ...] = ()) -> Book:
    """A book on node1 that knows *services* and *slices*."""
    book = Book("node1")
    for service in services:
        book.put_service(service.key, service)
    for index, one in enumerate(slices):
        book.put_slices(f"default/slice{index}", (one,))
    return book


def test_what_changes_nothing_affects_nothing() -> None:
    book = told(web(), slices=(backed(WEB, "10.1.1.2"),))
    book.take_affected()
    book.put_service(WEB, web())
    book.put_slices("default/slice0", (backed(WEB, "10.1.1.2"),))
    book.put_slices("default/more", (backed(WEB, "10.1.1.2"),))
    book.put_slices("default/foreign", (backed("default/other", "10.1.1.2"),))
    assert book.take_affected() == Affected()


def test_what_is_affected_is_told_once() -> None:
    book = told(replace(DNS, ports=(ServicePort("dns", "udp", 53, 30053),)))
    affected = book.take_affected()
    assert affected.addresses == {address_key("10.0.0.10")}
    assert affected.node_ports == {port_key("udp", 30053)}
    assert affected.udp
    assert book.take_affected() == Affected()


def test_udp_is_affected_by_its_services_endpoints_and_removal_and_by_no_tcp() -> None:
    book = told(DNS, web())
    book.take_affected()
    book.put_slices("default/web", (backed(WEB, "10.1.1.2"),))
    book.put_service(WEB, None)
    assert not book.take_affected().udp
    book.put_slices("kube-system/dns", (backed(DNS.key, "10.1.1.2", name="dns", protocol="udp"),))
    assert book.take_affected().udp
    book.put_service(DNS.key, None)
    assert book.take_affected().udp


def test_everything_is_affected_on_demand() -> None:
    book = told(web(ports=(ServicePort("http", "tcp", 80, 30061),)), DNS)
    book.take_affected()
    book.touch_all()
    affected = book.take_affected()
    assert (
        affected.addresses
        == set(book.addresses)
        == set(map(address_key, ("10.0.0.7", "10.0.0.10")))
    )
    assert affected.node_ports == set(book.node_ports) == {port_key("tcp", 30061)}


changes = st.one_of(
    st.tuples(st.sampled_from(some.KEYS), st.none() | some.services),
    st.tuples(st.sampled_from(["default/a", "default/b"]), some.slices),
    st.tuples(st.sampled_from(some.KEYS), st.just("quarantine")),
)


def udp_of(book: Book) -> list[Frontend]:
    """All that is served by UDP."""
    places = [one for key in book.addresses for one in book.at_address(key)]
    places += [one for key in book.node_ports for one in book.at_node_port(key)]
    return [one for one in places if one.protocol == "udp"]


@given(st.lists(changes, max_size=15))
@settings(max_examples=200)
def test_every_place_whose_frontend_changes_is_affected(
    script: list[tuple[str, Service | EndpointSlice | str | None]],
) -> None:
    book = Book(some.NODE)

    def picture() -> dict[tuple[bool, int], list[Frontend]]:
        seen = {(False, key): book.at_address(key) for key in book.addresses}
        return seen | {(True, key): book.at_node_port(key) for key in book.node_ports}

    for key, value in script:
        before, udp = picture(), udp_of(book)
        if isinstance(value, EndpointSlice):
            book.put_slices(key, (value,))
        elif value == "quarantine":
            book.quarantine(key, "left out")
        else:
            book.put_service(key, replace(value, key=key) if isinstance(value, Service) else None)
        after, affected = picture(), book.take_affected()
        assert sorted(book.addresses) == book.addresses
        assert sorted(book.node_ports) == book.node_ports
        changed = {one for one in before.keys() | after.keys() if before.get(one) != after.get(one)}
        told_of = {(False, one) for one in affected.addresses}
        assert changed <= told_of | {(True, one) for one in affected.node_ports}
        assert affected.udp or udp == udp_of(book)
        assert all(after[one] for one in after), "an address is known while somebody answers"
