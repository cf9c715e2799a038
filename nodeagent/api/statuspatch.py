"""What to send so that the API server's status of a pod becomes the wanted one. Pure.

The form is Kubernetes' strategic merge patch, for which ``k8s.io/api/core/v1`` PodStatus says
what is a list to be merged: conditions by type, podIPs and hostIPs by ip; the statuses of
containers are replaced as a whole. Fields and conditions of others are never named.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from nodeagent.pods.containerstatus import FINAL, Json, dicts_of, text_of
from nodeagent.pods.known import without_nulls
from nodeagent.pods.status import CONDITIONS

OWNED = (
    "phase", "reason", "message", "hostIP", "hostIPs", "podIP", "podIPs", "startTime",
    "initContainerStatuses", "containerStatuses",
)  # fmt: skip
"""The fields that are ours alone; qosClass is the API server's, from 1.31 on it is immutable."""
_MERGED = {"hostIPs", "podIPs"}
# strategicpatch of k8s.io/apimachinery, of a list that the server's PodStatus has no field for.
_NO_FIELD = re.compile(r'json field "(\w+)"')


def patch(
    uid: str, known: Mapping[str, Any], wanted: Mapping[str, Any], without: Collection[str] = ()
) -> Json | None:
    """The patch that makes *known* say what *wanted* says, None when it does.

    Fields in *without* are left out. A pod that has ended stays so: no patch takes it out of its
    phase.
    """
    if text_of(known.get("phase")) in FINAL and wanted.get("phase") not in FINAL:
        return None
    status: Json = {}
    for name in OWNED:
        if name in without:
            continue
        value, old = wanted.get(name), _plain(known.get(name))
        if _plain(value) == old:
            continue
        # Where there is no such list yet, API servers take a directive for one of its items.
        merges = bool(value and old) and name in _MERGED
        status[name] = [*(value or ()), {"$patch": "replace"}] if merges else value or None
    if "qosClass" in wanted and not known.get("qosClass"):
        status["qosClass"] = wanted["qosClass"]
    conditions = _conditions(known, wanted)
    if conditions:
        status["conditions"] = conditions
    return {"metadata": {"uid": uid}, "status": status} if status else None


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two statuses agree in all that is ours."""
    if any(_plain(one.get(name)) != _plain(other.get(name)) for name in OWNED):
        return False
    return _ours(one) == _ours(other)


def unknown_field(message: str) -> str:
    """The field of ours that an older API server's refusal names, "" for none."""
    found = _NO_FIELD.search(message)
    return found[1] if found and found[1] in OWNED else ""


def _conditions(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Json]:
    old = _ours(known)
    found = []
    for kind, condition in _ours(wanted).items():
        before = old.get(kind, {})
        if before != condition:
            found.append(dict.fromkeys(sorted(before)) | condition)
    return found


def _ours(status: Mapping[str, Any]) -> dict[str, Json]:
    return {
        text_of(condition.get("type")): without_nulls(condition)
        for condition in dicts_of(status.get("conditions"))
        if condition.get("type") in CONDITIONS
    }


def _plain(value: Any) -> Any:
    """*value* so that what is absent, null and empty is the same."""
    return without_nulls(value) or None
