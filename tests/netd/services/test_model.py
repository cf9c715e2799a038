"""Service objects: what is taken, what is cut, what is skipped, and what is said about it."""

from math import inf
from typing import Any

import msgspec
import pytest

from netd.services.fields import MOST_FAULTS
from netd.services.model import decode_service
from netd.services.values import Service, ServicePort, Trouble
from tests.netd.services.objects import balanced, raw, service
from tests.netd.services.valid import assert_valid

WEB = Service(
    key="default/web",
    created=1706702400.0,
    ports=(ServicePort("http", "tcp", 80),),
    cluster_ips=("10.0.0.7",),
)


def decoded(document: Any) -> tuple[Service | None, list[str]]:
    """The value of *document* and the sentences about it."""
    key, value, troubles = decode_service(raw(document))
    for trouble in troubles:
        assert_valid(trouble)
        assert trouble.key == f"service {key}"
    if value is not None:
        assert_valid(value)
        assert value.key == key
    return value, [trouble.text for trouble in troubles]


def whole(document: Any) -> Service:
    """The value of *document*, about which there is nothing to say."""
    value, told = decoded(document)
    assert told == []
    assert value is not None
    return value


def cut(document: Any) -> tuple[Service, str]:
    """What is left of *document*, and the one sentence about what is not."""
    value, told = decoded(document)
    assert value is not None
    assert len(told) == 1
    return value, told[0]


def skipped(document: Any) -> str:
    """The one sentence that says why *document* is not served."""
    value, told = decoded(document)
    assert value is None
    assert len(told) == 1
    return told[0]


def test_a_service_is_what_its_object_says() -> None:
    assert whole(service()) == WEB


def test_a_slice_of_a_larger_answer_is_decoded_like_bytes() -> None:
    assert decode_service(msgspec.Raw(raw(service()))) == ("default/web", WEB, ())


def test_every_feature_at_once() -> None:
    document = balanced(
        "203.0.113.5",
        externalIPs=["198.51.100.2", "198.51.100.1"],
        loadBalancerSourceRanges=["192.0.2.9/24", " 10.0.0.0/8 "],
        ports=[
            {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30061},
            {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30062},
            {"name": "sig", "protocol": "SCTP", "port": 80},
        ],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
        healthCheckNodePort=30100,
    )
    assert whole(document) == Service(
        key="default/web",
        created=1706702400.0,
        ports=(
            ServicePort("http", "tcp", 80, 30061),
            ServicePort("dns", "udp", 53, 30062),
            ServicePort("sig", "sctp", 80),
        ),
        cluster_ips=("10.0.0.7",),
        external_ips=("198.51.100.1", "198.51.100.2"),
        balancer_ips=("203.0.113.5",),
        source_ranges=("10.0.0.0/8", "192.0.2.0/24"),
        affinity=600,
        external_local=True,
        internal_local=True,
        health_port=30100,
    )


def test_what_netd_has_no_use_for_leaves_no_trace() -> None:
    document = service()
    document["metadata"] |= {
        "resourceVersion": "99",
        "labels": {"team": "blue"},
        "annotations": {"big": "x" * 65536, "odd": "\x00\x1b[2J\ud800"},
        "managedFields": None,
    }
    document["spec"]["selector"] = {"app": "other"}
    document["spec"]["ports"][0]["targetPort"] = "named"
    assert whole(document) == WEB


def test_objects_of_the_first_servers_lack_many_fields() -> None:
    document = service(
        clusterIPs=None, ipFamilies=None, internalTrafficPolicy=None, sessionAffinity=None
    )
    document["spec"]["ports"] = [{"port": 80}]
    del document["metadata"]["creationTimestamp"], document["status"]
    value = whole(document)
    assert value.ports == (ServicePort("", "tcp", 80),)
    assert value.created == inf


@pytest.mark.parametrize(
    "document",
    [
        service(clusterIP="None", clusterIPs=["None"]),
        service(clusterIP="None", clusterIPs=None),
        service(clusterIP=None, clusterIPs=["None"]),
        service(type="ExternalName", externalName="example.org"),
        service(clusterIP=None, clusterIPs=None),
        service(clusterIP="", clusterIPs=[]),
        service(clusterIP="None", clusterIPs=["None"], ports=[{"port": 99999}]),
    ],
)
def test_services_that_are_nobodys_to_balance_are_passed_over_in_silence(document: Any) -> None:
    assert decoded(document) == (None, [])


@pytest.mark.parametrize(
    "label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"]
)
@pytest.mark.parametrize("value", ["other", ""])
def test_a_service_that_is_labelled_for_another_proxy_is_left_to_it(label: str, value: str) -> None:
    document = service()
    document["metadata"]["labels"][label] = value
    assert decoded(document) == (None, [])


def test_a_node_port_is_served_without_a_cluster_address() -> None:
    document = service(clusterIP=None, clusterIPs=None, ports=[{"port": 80, "nodePort": 30061}])
    assert whole(document).ports == (ServicePort("", "tcp", 80, 30061),)


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        ({"port": 70000}, "spec.ports[1].port is 70000: use 1 to 65535"),
        ({"port": 0}, "spec.ports[1].port is 0: use 1 to 65535"),
        ({"port": -1}, "spec.ports[1].port is -1: use 1 to 65535"),
        ({"port": 10**30}, f"spec.ports[1].port is {10**30}: use 1 to 65535"),
        ({"port": True}, "spec.ports[1].port is true: use 1 to 65535"),
        ({"port": 81.5}, "spec.ports[1].port is 81.5: use 1 to 65535"),
        ({"port": "81"}, "spec.ports[1].port is '81': use 1 to 65535"),
        ({"port": [81]}, "spec.ports[1].port is a list: use 1 to 65535"),
        ({}, "spec.ports[1].port is missing: use 1 to 65535"),
        ({"port": 81, "protocol": "AH"}, "spec.ports[1].protocol is 'AH': use TCP, UDP or SCTP"),
        ({"port": 81, "protocol": "tcp"}, "spec.ports[1].protocol is 'tcp': use TCP, UDP or SCTP"),
        ({"port": 81, "protocol": {}}, "spec.ports[1].protocol is an object: use TCP, UDP or SCTP"),
        (
            {"port": 81, "name": 'a" -j ACCEPT\n-A X'},
            "spec.ports[1].name is 'a\" -j ACCEPT\\n-A X': "
            "use at most 63 small letters, digits and '-'",
        ),
        (
            {"port": 81, "name": "x" * 64},
            f"spec.ports[1].name is '{'x' * 64}': use at most 63 small letters, digits and '-'",
        ),
        ({"port": 80}, "spec.ports[1] is 80/tcp again: remove it"),
        (
            {"port": 81, "name": "http"},
            "spec.ports[1].name is 'http' again: give each port a name of its own",
        ),
        (None, "spec.ports[1] is no object: give it a port"),
        ("81", "spec.ports[1] is no object: give it a port"),
    ],
)  # fmt: skip
def test_a_bad_port_is_cut_and_the_others_are_served(port: Any, sentence: str) -> None:
    if isinstance(port, dict):
        port = {"name": "other", **port}
    good = [{"name": "http", "port": 80}, {"name": "last", "port": 82}]
    value, told = cut(service(ports=[good[0], port, good[1]]))
    assert told == sentence
    assert value.ports == (ServicePort("http", "tcp", 80), ServicePort("last", "tcp", 82))


@pytest.mark.parametrize(
    ("node_port", "shown"),
    [(65536, "65536"), (-1, "-1"), ("30061", "'30061'"), (False, None), (0, None), (None, None)],
)
def test_a_bad_node_port_is_cut_and_the_port_is_served(node_port: Any, shown: str | None) -> None:
    document = service(ports=[{"port": 80, "nodePort": node_port}])
    value, told = decoded(document)
    assert value is not None
    assert value.ports == (ServicePort("", "tcp", 80),)
    assert told == (
        [f"spec.ports[0].nodePort is {shown}: use 1 to 65535"] if shown is not None else []
    )


def test_of_two_equal_node_ports_in_one_service_the_first_counts() -> None:
    ports = [
        {"name": "a", "port": 80, "nodePort": 30061},
        {"name": "b", "port": 81, "nodePort": 30061},
        {"name": "c", "port": 82, "nodePort": 30061, "protocol": "UDP"},
    ]
    value, told = cut(service(ports=ports))
    assert told == "spec.ports[1].nodePort is 30061/tcp again: use another"
    assert [one.node_port for one in value.ports] == [30061, 0, 30061]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("10.0.0.256", "is '10.0.0.256': use an IPv4 address such as 10.1.2.3"),
        ("10.0.0.010", "is '10.0.0.010': use an IPv4 address such as 10.1.2.3"),
        ("10.0.0.1/32", "is '10.0.0.1/32': use an IPv4 address such as 10.1.2.3"),
        ("10.0.0.1\n", "is '10.0.0.1\\n': use an IPv4 address such as 10.1.2.3"),
        ("\u0661\u0660.0.0.1", "is '\\u0661\\u0660.0.0.1': use an IPv4 address such as 10.1.2.3"),
        ("a:b", "is 'a:b': use an IPv4 address such as 10.1.2.3"),
        ("example.org", "is 'example.org': use an IPv4 address such as 10.1.2.3"),
        (7, "is 7: use an IPv4 address such as 10.1.2.3"),
        (None, "is missing: use an IPv4 address such as 10.1.2.3"),
        ("0.0.0.0", "is 0.0.0.0, an unspecified address: use one that other hosts can reach"),
        ("127.0.0.1", "is 127.0.0.1, a loopback address: use one that other hosts can reach"),
        ("224.0.0.1", "is 224.0.0.1, a multicast address: use one that other hosts can reach"),
        ("169.254.1.1", "is 169.254.1.1, a link-local address: use one that other hosts can reach"),
        (
            "255.255.255.255",
            "is 255.255.255.255, the broadcast address: use one that other hosts can reach",
        ),
    ],
)  # fmt: skip
def test_a_bad_external_address_is_cut(address: Any, sentence: str) -> None:
    value, told = cut(service(externalIPs=["198.51.100.1", address]))
    assert told == f"spec.externalIPs[1] {sentence}"
    assert value.external_ips == ("198.51.100.1",)
    assert value.cluster_ips == ("10.0.0.7",)


def test_a_bad_load_balancer_address_is_cut() -> None:
    value, told = cut(balanced("203.0.113.5", "nonsense"))
    assert told.startswith("status.loadBalancer.ingress[1].ip is 'nonsense': ")
    assert value.balancer_ips == ("203.0.113.5",)


def test_load_balancers_by_name_or_in_proxy_mode_send_no_packet_to_their_address() -> None:
    document = balanced()
    document["status"]["loadBalancer"]["ingress"] = [
        {"hostname": "lb.example.org"},
        {"ip": "203.0.113.5", "ipMode": "Proxy"},
        {"ip": "203.0.113.6", "ipMode": "VIP"},
        {"ip": "203.0.113.7"},
        {"ip": ""},
    ]
    assert whole(document).balancer_ips == ("203.0.113.6", "203.0.113.7")


def test_the_ipv6_half_of_a_service_is_left_out_in_silence() -> None:
    document = balanced(
        "2001:db8::5",
        "203.0.113.5",
        clusterIP="fd00::7",
        clusterIPs=["fd00::7", "10.0.0.7"],
        externalIPs=["2001:db8::1", "198.51.100.1"],
        loadBalancerSourceRanges=["2001:db8::/32", "192.0.2.0/24"],
    )
    value = whole(document)
    assert value.cluster_ips == ("10.0.0.7",)
    assert value.external_ips == ("198.51.100.1",)
    assert value.balancer_ips == ("203.0.113.5",)
    assert value.source_ranges == ("192.0.2.0/24",)


@pytest.mark.parametrize("node_port", [0, 30061])
def test_a_service_of_ipv6_alone_is_skipped_and_named(node_port: int) -> None:
    document = service(
        clusterIP="fd00::7", clusterIPs=["fd00::7"], ports=[{"port": 80, "nodePort": node_port}]
    )
    assert skipped(document) == (
        "spec.clusterIPs has IPv6 addresses only: netd carries IPv4, add that family"
    )


def test_a_cluster_address_may_be_link_local() -> None:
    document = service(clusterIP="169.254.20.10", clusterIPs=None)
    assert whole(document).cluster_ips == ("169.254.20.10",)


def test_without_its_bad_cluster_address_a_service_keeps_its_others() -> None:
    document = service(clusterIP="10.0.0", clusterIPs=None, externalIPs=["198.51.100.1"])
    value, told = cut(document)
    assert told == "spec.clusterIP is '10.0.0': use an IPv4 address such as 10.1.2.3"
    assert value.cluster_ips == ()
    assert value.external_ips == ("198.51.100.1",)


def test_a_service_with_no_good_place_at_all_is_skipped() -> None:
    assert skipped(service(clusterIP="10.0.0", clusterIPs=None)) == (
        "spec.clusterIP is '10.0.0': use an IPv4 address such as 10.1.2.3"
    )


@pytest.mark.parametrize("ports", [[], None])
def test_a_service_without_ports_is_skipped(ports: Any) -> None:
    assert skipped(service(ports=ports)) == "spec.ports is empty: give it a port"


def test_a_bad_source_range_is_cut() -> None:
    value, told = cut(
        balanced("203.0.113.5", loadBalancerSourceRanges=["10.0.0.0/8", "10.0.0.0/33"])
    )
    assert told == (
        "spec.loadBalancerSourceRanges[1] is '10.0.0.0/33': use an IPv4 network such as 10.0.0.0/8"
    )
    assert value.source_ranges == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("ranges", "sentences"),
    [
        (["everyone"], 2),
        (["10.0.0.1"], 2),
        (["10.0.0.0/255.0.0.0"], 2),
        ([None], 2),
        ("10.0.0.0/8", 2),
        ({}, 2),
        (["2001:db8::/32"], 1),
    ],
)
def test_bad_source_ranges_close_the_load_balancer_instead_of_opening_it_to_all(
    ranges: Any, sentences: int
) -> None:
    value, told = decoded(balanced("203.0.113.5", loadBalancerSourceRanges=ranges))
    assert value is not None
    assert value.balancer_ips == ()
    assert value.cluster_ips == ("10.0.0.7",)
    assert len(told) == sentences
    assert told[-1] == (
        "spec.loadBalancerSourceRanges admits no IPv4 client, so the load-balancer addresses "
        "are left out: name an IPv4 network or remove the field"
    )


@pytest.mark.parametrize("ranges", [None, []])
def test_no_source_ranges_open_the_load_balancer_to_all(ranges: Any) -> None:
    value = whole(balanced("203.0.113.5", loadBalancerSourceRanges=ranges))
    assert (value.balancer_ips, value.source_ranges) == (("203.0.113.5",), ())


@pytest.mark.parametrize("seconds", [0, -5, 86401, "60", 1.5, True])
def test_a_bad_affinity_time_counts_as_three_hours(seconds: Any) -> None:
    value, told = cut(
        service(
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
        )
    )
    assert value.affinity == 10800
    assert told.startswith("spec.sessionAffinityConfig.clientIP.timeoutSeconds is ")
    assert told.endswith(", so 10800 is taken: use 1 to 86400")


@pytest.mark.parametrize("config", [None, {}, {"clientIP": None}, {"clientIP": {}}])
def test_an_absent_affinity_time_is_three_hours(config: Any) -> None:
    document = service(sessionAffinity="ClientIP")
    document["spec"]["sessionAffinityConfig"] = config
    assert whole(document).affinity == 10800


def test_the_affinity_time_of_a_service_without_affinity_is_ignored() -> None:
    document = service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}})
    assert whole(document).affinity == 0


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("externalTrafficPolicy", "spec.externalTrafficPolicy is 'Here': use Cluster or Local"),
        ("internalTrafficPolicy", "spec.internalTrafficPolicy is 'Here': use Cluster or Local"),
        ("sessionAffinity", "spec.sessionAffinity is 'Here': use None or ClientIP"),
    ],
)
def test_an_unknown_choice_counts_as_the_default(field: str, sentence: str) -> None:
    assert cut(service(**{field: "Here"})) == (WEB, sentence)


@pytest.mark.parametrize(
    "change",
    [{"type": "NodePort"}, {"externalTrafficPolicy": "Cluster"}, {"healthCheckNodePort": None}],
)
def test_only_local_load_balancers_have_a_health_port(change: dict[str, Any]) -> None:
    spec = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100}
    document = balanced("203.0.113.5", **spec)
    assert whole(document).health_port == 30100
    document["spec"] |= change
    assert whole(document).health_port == 0


def test_a_bad_health_port_is_cut() -> None:
    document = balanced("203.0.113.5", externalTrafficPolicy="Local", healthCheckNodePort=99999)
    value, told = cut(document)
    assert told == "spec.healthCheckNodePort is 99999: use 1 to 65535"
    assert (value.health_port, value.external_local) == (0, True)


@pytest.mark.parametrize("time", ["yesterday", "2024-01-31T12:00:00", 7, "0001-13-01T00:00:00Z"])
def test_a_bad_creation_time_loses_every_conflict(time: Any) -> None:
    document = service()
    document["metadata"]["creationTimestamp"] = time
    value, told = cut(document)
    assert value.created == inf
    assert told.startswith("metadata.creationTimestamp is ")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Web", "default/'Web'"),
        ("we b", "default/'we b'"),
        ("a.b", "default/'a.b'"),
        ("-a", "default/'-a'"),
        ("a\n-A INPUT", "default/'a\\n-A INPUT'"),
        ("x" * 64, f"default/'{'x' * 64}'"),
        ("x" * 300, f"default/'{'x' * 77}...'"),
    ],
)
def test_a_service_whose_name_is_no_label_is_skipped_under_a_quoted_key(
    name: str, key: str
) -> None:
    document = service()
    document["metadata"]["name"] = name
    found, value, troubles = decode_service(raw(document))
    assert (found, value) == (key, None)
    assert troubles == (
        Trouble(
            f"service {key}",
            f"metadata.name is {key.partition('/')[2]}: "
            "use at most 63 small letters, digits and '-'",
        ),
    )


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        "service",
        None,
        {"metadata": None},
        {"metadata": []},
        {"metadata": {"name": "web"}},
        {"metadata": {"name": "", "namespace": "default"}},
        {"metadata": {"name": 7, "namespace": "default"}},
    ],
)
def test_an_object_without_a_key_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"^(service|the object is) "):
        decode_service(raw(document))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"metadata":'])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the object is not JSON \("):
        decode_service(text)


def test_one_misshaped_part_costs_only_itself() -> None:
    document = service(sessionAffinityConfig="long", externalIPs={"a": 1})
    document["status"] = [1]
    document["metadata"]["labels"] = "none"
    value, told = decoded(document)
    assert value == WEB
    assert told == [
        "metadata.labels is 'none': make it an object",
        "spec.sessionAffinityConfig is 'long': make it an object",
        "status is a list: make it an object",
        "spec.externalIPs is an object: make it a list",
    ]


def test_text_that_is_not_utf8_costs_only_its_field() -> None:
    text = raw(service(ports=[{"name": "http", "port": 80}, {"name": "NAME", "port": 81}]))
    _, value, troubles = decode_service(text.replace(b"NAME", b"\xff"))
    assert value == WEB
    assert [one.text.split(":")[0] for one in troubles] == ["spec.ports[1].name is '\\ufffd'"]


def test_the_sentences_about_one_object_are_bounded() -> None:
    value, told = decoded(service(externalIPs=["bad"] * 500))
    assert value == WEB
    assert len(told) == MOST_FAULTS + 1
    assert told[-1] == "490 more of its fields are wrong: mend these too"


def test_a_service_that_asks_for_too_many_places_is_skipped() -> None:
    addresses = [f"198.51.{i // 250}.{i % 250 + 1}" for i in range(1000)]
    ports = [{"name": f"p{i}", "port": i + 1, "nodePort": 30000 + i} for i in range(10)]
    assert skipped(service(externalIPs=addresses, ports=ports)) == (
        "spec.ports and the addresses make 10020 places to answer at: use at most 10000"
    )
    assert whole(service(externalIPs=addresses[:998], ports=ports)).ports
