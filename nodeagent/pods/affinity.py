"""Whether a node's labels are those that a pod requires, and its taints those that it tolerates.

Affinity is not part of ``model``: it is the scheduler's business, and read here only to refuse a
pod that was bound to the wrong node (``k8s.io/api/core/v1``, NodeSelector).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from nodeagent.pods.known import Known, convert
from nodeagent.pods.model import Pod, Toleration

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

AWAY = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""Taints by which others say that this agent does not answer: it knows better while it admits."""


class Requirement(Known, frozen=True):
    """One condition on a label or field; *operator* is In, NotIn, Exists, ..., Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Term(Known, frozen=True):
    """Conditions that all have to hold; a term without any matches no node."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class NodeSelector(Known, frozen=True):
    """Terms of which one has to match."""

    node_selector_terms: tuple[Term, ...] = ()


class _NodeAffinity(msgspec.Struct, frozen=True):
    required: NodeSelector | None = msgspec.field(default=None, name=REQUIRED)


class _Affinity(Known, frozen=True):
    node_affinity: _NodeAffinity | None = None


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of the node; *effect* is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str = ""
    effect: str = ""


def required_of(raw_spec: Mapping[str, Any]) -> NodeSelector | None:
    """The required node affinity of an undecoded spec; raises ValueError naming the field."""
    raw = raw_spec.get("affinity")
    if raw is None:
        return None
    try:
        affinity = convert(raw, _Affinity)
    except ValueError as error:
        raise ValueError(f"spec.affinity.{error}") from error
    return affinity.node_affinity.required if affinity.node_affinity else None


def selector_problem(selector: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """What of a nodeSelector the labels do not have; "" when they have all."""
    wrong = {key: value for key, value in selector.items() if labels.get(key) != value}
    return ", ".join(f"{key}={value}" for key, value in sorted(wrong.items()))


def matches(selector: NodeSelector, labels: Mapping[str, str], name: str) -> bool:
    """Whether the node *name* with *labels* is one that *selector* means."""
    fields = {"metadata.name": name}
    return any(
        (term.match_expressions or term.match_fields)
        and all(_holds(one, labels) for one in term.match_expressions)
        and all(_holds(one, fields) for one in term.match_fields)
        for term in selector.node_selector_terms
    )


def not_tolerated(pod: Pod, taints: Iterable[Taint]) -> Taint | None:
    """The first NoExecute taint that the pod does not tolerate; NoSchedule is the scheduler's."""
    for taint in taints:
        if taint.effect == "NoExecute" and taint.key not in AWAY and not tolerates(pod, taint):
            return taint
    return None


def tolerates(pod: Pod, taint: Taint) -> bool:
    """Whether one of the pod's tolerations is for this taint."""
    return any(_tolerates(one, taint) for one in pod.spec.tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.operator == "Exists":
        return toleration.key in {"", taint.key}
    return (
        toleration.operator in {"", "Equal"}
        and toleration.key == taint.key
        and toleration.value == taint.value
    )


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            found, limit = _number(value), _number(*requirement.values[:1])
            if found is None or limit is None or len(requirement.values) != 1:
                return False
            return found > limit if requirement.operator == "Gt" else found < limit
        case _:
            return False


def _number(text: str | None = None) -> int | None:
    digits = (text or "").removeprefix("-")
    return int(text or "") if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
