"""The three patches of kube's API: JSON patch, JSON merge patch and strategic merge patch.

Pure: each takes an object and a patch and returns a new object. Sources: RFC 6902, RFC 7386, and
the community's ``strategic-merge-patch.md`` for ``$patch``, ``$retainKeys``,
``$setElementOrder/FIELD`` and ``$deleteFromPrimitiveList/FIELD``.
"""

import copy
from collections.abc import Mapping
from typing import Any

from lab.api.kinds import Kind
from lab.api.objects import Json, StatusError, bad_request
from lab.api.schema import FIELDS, Field

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def apply(kind: Kind, media_type: str, obj: Json, patch: object) -> Json:
    """*obj* changed by *patch*; raises 400, 415 for another *media_type*, 422 for a failed test."""
    if media_type == JSON:
        return json_patch(obj, patch)
    if media_type not in {MERGE, STRATEGIC}:
        text = (
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON}, {MERGE}, {STRATEGIC}"
        )
        raise StatusError(415, "UnsupportedMediaType", text)
    if not isinstance(patch, dict):
        raise bad_request("a merge patch has to be an object")
    if media_type == MERGE:
        return merge_patch(obj, patch)
    return strategic_patch(obj, patch, FIELDS[kind.name])


def merge_patch(obj: Any, patch: Mapping[str, Any]) -> Json:
    """RFC 7386."""
    merged = dict(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = merge_patch(merged.get(name), value)
        else:
            merged[name] = value
    return merged


# JSON patch


def json_patch(obj: Json, patch: object) -> Json:
    """RFC 6902."""
    if not isinstance(patch, list):
        raise bad_request("a JSON patch has to be a list of operations")
    document: Any = copy.deepcopy(obj)
    for number, operation in enumerate(patch):
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            text = f"operation {number} of the JSON patch cannot be done on this object: {error!r}"
            raise StatusError(422, "Invalid", text) from error
    if not isinstance(document, dict):
        raise bad_request("the patch leaves no object")
    return document


def _operate(document: Any, operation: Mapping[str, Any]) -> Any:
    op, path = operation["op"], _pointer(operation["path"])
    if op in {"move", "copy"}:
        source = _pointer(operation["from"])
        value = copy.deepcopy(_find(document, source))
        if op == "move":
            document = _remove(document, source)
        return _add(document, path, value)
    if op == "remove":
        return _remove(document, path)
    value = copy.deepcopy(operation["value"])
    if op == "add":
        return _add(document, path, value)
    present = _find(document, path)
    if op == "test":
        if present != value:
            raise ValueError(f"testing path {operation['path']} failed")
        return document
    if op != "replace":
        raise ValueError(f"unknown operation {op}")
    if not path:
        return value
    return _add(_remove(document, path), path, value)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"path {text} has to begin with /")
    return [name.replace("~1", "/").replace("~0", "~") for name in text.split("/")[1:]]


def _index(holder: list[Any], name: str, most: int) -> int:
    if name == "-":
        return len(holder)
    if not name.isdecimal() or int(name) > most:
        raise ValueError(f"no index {name}")
    return int(name)


def _find(document: Any, path: list[str]) -> Any:
    for name in path:
        document = (
            document[_index(document, name, len(document) - 1)]
            if isinstance(document, list)
            else document[name]
        )
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    holder, name = _find(document, path[:-1]), path[-1]
    if isinstance(holder, list):
        holder.insert(_index(holder, name, len(holder)), value)
    else:
        holder[name] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    holder, name = _find(document, path[:-1]), path[-1]
    if isinstance(holder, list):
        del holder[_index(holder, name, len(holder) - 1)]
    else:
        del holder[name]
    return document


# Strategic merge patch

_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def strategic_patch(obj: Any, patch: Mapping[str, Any], fields: Mapping[str, Field]) -> Json:
    """A merge patch that joins the lists of *fields* by their keys."""
    directive = patch.get("$patch")
    own = {name: value for name, value in patch.items() if name not in {"$patch", "$retainKeys"}}
    if directive == "replace":
        return own
    if directive == "delete":
        return {}
    if directive not in {None, "merge"}:
        raise bad_request(f"unknown $patch type: {directive}")
    live = obj if isinstance(obj, dict) else {}
    merged = dict(live)
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        merged = {name: value for name, value in merged.items() if name in retained}
    for name, value in own.items():
        if name.startswith((_ORDER, _DELETE)):
            continue
        field = fields.get(name, Field("any"))
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = strategic_patch(merged.get(name), value, FIELDS.get(field.type, {}))
        elif isinstance(value, list) and field.key is not None:
            merged[name] = _merge_list(merged.get(name) or [], value, field)
        else:
            merged[name] = value
    _drop_primitives(merged, own)
    _reorder(live, merged, own, fields)
    return merged


def _merge_list(present: list[Any], patch: list[Any], field: Field) -> list[Any]:
    key = field.key
    if not key:
        return present + [value for value in patch if value not in present]
    if any(not isinstance(one, dict) for one in patch):
        raise bad_request(f"a list that is merged by {key} has to hold objects")
    if any(one.get("$patch") == "replace" for one in patch):
        return [one for one in patch if one.get("$patch") != "replace"]
    merged = [one for one in present if isinstance(one, dict)]
    added: list[Any] = []
    for one in patch:
        if key not in one:
            raise bad_request(f"map: {one} does not contain declared merge key: {key}")
        at = [index for index, old in enumerate(merged) if old.get(key) == one[key]]
        if one.get("$patch") == "delete":
            merged = [old for old in merged if old.get(key) != one[key]]
        elif at:
            merged[at[0]] = strategic_patch(merged[at[0]], one, FIELDS.get(field.type, {}))
        else:
            added.append(strategic_patch({}, one, FIELDS.get(field.type, {})))
    return merged + added


def _drop_primitives(merged: Json, patch: Mapping[str, Any]) -> None:
    for name, values in patch.items():
        target = name.removeprefix(_DELETE)
        if target != name and isinstance(merged.get(target), list) and isinstance(values, list):
            merged[target] = [one for one in merged[target] if one not in values]


def _reorder(
    live: Json, merged: Json, patch: Mapping[str, Any], fields: Mapping[str, Field]
) -> None:
    """Order the merged lists: as ``$setElementOrder``, or else the patch, names the items.

    Items that are not named keep their order; a named one that is new stands before them.
    """
    for name, field in fields.items():
        order = patch.get(_ORDER + name, patch.get(name))
        if field.key is None or order is None or not isinstance(merged.get(name), list):
            continue
        if not isinstance(order, list):
            raise bad_request(f"{name} has to be a list")

        def mark(one: Any, key: str = field.key) -> Any:
            return one.get(key) if key and isinstance(one, dict) else one

        named = [mark(one) for one in order]
        before = [mark(one) for one in live.get(name) or []]
        left = [one for one in merged[name] if mark(one) in named]
        left.sort(key=lambda one: named.index(mark(one)))
        right = [one for one in merged[name] if mark(one) not in named]
        ordered: list[Any] = []
        while left and right:
            first = mark(left[0])
            sooner = first not in before or before.index(first) < before.index(mark(right[0]))
            ordered.append((left if sooner else right).pop(0))
        merged[name] = ordered + left + right
