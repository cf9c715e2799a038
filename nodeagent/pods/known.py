"""Decoding objects of the API that may hold more, or other things, than their types say.

What a type does not name is found by ``unknown``, so that a field is never ignored silently.
"""

import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec

from hostkit.errors import cut

T = TypeVar("T", bound=msgspec.Struct)

IntOrString = int | str
Quantity = str | int | float


class Known(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """Base of all parts of a pod: JSON's names are camelCase."""


def without_nulls(value: Any) -> Any:
    """*value* without the keys and entries that are null: Go's JSON has them for what is empty."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value if v is not None]
    return value


def convert(document: Any, kind: type[T]) -> T:
    """The decoded JSON or YAML *document* as a *kind*.

    Raises ValueError naming the field, as in ``spec.containers[0].name: expected str, got int``.
    """
    try:
        return msgspec.convert(without_nulls(document), kind)
    except msgspec.ValidationError as error:
        raise ValueError(_sentence(str(error))) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _sentence(text: str) -> str:
    # msgspec writes: Expected `int`, got `str` - at `$.spec.priority`
    problem, at, path = text.partition(" - at `$")
    problem = problem.replace("`", "")
    problem = problem[:1].lower() + problem[1:]
    return cut(f"{path.rstrip('`').lstrip('.')}: {problem}" if at else problem, 300)


def unknown(value: Any, kind: Any, path: str) -> Iterator[str]:
    """Paths below *path* of what *value* has and *kind* does not name."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = _fields(kind)
        for name, part in value.items():
            if part is None:
                continue
            if name not in fields:
                yield f"{path}.{name}"
            else:
                yield from unknown(part, fields[name], f"{path}.{name}")
    elif isinstance(value, list) and typing.get_origin(kind) is tuple:
        for number, part in enumerate(value):
            yield from unknown(part, typing.get_args(kind)[0], f"{path}[{number}]")


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON names of a struct's fields with their types, optional ones without None."""
    hints = typing.get_type_hints(kind)
    found = {}
    for attribute, name in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):
        hint = hints[attribute]
        if isinstance(hint, types.UnionType):
            parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
            hint = parts[0] if len(parts) == 1 else hint
        found[name] = hint
    return found
