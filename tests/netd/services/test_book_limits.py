"""What a service may not have: another's health port, endless rules, a second chance too late."""

from itertools import permutations

import pytest

from netd.services.book import Book
from netd.services.pools import MOST_RULES, most_endpoints, place_count
from netd.services.values import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from tests.netd.services.made import backed, web

MANY = tuple(f"10.1.{number >> 8}.{number & 255}" for number in range(600))


def crowded(ports: int, endpoints: tuple[str, ...]) -> Book:
    """A book with a service of so many ports and endpoints."""
    book = Book("node1")
    named = [f"p{number}" for number in range(ports)]
    wanted = tuple(ServicePort(name, "tcp", 80 + i) for i, name in enumerate(named))
    offered = tuple(EndpointPort(name, "tcp", 8080 + i) for i, name in enumerate(named))
    book.put_service("default/web", web(ports=wanted))
    parts = tuple(Endpoint(address, "node1") for address in endpoints)
    book.put_slices("default/web-1", (EndpointSlice("default/web", offered, parts),))
    return book


def test_a_service_with_too_many_rules_is_cut_to_what_fits_and_named() -> None:
    book = crowded(100, MANY)
    fronts = book.frontends_of("default/web")
    most = MOST_RULES // 100
    assert {len(one.pool.every) for one in fronts} == {most}
    assert {len(one.pool.local) for one in fronts} == {most}
    (trouble,) = book.troubles()
    assert trouble.key == "service default/web"
    assert f"{most} endpoints of each port are used" in trouble.text
    assert "600 endpoints" in trouble.text


@pytest.mark.parametrize("ports", [1, 33])
def test_what_fits_is_not_cut(ports: int) -> None:
    book = crowded(ports, MANY)
    assert {len(one.pool.every) for one in book.frontends_of("default/web")} == {600}
    assert book.troubles() == []


def test_a_service_that_shrinks_or_goes_is_no_longer_named() -> None:
    book = crowded(100, MANY)
    book.put_slices("default/web-1", (backed("default/web", "10.1.1.2", name="p0"),))
    assert book.troubles() == []
    book = crowded(100, MANY)
    book.put_service("default/web", None)
    assert book.troubles() == []
    book = crowded(100, MANY)
    book.put_service("default/web", web())
    assert book.troubles() == []


def test_every_address_and_node_port_counts_as_a_place() -> None:
    ports = (ServicePort("a", "tcp", 80, 30080), ServicePort("b", "tcp", 81))
    service = web(ports=ports, external_ips=("203.0.113.1",), balancer_ips=("203.0.113.2",))
    assert place_count(service) == 2 * 3 + 1
    assert most_endpoints(service) == MOST_RULES // 7


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_health_port_belongs_to_the_oldest_service_whatever_the_order(
    order: tuple[int, ...],
) -> None:
    services = [
        web(key=f"default/s{n}", created=float(n), cluster_ips=(f"10.0.0.{n + 1}",), health_port=31)
        for n in range(3)
    ]
    book = Book("node1")
    for number in order:
        book.put_service(f"default/s{number}", services[number])
    book.put_slices("default/a", (backed("default/s0", Endpoint("10.1.1.2", "node1")),))
    assert book.health_checks() == {31: ("default/s0", 1)}
    assert {one.key for one in book.troubles()} == {"service default/s1", "service default/s2"}
    assert "older service default/s0" in book.troubles()[0].text
    book.put_service("default/s0", None)
    assert book.health_checks() == {31: ("default/s1", 0)}
    for number in (1, 2):
        book.put_service(f"default/s{number}", None)
    assert (book.health_checks(), book.troubles()) == ({}, [])


def test_services_that_were_left_out_are_taken_back_on_demand() -> None:
    book = Book("node1")
    assert not book.release()
    service: Service = web()
    book.put_service(service.key, service)
    book.take_affected()
    book.quarantine(service.key, "refused")
    book.take_affected()
    assert book.release()
    assert book.take_affected().addresses
    assert [one.service for one in book.frontends_of(service.key)] == [service.key]
    assert book.troubles() == []
