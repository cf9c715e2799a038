"""Which certificates a cluster needs."""

import re
from ipaddress import IPv4Network, ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import UsageError
from lab.master import certificates
from lab.master.certificates import AUTHORITIES, AUTHORITY_NAMES, USED_BY, Wanted
from lab.master.plane import Master, Plane, Version

MASTERS = (Master("master1", "10.9.0.1"), Master("master2", "10.9.0.2"))


def plane(masters: tuple[Master, ...] = MASTERS, names: tuple[str, ...] = ()) -> Plane:
    """A control plane."""
    return Plane(
        masters,
        IPv4Network("10.0.0.0/24"),
        IPv4Network("10.1.0.0/16"),
        Version(1, 20),
        "hyperkube",
        "etcd",
        names=names,
    )


def by_name(wanted: tuple[Wanted, ...]) -> dict[str, Wanted]:
    """*wanted* by name; no name is there twice."""
    found = {one.name: one for one in wanted}
    assert len(found) == len(wanted)
    return found


def test_the_api_certificate_fits_every_way_to_reach_the_api() -> None:
    """Each master, the service kubernetes by address and name, this host, the operator's names."""
    names = ("api.example.org", "192.0.2.1")
    found = by_name(certificates.for_master(plane(names=names), MASTERS[1]))["apiserver"]
    assert found.server and not found.client
    assert set(found.addresses) == {"10.9.0.1", "10.9.0.2", "10.0.0.1", "127.0.0.1", "192.0.2.1"}
    assert set(found.names) == {
        "master1",
        "master2",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "api.example.org",
    }


def test_a_master_has_the_pairs_of_kubeadm() -> None:
    """By their file names, each signed by the authority that its reader trusts."""
    found = by_name(certificates.for_master(plane(), MASTERS[0]))
    assert {name: one.issuer for name, one in found.items()} == {
        "apiserver": "ca",
        "apiserver-kubelet-client": "ca",
        "front-proxy-client": "front-proxy-ca",
        "etcd/server": "etcd/ca",
        "etcd/peer": "etcd/ca",
        "etcd/healthcheck-client": "etcd/ca",
        "apiserver-etcd-client": "etcd/ca",
        "network/server": "ca",
    }
    assert found["apiserver-kubelet-client"].organizations == ("system:masters",)


@pytest.mark.parametrize("name", ["etcd/server", "etcd/peer", "network/server"])
def test_a_member_of_etcd_is_server_and_client(name: str) -> None:
    """Its JSON gateway is a client of its own server."""
    found = by_name(certificates.for_master(plane(), MASTERS[0]))[name]
    assert found.server and found.client
    assert found.addresses == ("10.9.0.1", "127.0.0.1")
    assert found.names == ("master1", "localhost")


def test_users_are_those_that_kubernetes_roles_name() -> None:
    """The bootstrap policy binds its roles to these."""
    found = by_name(certificates.for_users(plane()))
    assert {name: (one.common_name, one.organizations) for name, one in found.items()} == {
        "admin": ("kubernetes-admin", ("system:masters",)),
        "controller-manager": ("system:kube-controller-manager", ()),
        "scheduler": ("system:kube-scheduler", ()),
    }
    assert all(one.client and not one.server for one in found.values())


def test_a_node_is_known_to_the_node_authorizer() -> None:
    """By common name and group; what the API server connects to bears name and address."""
    found = by_name(certificates.for_node("node1", "10.9.0.9"))
    assert found["nodeagent"].common_name == "system:node:node1"
    assert found["nodeagent"].organizations == ("system:nodes",)
    assert found["kubelet"].server
    assert (found["kubelet"].addresses, found["kubelet"].names) == (("10.9.0.9",), ("node1",))
    assert found["netd"].common_name == "system:kube-proxy"


def test_nothing_that_a_worker_gets_opens_kubernetes_etcd() -> None:
    """It trusts its own authority alone."""
    assert {one.issuer for one in certificates.for_node("node1", "10.9.0.9")} == {"ca"}
    assert certificates.NODE_AUTHORITIES == ("ca",)


def test_every_daemon_is_told_for_a_certificate_that_exists() -> None:
    """The table of readers names nothing else."""
    every = {
        one.name
        for one in (
            *certificates.for_master(plane(), MASTERS[0]),
            *certificates.for_users(plane()),
            *certificates.for_node("node1", "10.9.0.9"),
        )
    }
    assert every - set(USED_BY) == {"etcd/healthcheck-client"}
    assert set(USED_BY) <= every
    assert set(AUTHORITY_NAMES) == set(AUTHORITIES)


LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
ADDRESSES = st.ip_addresses(v=4).map(str)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(LABELS, ADDRESSES), min_size=1, max_size=5),
    st.lists(LABELS | ADDRESSES | st.ip_addresses(v=6).map(str), max_size=5),
)
def test_each_name_stands_once_and_on_its_own_side(
    hosts: list[tuple[str, str]], names: list[str]
) -> None:
    """An address among the DNS names would never match."""
    masters = tuple(Master(name, address) for name, address in hosts)
    for one in certificates.for_master(plane(masters, tuple(names)), masters[0]):
        assert len(set(one.addresses)) == len(one.addresses)
        assert len(set(one.names)) == len(one.names)
        assert all(ip_address(text) for text in one.addresses)
        assert not any(re.fullmatch(r"[0-9.]+|.*:.*", text) for text in one.names)
    found = by_name(certificates.for_master(plane(masters, tuple(names)), masters[0]))["apiserver"]
    assert {*names, *(address for _, address in hosts)} <= {*found.addresses, *found.names}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "../ca"}, "letters, digits"),
        ({"name": "/etc/x"}, "letters, digits"),
        ({"issuer": "root"}, "choose one of ca"),
        ({"common_name": ""}, "1 to 64"),
        ({"common_name": "x" * 65}, "common name"),
        ({"organizations": ("a\nb",)}, "organization"),
        ({"addresses": ("10.0.0",)}, "10.0.0.1"),
        ({"names": ("a_b",)}, "'a_b'"),
        ({"names": ("x" * 64,)}, "DNS name"),
        ({"client": False}, "neither"),
        ({"server": True}, "needs an address or a name"),
    ],
)
def test_a_certificate_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    """With the field and what it should be."""
    good: dict[str, Any] = {"name": "x", "issuer": "ca", "common_name": "x", "client": True}
    with pytest.raises(UsageError, match=text):
        Wanted(**{**good, **fields})


@pytest.mark.parametrize(
    ("name", "address", "text"),
    [
        ("node_1", "10.0.0.1", "node: 'node_1'"),
        ("Node1", "10.0.0.1", "small letters"),
        ("*.node1", "10.0.0.1", r"no '\*'"),
        ("node1", "node1.example.org", "no IP address"),
        ("n" * 60, "10.0.0.1", "1 to 64"),
    ],
)
def test_a_node_that_cannot_be_named_is_refused(name: str, address: str, text: str) -> None:
    """A common name has room for 64 characters, 12 of them are Kubernetes'."""
    with pytest.raises(UsageError, match=text):
        certificates.for_node(name, address)
