"""Whether a pod that was bound to this node may begin here.

Invariants:

* the answer depends on nothing but the arguments: the same pod, asked twice, fares the same;
* pods that a node cannot do without (static ones and those of system priority) are refused for
  want of room only if others of that kind have taken it, and never because of pressure.

Reasons are the kubelet's, as tools look for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from nodeagent.pods import quantity
from nodeagent.pods.affinity import (
    Taint,
    matches,
    not_tolerated,
    required_of,
    selector_problem,
    tolerates,
)
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import CPU, MEMORY, STORAGE, pod_requests, qos_class
from nodeagent.pods.security import app_armor_of, forbidden_sysctls

PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
SYSTEM_CRITICAL = 2_000_000_000
"""Priorities from here on are for pods that a cluster cannot do without (k8s.io/api/scheduling)."""
_MEMORY_TAINT = Taint("node.kubernetes.io/memory-pressure", effect="NoSchedule")
_ANY = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what hostIP may say for all addresses


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod may not begin: a CamelCase word and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """What of the Node object matters here.

    *allocatable* is what pods may request, by resource; what it lacks is the host's capacity.
    *conditions* are the types that are True. *security* are Docker's security options, such as
    ``apparmor``, None while they are not known.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, Fraction] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    conditions: frozenset[str] = frozenset()
    security: frozenset[str] | None = None

    @classmethod
    def of(cls, node: Mapping[str, Any], security: frozenset[str] | None = None) -> "NodeView":
        """From a Node object of the API; parts of a surprising type count as absent."""
        metadata, spec, status = (_mapping(node.get(key)) for key in ("metadata", "spec", "status"))
        allocatable = {}
        for name, text in _mapping(status.get("allocatable")).items():
            with suppress(ValueError):
                allocatable[name] = quantity.parse(str(text))
        return cls(
            labels={k: str(v) for k, v in _mapping(metadata.get("labels")).items()},
            allocatable=allocatable,
            taints=tuple(
                Taint(*(str(one.get(key) or "") for key in ("key", "value", "effect")))
                for one in _mappings(spec.get("taints"))
            ),
            conditions=frozenset(
                str(one.get("type"))
                for one in _mappings(status.get("conditions"))
                if one.get("status") == "True"
            ),
            security=security,
        )


def admit(
    pod: Pod,
    others: Sequence[Pod],
    host: Host,
    node: NodeView,
    raw_spec: Mapping[str, Any] | None = None,
) -> Refusal | None:
    """Why *pod* may not begin, None when it may.

    *others* are the pods that take room already; *raw_spec* is the pod's spec before decoding.
    """
    return next(_refusals(pod, others, host, node, raw_spec or {}), None)


def is_critical(pod: Pod) -> bool:
    """Whether it is static or of system priority."""
    return pod.is_static or pod.is_mirror or pod.spec.priority >= SYSTEM_CRITICAL


def host_ports(pod: Pod) -> Iterator[tuple[str, int, str]]:
    """Protocol, number and address of the ports that a pod takes of the node."""
    for container in pod.spec.containers:
        for port in container.ports:
            # The API server fills hostPort in with hostNetwork; manifests have it empty.
            number = port.host_port or (port.container_port if pod.spec.host_network else 0)
            if number:
                yield port.protocol, number, port.host_ip


def _refusals(
    pod: Pod, others: Sequence[Pod], host: Host, node: NodeView, raw_spec: Mapping[str, Any]
) -> Iterator[Refusal]:
    yield from _place(pod, host, node, raw_spec)
    yield from _abilities(pod, host, node)
    yield from _pressure(pod, node)
    yield from _room(pod, others, host, node)
    yield from _ports(pod, others)


def _place(pod: Pod, host: Host, node: NodeView, raw_spec: Mapping[str, Any]) -> Iterator[Refusal]:
    if pod.spec.node_name not in {"", host.name}:
        yield Refusal(
            "NodeName", f"the pod is meant for node {pod.spec.node_name}, this is {host.name}"
        )
    if missing := selector_problem(pod.spec.node_selector, node.labels):
        yield Refusal("NodeAffinity", f"the node has not the labels of nodeSelector: {missing}")
    try:
        required = required_of(raw_spec)
    except ValueError as error:
        yield Refusal("UnexpectedAdmissionError", str(error))
        return
    if required is not None and not matches(required, node.labels, host.name):
        yield Refusal("NodeAffinity", "the node is not one that the required node affinity means")
    taint = None if pod.is_static else not_tolerated(pod, node.taints)
    if taint is not None:
        text = f"{taint.key}={taint.value}" if taint.value else taint.key
        yield Refusal("TaintToleration", f"the pod does not tolerate the taint {text}:NoExecute")


def _abilities(pod: Pod, host: Host, node: NodeView) -> Iterator[Refusal]:
    if pod.spec.runtime_class_name:
        yield Refusal(
            "RuntimeClassNotFound",
            f"runtimeClassName {pod.spec.runtime_class_name}: this node has only Docker's own "
            "runtime, leave it out",
        )
    if sysctls := forbidden_sysctls(pod, host):
        yield Refusal("SysctlForbidden", "; ".join(sysctls))
    if node.security is None or "apparmor" in node.security:
        return
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        profile = app_armor_of(pod, container)
        if profile is not None and profile.type != "Unconfined":
            # Docker passes over a profile without a word then.
            yield Refusal(
                "AppArmor",
                f"container {container.name} wants an AppArmor profile, and the node has no "
                "AppArmor: leave it out",
            )


def _pressure(pod: Pod, node: NodeView) -> Iterator[Refusal]:
    found = [name for name in PRESSURES if name in node.conditions]
    if not found or is_critical(pod):
        return
    if found == ["MemoryPressure"] and (
        qos_class(pod) != "BestEffort" or tolerates(pod, _MEMORY_TAINT)
    ):
        return
    yield Refusal("Evicted", f"the node is under {', '.join(found)}: it takes no more such pods")


def _room(pod: Pod, others: Sequence[Pod], host: Host, node: NodeView) -> Iterator[Refusal]:
    if is_critical(pod):
        others = [one for one in others if is_critical(one)]
    capacity = {
        CPU: Fraction(host.cpus),
        MEMORY: Fraction(host.memory),
        "pods": Fraction(host.max_pods),
    } | dict(node.allocatable)
    if len(others) + 1 > capacity["pods"]:
        yield Refusal(
            "OutOfpods", f"the node has room for {capacity['pods']} pods, and has that many"
        )
    asked = {name: amount for name, amount in pod_requests(pod).items() if amount}
    if not asked:
        return
    taken: dict[str, Fraction] = {}
    for other in others:
        for name, amount in pod_requests(other).items():
            taken[name] = taken.get(name, Fraction(0)) + amount
    for name, amount in asked.items():
        used = taken.get(name, Fraction(0))
        # Nothing is known of the disk before the node has reported it.
        known = name in capacity or name != STORAGE
        if known and used + amount > (most := capacity.get(name, Fraction(0))):
            wanted, there, has = (_text(name, one) for one in (amount, used, most))
            yield Refusal(
                f"OutOf{name}",
                f"the node has not enough {name}: the pod requests {wanted}, and {there} of {has} "
                "are taken",
            )


def _ports(pod: Pod, others: Sequence[Pod]) -> Iterator[Refusal]:
    wanted = [*host_ports(pod)]
    for other in others if wanted else ():
        for protocol, number, address in host_ports(other):
            if any(
                (protocol, number) == (own, mine) and _overlap(address, ip)
                for own, mine, ip in wanted
            ):
                yield Refusal(
                    "NodePorts",
                    f"port {number}/{protocol} of the node is taken by pod {other.key}",
                )


def _overlap(one: str, other: str) -> bool:
    return one == other or one in _ANY or other in _ANY


def _text(resource: str, amount: Fraction) -> str:
    format_ = quantity.format_cores if resource == CPU else quantity.format_bytes
    return format_(amount)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, Mapping))
