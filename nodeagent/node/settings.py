"""What an operator sets about the node, as values read from the texts of flags."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from nodeagent.node.pressure import Threshold
from nodeagent.pods import quantity

RESERVABLE = ("cpu", "memory", "ephemeral-storage", "pid")
"""What ``--system-reserved`` and ``--kube-reserved`` may name."""

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How this node presents itself.

    *labels*, *taints* and *schedulable* are for the registration; *register* False leaves it to
    others to make the Node. *reserved* maps cpu (cores), memory and ephemeral-storage (bytes) to
    what pods do not get, beside what *eviction* keeps free. *port* is that of the agent's server.
    *version* is ``kubeletVersion``. Every *heartbeat* seconds the lease is renewed, or the status
    sent where there are no leases; with leases an unchanged status is sent every *report*
    seconds.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    schedulable: bool = True
    register: bool = True
    max_pods: int = 110
    reserved: Mapping[str, Fraction] = field(default_factory=dict)
    eviction: tuple[Threshold, ...] = ()
    port: int = 10250
    version: str = ""
    heartbeat: float = 10.0
    report: float = 300.0


def kubelet_version(release: str) -> str:
    """``kubeletVersion`` of nodeagent *release*.

    kubectl and the controllers that check the version skew read it as a semantic version and
    compare major and minor with the API server's; 1.20 is the kubelet whose behaviour with
    Docker this is. The release is build metadata, which takes no part in comparisons, since as a
    pre-release it would make this older than 1.20.0.
    """
    metadata = re.sub(r"[^0-9A-Za-z-]+", ".", release).strip(".")
    return f"v1.20.0+barenode.{metadata}" if metadata else "v1.20.0+barenode"


def parse_labels(text: str) -> dict[str, str]:
    """``--node-labels``: KEY=VALUE, separated by commas; raises ValueError naming the label."""
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{part!r}: write it as KEY=VALUE")
        _check_key(key)
        _check_value(key, value)
        found[key] = value
    return found


def parse_taints(text: str) -> tuple[Mapping[str, str], ...]:
    """``--register-with-taints``: KEY=VALUE:EFFECT or KEY:EFFECT, separated by commas.

    Each as the API has it (``core/v1.Taint``); raises ValueError naming the taint.
    """
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        rest, _, effect = part.rpartition(":")
        key, _, value = rest.partition("=")
        if effect not in EFFECTS or not key:
            raise ValueError(
                f"{part!r}: write it as KEY=VALUE:EFFECT, EFFECT one of {', '.join(EFFECTS)}"
            )
        _check_key(key)
        _check_value(key, value)
        if (key, effect) in found:
            raise ValueError(f"{key}:{effect} is there twice: keep one")
        found[key, effect] = (
            {"key": key, "value": value, "effect": effect}
            if value
            else {"key": key, "effect": effect}
        )
    return tuple(found.values())


def parse_reserved(text: str) -> dict[str, Fraction]:
    """``--system-reserved``, ``--kube-reserved``: cpu=500m,memory=1Gi; cores and bytes.

    Raises ValueError naming the resource.
    """
    found: dict[str, Fraction] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in RESERVABLE:
            raise ValueError(f"{part!r}: write it as NAME=AMOUNT, NAME one of {RESERVABLE}")
        try:
            amount = quantity.parse(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if amount < 0:
            raise ValueError(f"{name}: {value} is below zero")
        if name in found:
            raise ValueError(f"{name} is there twice: keep one")
        found[name] = amount
    return found


def total(*reserved: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """The sum of reservations, by resource."""
    names = sorted({name for one in reserved for name in one})
    return {name: sum((one.get(name, Fraction(0)) for one in reserved), Fraction(0))
            for name in names}  # fmt: skip


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)):
        raise ValueError(f"{key!r}: its prefix has to be a DNS name in small letters")
    if len(name) > 63 or not _PART.fullmatch(name):
        raise ValueError(
            f"{key!r}: a key has at most 63 letters, digits, '-', '_' and '.', after a prefix "
            "and '/' if it has one, and begins and ends with a letter or digit"
        )


def _check_value(key: str, value: str) -> None:
    if value and (len(value) > 63 or not _PART.fullmatch(value)):
        raise ValueError(
            f"{key}: its value {value!r} may have at most 63 letters, digits, '-', '_' and '.', "
            "and begins and ends with a letter or digit"
        )
