"""Made-up services, their objects as a Kubernetes API server writes them, and their changes.

The set of a smaller number is part of that of a larger one. Service 0 is the one to which
connections are really opened: its endpoints listen.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address
from typing import NamedTuple

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"

SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.192.0.0/10"
LISTENERS = ("172.29.0.201", "172.29.0.202")
"""The endpoints of service 0."""

TARGET_PORT = 8000
MOST = 20_000
FIRST_VERSION = 1_000_000
"""The resourceVersion of the first list."""

_SEED = 20_240
_VIPS = IPv4Address("10.96.0.0")
_PODS = IPv4Address("10.200.0.0")
_FRESH = IPv4Address("10.220.0.0")
_UDP_EACH, _NODE_PORT_EACH = 20, 100
_NODES = 20
_CREATED = "2026-03-02T09:14:07Z"


@dataclass(frozen=True, slots=True)
class Made:
    """One service with one port; *node_port* is 0 for none, *endpoints* are addresses."""

    number: int
    vip: str
    protocol: str
    port: int
    node_port: int
    endpoints: tuple[str, ...]

    @property
    def namespace(self) -> str:
        """The namespace of its objects."""
        return f"team-{self.number % 25:02}"

    @property
    def name(self) -> str:
        """The name of its objects."""
        return f"shop-{self.number:05}"


class Rule(NamedTuple):
    """That packets to *vip* (empty for a node port), *protocol* and *port* reach *endpoint*."""

    vip: str
    protocol: str
    port: int
    endpoint: str


@cache
def _vips() -> list[str]:
    picked = random.Random(_SEED).sample(range(1, 0xFFFF), MOST)
    return [str(_VIPS + offset) for offset in picked]


def services(count: int) -> list[Made]:
    """*count* services (1 to MOST) with two endpoints each; every 20th is UDP, every 100th has a
    node port."""
    made = []
    for number, vip in enumerate(_vips()[:count]):
        pods = tuple(str(_PODS + 2 * number + offset) for offset in (1, 2))
        made.append(
            Made(
                number,
                vip,
                "udp" if number % _UDP_EACH == _UDP_EACH - 1 else "tcp",
                53 if number % _UDP_EACH == _UDP_EACH - 1 else 80,
                30_000 + number // _NODE_PORT_EACH if number % _NODE_PORT_EACH == 50 else 0,
                pods if number else LISTENERS,
            )
        )
    return made


def rules_of(made: Made, endpoints: Sequence[str]) -> Iterator[Rule]:
    """What the kernel has to hold for a service."""
    for endpoint in endpoints:
        to = f"{endpoint}:{TARGET_PORT}"
        yield Rule(made.vip, made.protocol, made.port, to)
        if made.node_port:
            yield Rule("", made.protocol, made.node_port, to)


def service_object(made: Made) -> dict[str, object]:
    """The v1 Service."""
    port: dict[str, object] = {
        "name": "main",
        "protocol": made.protocol.upper(),
        "port": made.port,
        "targetPort": TARGET_PORT,
    }
    if made.node_port:
        port["nodePort"] = made.node_port
    applied = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [port]}}
    return {
        "metadata": {
            **_metadata(made, made.name, FIRST_VERSION - MOST + made.number),
            "labels": {**_labels(made), "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied),
                "example.com/contact": f"{made.namespace}@example.com",
            },
            "managedFields": [
                _managed("kubectl-client-side-apply", "v1", ("f:metadata", "f:annotations")),
                _managed("helm", "v1", ("f:spec", "f:ports", "f:selector", "f:type")),
            ],
        },
        "spec": {
            "ports": [port],
            "selector": _labels(made),
            "clusterIP": made.vip,
            "clusterIPs": [made.vip],
            "type": "NodePort" if made.node_port else "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            **({"externalTrafficPolicy": "Cluster"} if made.node_port else {}),
        },
        "status": {"loadBalancer": {}},
    }


def slice_object(made: Made, endpoints: Sequence[str], version: int) -> dict[str, object]:
    """The discovery.k8s.io/v1 EndpointSlice that lists *endpoints*."""
    return {
        "metadata": {
            **_metadata(made, f"{made.name}-x7k2p", version),
            "generateName": f"{made.name}-",
            "generation": 3,
            "labels": {
                **_labels(made),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": made.name,
            },
            "annotations": {
                "endpoints.kubernetes.io/last-change-trigger-time": _CREATED,
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": made.name,
                    "uid": _uid(made.number),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                _managed(
                    "kube-controller-manager",
                    "discovery.k8s.io/v1",
                    ("f:addressType", "f:endpoints", "f:metadata", "f:labels", "f:ports"),
                )
            ],
        },
        "addressType": "IPv4",
        "endpoints": [_endpoint(made, address) for address in endpoints],
        "ports": [{"name": "main", "protocol": made.protocol.upper(), "port": TARGET_PORT}],
    }


def _endpoint(made: Made, address: str) -> dict[str, object]:
    number = int(IPv4Address(address))
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {
            "kind": "Pod",
            "namespace": made.namespace,
            "name": f"{made.name}-6d4cf56db6-{number % 100_000:05}",
            "uid": _uid(number),
        },
        "nodeName": f"node-{number % _NODES:02}",
        "zone": f"zone-{number % 3}",
    }


def _metadata(made: Made, name: str, version: int) -> dict[str, object]:
    return {
        "name": name,
        "namespace": made.namespace,
        "uid": _uid(made.number),
        "resourceVersion": str(version),
        "creationTimestamp": _CREATED,
    }


def _labels(made: Made) -> dict[str, str]:
    return {"app.kubernetes.io/name": made.name, "app.kubernetes.io/part-of": made.namespace}


def _uid(number: int) -> str:
    return f"5d1f0a3e-7c42-4b8e-9a61-{number:012x}"


def _managed(manager: str, version: str, fields: Sequence[str]) -> dict[str, object]:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": version,
        "time": _CREATED,
        "fieldsType": "FieldsV1",
        "fieldsV1": {field: {".": {}, "f:app.kubernetes.io/name": {}} for field in fields},
    }


def list_document(kind: str, group_version: str, items: Sequence[Mapping[str, object]]) -> bytes:
    """The answer to a list at FIRST_VERSION."""
    return _json(
        {
            "kind": f"{kind}List",
            "apiVersion": group_version,
            "metadata": {"resourceVersion": str(FIRST_VERSION)},
            "items": items,
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Event(NamedTuple):
    """One change of a slice: its *version* and watch *line*, and the endpoint that it adds, or
    removes when *present* is not set."""

    version: int
    line: bytes
    address: str
    present: bool


class Book:
    """The present endpoints of *made* services, changed one event at a time, always alike."""

    def __init__(self, made: Sequence[Made]) -> None:
        self.made = made
        self._endpoints = [list(one.endpoints) for one in made]
        self._version = FIRST_VERSION
        self._fresh = 0
        self._random = random.Random(_SEED + len(made))

    def expected(self) -> set[Rule]:
        """Every rule that the kernel has to hold now."""
        return {rule for one in self.made for rule in rules_of(one, self._endpoints[one.number])}

    def endpoints(self, number: int) -> tuple[str, ...]:
        """The present endpoints of a service."""
        return tuple(self._endpoints[number])

    def replace(self, number: int, endpoints: Sequence[str]) -> Event:
        """Give a service other endpoints; the event names the last of them."""
        self._endpoints[number] = list(endpoints)
        return self._event(number, endpoints[-1], present=True)

    def add(self, number: int) -> Event:
        """Add an endpoint that was never used."""
        self._fresh += 1
        address = str(_FRESH + self._fresh)
        self._endpoints[number].append(address)
        return self._event(number, address, present=True)

    def remove(self, number: int) -> Event:
        """Remove the endpoint that is there longest."""
        return self._event(number, self._endpoints[number].pop(0), present=False)

    def pick(self) -> int:
        """Any service but number 0; there have to be two or more."""
        return self._random.randrange(1, len(self.made))

    def storm(self, count: int) -> list[Event]:
        """*count* changes of random services: two endpoints come for each that goes.

        So the number of rules grows with every few of them, by which the last one is noticed.
        """
        events = []
        for index in range(count):
            number = self.pick()
            shrinks = index % 3 == 1 and len(self._endpoints[number]) > 1
            events.append(self.remove(number) if shrinks else self.add(number))
        return events

    def _event(self, number: int, address: str, *, present: bool) -> Event:
        self._version += 1
        made = self.made[number]
        body = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            **slice_object(made, self._endpoints[number], self._version),
        }
        line = _json({"type": "MODIFIED", "object": body}) + b"\n"
        return Event(self._version, line, address, present)
