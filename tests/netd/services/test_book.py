"""Who answers where: conflicts, which endpoints count, and what a change affects."""

from dataclasses import replace
from itertools import permutations

import pytest

from netd.services.book import Affected, Book
from netd.services.names import address_key, port_key
from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Frontend,
    Kind,
    Pool,
    Service,
    ServicePort,
    Trouble,
)
from tests.netd.services.made import DNS, backed, web

WEB = "default/web"
SHARED = "203.0.113.1"


def told(*services: Service, slices: tuple[EndpointSlice, ...] = ()) -> Book:
    """A book on node1 that knows *services* and *slices*."""
    book = Book("node1")
    for service in services:
        book.put_service(service.key, service)
    for index, one in enumerate(slices):
        book.put_slices(f"default/slice{index}", (one,))
    return book


def at(book: Book, address: str) -> list[Frontend]:
    return book.at_address(address_key(address))


def at_port(book: Book, port: int, protocol: str = "tcp") -> list[Frontend]:
    return book.at_node_port(port_key(protocol, port))


def pool(book: Book) -> Pool:
    """Who answers for default/web."""
    (found,) = at(book, "10.0.0.7")
    return found.pool


# --- where ---


def test_a_service_answers_at_each_of_its_addresses_and_node_ports() -> None:
    service = web(
        ports=(ServicePort("http", "tcp", 80, 30061), ServicePort("dns", "udp", 53)),
        external_ips=(SHARED,),
        balancer_ips=("203.0.113.2",),
        source_ranges=("192.0.2.0/24",),
        affinity=60,
        external_local=True,
    )
    book = told(service)
    places = {(one.kind, one.address, one.port, one.protocol) for one in book.frontends_of(WEB)}
    addresses = [
        (Kind.CLUSTER, "10.0.0.7"), (Kind.EXTERNAL, SHARED), (Kind.BALANCER, "203.0.113.2"),
    ]  # fmt: skip
    assert places == {(Kind.NODE_PORT, "", 30061, "tcp")} | {
        (*one, *port) for one in addresses for port in ((80, "tcp"), (53, "udp"))
    }
    assert book.frontend_count == len(places) == 7
    by_kind = {one.kind: one for one in book.frontends_of(WEB)}
    assert [by_kind[kind].local_only for kind in Kind] == [False, True, True, True]
    assert [kind for kind in Kind if by_kind[kind].source_ranges] == [Kind.BALANCER]
    assert {one.affinity for one in by_kind.values()} == {60}


def test_the_internal_policy_is_that_of_the_cluster_address_alone() -> None:
    service = web(internal_local=True, external_ips=(SHARED,))
    assert {one.kind: one.local_only for one in told(service).frontends_of(WEB)} == {
        Kind.CLUSTER: True, Kind.EXTERNAL: False,
    }  # fmt: skip


def test_a_service_that_is_gone_answers_nowhere() -> None:
    book = told(web(ports=(ServicePort("http", "tcp", 80, 30061),)))
    assert (book.addresses, book.node_ports) == (
        [address_key("10.0.0.7")],
        [port_key("tcp", 30061)],
    )
    book.put_service(WEB, None)
    book.put_service(WEB, None)
    assert (book.addresses, book.node_ports, book.frontend_count) == ([], [], 0)
    assert book.frontends_of(WEB) == at(book, "10.0.0.7") == at_port(book, 30061) == []


# --- conflicts ---


def claimants() -> list[Service]:
    """Three services that want one address and one node port; "default/old" is the oldest."""
    ports = (ServicePort("http", "tcp", 80, 30061),)
    return [
        web(key="default/young", created=3.0, cluster_ips=("10.0.0.1",), external_ips=(SHARED,),
            ports=ports),
        web(key="default/old", created=1.0, cluster_ips=("10.0.0.2",), external_ips=(SHARED,),
            ports=ports),
        web(key="default/mid", created=2.0, cluster_ips=("10.0.0.3",), external_ips=(SHARED,),
            ports=ports),
    ]  # fmt: skip


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_oldest_service_wins_whatever_the_order(order: tuple[int, ...]) -> None:
    services = claimants()
    book = told(*(services[index] for index in order))
    assert [one.service for one in at(book, SHARED)] == ["default/old"]
    assert [one.service for one in at_port(book, 30061)] == ["default/old"]
    book.put_service("default/old", None)
    assert [one.service for one in at(book, SHARED)] == ["default/mid"]
    assert [one.service for one in at_port(book, 30061)] == ["default/mid"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_of_two_services_of_one_age_the_first_by_name_wins(order: tuple[int, ...]) -> None:
    services = [web(key=f"default/{name}", external_ips=(SHARED,)) for name in ("a", "b")]
    book = told(*(services[index] for index in order))
    assert [one.service for one in at(book, SHARED)] == ["default/a"]


def test_who_loses_is_named_with_the_place_and_the_winner_and_keeps_its_other_places() -> None:
    book = told(*claimants())
    texts = {
        f"{SHARED}:80/tcp belongs to the older service default/old: give this one another address",
        "node port 30061/tcp belongs to the older service default/old: "
        "give this one another nodePort",
    }
    assert {(one.key, one.text) for one in book.troubles()} == {
        (f"service {loser}", text) for loser in ("default/young", "default/mid") for text in texts
    }
    assert [one.address for one in book.frontends_of("default/young")] == ["10.0.0.1"]
    assert [one.service for one in at(book, "10.0.0.1")] == ["default/young"]


def test_a_conflict_is_over_when_only_one_is_left() -> None:
    book = told(*claimants())
    book.put_service("default/mid", None)
    assert {one.key for one in book.troubles()} == {"service default/young"}
    book.put_service("default/old", None)
    assert book.troubles() == []
    book.put_service("default/young", None)
    assert book.troubles() == []


def test_other_ports_of_a_shared_address_are_no_conflict() -> None:
    other = web(key="default/b", created=2.0, ports=(ServicePort("http", "tcp", 81),))
    third = web(key="default/c", created=3.0, ports=(ServicePort("http", "udp", 80),))
    book = told(web(), other, third)
    assert book.troubles() == []
    assert [one.service for one in at(book, "10.0.0.7")] == [WEB, "default/b", "default/c"]


def test_a_service_that_wants_one_place_twice_is_served_there_once_as_a_cluster_address() -> None:
    book = told(web(external_ips=("10.0.0.7",), balancer_ips=("10.0.0.7",)))
    assert [one.kind for one in at(book, "10.0.0.7")] == [Kind.CLUSTER]
    assert [one.kind for one in book.frontends_of(WEB)] == [Kind.CLUSTER]
    assert book.troubles() == []


# --- endpoints ---

READY = Endpoint("10.1.1.1", "node2")
LEAVING = Endpoint("10.1.1.2", "node2", ready=False, serving=True, terminating=True)
GONE = Endpoint("10.1.1.3", "node2", ready=False, serving=False, terminating=True)
STARTING = Endpoint("10.1.1.4", "node2", ready=False, serving=False)
ODD = Endpoint("10.1.1.5", "node2", ready=False, serving=True)


def here(endpoint: Endpoint) -> Endpoint:
    """The same on this node, under another address."""
    return replace(endpoint, node="node1", address=endpoint.address.replace("10.1.1", "10.1.9"))


@pytest.mark.parametrize(
    ("endpoints", "every", "local"),
    [
        ([READY, LEAVING, GONE, STARTING], ["10.1.1.1"], []),
        ([LEAVING, GONE, STARTING, ODD], ["10.1.1.2"], []),
        ([GONE, STARTING], [], []),
        ([ODD], [], []),
        ([READY, here(READY)], ["10.1.1.1", "10.1.9.1"], ["10.1.9.1"]),
        ([READY, here(LEAVING)], ["10.1.1.1"], ["10.1.9.2"]),
        ([LEAVING, here(READY)], ["10.1.9.1"], ["10.1.9.1"]),
        ([READY, here(GONE)], ["10.1.1.1"], []),
    ],
    ids=[
        "ready ones only, while there is one",
        "those that serve while they terminate, when none is ready",
        "nobody, when none serves",
        "serving alone is not enough: it has to terminate",
        "the local ones are those of this node",
        "this node's own are chosen by themselves",
        "a ready one anywhere counts before a local one that leaves",
        "a local one that is gone does not count",
    ],
)
def test_which_endpoints_answer(
    endpoints: list[Endpoint], every: list[str], local: list[str]
) -> None:
    """KEP-1669."""
    book = told(web(), slices=(backed(WEB, *endpoints),))
    assert pool(book) == Pool(
        tuple(f"{one}:8080" for one in every), tuple(f"{one}:8080" for one in local)
    )


def test_endpoints_of_several_slices_count_once_and_in_one_order() -> None:
    slices = (backed(WEB, "10.1.2.2", "10.1.1.2"), backed(WEB, "10.1.1.2", "10.1.3.2"))
    wanted = ("10.1.1.2:8080", "10.1.2.2:8080", "10.1.3.2:8080")
    assert pool(told(web(), slices=slices)).every == wanted
    assert pool(told(web(), slices=slices[::-1])).every == wanted
    assert told(web(), slices=slices).endpoint_count == 4


def test_an_endpoint_that_is_ready_in_one_slice_is_ready() -> None:
    """While an endpoint moves between slices both have it for a moment."""
    slices = (backed(WEB, replace(READY, ready=False)), backed(WEB, READY))
    assert pool(told(web(), slices=slices)).every == ("10.1.1.1:8080",)


def test_a_port_is_paired_by_name_and_protocol() -> None:
    slices = (
        backed(WEB, "10.1.1.2", name="https"),
        backed(WEB, "10.1.1.3", protocol="udp"),
        backed("default/other", "10.1.1.4"),
        backed(WEB, "10.1.1.5", port=9090),
    )
    assert pool(told(web(), slices=slices)).every == ("10.1.1.5:9090",)


def test_one_object_may_hold_several_slices_and_lose_them_one_by_one() -> None:
    book = told(web())
    one, other = backed(WEB, "10.1.1.2"), backed(WEB, "10.1.1.3", port=9090)
    book.put_slices("default/web", (one, other))
    assert pool(book).every == ("10.1.1.2:8080", "10.1.1.3:9090")
    book.put_slices("default/web", (other,))
    assert pool(book).every == ("10.1.1.3:9090",)
    book.put_slices("default/web", ())
    assert pool(book) == Pool()
    assert book.slices_of(WEB) == ()


def test_an_object_whose_name_begins_like_another_ones_does_not_take_it_away() -> None:
    book = told(web())
    book.put_slices("default/web-1", (backed(WEB, "10.1.1.2"),))
    book.put_slices("default/web", (backed(WEB, "10.1.1.3"),))
    book.put_slices("default/web", ())
    assert pool(book).every == ("10.1.1.2:8080",)


def test_a_slice_that_moves_to_another_service_leaves_the_first() -> None:
    book = told(web(), replace(DNS, key="default/dns"))
    book.put_slices("default/x", (backed(WEB, "10.1.1.2"),))
    book.take_affected()
    book.put_slices("default/x", (backed("default/dns", "10.1.1.2", name="dns", protocol="udp"),))
    assert pool(book) == Pool()
    assert [one.pool.every for one in at(book, "10.0.0.10")] == [("10.1.1.2:8080",)]
    assert book.take_affected().addresses == {address_key("10.0.0.7"), address_key("10.0.0.10")}


def test_local_endpoints_are_addresses_of_this_node_that_are_ready() -> None:
    more = EndpointSlice(
        WEB,
        (EndpointPort("http", "tcp", 8080), EndpointPort("https", "tcp", 8443)),
        (here(READY), here(LEAVING), READY, Endpoint("10.1.8.1")),
    )
    book = told(web(), slices=(more, backed(WEB, here(READY))))
    assert book.local_endpoints(WEB) == 1
    assert book.local_endpoints("default/other") == 0


def test_a_host_without_a_name_has_no_local_endpoints() -> None:
    book = Book("")
    book.put_service(WEB, web())
    book.put_slices("default/x", (backed(WEB, Endpoint("10.1.1.2")),))
    assert pool(book) == Pool(("10.1.1.2:8080",))
    assert book.local_endpoints(WEB) == 0


# --- quarantine ---


def test_a_quarantined_service_answers_nowhere_and_is_named_until_it_changes() -> None:
    book = told(*claimants())
    book.quarantine("default/old", "left out")
    assert book.is_quarantined("default/old")
    assert book.frontends_of("default/old") == at(book, "10.0.0.2") == []
    assert [one.service for one in at(book, SHARED)] == ["default/mid"], "the next in line"
    assert Trouble("service default/old", "left out") in book.troubles()
    book.put_service("default/old", claimants()[1])
    assert book.is_quarantined("default/old"), "nothing changed"
    book.put_service("default/old", replace(claimants()[1], affinity=60))
    assert not book.is_quarantined("default/old")
    assert [one.service for one in at(book, SHARED)] == ["default/old"]
    assert {one.key for one in book.troubles()} == {"service default/mid", "service default/young"}


def test_endpoints_of_a_quarantined_service_affect_nothing() -> None:
    book = told(DNS)
    book.quarantine(DNS.key, "left out")
    book.take_affected()
    book.put_slices("kube-system/dns", (backed(DNS.key, "10.1.1.2", name="dns", protocol="udp"),))
    assert book.take_affected() == Affected()


def test_a_quarantined_service_may_go_and_come_back() -> None:
    book = told(web())
    book.quarantine(WEB, "first")
    book.quarantine(WEB, "second")
    assert [one.text for one in book.troubles()] == ["first"]
    book.put_service(WEB, None)
    assert book.troubles() == []
    book.put_service(WEB, web())
    assert [one.service for one in at(book, "10.0.0.7")] == [WEB]


def test_only_a_service_that_is_there_can_be_quarantined() -> None:
    book = told()
    book.quarantine(WEB, "left out")
    assert book.troubles() == []
    book.put_service(WEB, web())
    assert [one.service for one in at(book, "10.0.0.7")] == [WEB]
