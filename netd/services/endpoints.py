"""EndpointSlice and Endpoints objects of the API as values of which every part was checked.

A port or endpoint that is wrong is left out, and a sentence says which field and what to write
instead. Slices of IPv6 addresses and of host names are left out without a word.

Fields: k8s.io/api/discovery/v1 and v1beta1, EndpointSlice; k8s.io/api/core/v1, Endpoints.
"""

import sys
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from netd.services import fields
from netd.services.fields import Faults, Meta, Shape, shown
from netd.services.values import Endpoint, EndpointPort, EndpointSlice, Trouble

MOST_ENDPOINTS = 1_000
"""Most endpoints of one slice or subset (maxEndpoints in k8s.io/kubernetes/pkg/apis/discovery)."""

MOST_PORTS = 1_000
"""Most ports of one slice or subset; the API's documents speak of 100."""

One = TypeVar("One")


class _Labels(Shape):
    service: Any = msgspec.field(default=None, name="kubernetes.io/service-name")


class _Meta(Meta):
    labels: _Labels | None = None


class _Port(Shape):
    name: Any = None
    protocol: Any = None
    port: Any = None


class _Conditions(Shape):
    ready: Any = None
    serving: Any = None
    terminating: Any = None


class _Topology(Shape):
    hostname: Any = msgspec.field(default=None, name="kubernetes.io/hostname")


class _Endpoint(Shape):
    addresses: Any = None
    conditions: _Conditions | None = None
    node_name: Any = None
    topology: _Topology | None = None
    """Where v1beta1 servers name the node."""


class _Slice(Shape):
    metadata: _Meta | None = None
    address_type: Any = None
    endpoints: list[_Endpoint | None] | None = None
    ports: list[_Port | None] | None = None


class _Address(Shape):
    ip: Any = None
    node_name: Any = None


class _Subset(Shape):
    addresses: list[_Address | None] | None = None
    not_ready_addresses: list[_Address | None] | None = None
    ports: list[_Port | None] | None = None


class _Endpoints(Shape):
    metadata: Meta | None = None
    subsets: list[_Subset | None] | None = None


_SLICE = msgspec.json.Decoder(_Slice)
_ENDPOINTS = msgspec.json.Decoder(_Endpoints)


def decode_slice(
    raw: bytes | msgspec.Raw,
) -> tuple[str, EndpointSlice | None, tuple[Trouble, ...]]:
    """The key ``namespace/name`` of an EndpointSlice, its value, and what was wrong with it.

    The value is None for other families than IPv4, for a slice of no service, and for one that
    had to be skipped. Raises ValueError when it has no key.
    """
    faults = Faults()
    found = fields.read(_SLICE, raw, faults)
    key, named = fields.object_key(found.metadata, "endpointslice", faults)
    service = _service_of(key, found.metadata, faults) if named else None
    made = None
    if service is not None and _is_ipv4(found.address_type, faults):
        ports = _ports(found.ports, "ports", faults)
        listed = _bounded(found.endpoints or (), "endpoints", MOST_ENDPOINTS, faults)
        endpoints = (
            _endpoint(one, f"endpoints[{index}]", faults) for index, one in enumerate(listed)
        )
        made = EndpointSlice(service, ports, _sorted(endpoints))
    return key, made, faults.troubles(f"endpointslice {key}")


def decode_endpoints(
    raw: bytes | msgspec.Raw,
) -> tuple[str, tuple[EndpointSlice, ...], tuple[Trouble, ...]]:
    """The key ``namespace/name`` of an Endpoints object, a slice for each of its subsets, and
    what was wrong with it.

    Raises ValueError when it has no key.
    """
    faults = Faults()
    found = fields.read(_ENDPOINTS, raw, faults)
    key, named = fields.object_key(found.metadata, "endpoints", faults)
    subsets = found.subsets or () if named else ()
    made = []
    for index, one in enumerate(subsets):
        if one is None:
            faults.add(f"subsets[{index}] is no object: give it addresses and ports")
        else:
            made.append(_subset(key, one, f"subsets[{index}]", faults))
    return key, tuple(made), faults.troubles(f"endpoints {key}")


def _service_of(key: str, meta: _Meta | None, faults: Faults) -> str | None:
    """The service whose endpoints these are; None when they are nobody's."""
    name = meta.labels.service if meta and meta.labels else None
    if name is None:
        return None
    if type(name) is not str or not fields.is_label_text(name):
        faults.add(f"label kubernetes.io/service-name is {shown(name)}: name a Service")
        return None
    return sys.intern(f"{key.partition('/')[0]}/{name}")


def _is_ipv4(kind: object, faults: Faults) -> bool:
    if kind not in ("IPv4", "IPv6", "FQDN"):
        faults.add(f"addressType is {shown(kind)}: use IPv4")
    return kind == "IPv4"


def _subset(service: str, subset: _Subset, where: str, faults: Faults) -> EndpointSlice:
    ports = _ports(subset.ports, f"{where}.ports", faults)
    # Those that are ready come first, so they are the last to be cut.
    listed = [
        (one, f"{where}.{field}[{index}]", ready)
        for field, addresses, ready in (
            ("addresses", subset.addresses, True),
            ("notReadyAddresses", subset.not_ready_addresses, False),
        )
        for index, one in enumerate(addresses or ())
    ]
    endpoints = (
        _address(one, place, ready, faults)
        for one, place, ready in _bounded(listed, f"{where}.addresses", MOST_ENDPOINTS, faults)
    )
    return EndpointSlice(service, ports, _sorted(endpoints))


def _address(one: _Address | None, where: str, ready: bool, faults: Faults) -> Endpoint | None:
    if one is None:
        faults.add(f"{where} is no object: give it an ip")
        return None
    if fields.is_ipv6(one.ip):
        return None
    address = fields.ipv4(one.ip, f"{where}.ip", faults)
    if address is None:
        return None
    return Endpoint(address, _node(one.node_name, f"{where}.nodeName", faults), ready, ready)


def _endpoint(one: _Endpoint | None, where: str, faults: Faults) -> Endpoint | None:
    addresses = fields.items(one.addresses, f"{where}.addresses", faults) if one else []
    if one is None or not addresses:
        faults.add(f"{where} has no addresses: give it one")
        return None
    # An endpoint's addresses are interchangeable and clients may use the first alone
    # (kubernetes/kubernetes#106267); every kube-proxy does.
    address = fields.ipv4(addresses[0], f"{where}.addresses[0]", faults)
    if address is None:
        return None
    node = one.node_name
    if node in (None, "") and one.topology is not None:
        node = one.topology.hostname
    told = one.conditions or _Conditions()
    ready = _condition(told.ready, True, f"{where}.conditions.ready", faults)
    return Endpoint(
        address,
        _node(node, f"{where}.nodeName", faults),
        ready,
        _condition(told.serving, ready, f"{where}.conditions.serving", faults),
        _condition(told.terminating, False, f"{where}.conditions.terminating", faults),
    )


def _condition(value: object, absent: bool, where: str, faults: Faults) -> bool:
    if value is None:
        return absent
    if isinstance(value, bool):
        return value
    faults.add(f"{where} is {shown(value)}: use true or false")
    return False


def _node(value: object, where: str, faults: Faults) -> str:
    """A node's name; empty when absent or when no node can have it."""
    if value is None or value == "":
        return ""
    if type(value) is str and fields.is_subdomain(value):
        return sys.intern(value)
    faults.add(f"{where} is {shown(value)}, so it counts as no node's: use the name of a Node")
    return ""


def _ports(
    found: Sequence[_Port | None] | None, where: str, faults: Faults
) -> tuple[EndpointPort, ...]:
    made: set[EndpointPort] = set()
    for index, one in enumerate(_bounded(found or (), where, MOST_PORTS, faults)):
        place = f"{where}[{index}]"
        if one is None:
            faults.add(f"{place} is no object: give it a port")
            continue
        if one.port is None:
            faults.add(f"{place}.port is missing, which stands for all ports: name one")
            continue
        name = fields.port_name(one.name, f"{place}.name", faults)
        protocol = fields.protocol(one.protocol, f"{place}.protocol", faults)
        number = fields.port_number(one.port, f"{place}.port", faults)
        if name is not None and protocol is not None and number:
            made.add(EndpointPort(name, protocol, number))
    return tuple(sorted(made, key=attrgetter("name", "protocol", "port")))


def _bounded(found: Sequence[One], where: str, most: int, faults: Faults) -> Sequence[One]:
    if len(found) <= most:
        return found
    faults.add(f"{where} has {len(found)} elements, of which {most} are used: share them out")
    return found[:most]


def _sorted(found: Iterable[Endpoint | None]) -> tuple[Endpoint, ...]:
    """Without gaps and duplicates, in an order that only depends on what is there."""
    made = {one for one in found if one is not None}
    return tuple(sorted(made, key=attrgetter("address", "node", "ready", "serving", "terminating")))
