"""How a setting is written in TOML. Pure."""

import inspect

from hostkit.config import Option
from lab.manual.tables import choices


def sort_of(option: Option) -> str:
    """What a setting takes, as prose with mark-up, such as "True or false"."""
    if option.is_boolean:
        return "`true` or `false`"
    if words := choices(option.parse):
        return " or ".join(f'`"{word}"`' for word in words)
    if option.repeat or isinstance(option.default, tuple):
        return "A list of strings"
    if isinstance(option.default, int):
        return "A whole number" + _span(option)
    if isinstance(option.default, float):
        return "A time"
    return "A string"


def notation(value: object) -> str:
    """*value* as TOML; empty for one that stands for nothing."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f'"{value:g}s"'
        case tuple():
            return f"[{', '.join(notation(one) for one in value)}]" if value else ""
        case None | "":
            return ""
        case _:
            return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _span(option: Option) -> str:
    """The range of a parser of ``hostkit.config.integer``."""
    if not inspect.isfunction(option.parse):
        return ""
    known = inspect.getclosurevars(option.parse).nonlocals
    return f" from {known['low']} to {known['high']}" if {"low", "high"} <= set(known) else ""
