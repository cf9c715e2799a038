"""Which objects of a kind are meant: by namespace, label selector and field selector."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.api.kinds import Kind
from lab.api.mirror import Item, Name
from lab.api.objects import Json, bad_request, path

Test = Callable[[Mapping[str, str]], bool]

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<not>!)\s*(?P<gone>[^\s!=,()]+)"
    r"|(?P<key>[^\s!=,()]+)\s*(?:(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*))?)\s*(?:,|$)"
)


def label_selector(text: str) -> Test:
    """A test on labels from the query's text: ``a=b,c!=d,e in (f, g),!h``; raises 400."""
    tests: list[Test] = []
    at = 0
    while at < len(text):
        match = _REQUIREMENT.match(text, at)
        if match is None:
            raise bad_request(f"unable to parse requirement: {text[at:]!r} is no label selector")
        at = match.end()
        tests.append(_requirement(match))
    return lambda labels: all(test(labels) for test in tests)


def _requirement(match: re.Match[str]) -> Test:
    gone, key, op = match["gone"], match["key"], match["op"] or match["set"]
    if gone:
        return lambda labels: gone not in labels
    if op is None:
        return lambda labels: key in labels
    raw = match["values"] if match["set"] else match["value"]
    values = {value.strip() for value in raw.split(",")} if match["set"] else {raw}
    if op in {"!=", "notin"}:
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def field_selector(kind: Kind, text: str) -> Callable[[Json], bool]:
    """A test on objects from the query's text: ``metadata.name=a,status.phase!=b``; raises 400."""
    tests: list[tuple[str, bool, str]] = []
    for piece in filter(None, text.split(",")):
        name, op, value = (
            re.split(r"(==|!=|=)", piece, maxsplit=1) if "=" in piece else (piece, "", "")
        )
        if not op:
            raise bad_request(f'invalid selector: "{text}"; can\'t understand "{piece}"')
        if name not in {"metadata.name", "metadata.namespace", *kind.fields}:
            raise bad_request(f"field label not supported: {name}")
        tests.append((name, op != "!=", value))
    return lambda obj: all((_field(obj, name) == value) is same for name, same, value in tests)


def _field(obj: Json, name: str) -> str:
    value = path(obj, "source.component" if name == "source" else name)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of *kind*; an empty ``namespace`` is all of them, and a test of None all objects."""

    kind: Kind
    namespace: str = ""
    labels: Test | None = None
    fields: Callable[[Json], bool] | None = None

    @classmethod
    def parse(cls, kind: Kind, namespace: str, labels: str, fields: str) -> "Selection":
        """From a query's texts; raises 400."""
        return cls(
            kind,
            namespace,
            label_selector(labels) if labels else None,
            field_selector(kind, fields) if fields else None,
        )

    def has(self, name: Name, item: Item | None) -> bool:
        """Whether *item*, called *name*, is there and one of them."""
        if item is None or self.namespace not in {"", name[0]}:
            return False
        if self.labels is not None and not self.labels(item.labels):
            return False
        return self.fields is None or self.fields(item.obj())
