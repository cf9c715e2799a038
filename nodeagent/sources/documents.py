"""The documents in a manifest, JSON or YAML, with the line of every field. Pure.

Plain scalars are read as sigs.k8s.io/yaml reads them (YAML 1.1 without times, dates and numbers
to the base 60): ``yes`` and ``on`` are booleans, ``0644`` and ``0o644`` are octal. A mapping's
keys are text as written.

Invariant: the work is bounded by the limits below, whatever the text is. The tree is built from
the parser's events without recursion, and what aliases stand for is counted each time.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hostkit.errors import cut

MAX_DEPTH = 100
"""Mappings and lists within each other."""
MAX_VALUES = 100_000
"""Values of one file, those that aliases repeat included."""
MAX_CHARACTERS = 4 * 1024 * 1024
"""Characters of all texts of one file, those that aliases repeat included."""

Path = tuple[str | int, ...]

_STR, _INT, _FLOAT, _BOOL, _NULL = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")
)
_COLLECTIONS = {None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_TRUE = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
_FALSE = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}
_NULLS = {"", "~", "null", "Null", "NULL"}
_INTEGERS = (
    (re.compile(r"[-+]?0b[01_]+"), 2),
    (re.compile(r"[-+]?0x[0-9a-fA-F_]+"), 16),
    (re.compile(r"[-+]?0o?[0-7_]+"), 8),
    (re.compile(r"[-+]?(?:0|[1-9][0-9_]*)"), 10),
)
_REAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
# YAML 1.1, section 5.1: c-printable, and the byte order mark at the start is gone already.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HALF = re.compile("[\ud800-\udfff]")
_FIELD = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
# The parser in C if PyYAML was built with libyaml, about ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DocumentError(ValueError):
    """The text is no JSON or YAML that can be used; *line* counts from 1, 0 for none."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.text = text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class _Node:
    """A value where it stands: a scalar, a list, or a mapping with the lines of its keys."""

    line: int
    value: "str | int | float | bool | list[_Node] | dict[str, tuple[int, _Node]] | None"
    written: str = ""
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One document: *value* is plain; *line* is where it begins."""

    value: Any
    line: int
    _node: Callable[[], _Node | None]
    _shift: int = 0

    def line_of(self, path: Path) -> int:
        """The line of the field at *path*, or of the deepest part of it that is there."""
        node = self._node()
        if node is None:
            return self.line
        line = node.line
        for step in path:
            if isinstance(node.value, dict) and step in node.value:
                line, node = node.value[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int):
                if step >= len(node.value):
                    break
                node = node.value[step]
                line = node.line
            else:
                break
        return line + self._shift


def path_of(text: str) -> Path:
    """The path that *text* begins with: ``spec.containers[0].name: is missing``."""
    head = re.split(r"[:\s]", text, maxsplit=1)[0]
    return tuple(int(n) if n else name for n, name in _FIELD.findall(head))


def read(text: str) -> list[Document]:
    """The documents in *text* that are not empty; raises DocumentError."""
    if found := _NOT_TEXT.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise DocumentError(line, f"character {found[0]!r} is not allowed: this is no text file")
    if text.lstrip()[:1] != "{":
        return _read_yaml(text)
    try:
        return list(_read_json(text))
    except json.JSONDecodeError as error:
        # What begins as JSON's objects do was meant to be JSON: YAML would take half of one.
        if text.lstrip()[1:].lstrip()[:1] in {'"', "}"}:
            raise DocumentError(error.lineno, f"no JSON: {error.msg.lower()}") from error
        return _read_yaml(text)
    except ValueError as error:
        if not isinstance(error, DocumentError):
            _read_yaml(text)
            raise DocumentError(0, f"no JSON: {error}") from error
        raise


# --- JSON ---


def _read_json(text: str) -> Iterator[Document]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
    at = _blank(text, 0)
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            raise DocumentError(0, f"nested deeper than {MAX_DEPTH} levels") from None
        _Counter().check(value)
        before = text.count("\n", 0, at)
        yield Document(value, before + 1, _lazy(text[at:end]), before)
        at = _blank(text, end)
        if text.startswith("---", at):
            at = _blank(text, at + 3)


def _lazy(text: str) -> Callable[[], _Node | None]:
    """The tree of *text*, made only when somebody asks for a line."""

    def tree() -> _Node | None:
        try:
            return next(_nodes(text), None)
        except DocumentError:
            return None

    return tree


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # The parser of YAML says in which line.
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


# --- YAML ---


def _read_yaml(text: str) -> list[Document]:
    counter = _Counter()
    found = []
    for node in _nodes(text):
        value = counter.plain(node, MAX_DEPTH)
        if value is not None:
            found.append(Document(value, node.line, _always(node)))
    return found


def _always(node: _Node) -> Callable[[], _Node | None]:
    return lambda: node


@dataclass(slots=True)
class _Counter:
    """Makes plain values and counts them."""

    values: int = 0
    characters: int = 0

    def plain(self, node: _Node, depth: int) -> Any:
        """The value of *node* without its lines."""
        value = node.value
        self._count(value, depth, node.line)
        if isinstance(value, dict):
            return {key: self.plain(part, depth - 1) for key, (_, part) in value.items()}
        if isinstance(value, list):
            return [self.plain(part, depth - 1) for part in value]
        return value

    def check(self, value: Any, depth: int = MAX_DEPTH) -> None:
        """Count a *value* that is plain already."""
        self._count(value, depth, 0)
        if isinstance(value, dict):
            for key, part in value.items():
                self._count(key, depth, 0)
                self.check(part, depth - 1)
        elif isinstance(value, list):
            for part in value:
                self.check(part, depth - 1)

    def _count(self, value: Any, depth: int, line: int) -> None:
        self.values += 1
        if isinstance(value, str):
            self.characters += len(value)
            # JSON can spell half of a pair, which is no text and cannot be passed on.
            if _HALF.search(value):
                raise DocumentError(line, f"{cut(repr(value), 40)} holds half of a surrogate pair")
        if depth < 0:
            raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES or self.characters > MAX_CHARACTERS:
            raise DocumentError(line, "too large once its aliases are put in: shorten it")


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not been seen; a mapping's keys and values alternate."""

    line: int
    mapping: bool
    anchor: str | None
    parts: list[_Node]


def _nodes(text: str) -> Iterator[_Node]:
    """The tree of each document."""
    try:
        tree = _Tree()
        for event in yaml.parse(text, Loader=_LOADER):
            if (node := tree.take(event)) is not None:
                yield node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, (error.context, error.problem)))
        # The end of a text counts as a line of its own.
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark is not None else 0
        raise DocumentError(line, f"no YAML: {cut(said or 'it cannot be read', 200)}") from error
    except yaml.YAMLError as error:
        raise DocumentError(0, f"no YAML: {cut(' '.join(str(error).split()), 200)}") from error


class _Tree:
    """Builds the trees of a file's documents from the events of its parser."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Node] = {}
        self._merged = 0

    def take(self, event: yaml.Event) -> _Node | None:
        """The tree of a document once *event* has completed it."""
        mark: Any = event.start_mark
        line = mark.line + 1
        node: _Node | None = None
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._stack.pop()
            node = _Node(done.line, self._mapping(done.parts) if done.mapping else done.parts)
            self._name(done.anchor, node)
        elif isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, line)
            self._name(event.anchor, node)
        elif isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(event.anchor or "")
            if node is None:
                raise DocumentError(line, f"alias *{event.anchor} stands for nothing before it")
        if node is not None and self._stack:
            self._stack[-1].parts.append(node)
            return None
        return node

    def _open(self, event: yaml.CollectionStartEvent, line: int) -> None:
        if event.tag not in _COLLECTIONS:
            raise DocumentError(line, f"tag {event.tag} is not supported: leave it out")
        if len(self._stack) >= MAX_DEPTH:
            raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Open(line, mapping, event.anchor, []))

    def _name(self, anchor: str | None, node: _Node) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _mapping(self, parts: list[_Node]) -> dict[str, tuple[int, _Node]]:
        found: dict[str, tuple[int, _Node]] = {}
        merged: dict[str, tuple[int, _Node]] = {}
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if key.merge:
                for source in value.value if isinstance(value.value, list) else [value]:
                    # YAML's merge type: the first of a list wins, and our own keys over all.
                    merged = {**self._to_merge(source, key.line), **merged}
                continue
            if isinstance(key.value, list | dict):
                raise DocumentError(key.line, "a key must be text, not a list or a mapping")
            if key.written in found:
                name, first = cut(key.written, 80), found[key.written][0]
                raise DocumentError(
                    key.line, f"{name} is here a second time (first in line {first})"
                )
            found[key.written] = key.line, value
        return {**merged, **found}

    def _to_merge(self, source: _Node, line: int) -> dict[str, tuple[int, _Node]]:
        if not isinstance(source.value, dict):
            raise DocumentError(line, "<< needs a mapping, or a list of them")
        self._merged += len(source.value)
        if self._merged > MAX_VALUES:
            raise DocumentError(line, "too large once its aliases are put in: shorten it")
        return source.value


def _scalar(event: yaml.ScalarEvent, line: int) -> _Node:
    text: str = event.value
    tag = event.tag if event.tag != "!" else _STR
    if tag is None and not event.implicit[0]:
        tag = _STR
    if tag is None and text == "<<":
        return _Node(line, text, text, merge=True)
    if tag == _STR:
        return _Node(line, text, text)
    value = _resolve(text)
    fits: Mapping[str, tuple[type, ...]] = {
        _INT: (int,), _FLOAT: (float, int), _BOOL: (bool,), _NULL: (type(None),),
    }  # fmt: skip
    if tag is not None and (tag not in fits or type(value) not in fits[tag]):
        raise DocumentError(line, f"tag {tag} is not supported here: leave it out")
    return _Node(line, value, text)


def _resolve(text: str) -> str | int | float | bool | None:
    """What a plain scalar stands for."""
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    # Python refuses to convert numbers of thousands of digits; nothing here has more than 64.
    if len(text) <= 64 and text[0] in "-+.0123456789":
        for pattern, base in _INTEGERS:
            if pattern.fullmatch(text) and text[-1] != "_":
                digits = text.replace("_", "")
                return int(digits.replace("0o", "", 1) if base == 8 else digits, base)
        if _REAL.fullmatch(text) and math.isfinite(number := float(text)):
            return number
    return text
