"""Taints: those that a node's conditions call for, and which pods bear them.

Keys and effects are those of ``core/v1`` and of kube's node lifecycle controller.
"""

from lab.api.controllers.views import Raw, Thing

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
_OURS = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values()})


def called_for(node: Thing) -> list[Raw]:
    """The taints that *node* has to have by its conditions."""
    found: list[tuple[str, str]] = []
    if not node.ready:
        key = UNREACHABLE if node.condition("Ready").status == "Unknown" else NOT_READY
        found += [(key, "NoSchedule"), (key, "NoExecute")]
    for condition, key in _PRESSURES.items():
        if node.condition(condition).status == "True":
            found.append((key, "NoSchedule"))
    if node.spec.get("unschedulable"):
        found.append((UNSCHEDULABLE, "NoSchedule"))
    return [{"key": key, "effect": effect} for key, effect in found]


def all_of(node: Thing) -> list[Raw]:
    """The taints of *node* as they have to be: those that others set, and ``called_for``."""
    return [t for t in node.spec.get("taints", ()) if t["key"] not in _OURS] + called_for(node)


def corrected(node: Thing, now: str) -> list[Raw] | None:
    """What to write as *node*'s taints; None when they are right."""
    present = {(t["key"], t["effect"]): t for t in node.spec.get("taints", ())}
    wanted = all_of(node)
    if present.keys() == {(t["key"], t["effect"]) for t in wanted}:
        return None
    return [
        present.get((t["key"], t["effect"]))
        or (t if t["effect"] != "NoExecute" else {**t, "timeAdded": now})
        for t in wanted
    ]


def tolerates(pod: Thing, taint: Raw) -> bool:
    """Whether *pod* bears *taint*, for however long."""
    return any(_meets(one, taint) for one in pod.spec.get("tolerations", ()))


def stays(pod: Thing) -> bool:
    """Whether *pod* bears for ever to be on a node that is unreachable."""
    taint = {"key": UNREACHABLE, "effect": "NoExecute"}
    return any(
        _meets(one, taint) and one.get("tolerationSeconds") is None
        for one in pod.spec.get("tolerations", ())
    )


def _meets(toleration: Raw, taint: Raw) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")
