"""EndpointSlice and Endpoints objects: what is taken, cut and skipped, and what is said."""

from typing import Any

import msgspec
import pytest

from netd.services.endpoints import decode_endpoints, decode_slice
from netd.services.values import Endpoint, EndpointPort, EndpointSlice
from tests.netd.services.objects import endpoint, endpoint_slice, endpoints_object, raw
from tests.netd.services.valid import assert_valid

PORTS = (EndpointPort("http", "tcp", 8080),)


def decoded(document: Any) -> tuple[EndpointSlice | None, list[str]]:
    """The value of the slice *document* and the sentences about it."""
    key, value, troubles = decode_slice(raw(document))
    assert key == "default/web-abcde"
    for trouble in troubles:
        assert_valid(trouble)
        assert trouble.key == "endpointslice default/web-abcde"
    if value is not None:
        assert_valid(value)
    return value, [trouble.text for trouble in troubles]


def whole(document: Any) -> EndpointSlice:
    """The value of the slice *document*, about which there is nothing to say."""
    value, told = decoded(document)
    assert told == []
    assert value is not None
    return value


def subsets(document: Any) -> tuple[tuple[EndpointSlice, ...], list[str]]:
    """The values of the Endpoints object *document* and the sentences about it."""
    key, values, troubles = decode_endpoints(raw(document))
    assert key == "default/web"
    for trouble in troubles:
        assert_valid(trouble)
        assert trouble.key == "endpoints default/web"
    for value in values:
        assert_valid(value)
        assert value.service == key
    return values, [trouble.text for trouble in troubles]


def test_a_slice_is_what_its_object_says() -> None:
    document = endpoint_slice(endpoint("10.1.2.4", nodeName="node2"), endpoint("10.1.2.3"))
    wanted = EndpointSlice(
        "default/web", PORTS, (Endpoint("10.1.2.3", "node1"), Endpoint("10.1.2.4", "node2"))
    )
    assert whole(document) == wanted
    assert decode_slice(msgspec.Raw(raw(document))) == ("default/web-abcde", wanted, ())


def test_order_and_repetition_make_no_difference() -> None:
    one, two = endpoint("10.1.2.3"), endpoint("10.1.2.4")
    ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]
    there = whole(endpoint_slice(one, two, ports=ports))
    assert whole(endpoint_slice(two, one, one, ports=ports[::-1] + ports)) == there


def test_what_netd_has_no_use_for_leaves_no_trace() -> None:
    plain = whole(endpoint_slice(endpoint("10.1.2.3")))
    document = endpoint_slice(
        endpoint(
            "10.1.2.3",
            zone="east",
            hints={"forZones": [{"name": "east"}]},
            hostname="web-0",
            targetRef=None,
            deprecatedTopology={"topology.kubernetes.io/zone": "east"},
        )
    )
    document["metadata"]["annotations"] = {"big": "x" * 65536}
    document["ports"][0]["appProtocol"] = "kubernetes.io/h2c"
    assert whole(document) == plain


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": None}, True, True, False),
        ({"ready": True}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True}, False, True, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": True, "serving": False}, True, False, False),
        ({"terminating": True}, True, True, True),
    ],
)
def test_absent_conditions_mean_ready_serving_and_not_terminating(
    conditions: Any, ready: bool, serving: bool, terminating: bool
) -> None:
    value = whole(endpoint_slice(endpoint("10.1.2.3", conditions=conditions)))
    assert value.endpoints == (Endpoint("10.1.2.3", "node1", ready, serving, terminating),)


def test_a_condition_that_is_neither_true_nor_false_keeps_traffic_away() -> None:
    value, told = decoded(endpoint_slice(endpoint("10.1.2.3", conditions={"ready": "yes"})))
    assert value is not None
    assert value.endpoints == (Endpoint("10.1.2.3", "node1", ready=False, serving=False),)
    assert told == ["endpoints[0].conditions.ready is 'yes': use true or false"]


@pytest.mark.parametrize(
    ("where", "node"),
    [
        ({"nodeName": "node1"}, "node1"),
        ({"nodeName": None, "topology": {"kubernetes.io/hostname": "node2"}}, "node2"),
        ({"nodeName": "node1", "topology": {"kubernetes.io/hostname": "node2"}}, "node1"),
        ({"nodeName": None, "topology": {"topology.kubernetes.io/zone": "east"}}, ""),
        ({"nodeName": None}, ""),
        ({"nodeName": "ip-10-0-0-1.ec2.internal"}, "ip-10-0-0-1.ec2.internal"),
    ],
)
def test_the_node_is_named_where_the_servers_age_puts_it(where: Any, node: str) -> None:
    (found,) = whole(endpoint_slice(endpoint("10.1.2.3", **where))).endpoints
    assert found.node == node


@pytest.mark.parametrize("node", ["Node 1", "x" * 254, "a\nb", 7])
def test_an_endpoint_with_a_bad_node_name_is_on_no_node(node: Any) -> None:
    value, told = decoded(endpoint_slice(endpoint("10.1.2.3", nodeName=node)))
    assert value is not None
    assert value.endpoints == (Endpoint("10.1.2.3"),)
    assert len(told) == 1
    assert told[0].startswith("endpoints[0].nodeName is ")


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (endpoint("127.0.0.1"), "endpoints[1].addresses[0] is 127.0.0.1, a loopback address"),
        (endpoint("169.254.1.1"), "endpoints[1].addresses[0] is 169.254.1.1, a link-local address"),
        (endpoint("224.0.0.1"), "endpoints[1].addresses[0] is 224.0.0.1, a multicast address"),
        (endpoint("0.0.0.0"), "endpoints[1].addresses[0] is 0.0.0.0, an unspecified address"),
        (endpoint("fd00::1"), "endpoints[1].addresses[0] is 'fd00::1'"),
        (endpoint("10.1.2"), "endpoints[1].addresses[0] is '10.1.2'"),
        (endpoint(None), "endpoints[1].addresses[0] is missing"),
        (endpoint("", addresses=[]), "endpoints[1] has no addresses"),
        (endpoint("", addresses=None), "endpoints[1] has no addresses"),
        (None, "endpoints[1] has no addresses"),
        ("10.1.2.5", "endpoints[1] has no addresses"),
    ],
)
def test_a_bad_endpoint_is_cut_and_the_others_serve(bad: Any, sentence: str) -> None:
    value, told = decoded(endpoint_slice(endpoint("10.1.2.3"), bad, endpoint("10.1.2.4")))
    assert value is not None
    assert [one.address for one in value.endpoints] == ["10.1.2.3", "10.1.2.4"]
    assert len(told) == 1
    assert told[0].startswith(sentence)


def test_of_several_addresses_of_an_endpoint_the_first_counts() -> None:
    value = whole(endpoint_slice(endpoint("", addresses=["10.1.2.3", "10.1.2.4"])))
    assert value.endpoints == (Endpoint("10.1.2.3", "node1"),)


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        ({"name": "x"}, "ports[1].port is missing, which stands for all ports: name one"),
        ({"name": "x", "port": 0}, "ports[1].port is 0: use 1 to 65535"),
        ({"name": "x", "port": "80"}, "ports[1].port is '80': use 1 to 65535"),
        (
            {"name": "x", "port": 80, "protocol": "DCCP"},
            "ports[1].protocol is 'DCCP': use TCP, UDP or SCTP",
        ),
        (
            {"name": "A;B", "port": 80},
            "ports[1].name is 'A;B': use at most 63 small letters, digits and '-'",
        ),
        (None, "ports[1] is no object: give it a port"),
    ],
)
def test_a_bad_port_is_cut_and_the_others_serve(port: Any, sentence: str) -> None:
    ports = [{"name": "http", "port": 8080}, port, {"port": 53, "protocol": "UDP"}]
    value, told = decoded(endpoint_slice(endpoint("10.1.2.3"), ports=ports))
    assert value is not None
    assert value.ports == (EndpointPort("", "udp", 53), EndpointPort("http", "tcp", 8080))
    assert told == [sentence]


@pytest.mark.parametrize("kind", ["IPv6", "FQDN"])
def test_slices_of_other_families_are_passed_over_in_silence(kind: str) -> None:
    assert decoded(endpoint_slice(endpoint("fd00::1"), addressType=kind)) == (None, [])


@pytest.mark.parametrize(
    ("kind", "shown"), [("IPX", "'IPX'"), (None, "missing"), ("IP", "'IP'"), ([], "a list")]
)
def test_slices_of_an_unknown_family_are_skipped_and_named(kind: Any, shown: str) -> None:
    document = endpoint_slice(endpoint("10.1.2.3"), addressType=kind)
    assert decoded(document) == (None, [f"addressType is {shown}: use IPv4"])


def test_a_slice_of_no_service_is_passed_over_in_silence() -> None:
    document = endpoint_slice(endpoint("10.1.2.3"))
    del document["metadata"]["labels"]["kubernetes.io/service-name"]
    assert decoded(document) == (None, [])


@pytest.mark.parametrize("name", ["", "Web", "other/web", "a.b", 7])
def test_a_slice_of_an_impossible_service_is_skipped_and_named(name: Any) -> None:
    document = endpoint_slice(endpoint("10.1.2.3"))
    document["metadata"]["labels"]["kubernetes.io/service-name"] = name
    value, told = decoded(document)
    assert value is None
    assert len(told) == 1
    assert told[0].endswith(": name a Service")


def test_a_slice_that_is_too_long_is_cut_and_named() -> None:
    every = [endpoint(f"10.1.{i // 250}.{i % 250 + 1}") for i in range(1001)]
    value, told = decoded(endpoint_slice(*every))
    assert value is not None
    assert value.endpoints == whole(endpoint_slice(*every[:-1])).endpoints
    assert told == ["endpoints has 1001 elements, of which 1000 are used: share them out"]


def test_an_empty_slice_says_that_the_service_has_no_endpoints() -> None:
    document = endpoint_slice(endpoints=None, ports=None)
    assert whole(document) == EndpointSlice("default/web", (), ())


def test_a_slice_with_a_bad_name_is_skipped_and_named() -> None:
    document = endpoint_slice(endpoint("10.1.2.3"))
    document["metadata"]["name"] = "Web Slice"
    key, value, troubles = decode_slice(raw(document))
    assert (key, value) == ("default/'Web Slice'", None)
    assert [one.text for one in troubles] == [
        "metadata.name is 'Web Slice': use at most 253 small letters, digits and '-' or dots"
    ]


def test_each_subset_of_an_endpoints_object_is_a_slice() -> None:
    document = endpoints_object(
        {
            "addresses": [{"ip": "10.1.2.4"}, {"ip": "10.1.2.3", "nodeName": "node1"}],
            "notReadyAddresses": [{"ip": "10.1.2.5", "nodeName": "node2"}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        },
        {"addresses": [{"ip": "10.1.2.6"}], "ports": [{"name": "http", "port": 8081}]},
    )
    late = Endpoint("10.1.2.5", "node2", ready=False, serving=False)
    assert subsets(document) == (
        (
            EndpointSlice(
                "default/web", PORTS, (Endpoint("10.1.2.3", "node1"), Endpoint("10.1.2.4"), late)
            ),
            EndpointSlice(
                "default/web", (EndpointPort("http", "tcp", 8081),), (Endpoint("10.1.2.6"),)
            ),
        ),
        [],
    )


@pytest.mark.parametrize("document", [endpoints_object(), {**endpoints_object(), "subsets": None}])
def test_an_endpoints_object_may_be_empty(document: Any) -> None:
    assert subsets(document) == ((), [])


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"ip": "127.0.0.1"}, "subsets[0].addresses[1].ip is 127.0.0.1, a loopback address"),
        ({"ip": "10.1.2"}, "subsets[0].addresses[1].ip is '10.1.2'"),
        ({}, "subsets[0].addresses[1].ip is missing"),
        (None, "subsets[0].addresses[1] is no object"),
        ({"ip": "fd00::1"}, None),
    ],
)
def test_a_bad_address_of_a_subset_is_cut(address: Any, sentence: str | None) -> None:
    document = endpoints_object({"addresses": [{"ip": "10.1.2.3"}, address]})
    (value,), told = subsets(document)
    assert value.endpoints == (Endpoint("10.1.2.3"),)
    assert [one.split(":")[0] for one in told] == ([] if sentence is None else [sentence])


def test_a_subset_of_a_wrong_shape_costs_only_itself() -> None:
    good = {"addresses": [{"ip": "10.1.2.3"}]}
    (value,), told = subsets(endpoints_object("bad", good))
    assert value.endpoints == (Endpoint("10.1.2.3"),)
    assert told == ["subsets[0] is no object: give it addresses and ports"]


def test_of_a_subset_that_is_too_long_the_ready_ones_are_kept() -> None:
    late = [{"ip": f"10.2.{i // 250}.{i % 250 + 1}"} for i in range(900)]
    good = [{"ip": f"10.1.{i // 250}.{i % 250 + 1}"} for i in range(600)]
    (value,), told = subsets(endpoints_object({"notReadyAddresses": late, "addresses": good}))
    assert sum(one.ready for one in value.endpoints) == 600
    assert len(value.endpoints) == 1000
    assert told == [
        "subsets[0].addresses has 1500 elements, of which 1000 are used: share them out"
    ]


@pytest.mark.parametrize("decode", [decode_slice, decode_endpoints])
@pytest.mark.parametrize("document", [{}, [], {"metadata": {"name": "a"}}])
def test_an_object_without_a_key_is_refused(decode: Any, document: Any) -> None:
    with pytest.raises(ValueError, match=r"^(endpoint|the object is) ?"):
        decode(raw(document))
