"""What all kinds share: errors as kube's Status objects, paths into objects, times."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lab.api.kinds import Kind

Json = dict[str, Any]


class StatusError(Exception):
    """A refusal, in kube's terms: HTTP *code*, *reason* such as NotFound, and a sentence."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        super().__init__(message)

    def body(self) -> Json:
        """The Status object for an answer or the end of a watch."""
        status: Json = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        }  # fmt: skip
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


def _about(kind: Kind, name: str) -> Json:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in details.items() if value}


def not_found(kind: Kind, name: str) -> StatusError:
    """404."""
    return StatusError(404, "NotFound", f'{kind.resource} "{name}" not found', _about(kind, name))


def already_exists(kind: Kind, name: str) -> StatusError:
    """409 for a name that is taken."""
    text = f'{kind.resource} "{name}" already exists'
    return StatusError(409, "AlreadyExists", text, _about(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> StatusError:
    """409 for a change that was based on an older object, or as *why* says."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and "
        "try again"
    )
    text = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return StatusError(409, "Conflict", text, _about(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> StatusError:
    """403."""
    text = f'{kind.resource} "{name}" is forbidden: {why}'
    return StatusError(403, "Forbidden", text, _about(kind, name))


def bad_request(why: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", why)


def expired(wanted: int, oldest: int) -> StatusError:
    """410: the changes since *wanted* are no longer known."""
    return StatusError(410, "Expired", f"too old resource version: {wanted} ({oldest})")


@dataclass
class FieldErrors:
    """Collects what is wrong with an object, field by field, in kube's words."""

    found: list[tuple[str, str, str]] = field(default_factory=list)

    def required(self, path: str, why: str = "") -> None:
        """A field that is missing."""
        self.found.append(
            ("FieldValueRequired", path, "Required value" + (f": {why}" if why else ""))
        )

    def invalid(self, path: str, value: object, why: str) -> None:
        """A value that cannot be."""
        self.found.append(("FieldValueInvalid", path, f"Invalid value: {go_value(value)}: {why}"))

    def duplicate(self, path: str, value: object) -> None:
        """A value that was there before."""
        self.found.append(("FieldValueDuplicate", path, f"Duplicate value: {go_value(value)}"))

    def absent(self, path: str, value: object) -> None:
        """A reference to nothing."""
        self.found.append(("FieldValueNotFound", path, f"Not found: {go_value(value)}"))

    def forbidden(self, path: str, why: str) -> None:
        """A field that may not be set, or not now."""
        self.found.append(("FieldValueForbidden", path, f"Forbidden: {why}"))

    def one_of(self, path: str, value: object, choices: Iterable[str]) -> None:
        """*value* has to be one of *choices*."""
        known = list(choices)
        if value not in known:
            names = ", ".join(f'"{name}"' for name in known)
            text = f"Unsupported value: {go_value(value)}: supported values: {names}"
            self.found.append(("FieldValueNotSupported", path, text))

    def check(self, path: str, value: object, why: str | None) -> None:
        """Note *value* as invalid if a checker said *why*."""
        if why:
            self.invalid(path, value, why)

    def raise_for(self, kind: Kind, name: str) -> None:
        """Raise 422 Invalid if anything was found."""
        if not self.found:
            return
        each = [f"{path}: {text}" for _, path, text in self.found]
        text = each[0] if len(each) == 1 else f"[{', '.join(each)}]"
        about = {"name": name, "group": kind.group, "kind": kind.name}
        details = {key: value for key, value in about.items() if value}
        causes = [{"reason": r, "message": text, "field": path} for r, path, text in self.found]
        raise StatusError(
            422, "Invalid", f'{kind.qualified} "{name}" is invalid: {text}',
            {**details, "causes": causes},
        )  # fmt: skip


def go_value(value: object) -> str:
    """*value* as kube's messages print it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return f"[]string{{{', '.join(map(go_value, value))}}}"
    if isinstance(value, Mapping):
        pairs = " ".join(f"{json.dumps(k)}:{go_value(v)}" for k, v in sorted(value.items()))
        return "{" + pairs + "}"
    return json.dumps(value)


def path(obj: object, dotted: str) -> Any:
    """The value at *dotted* ("spec.nodeName"), None where there is none."""
    for name in dotted.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(name)
    return obj


def part(obj: object, dotted: str) -> Json:
    """The mapping at *dotted*, empty where there is none."""
    found = path(obj, dotted)
    return found if isinstance(found, dict) else {}


def items(obj: object, dotted: str) -> list[Json]:
    """The mappings of the list at *dotted*, empty where there is none."""
    found = path(obj, dotted)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def timestamp(seconds: float) -> str:
    """*seconds* since 1970 as objects carry times: RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> float | None:
    """The seconds since 1970 of a time in an object; None when it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
