"""flannel's network configuration and lease records, to the letter."""

import json
from ipaddress import IPv4Address, IPv4Network

import pytest

from netd.leases.model import (
    UNSUPPORTED_BACKENDS,
    Backend,
    FieldError,
    Lease,
    NetworkConfig,
    describe,
    key_name,
    parse_key,
    parse_lease,
    parse_network_config,
    render_lease,
    subnet_key,
)
from netd.overlay.model import HostGwOptions, VxlanOptions


def config(**fields: object) -> NetworkConfig:
    """A vxlan configuration of 10.1.0.0/16, but for *fields*."""
    document = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}, **fields}
    return parse_network_config(json.dumps(document))


def refusal(raw: bytes | str) -> FieldError:
    """Why *raw* is refused."""
    with pytest.raises(FieldError) as caught:
        parse_network_config(raw)
    return caught.value


@pytest.mark.parametrize(
    ("network", "length", "low", "high"),
    [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.1.0.0/16", 24, "10.1.1.0", "10.1.255.0"),
        ("10.1.0.0/21", 24, "10.1.1.0", "10.1.7.0"),
        ("10.1.0.0/22", 24, "10.1.1.0", "10.1.3.0"),
        ("10.1.0.0/23", 25, "10.1.0.128", "10.1.1.128"),
        ("10.1.0.0/24", 26, "10.1.0.64", "10.1.0.192"),
        ("10.1.0.0/27", 29, "10.1.0.8", "10.1.0.24"),
        ("10.1.0.0/28", 30, "10.1.0.4", "10.1.0.12"),
    ],
)
def test_the_defaults_of_length_min_and_max_follow_from_the_network(
    network: str, length: int, low: str, high: str
) -> None:
    found = config(Network=network)
    assert (found.subnet_len, found.subnet_min, found.subnet_max) == (
        length, IPv4Address(low), IPv4Address(high),
    )  # fmt: skip
    assert found.notes == ()


@pytest.mark.parametrize(
    ("fields", "length", "low", "high", "capacity"),
    [
        ({"SubnetLen": 0}, 24, "10.1.1.0", "10.1.255.0", 255),
        ({"SubnetLen": 18}, 18, "10.1.64.0", "10.1.192.0", 3),
        ({"SubnetLen": 30}, 30, "10.1.0.4", "10.1.255.252", 16383),
        ({"SubnetMin": "10.1.0.0"}, 24, "10.1.0.0", "10.1.255.0", 256),
        ({"SubnetMin": "", "SubnetMax": ""}, 24, "10.1.1.0", "10.1.255.0", 255),
        ({"SubnetMin": "10.1.10.0", "SubnetMax": "10.1.20.0"}, 24, "10.1.10.0", "10.1.20.0", 11),
        ({"SubnetMin": "10.1.9.0", "SubnetMax": "10.1.9.0"}, 24, "10.1.9.0", "10.1.9.0", 1),
    ],
)
def test_length_min_and_max_are_taken_as_given_and_counted(
    fields: dict[str, object], length: int, low: str, high: str, capacity: int
) -> None:
    found = config(**fields)
    assert (found.subnet_len, found.capacity) == (length, capacity)
    assert found.subnet_at(0) == IPv4Network(f"{low}/{length}")
    assert found.subnet_at(capacity - 1) == IPv4Network(f"{high}/{length}")


@pytest.mark.parametrize(
    ("fields", "field", "value", "rule"),
    [
        ({"SubnetLen": 31}, "SubnetLen", "31", "30 or less"),
        ({"SubnetLen": 17}, "SubnetLen", "17", "must be 18 or more"),
        ({"SubnetLen": -1}, "SubnetLen", "-1", "whole number"),
        ({"SubnetLen": "24"}, "SubnetLen", "'24'", "whole number"),
        ({"SubnetLen": 24.5}, "SubnetLen", "24.5", "whole number"),
        ({"SubnetLen": True}, "SubnetLen", "True", "whole number"),
        ({"SubnetMin": "10.2.0.0"}, "SubnetMin", "10.2.0.0", "lie in Network 10.1.0.0/16"),
        ({"SubnetMax": "10.0.255.0"}, "SubnetMax", "10.0.255.0", "lie in Network"),
        ({"SubnetMin": "10.1.10.1"}, "SubnetMin", "10.1.10.1", "first address of a /24"),
        ({"SubnetMax": "10.1.10.128"}, "SubnetMax", "10.1.10.128", "first address of a /24"),
        ({"SubnetMin": 7}, "SubnetMin", "7", "IPv4 address"),
        ({"SubnetMin": "ten"}, "SubnetMin", "'ten'", "IPv4 address"),
        ({"SubnetMin": "10.1.9.0", "SubnetMax": "10.1.8.0"}, "SubnetMin", "10.1.9.0",
         "above SubnetMax 10.1.8.0"),
        ({"EnableIPv4": False}, "EnableIPv4", "False", "IPv4 only"),
        ({"EnableIPv6": True}, "EnableIPv6", "True", "IPv4 only"),
        ({"EnableIPv4": "yes"}, "EnableIPv4", "'yes'", "true or false"),
        ({"Network": None}, "Network", "None", "IPv4 network such as"),
        ({"Network": ""}, "Network", "''", "IPv4 network such as"),
        ({"Network": "10.1.0.0"}, "Network", "'10.1.0.0'", "IPv4 network such as"),
        ({"Network": "10.1.0/16"}, "Network", "'10.1.0/16'", "IPv4 network such as"),
        ({"Network": "fd00::/64"}, "Network", "'fd00::/64'", "IPv4 network such as"),
        ({"Network": ["10.1.0.0/16"]}, "Network", "['10.1.0.0/16']", "IPv4 network such as"),
        ({"Network": "0.0.0.0/0"}, "Network", "0.0.0.0/0", "unicast network of /2 to /28"),
        ({"Network": "224.0.0.0/8"}, "Network", "224.0.0.0/8", "unicast"),
        ({"Network": "127.0.0.0/16"}, "Network", "127.0.0.0/16", "unicast"),
        ({"Network": "10.1.0.0/29"}, "Network", "10.1.0.0/29", "too small: a /28"),
        ({"Network": "10.1.0.0/29", "SubnetLen": 30}, "SubnetLen", "30", "must be 31 or more"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_refused_with_field_value_and_rule(
    fields: dict[str, object], field: str, value: str, rule: str
) -> None:
    with pytest.raises(FieldError) as caught:
        config(**fields)
    assert caught.value.where == field
    assert value in str(caught.value)
    assert rule in str(caught.value)


def test_a_field_that_is_null_or_unknown_is_as_if_it_were_not_there() -> None:
    found = config(SubnetLen=None, SubnetMin=None, EnableIPv4=None, EnableIPv6=False, Spare=[1])
    assert found == config()


def test_ipv6_fields_are_of_no_account_while_ipv6_is_off() -> None:
    assert config(IPv6Network="fd00::/48", IPv6SubnetLen=64, EnableIPv4=True) == config()


def test_host_bits_in_the_network_are_dropped_with_a_note() -> None:
    found = config(Network="10.1.2.3/16")
    assert found.network == IPv4Network("10.1.0.0/16")
    assert found.subnet_min == IPv4Address("10.1.1.0")
    assert "10.1.2.3/16" in found.notes[0]


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_keys_are_taken_in_any_case_as_go_takes_them(change: "type[str]") -> None:
    document = {
        change("Network"): "10.1.0.0/16", change("SubnetLen"): 25,
        change("SubnetMin"): "10.1.2.0", change("SubnetMax"): "10.1.3.0",
        change("Backend"): {
            change("Type"): "VXLAN", change("VNI"): 7, change("Port"): 4789,
            change("MTU"): 1400, change("GBP"): True, change("Learning"): True,
            change("DirectRouting"): True,
        },
    }  # fmt: skip
    found = parse_network_config(json.dumps(document).encode())
    assert found == NetworkConfig(
        IPv4Network("10.1.0.0/16"), 25, IPv4Address("10.1.2.0"), IPv4Address("10.1.3.0"),
        VxlanOptions(7, 4789, 1350, True, True, True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ({"Type": "vxlan"}, VxlanOptions(1, 8472, 0, False, False, False)),
        ({"Type": "vxlan", "Port": 0, "VNI": None}, VxlanOptions()),
        ({"Type": "vxlan", "VNI": 9_999_999, "Port": 65535}, VxlanOptions(9_999_999, 65535)),
        ({"Type": "vxlan", "MTU": 576}, VxlanOptions(mtu=526)),
        ({"Type": "host-gw"}, HostGwOptions()),
        ({"Type": "Host-GW", "MTU": 9000}, HostGwOptions(9000)),
        ({"Type": "host-gw", "VNI": "of no account"}, HostGwOptions()),
    ],
)
def test_backends_are_read_with_flannel_s_defaults(
    backend: object, expected: VxlanOptions | HostGwOptions
) -> None:
    assert config(Backend=backend).backend == expected


@pytest.mark.parametrize(
    ("backend", "field", "rule"),
    [
        ({"Type": "vxlan", "VNI": 0}, "Backend.VNI", "from 1 to 9999999"),
        ({"Type": "vxlan", "VNI": 10_000_000}, "Backend.VNI", "from 1 to 9999999"),
        ({"Type": "vxlan", "Port": 65536}, "Backend.Port", "from 0 to 65535"),
        ({"Type": "vxlan", "Port": "8472"}, "Backend.Port", "whole number"),
        ({"Type": "vxlan", "MTU": 575}, "Backend.MTU", "576"),
        ({"Type": "host-gw", "MTU": -1}, "Backend.MTU", "whole number"),
        ({"Type": "vxlan", "GBP": 1}, "Backend.GBP", "true or false"),
        ({"Type": "vxlan", "Learning": "no"}, "Backend.Learning", "true or false"),
        ({"Type": "vxlan", "DirectRouting": "no"}, "Backend.DirectRouting", "true or false"),
        ({"Type": "geneve"}, "Backend.Type", "use vxlan or host-gw"),
        ({"Type": 7}, "Backend.Type", '"vxlan" or "host-gw"'),
        ({}, "Backend.Type", '"vxlan" or "host-gw"'),
        ("vxlan", "Backend", "an object"),
    ],
)
def test_a_bad_backend_is_refused_with_its_field(backend: object, field: str, rule: str) -> None:
    with pytest.raises(FieldError) as caught:
        config(Backend=backend)
    assert caught.value.where == field
    assert rule in str(caught.value)


@pytest.mark.parametrize("kind", [*UNSUPPORTED_BACKENDS, "WireGuard"])
def test_what_flannel_has_and_netd_has_not_is_named_with_what_to_use(kind: str) -> None:
    with pytest.raises(FieldError) as caught:
        config(Backend={"Type": kind})
    text = str(caught.value)
    assert kind.lower() in text
    assert "not supported" in text
    assert "use vxlan, or host-gw" in text


@pytest.mark.parametrize("raw", ['{"Network":"10.1.0.0/16"}', '{"Network":"10.1.0.0/16",'
                                 '"Backend":null}'])  # fmt: skip
def test_a_missing_backend_means_vxlan_and_is_noted(raw: str) -> None:
    found = parse_network_config(raw)
    assert found.backend == VxlanOptions()
    assert "vxlan is taken" in found.notes[0]


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("", "must be JSON"),
        ("{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('"10.1.0.0/16"', "must be a JSON object"),
        ("{}", "Network is None"),
    ],
)
def test_what_is_no_configuration_is_refused(raw: bytes | str, rule: str) -> None:
    assert rule in str(refusal(raw))


def test_a_refusal_does_not_repeat_pages_of_bad_input() -> None:
    assert len(str(refusal("x" * 100_000))) < 400


@pytest.mark.parametrize(
    ("subnet", "admitted"),
    [
        ("10.1.2.0/24", True), ("10.1.8.0/24", True), ("10.1.9.0/24", False),
        ("10.1.1.0/24", False), ("10.1.2.0/25", False), ("10.2.2.0/24", False),
    ],
)  # fmt: skip
def test_a_configuration_admits_what_lies_between_min_and_max_at_its_length(
    subnet: str, admitted: bool
) -> None:
    found = config(SubnetMin="10.1.2.0", SubnetMax="10.1.8.0")
    assert found.admits(IPv4Network(subnet)) is admitted


# --- keys and records ---

MAC = "a2:d8:8f:2a:15:9d"
KEY = "/coreos.com/network/subnets/10.1.33.0-24"


def test_the_value_of_a_vxlan_lease_is_flannel_s_byte_for_byte() -> None:
    assert render_lease(IPv4Address("198.18.77.1"), VxlanOptions(), MAC) == (
        b'{"PublicIP":"198.18.77.1","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"a2:d8:8f:2a:15:9d"}}'
    )


def test_the_value_of_a_host_gw_lease_has_no_backend_data() -> None:
    assert render_lease(IPv4Address("198.18.77.1"), HostGwOptions(), MAC) == (
        b'{"PublicIP":"198.18.77.1","PublicIPv6":null,"BackendType":"host-gw"}'
    )


@pytest.mark.parametrize("backend", [VxlanOptions(vni=77), HostGwOptions()])
def test_what_is_written_is_read_back(backend: VxlanOptions | HostGwOptions) -> None:
    value = render_lease(IPv4Address("198.18.77.1"), backend, MAC)
    lease = parse_lease(KEY, value, lease_id=9, mod_revision=8, create_revision=7)
    vxlan = isinstance(backend, VxlanOptions)
    assert lease == Lease(
        KEY, IPv4Network("10.1.33.0/24"), IPv4Address("198.18.77.1"),
        "vxlan" if vxlan else "host-gw", 77 if vxlan else 0, MAC if vxlan else "", 9, 8, 7,
    )  # fmt: skip
    assert not lease.is_reservation
    assert parse_lease(KEY, value).is_reservation


@pytest.mark.parametrize(
    ("value", "kind", "vni", "mac"),
    [
        ('{"PublicIP":"10.0.0.5"}', "", 0, ""),
        ('{"PublicIP":"10.0.0.5","BackendType":"vxlan","BackendData":{"VtepMAC":"'
         'A2:D8:8F:2A:15:9D"}}', "vxlan", 0, MAC),
        ('{"PublicIP":"10.0.0.5","BackendType":"wireguard","BackendData":{"PublicKey":"k"}}',
         "wireguard", 0, ""),
        ('{"PublicIP":"10.0.0.5","BackendType":"host-gw","BackendData":null,'
         '"BackendV6Data":null,"PublicIPv6":null,"New":1}', "host-gw", 0, ""),
    ],
)  # fmt: skip
def test_records_of_other_versions_and_backends_are_understood(
    value: str, kind: str, vni: int, mac: str
) -> None:
    lease = parse_lease(KEY, value.encode())
    assert (lease.backend_type, lease.vni, lease.vtep_mac) == (kind, vni, mac)


VXLAN = '{"PublicIP":"10.0.0.5","BackendType":"vxlan","BackendData":%s}'


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"", "value"), (b"garbage", "value"), (b"\xff\x00", "value"), (b"[]", "value"),
        (b"null", "value"), (b"{}", "value"), (b'{"PublicIP":7}', "value"),
        (b'{"PublicIP":""}', "PublicIP"), (b'{"PublicIP":"host"}', "PublicIP"),
        (b'{"PublicIP":"fd00::1"}', "PublicIP"), (b'{"PublicIP":"0.0.0.0"}', "PublicIP"),
        (b'{"PublicIP":"127.0.0.1"}', "PublicIP"), (b'{"PublicIP":"224.0.0.1"}', "PublicIP"),
        (b'{"PublicIP":"255.255.255.255"}', "PublicIP"),
        (b'{"PublicIP":"10.0.0.5","PublicIPv6":"fd00::1"}', "PublicIPv6"),
        ((VXLAN % "null").encode(), "BackendData.VtepMAC"),
        ((VXLAN % '{"VNI":1}').encode(), "BackendData.VtepMAC"),
        ((VXLAN % '{"VNI":1,"VtepMAC":"a2:d8:8f:2a:15"}').encode(), "BackendData.VtepMAC"),
        ((VXLAN % '{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}').encode(), "BackendData.VtepMAC"),
        ((VXLAN % '{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}').encode(), "BackendData.VtepMAC"),
        ((VXLAN % '{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}').encode(), "BackendData.VtepMAC"),
        ((VXLAN % f'{{"VNI":-1,"VtepMAC":"{MAC}"}}').encode(), "BackendData.VNI"),
        ((VXLAN % f'{{"VNI":16777216,"VtepMAC":"{MAC}"}}').encode(), "BackendData.VNI"),
        ((VXLAN % f'{{"VNI":"1","VtepMAC":"{MAC}"}}').encode(), "BackendData"),
    ],
)  # fmt: skip
def test_a_malformed_value_is_refused_with_its_field(value: bytes, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_lease(KEY, value)
    assert caught.value.where == field
    assert str(caught.value).startswith(f"{field} is ")


@pytest.mark.parametrize(
    ("name", "subnet", "dual"),
    [
        ("10.1.33.0-24", "10.1.33.0/24", False),
        ("10.1.33.4-30", "10.1.33.4/30", False),
        ("10.1.57.0-24&fd00:10:0:b::-64", "10.1.57.0/24", True),
    ],
)
def test_keys_name_their_subnet(name: str, subnet: str, dual: bool) -> None:
    assert parse_key(name) == (IPv4Network(subnet), dual)


@pytest.mark.parametrize(
    "name",
    ["", "x", "10.1.33.0", "10.1.33.0/24", "10.1.33.1-24", "10.1.33.0-33", "10.1.300.0-24",
     "10.1.33.0-24-1", "10.1.33.0-24&", "10.1.33.0-", "10.1.33-24", " 10.1.33.0-24",
     "10.1.33.0-24\n", "10.1.033.0-24", "fd00::-64"],
)  # fmt: skip
def test_what_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_key(name)
    assert caught.value.where == "key"


def test_a_dual_stack_key_is_refused_as_such() -> None:
    with pytest.raises(FieldError, match="dual-stack"):
        parse_lease("/p/subnets/10.1.57.0-24&fd00:10:0:b::-64", b'{"PublicIP":"10.0.0.5"}')


def test_keys_are_made_as_flannel_makes_them() -> None:
    assert subnet_key(IPv4Network("10.1.33.0/24")) == "10.1.33.0-24"
    assert key_name(KEY) == "10.1.33.0-24"


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (HostGwOptions(), "host-gw"),
        (VxlanOptions(), "vxlan VNI 1 port 8472"),
        (
            VxlanOptions(vni=7, port=4789, direct_routing=True),
            "vxlan VNI 7 port 4789, DirectRouting",
        ),
        (
            VxlanOptions(gbp=True, learning=True, direct_routing=True),
            "vxlan VNI 1 port 8472, DirectRouting, GBP, Learning",
        ),
    ],
)
def test_a_backend_is_described_with_the_options_that_are_on(backend: Backend, words: str) -> None:
    assert describe(backend) == words
