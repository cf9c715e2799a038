"""Layered settings: default < conf.d < file < environment < flag, each value with its origin.

The file is the operator's. In the folder ``conf.d`` beside it programs leave settings of theirs,
so that they never have to edit the file: its ``*.toml`` are read in the order of their names, a
later one wins, and the file wins over all of them.

Flags are accepted as Go programs accept them, because the programs that we replace are Go
programs: ``-name value``, ``-name=value``, ``--name value``, ``--name=value``; a boolean flag
takes no separate value (``--ip-masq``, ``--ip-masq=false``). A repeatable flag gathers. As with
Kubernetes' programs, an underscore in a flag's name counts as a dash.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostkit.errors import HostkitError

Parser = Callable[[str], Any]

CONF_D = "conf.d"
"""The folder of the weaker files, beside the file with settings."""


class ConfigError(HostkitError):
    """A setting cannot be used; the message names it, its source and what it should be."""


def text(value: str) -> str:
    """Any text, as it is."""
    return value


def boolean(value: str) -> bool:
    """What Go's strconv.ParseBool takes; raises ValueError for anything else."""
    if value in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if value in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise ValueError("use true or false")


def integer(low: int, high: int) -> Parser:
    """A parser for whole numbers from *low* to *high*."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"use a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return number

    return parse


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(value: str) -> float:
    """Seconds, from Go's notation (``1h30m``, ``500ms``) or a bare number of seconds."""
    rest, total = value.strip(), 0.0
    if not rest:
        raise ValueError("use a time such as 5s, 1m30s or 250ms")
    try:
        return _not_negative(float(rest))
    except ValueError:
        pass
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        unit = next((u for u in sorted(_UNITS, key=len, reverse=True) if rest.startswith(u)), None)
        if not number or unit is None or number.count(".") > 1:
            raise ValueError("use a time such as 5s, 1m30s or 250ms")
        total += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    return total


def _not_negative(number: float) -> float:
    if not 0 <= number < float("inf"):
        raise ValueError("use a time of zero or more")
    return number


def comma_list(value: str) -> tuple[str, ...]:
    """Items separated by commas, without empty ones."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def choice(*allowed: str) -> Parser:
    """A parser for one of *allowed*."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError("use " + " or ".join(allowed))
        return value

    return parse


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its flag name, how text becomes a value, its default and a line of help."""

    name: str
    parse: Parser
    default: Any
    help: str
    metavar: str = "VALUE"
    repeat: bool = False
    secret: bool = False
    hidden: bool = False
    flag_only: bool = False

    @property
    def is_boolean(self) -> bool:
        """Whether the flag stands alone."""
        return self.parse is boolean or isinstance(self.default, bool)


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force and, for each, the layer that it came from."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    options: tuple[Option, ...]
    arguments: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def table(self) -> list[tuple[str, str, str]]:
        """Rows of name, value (secrets hidden) and origin, for --print-config."""
        rows = []
        for option in self.options:
            if option.hidden:
                continue
            value = self.values[option.name]
            shown = show(value)
            if option.secret and value:
                shown = "(hidden)"
            rows.append((option.name, shown, self.origins[option.name]))
        return rows


def show(value: Any) -> str:
    """A value as the operator would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}s"
    return str(value)


def nearest(word: str, words: Sequence[str]) -> str:
    """A hint naming the word of *words* closest to *word*, or nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse_flags(
    options: Sequence[Option], argv: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Split *argv* into flag texts by name and the other arguments.

    ``--`` ends the flags. Raises ConfigError for an unknown flag or a missing value.
    """
    by_name = {option.name: option for option in options}
    flags: dict[str, list[str]] = {}
    rest: list[str] = []
    items = list(argv)
    while items:
        item = items.pop(0)
        if item == "--":
            rest += items
            break
        if not item.startswith("-") or item == "-":
            rest.append(item)
            continue
        written, equals, value = item.lstrip("-").partition("=")
        name = written.replace("_", "-")
        option = by_name.get(name)
        if option is None:
            dashes = "--" if item.startswith("--") else "-"
            names = [dashes + known.name for known in options if not known.hidden]
            raise ConfigError(f"unknown flag {dashes}{written}{nearest(dashes + name, names)}")
        if not equals:
            if option.is_boolean:
                value = "true"
            elif items:
                value = items.pop(0)
            else:
                raise ConfigError(f"flag --{name} needs a value: {option.help}")
        flags.setdefault(name, []).append(value)
    return flags, rest


def _convert(option: Option, texts: Sequence[str], source: str) -> Any:
    try:
        if option.repeat:
            return tuple(item for value in texts for item in option.parse(value))
        return option.parse(texts[-1])
    except ValueError as error:
        shown = "(hidden)" if option.secret else repr(texts[-1])
        raise ConfigError(f"{source}: {option.name} is {shown}: {error}") from error


def _from_file(options: Sequence[Option], path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    by_name = {one.name: one for one in options if not one.hidden and not one.flag_only}
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = key.replace("_", "-")
        option = by_name.get(name)
        if option is None:
            raise ConfigError(f"{path}: unknown setting {key}{nearest(name, list(by_name))}")
        if isinstance(value, bool):
            texts = ["true" if value else "false"]
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            texts = value if option.repeat else [",".join(value)]
        elif isinstance(value, str | int | float):
            texts = [str(value)]
        else:
            raise ConfigError(
                f"{path}: {key} is {'(hidden)' if option.secret else repr(value)}: "
                "use text, a number, true/false or a list"
            )
        found[name] = _convert(option, texts, str(path))
    return found


def load(
    options: Sequence[Option],
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    env_prefixes: Sequence[str],
    file_option: str = "config",
) -> Settings:
    """Build the settings from all layers.

    *env_prefixes* go from weak to strong. The option named *file_option* gives the file and with
    it the folder ``conf.d``; a missing file counts as empty unless it was asked for. Raises
    ConfigError.
    """
    flags, arguments = parse_flags(options, argv)
    values: dict[str, Any] = {option.name: option.default for option in options}
    origins = dict.fromkeys(values, "default")

    layers: list[tuple[str, str, Any]] = []
    for prefix in env_prefixes:
        for option in options:
            name = prefix + option.name.upper().replace("-", "_")
            # An empty variable counts as unset, as flannel's flags do it.
            if not option.flag_only and environ.get(name):
                value = _convert(option, [environ[name]], f"environment {name}")
                layers.append((option.name, f"environment {name}", value))
    by_name = {option.name: option for option in options}
    for name, texts in flags.items():
        value = _convert(by_name[name], texts, f"flag --{name}")
        layers.append((name, f"flag --{name}", value))

    chosen = [value for name, _, value in layers if name == file_option]
    path = Path(chosen[-1] if chosen else values[file_option])
    # An empty name stands for no file at all, in conf.d neither.
    if chosen[-1:] != [""]:
        files = _fragments(path.parent / CONF_D)
        files += [path] if chosen or _exists(path) else []
        for one in files:
            for name, value in _from_file(options, one).items():
                values[name], origins[name] = value, str(one)
    for name, origin, value in layers:
        values[name], origins[name] = value, origin
    return Settings(values, origins, tuple(options), tuple(arguments))


def _fragments(folder: Path) -> list[Path]:
    """The ``*.toml`` of *folder* by name; none without the folder."""
    try:
        found = [one for one in folder.iterdir() if not one.name.startswith(".")]
        return sorted(one for one in found if one.suffix == ".toml" and not one.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def usage(options: Sequence[Option]) -> str:
    """The flags with their defaults, one paragraph each."""
    lines = []
    for option in options:
        if option.hidden:
            continue
        value = "" if option.is_boolean else f" {option.metavar}"
        default = show(option.default)
        note = f" (default {default})" if default not in {"", "false"} else ""
        lines.append(f"  --{option.name}{value}\n        {option.help}{note}")
    return "\n".join(lines)
