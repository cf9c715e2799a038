"""What is told of a packet's path: it is in the rules, and why nobody answers is said."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.services.book import Book
from netd.services.explain import HOW, explain
from netd.services.names import NODEPORT_CONTAINER, PORTALS_CONTAINER
from netd.services.planner import HEAVY, RulePlanner
from netd.services.rules import Policy, nat_jumps
from netd.services.values import Endpoint, EndpointSlice, Service, ServicePort
from tests.netd.services import strategies as some
from tests.netd.services.made import DNS, backed, web
from tests.support.walk import Packet, Walker

Json = dict[str, Any]

PORTS = (ServicePort("http", "tcp", 80, 30061), ServicePort("https", "tcp", 443))
SHOP = web(key="shop/web", cluster_ips=("10.0.0.8",), created=2.0)


def planned(
    *services: Service, slices: tuple[EndpointSlice, ...] = (), policy: Policy | None = None
) -> RulePlanner:
    """A planner on node1 that is up to date."""
    book = Book("node1")
    for service in services:
        book.put_service(service.key, service)
    for index, one in enumerate(slices):
        book.put_slices(f"default/slice{index}", (one,))
    planner = RulePlanner(book, policy or Policy())
    planner.update()
    return planner


@pytest.fixture
def planner() -> RulePlanner:
    """default/web with two ports and endpoints on both nodes, shop/web without any, and DNS."""
    local = Endpoint("10.1.1.2", "node1")
    slices = (
        backed("default/web", local, "10.1.2.2"),
        backed("default/web", "10.1.2.2", name="https", port=8443),
        backed(DNS.key, "10.1.2.9", name="dns", protocol="udp", port=5353),
    )
    dns = replace(DNS, ports=(ServicePort("dns", "udp", 53), ServicePort("dns-tcp", "tcp", 53)))
    return planned(web(ports=PORTS), SHOP, dns, slices=slices)


def only(document: Json) -> Json:
    """The one answer of *document*."""
    assert document["found"]
    (answer,) = document["answers"]
    assert isinstance(answer, dict)
    return answer


def fault(document: Json) -> str:
    """The one sentence of a document without answers."""
    assert not document["found"]
    assert document["answers"] == []
    (text,) = document["wrong"]
    assert isinstance(text, str)
    return text


# --- what may be asked for ---

CLUSTER = "10.0.0.7:80/tcp"
CLUSTER_TLS = "10.0.0.7:443/tcp"
NODE_PORT = "any address of this host:30061/tcp"


@pytest.mark.parametrize(
    ("target", "frontends"),
    [
        ("default/web", [CLUSTER, CLUSTER_TLS, NODE_PORT]),
        ("default/web:http", [CLUSTER, NODE_PORT]),
        ("default/web:443", [CLUSTER_TLS]),
        ("web", [CLUSTER, CLUSTER_TLS, NODE_PORT, "10.0.0.8:80/tcp"]),
        ("web:https", [CLUSTER_TLS]),
        ("dns", ["10.0.0.10:53/tcp", "10.0.0.10:53/udp"]),
        ("10.0.0.7", [CLUSTER, CLUSTER_TLS]),
        ("10.0.0.7:80", [CLUSTER]),
        ("10.0.0.10:53", ["10.0.0.10:53/tcp", "10.0.0.10:53/udp"]),
        ("10.0.0.10:53/udp", ["10.0.0.10:53/udp"]),
        ("10.0.0.10/TCP", ["10.0.0.10:53/tcp"]),
        ("30061", [NODE_PORT]),
        ("30061/tcp", [NODE_PORT]),
    ],
)
def test_a_service_is_found_by_name_address_and_node_port(
    planner: RulePlanner, target: str, frontends: list[str]
) -> None:
    document = explain(target, planner)
    assert document["target"] == target
    assert document["found"]
    assert sorted(one["frontend"] for one in document["answers"]) == sorted(frontends)
    assert document["wrong"] == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("wbe", ["no service wbe", "did you mean web?", "headless", "netd status"]),
        ("default/wev", ["no service default/wev", "did you mean default/web?"]),
        ("elsewhere/web", ["no service elsewhere/web"]),
        ("default/web:ftp", ["default/web has no port ftp"]),
        ("10.0.0.9:80", ["10.0.0.9 is not the address of any service", "its number alone"]),
        ("10.0.0.7:81", ["belongs to default/web", "serves 80/tcp, 443/tcp there only"]),
        ("10.0.0.7:80/udp", ["belongs to default/web", "80/tcp"]),
        ("10.0.0.300:80", ["10.0.0.300 is no IPv4 address", HOW]),
        ("30062", ["30062 is not the node port of any service"]),
        ("30061/udp", ["30061/udp is not the node port of any service"]),
        ("0", ["0 is no port", HOW]),
        ("65536", ["65536 is no port", HOW]),
        ("", ["neither a service nor an address", HOW]),
        ("10.0.0.7:80/icmp", ["'10.0.0.7:80/icmp' is neither a service nor an address", HOW]),
        ("http://web", ["neither a service nor an address"]),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(
    planner: RulePlanner, target: str, words: list[str]
) -> None:
    text = fault(explain(target, planner))
    assert all(word in text for word in words), text


def test_a_name_like_no_other_gets_no_suggestion(planner: RulePlanner) -> None:
    assert "did you mean" not in fault(explain("zzzzzz", planner))


def test_a_long_target_is_cut_and_its_control_characters_are_quoted(planner: RulePlanner) -> None:
    text = fault(explain("\x1b[31m" + "x" * 5000, planner))
    assert len(text) < 400
    assert text.isprintable()


# --- the answer ---


def test_an_answer_tells_chains_rules_endpoints_and_chances(planner: RulePlanner) -> None:
    answer = only(explain("10.0.0.7:80", planner))
    match = '-d 10.0.0.7/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80'
    assert answer == {
        "frontend": CLUSTER,
        "kind": "cluster IP",
        "service": "default/web",
        "port": "http",
        "steps": [
            {
                "table": "nat",
                "chain": "PREROUTING",
                "rule": '-m comment --comment "netd: services" -j KUBE-PORTALS-CONTAINER',
            },
            {"table": "nat", "chain": "KUBE-PORTALS-CONTAINER", "rule": "-j KUBE-PORTALS"},
            {
                "table": "nat",
                "chain": "KUBE-PORTALS",
                "rule": f"{match} -m statistic --mode random --probability 0.50000000000 "
                "-j DNAT --to-destination 10.1.1.2:8080",
            },
            {
                "table": "nat",
                "chain": "KUBE-PORTALS",
                "rule": f"{match} -j DNAT --to-destination 10.1.2.2:8080",
            },
        ],
        "endpoints": [
            {"address": "10.1.1.2:8080", "probability": 0.5, "local": True, "node": "node1"},
            {"address": "10.1.2.2:8080", "probability": 0.5, "local": False, "node": "node2"},
        ],
        "notes": [
            "a process on this host enters by OUTPUT and KUBE-PORTALS-HOST instead of PREROUTING"
        ],
        "wrong": [],
    }


def test_a_node_ports_path_begins_at_its_own_jump() -> None:
    made = planned(web(ports=PORTS), policy=Policy(node_port_ranges=("192.0.2.0/24",)))
    answer = only(explain("30061", made))
    assert (answer["kind"], answer["port"]) == ("node port", "http")
    assert [one["chain"] for one in answer["steps"][:3]] == [
        "PREROUTING", "KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-TREE",
    ]  # fmt: skip
    assert "--dst-type LOCAL" in answer["steps"][0]["rule"]
    assert answer["steps"][1]["rule"] == "-d 192.0.2.0/24 -j KUBE-NODEPORT-TREE"
    assert "KUBE-NODEPORT-HOST" in answer["notes"][0]


@pytest.mark.parametrize(
    ("changes", "policy", "note"),
    [
        ({"affinity": 600}, Policy(), "a client keeps its endpoint for 600 s"),
        ({}, Policy(masquerade_all=True), "as its client (masquerading)"),
        ({"cluster_ips": (), "external_ips": ("10.0.0.7",)}, Policy(), "(masquerading)"),
        (
            {"cluster_ips": (), "balancer_ips": ("10.0.0.7",), "source_ranges": ("192.0.2.0/24",)},
            Policy(),
            "only for clients in 192.0.2.0/24, others are dropped",
        ),
        (
            {"cluster_ips": (), "external_ips": ("10.0.0.7",), "external_local": True},
            Policy(),
            "this host and its pods may reach any of 2",
        ),
    ],
    ids=["affinity", "masquerade-all", "external", "source ranges", "Local from outside"],
)
def test_what_is_special_is_noted(changes: Json, policy: Policy, note: str) -> None:
    slices = (backed("default/web", Endpoint("10.1.1.2", "node1"), "10.1.2.2"),)
    plain = only(explain("10.0.0.7:80", planned(web(), slices=slices)))
    answer = only(explain("10.0.0.7:80", planned(web(**changes), slices=slices, policy=policy)))
    assert not any(note in text for text in plain["notes"])
    assert any(note in text for text in answer["notes"])


def test_under_local_from_outside_only_local_endpoints_are_listed_and_the_client_is_seen() -> None:
    service = web(cluster_ips=(), external_ips=("10.0.0.7",), external_local=True)
    slices = (backed("default/web", Endpoint("10.1.1.2", "node1"), "10.1.2.2"),)
    answer = only(explain("10.0.0.7:80", planned(service, slices=slices)))
    assert [(one["address"], one["probability"]) for one in answer["endpoints"]] == [
        ("10.1.1.2:8080", 1.0)
    ]
    assert not any("masquerading" in text for text in answer["notes"])


# --- what is wrong ---

LOCAL = {"internal_local": True}


@pytest.mark.parametrize(
    ("changes", "slices", "words"),
    [
        ({}, (), ["no endpoints", "selector may match no pod", "refused"]),
        ({}, (backed("default/web"),), ["no endpoints", "refused"]),
        (
            {},
            (backed("default/web", *(Endpoint(f"10.1.1.{n}", "", False, False) for n in (1, 2))),),
            ["none of the 2 endpoints of default/web is ready", "refused"],
        ),
        (
            {},
            (backed("default/web", "10.1.1.2", name="www"),
             backed("default/web", "10.1.1.2", name="", protocol="udp")),
            ["no endpoint offers the port http/tcp", "(unnamed)/udp, www/tcp", "targetPort"],
        ),
        (
            LOCAL,
            (backed("default/web", "10.1.1.2", "10.1.1.3"),),
            ["policy is Local", "none of the 2 endpoints is on this node (node1)", "dropped"],
        ),
        (LOCAL, (), ["no endpoints", "refused"]),
    ],
    ids=["no slice", "empty slice", "none ready", "port names differ", "none here", "none at all"],
)  # fmt: skip
def test_why_nobody_answers(
    changes: Json, slices: tuple[EndpointSlice, ...], words: list[str]
) -> None:
    answer = only(explain("default/web", planned(web(**changes), slices=slices)))
    assert answer["endpoints"] == []
    (text,) = answer["wrong"]
    assert all(word in text for word in words), text


def test_a_port_without_a_name_is_called_so() -> None:
    service = web(ports=(ServicePort("", "tcp", 80),))
    slices = (backed("default/web", "10.1.1.2"),)
    (text,) = only(explain("default/web", planned(service, slices=slices)))["wrong"]
    assert "no endpoint offers the port (unnamed)/tcp, they offer http/tcp" in text


def test_a_younger_service_is_told_which_older_one_has_its_address() -> None:
    shared = {"external_ips": ("203.0.113.1",)}
    old, young = web(**shared), replace(SHOP, **shared)  # type: ignore[arg-type]
    document = explain("shop/web", planned(old, young))
    assert [one["frontend"] for one in document["answers"]] == ["10.0.0.8:80/tcp"]
    (text,) = document["wrong"]
    assert "203.0.113.1:80/tcp belongs to the older service default/web" in text
    by_address = only(explain("203.0.113.1", planned(old, young)))
    assert by_address["service"] == "default/web"


@pytest.mark.parametrize("target", ["default/web", "default/web:http", "10.0.0.7:80", "30061"])
def test_a_service_that_is_left_out_says_why_however_it_is_asked_for(
    planner: RulePlanner, target: str
) -> None:
    planner.book.quarantine("default/web", "left out, iptables refuses its rule")
    planner.update()
    assert "left out, iptables refuses its rule" in fault(explain(target, planner))


def test_a_service_that_is_served_elsewhere_is_not_blamed_for_a_port_it_never_had() -> None:
    shared = {"external_ips": ("203.0.113.1",)}
    young = replace(SHOP, ports=PORTS, **shared)  # type: ignore[arg-type]
    text = fault(explain("30061/udp", planned(web(**shared), young)))
    assert text == "30061/udp is not the node port of any service"


def test_before_anything_was_planned_nothing_is_found_and_nothing_breaks() -> None:
    book = Book("node1")
    planner = RulePlanner(book, Policy())
    assert not explain("10.0.0.7", planner)["found"]
    book.put_service("default/web", web())
    answer = only(explain("default/web", planner))
    assert answer["wrong"] != []


# --- of any services ---


@given(
    st.lists(some.services, min_size=1, max_size=5, unique_by=lambda one: one.key),
    st.lists(some.slices, max_size=4),
    st.sampled_from([Policy(), Policy(masquerade_all=True), Policy(cluster_cidr="10.1.0.0/16")]),
    st.integers(0, 40),
)
@settings(max_examples=150)
def test_the_path_is_made_of_rules_that_are_there_and_leads_from_the_kernel_to_the_endpoints(
    services: list[Service], slices: list[EndpointSlice], policy: Policy, crowd: int
) -> None:
    others = [
        Service(f"crowd/s{n}", 9.0, (ServicePort("", "tcp", 80, 32000 + n),), (f"10.0.{n}.200",))
        for n in range(crowd)
    ]
    planner = planned(*services, *others, slices=tuple(slices), policy=policy)
    jumps = {(jump.parent, jump.rule): jump.target for jump in nat_jumps()}
    for service in services:
        document = explain(service.key, planner)
        assert document["found"] or document["wrong"]
        for answer in document["answers"]:
            steps = [(one["chain"], one["rule"]) for one in answer["steps"]]
            entry = jumps[steps[0]]
            by_address = answer["kind"] != "node port"
            assert entry == (PORTALS_CONTAINER if by_address else NODEPORT_CONTAINER)
            chain = entry
            for at, rule in steps[1:]:
                assert rule in planner.chains[at]
                if at != chain:
                    ways = [one for one, jump in steps if jump.endswith(f"-j {at}")]
                    assert ways == [chain], "each chain is entered by the one before it"
                    chain = at
            chances = [one["probability"] for one in answer["endpoints"]]
            if chances:
                assert abs(sum(chances) - 1) < 1e-9
                assert answer["wrong"] == []
            else:
                assert len(answer["wrong"]) == 1


def table(planner: RulePlanner) -> dict[str, tuple[str, ...]]:
    """Our chains, and the kernel's with our jumps."""
    parents: dict[str, list[str]] = {}
    for jump in nat_jumps():
        parents.setdefault(jump.parent, []).append(jump.rule)
    return planner.chains | {name: tuple(rules) for name, rules in parents.items()}


@given(
    st.lists(some.services, min_size=1, max_size=4, unique_by=lambda one: one.key),
    st.lists(some.slices, max_size=4),
)
@settings(max_examples=100)
def test_a_client_from_outside_reaches_the_endpoints_with_the_chances_that_are_told(
    services: list[Service], slices: list[EndpointSlice]
) -> None:
    services = [replace(one, source_ranges=()) for one in services]
    planner = planned(*services, slices=tuple(slices))
    walker = Walker(table(planner), some.LOCAL)
    for service in services:
        for answer in explain(service.key, planner)["answers"]:
            place, protocol = answer["frontend"].split("/")
            address, port = place.split(":")
            if not address[0].isdigit():
                address = "198.18.0.11"
            fates = walker.fates(Packet("192.0.2.99", address, protocol, int(port)))
            reached = {fate.endpoint: chance for fate, chance in fates.items() if fate.endpoint}
            told = {one["address"]: one["probability"] for one in answer["endpoints"]}
            assert reached == pytest.approx(told, abs=1e-6)


def test_a_service_with_many_endpoints_is_followed_into_its_own_chain() -> None:
    many = tuple(f"10.1.{n}.2" for n in range(HEAVY + 1))
    others = [web(key=f"crowd/s{n}", cluster_ips=(f"10.0.{n}.200",)) for n in range(40)]
    planner = planned(web(), *others, slices=(backed("default/web", *many),))
    answer = only(explain("10.0.0.7", planner))
    assert len(answer["endpoints"]) == HEAVY + 1
    last = answer["steps"][-1]
    assert last["chain"] == "KUBE-VIP-10.0.0.7-32"
    assert last["rule"] in planner.chains[last["chain"]]
    chains = list(dict.fromkeys(one["chain"] for one in answer["steps"]))
    assert chains[:3] == ["PREROUTING", "KUBE-PORTALS-CONTAINER", "KUBE-PORTALS"]
    assert len(chains) > 4
