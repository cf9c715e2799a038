"""What the controllers read of stored objects: the parts that all kinds share, as typed values.

Field names and meanings are those of the Kubernetes API. An object that somebody stored past
all checks fails here, with the name of the field, and not in the middle of a plan.
"""

from typing import Any

import msgspec

Raw = dict[str, Any]


class View(msgspec.Struct, frozen=True, rename="camel"):
    """A part of an object."""


class Owner(View, frozen=True):
    """One entry of ownerReferences."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class Meta(View, frozen=True):
    """An object's metadata. Times are RFC 3339, empty when unset."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    owner_references: tuple[Owner, ...] = ()


class Condition(View, frozen=True):
    """One entry of status.conditions."""

    type: str
    status: str = ""
    message: str = ""
    last_heartbeat_time: str = ""
    last_transition_time: str = ""


class Status(View, frozen=True):
    """The fields of a status that any controller reads."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[Condition, ...] = ()
    replicas: int = 0
    available_replicas: int = 0
    ready_replicas: int = 0


class Thing(View, frozen=True):
    """Any object; *raw* is all of it, as it is stored."""

    metadata: Meta
    spec: Raw = {}
    status: Status = Status()
    raw: Any = None

    @property
    def owner(self) -> str:
        """The uid of the owner that manages this object, or nothing."""
        return next((o.uid for o in self.metadata.owner_references if o.controller), "")

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return bool(self.metadata.deletion_timestamp)

    @property
    def finished(self) -> bool:
        """Whether this pod ran to its end."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def active(self) -> bool:
        """Whether this pod counts as a replica."""
        return not self.finished and not self.leaving

    @property
    def ready(self) -> bool:
        """Whether this pod can answer, or this node can take pods."""
        return self.condition("Ready").status == "True"

    def condition(self, kind: str) -> Condition:
        """The condition *kind*, with an empty status when it is not there."""
        return next((c for c in self.status.conditions if c.type == kind), Condition(type=kind))


def view(raw: Raw) -> Thing:
    """*raw* as a Thing; raises ValueError that names the field which is wrong."""
    return msgspec.convert({**_without_nulls(raw), "raw": raw}, Thing)


def _without_nulls(value: Any) -> Any:
    # The API takes null for absent.
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def with_condition(raw: Raw, kind: str, value: str, now: str, **more: str) -> Raw:
    """*raw* with one condition of its status set to *value* since *now*."""
    status = raw.get("status") or {}
    old: Raw = {}
    kept = []
    for condition in status.get("conditions") or ():
        if condition["type"] == kind:
            old = condition
        else:
            kept.append(condition)
    new = {**old, "type": kind, "status": value, "lastTransitionTime": now, **more}
    return {**raw, "status": {**status, "conditions": [*kept, new]}}


def selects(selector: Raw, labels: dict[str, str]) -> bool:
    """Whether *selector*, of either form, means an object with *labels*; an empty one does not.

    Raises ValueError for an unknown operator.
    """
    if not selector.keys() <= {"matchLabels", "matchExpressions"}:
        selector = {"matchLabels": selector}
    equal = selector.get("matchLabels", {})
    needs = selector.get("matchExpressions", ())
    return (
        bool(equal or needs)
        and equal.items() <= labels.items()
        and all(_holds(need, labels) for need in needs)
    )


def _holds(need: Raw, labels: dict[str, str]) -> bool:
    value = labels.get(need["key"])
    chosen = value is not None and value in need.get("values", ())
    match need["operator"]:
        case "In":
            return chosen
        case "NotIn":
            return not chosen
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"selector operator {need['operator']!r} is unknown")
