"""What must hold of every value that came out of an API object, whatever went in."""

import re
from ipaddress import IPv4Address, IPv4Network

from netd.services.values import PROTOCOLS, EndpointSlice, Service, Trouble

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_HARMLESS = re.compile("[A-Za-z0-9._/:-]*")


def assert_valid(value: Service | EndpointSlice | Trouble) -> None:
    """Fails unless *value* keeps the promises of netd.services.values."""
    if isinstance(value, Service):
        _assert_service(value)
    elif isinstance(value, EndpointSlice):
        _assert_slice(value)
    else:
        _assert_trouble(value)


def _assert_service(one: Service) -> None:
    _assert_key(one.key)
    assert type(one.created) is float
    assert one.created == one.created, "created is not a number"
    assert one.ports
    for port in one.ports:
        _assert_port(port.name, port.protocol, port.port)
        assert type(port.node_port) is int
        assert 0 <= port.node_port <= 65535
        # XT_MAX_COMMENT_LEN in linux/netfilter/xt_comment.h
        assert len(f"{one.key}:{port.name}") < 256
    assert len({(port.protocol, port.port) for port in one.ports}) == len(one.ports)
    assert len({port.name for port in one.ports}) == len(one.ports)
    node_ports = [(port.protocol, port.node_port) for port in one.ports if port.node_port]
    assert len(set(node_ports)) == len(node_ports)
    for addresses in (one.cluster_ips, one.external_ips, one.balancer_ips):
        assert addresses == tuple(sorted(set(addresses)))
        for address in addresses:
            _assert_address(address)
    assert node_ports or one.cluster_ips or one.external_ips or one.balancer_ips
    for network in one.source_ranges:
        _assert_harmless(network)
        assert str(IPv4Network(network)) == network
    assert type(one.affinity) is int
    assert 0 <= one.affinity <= 86400
    assert type(one.external_local) is bool
    assert type(one.internal_local) is bool
    assert type(one.health_port) is int
    assert 0 <= one.health_port <= 65535
    assert one.external_local or not one.health_port


def _assert_slice(one: EndpointSlice) -> None:
    _assert_key(one.service)
    assert len(one.endpoints) <= 1000
    for port in one.ports:
        _assert_port(port.name, port.protocol, port.port)
    assert len(set(one.ports)) == len(one.ports)
    for endpoint in one.endpoints:
        _assert_address(endpoint.address)
        _assert_harmless(endpoint.node)
        assert len(endpoint.node) <= 253
        for condition in (endpoint.ready, endpoint.serving, endpoint.terminating):
            assert type(condition) is bool
    assert len(set(one.endpoints)) == len(one.endpoints)


def _assert_trouble(one: Trouble) -> None:
    for text in (one.key, one.text):
        assert text.isascii()
        assert text.isprintable()
        assert text
    assert len(one.key) <= 400
    assert len(one.text) <= 300


def _assert_key(key: str) -> None:
    _assert_harmless(key)
    assert re.fullmatch(rf"{_LABEL}/{_LABEL}(\.{_LABEL})*", key)
    namespace, _, name = key.partition("/")
    assert len(namespace) <= 63
    assert len(name) <= 253


def _assert_port(name: str, protocol: str, port: int) -> None:
    _assert_harmless(name)
    assert re.fullmatch(f"({_LABEL})?", name)
    assert len(name) <= 63
    assert protocol in PROTOCOLS
    assert type(port) is int
    assert 1 <= port <= 65535


def _assert_address(address: str) -> None:
    _assert_harmless(address)
    read = IPv4Address(address)
    assert str(read) == address
    assert not (read.is_loopback or read.is_multicast or read.is_unspecified)


def _assert_harmless(text: str) -> None:
    assert type(text) is str
    assert _HARMLESS.fullmatch(text)
