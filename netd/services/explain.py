"""The path of a packet to a service, told chain by chain, and why nothing would answer.

Pure: reads the book and the planned chains. The document's form is in docs/netd.md.
"""

import difflib
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

from netd.services import names
from netd.services.book import Book
from netd.services.planner import RulePlanner
from netd.services.rules import frontend_rules, nat_jumps
from netd.services.values import PROTOCOLS, Frontend, Kind, Service

_PROTOCOL = rf"(?:/({'|'.join(PROTOCOLS)}))?"
_ADDRESS = re.compile(rf"(\d+\.\d+\.\d+\.\d+)(?::(\d{{1,5}}))?{_PROTOCOL}", re.IGNORECASE)
_NODE_PORT = re.compile(rf"(\d{{1,5}}){_PROTOCOL}", re.IGNORECASE)
_NAME = re.compile(r"(?:([a-z0-9-]+)/)?([a-z0-9.-]+)(?::([a-z0-9-]+))?")

HOW = (
    "ask for NAMESPACE/NAME, NAME, NAME:PORT, an address such as 10.0.0.7:80 or 10.0.0.7:53/udp, "
    "or a node port such as 30061"
)


def explain(target: str, planner: RulePlanner) -> dict[str, Any]:
    """The document for *target*, in one of the forms that ``HOW`` names."""
    found, wrong = _find(target, planner.book)
    answers = [_answer(one, planner) for one in found]
    return {"target": target, "found": bool(found), "answers": answers, "wrong": wrong}


def _find(target: str, book: Book) -> tuple[list[Frontend], list[str]]:
    if match := _ADDRESS.fullmatch(target):
        return _by_address(match[1], match[2] or "", (match[3] or "").lower(), book)
    if match := _NODE_PORT.fullmatch(target):
        return _by_node_port(int(match[1]), (match[2] or "").lower(), book)
    if match := _NAME.fullmatch(target):
        return _by_name(match[1] or "", match[2], match[3] or "", book)
    return [], [f"{target[:80]!r} is neither a service nor an address: {HOW}"]


def _by_address(
    address: str, port: str, protocol: str, book: Book
) -> tuple[list[Frontend], list[str]]:
    try:
        key = int(IPv4Address(address))
    except ValueError:
        return [], [f"{address} is no IPv4 address: {HOW}"]
    there = book.at_address(key)
    if not there:
        return [], _left_out(book, lambda one: address in _addresses(one)) or [
            f"{address} is not the address of any service: netd leaves its packets alone "
            "(a node port is asked for by its number alone)"
        ]
    wanted = [
        one for one in there
        if (not port or one.port == int(port)) and (not protocol or one.protocol == protocol)
    ]  # fmt: skip
    if wanted:
        return wanted, []
    ports = ", ".join(f"{one.port}/{one.protocol}" for one in there)
    return [], [f"{address} belongs to {there[0].service}, which serves {ports} there only"]


def _by_node_port(port: int, protocol: str, book: Book) -> tuple[list[Frontend], list[str]]:
    protocols = [protocol] if protocol else list(PROTOCOLS)
    if not 1 <= port <= 0xFFFF:
        return [], [f"{port} is no port: {HOW}"]
    found = [one for name in protocols for one in book.at_node_port(names.port_key(name, port))]
    if found:
        return found, []
    return [], _left_out(book, lambda one: port in [p.node_port for p in one.ports]) or [
        f"{port}{f'/{protocol}' if protocol else ''} is not the node port of any service"
    ]


def _by_name(namespace: str, name: str, port: str, book: Book) -> tuple[list[Frontend], list[str]]:
    keys = [
        key for key in sorted(book.services)
        if key.partition("/")[2] == name and (not namespace or key.startswith(f"{namespace}/"))
    ]  # fmt: skip
    if not keys:
        asked = f"{namespace}/{name}" if namespace else name
        known = list(book.services) if namespace else [k.partition("/")[2] for k in book.services]
        near = difflib.get_close_matches(asked, known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        return [], [
            f"no service {asked} is served here: it does not exist, is headless, or has a problem "
            f"that 'netd status' names{hint}"
        ]
    found = [one for key in keys for one in book.frontends_of(key)]
    if port:
        found = [one for one in found if port in (one.port_name, str(one.port))]
    wrong = [text for key in keys for text in _not_granted(key, book)]
    if not found and not wrong:
        wrong = [f"{', '.join(keys)} has no port {port}" if port else f"{keys[0]} has no frontend"]
    return found, wrong


def _addresses(service: Service) -> tuple[str, ...]:
    return (*service.cluster_ips, *service.external_ips, *service.balancer_ips)


def _left_out(book: Book, wants: Callable[[Service], bool]) -> list[str]:
    """Why the services do not answer that are left out and would."""
    return [
        f"{key} would answer there, but is {text}"
        for key, one in book.services.items()
        if book.is_quarantined(key) and wants(one)
        for text in _not_granted(key, book)
    ]


def _not_granted(key: str, book: Book) -> list[str]:
    return [one.text for one in book.troubles() if one.key == f"service {key}"]


def _answer(frontend: Frontend, planner: RulePlanner) -> dict[str, Any]:
    pool = frontend.pool
    served = pool.local if frontend.local_only else pool.every
    book = planner.book
    where = {
        endpoint.address: endpoint.node
        for one in book.slices_of(frontend.service)
        for endpoint in one.endpoints
    }
    return {
        "frontend": f"{frontend.address or 'any address of this host'}:"
        f"{frontend.port}/{frontend.protocol}",
        "kind": frontend.kind.value,
        "service": frontend.service,
        "port": frontend.port_name,
        "steps": _steps(frontend, planner),
        "endpoints": [
            {
                "address": one,
                "probability": 1 / len(served),
                "local": one in pool.local,
                "node": where.get(one.rpartition(":")[0], ""),
            }
            for one in served
        ],
        "notes": _notes(frontend, planner),
        "wrong": _wrong(frontend, book),
    }


def _steps(frontend: Frontend, planner: RulePlanner) -> list[dict[str, str]]:
    if frontend.address:
        entry = names.PORTALS_CONTAINER
        path = planner.address_path(names.address_key(frontend.address))
    else:
        entry = names.NODEPORT_CONTAINER
        path = planner.node_port_path(names.port_key(frontend.protocol, frontend.port))
    steps = [("PREROUTING", jump.rule) for jump in nat_jumps() if jump.target == entry]
    steps += [(entry, rule) for rule in planner.chains.get(entry, ())]
    for chain, below in pairwise(path):
        steps += [(chain, rule) for rule in planner.chains[chain] if rule.endswith(f"-j {below}")]
    steps += [(path[-1], rule) for rule in frontend_rules(frontend, planner.policy)]
    return [{"table": "nat", "chain": chain, "rule": rule} for chain, rule in steps]


def _notes(frontend: Frontend, planner: RulePlanner) -> list[str]:
    notes = []
    host = names.PORTALS_HOST if frontend.address else names.NODEPORT_HOST
    notes.append(f"a process on this host enters by OUTPUT and {host} instead of PREROUTING")
    if frontend.affinity:
        notes.append(f"a client keeps its endpoint for {frontend.affinity} s")
    if frontend.source_ranges:
        notes.append(f"only for clients in {', '.join(frontend.source_ranges)}, others are dropped")
    if frontend.local_only and frontend.kind is not Kind.CLUSTER:
        notes.append(
            "clients from outside reach this node's endpoints only and keep their address; "
            f"this host and its pods may reach any of {len(frontend.pool.every)}"
        )
    elif frontend.kind is not Kind.CLUSTER or planner.policy.masquerade_all:
        notes.append("the endpoint sees this host's address as its client (masquerading)")
    return notes


def _wrong(frontend: Frontend, book: Book) -> list[str]:
    pool = frontend.pool
    if pool.every:
        if frontend.local_only and not pool.local:
            whose = "packets" if frontend.kind is Kind.CLUSTER else "packets from outside"
            return [
                f"the traffic policy is Local and none of the {len(pool.every)} endpoints is on "
                f"this node ({book.node}): {whose} are dropped here"
            ]
        return []
    slices = book.slices_of(frontend.service)
    if not any(one.endpoints for one in slices):
        return ["the service has no endpoints, its selector may match no pod: it is refused"]
    if not any(
        port.name == frontend.port_name and port.protocol == frontend.protocol
        for one in slices
        for port in one.ports
    ):
        offered = sorted({f"{p.name or '(unnamed)'}/{p.protocol}" for s in slices for p in s.ports})
        return [
            f"no endpoint offers the port {frontend.port_name or '(unnamed)'}/{frontend.protocol}, "
            f"they offer {', '.join(offered)}: compare targetPort with the containers' ports"
        ]
    count = len({endpoint.address for one in slices for endpoint in one.endpoints})
    return [f"none of the {count} endpoints of {frontend.service} is ready: it is refused"]
