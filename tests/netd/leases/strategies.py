"""Lease records at will: good ones, and every kind of garbage among them.

The overlay is 10.1.0.0/16 with /24 a host, VNI 1; this host is 198.18.0.1 and holds 10.1.1.0/24.
"""

import json
from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st

from netd.leases.model import parse_network_config, subnet_key
from netd.leases.peers import Judge, Record

PREFIX = "/coreos.com/network/subnets/"
CONFIG = parse_network_config('{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}')
OWN_IP = IPv4Address("198.18.0.1")
OWN = IPv4Network("10.1.1.0/24")
JUDGE = Judge(CONFIG, OWN_IP, OWN)


def mac(number: int) -> str:
    """The VTEP MAC of host *number*."""
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def value(number: int, **changes: object) -> bytes:
    """The value of host *number*'s record, but for *changes*."""
    document = {
        "PublicIP": f"198.18.{number >> 8}.{number & 255}",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": mac(number)},
    }
    return json.dumps(document | changes, separators=(",", ":")).encode()


def record(subnet: str, number: int, *, lease: int = -1, rev: int = 5, **changes: object) -> Record:
    """Host *number*'s record for *subnet*, created and changed at revision *rev*."""
    key = PREFIX + subnet_key(IPv4Network(subnet))
    return Record(key, value(number, **changes), number if lease < 0 else lease, rev, rev)


@st.composite
def good_records(draw: st.DrawFn) -> Record:
    """A record that is a peer: within 10.1.10.0 to 10.1.30.0, of a host other than this."""
    third = draw(st.integers(10, 30))
    number = draw(st.integers(2, 400))
    changed = draw(st.integers(1, 1000))
    return record(f"10.1.{third}.0/24", number, rev=changed)


GARBAGE_VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"null",
            b"[]",
            b'{"PublicIP":',
            value(9, PublicIP="not an address"),
            value(9, PublicIP="0.0.0.0"),
            value(9, PublicIPv6="fd00::1"),
            value(9, BackendData=None),
            value(9, BackendData={"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}),
            value(9, BackendData={"VNI": 1 << 30, "VtepMAC": mac(9)}),
        ]
    ),
)

FOREIGN_VALUES = st.sampled_from(
    [
        value(9, BackendType="wireguard", BackendData={"PublicKey": "k"}),
        value(9, BackendType="host-gw"),
        value(9, BackendData={"VNI": 2, "VtepMAC": mac(9)}),
        value(1, BackendData={"VNI": 1, "VtepMAC": mac(9)}),
    ]
)


@st.composite
def garbage(draw: st.DrawFn) -> Record:
    """A record that is no peer and lies beside the good ones, whatever is wrong with it."""
    inside = st.integers(40, 50).map(lambda third: f"10.1.{third}.0-24")
    dual = st.integers(10, 50).map(lambda third: f"10.1.{third}.0-24&fd00:10:0:b::-64")
    outside = st.sampled_from(["10.9.9.0-24", "192.0.2.0-24", "10.0.0.0-8", "0.0.0.0-0"])
    broken = st.sampled_from(["", "config", "10.1.20.1-24", "10.1.20.0", "10.1.20.0-99", "x-24"])
    own = st.just("10.1.1.128-25")
    kind = draw(st.integers(0, 4))
    name, content = (
        (draw(inside), draw(st.one_of(GARBAGE_VALUES, FOREIGN_VALUES))),
        (draw(dual), draw(st.one_of(GARBAGE_VALUES, st.just(value(9))))),
        (draw(outside), value(9)),
        (draw(broken), value(9)),
        (draw(own), value(9)),
    )[kind]
    return Record(PREFIX + name, content, draw(st.integers(0, 9)), 1, draw(st.integers(1, 1000)))
