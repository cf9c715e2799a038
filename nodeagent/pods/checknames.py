"""Small checks that ``check`` and its parts share: each gives a sentence, or nothing.

Forms are those of ``k8s.io/apimachinery/pkg/util/validation``. *path* is the field as in
``spec.containers[0].name``.
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from hostkit.errors import cut
from nodeagent.pods import quantity
from nodeagent.pods.known import Quantity

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}")
"""A key of a ConfigMap or Secret."""
UID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][-A-Za-z0-9_.]{0,127}")
"""A pod's UID that is safe as the name of a folder and of a control group."""
LARGEST_ID = 2**31 - 1
"""The largest user or group id that Kubernetes takes."""


def shown(value: object) -> str:
    """A value of the pod, short enough for a sentence."""
    return cut(repr(value), 80)


def label(path: str, value: str) -> Iterator[str]:
    """A DNS label is wanted."""
    if not LABEL.fullmatch(value):
        yield (
            f"{path} is {shown(value)}: use at most 63 lower case letters, digits and -, "
            "a letter or digit at both ends"
        )


def subdomain(path: str, value: str) -> Iterator[str]:
    """A DNS name in lower case is wanted."""
    if not SUBDOMAIN.fullmatch(value):
        yield f"{path} is {shown(value)}: use lower case letters, digits, - and . between them"


def one_of(path: str, value: str, words: Iterable[str]) -> Iterator[str]:
    """One of *words* is wanted."""
    words = tuple(words)
    if value not in words:
        yield f"{path} is {shown(value)}: use {' or '.join(filter(None, words))}"


def between(path: str, value: int | None, low: int, high: int) -> Iterator[str]:
    """A number from *low* to *high*, both included, is wanted; None is no value."""
    if value is not None and not low <= value <= high:
        yield f"{path} is {value}: use {low} to {high}"


def at_least(path: str, value: int | None, low: int) -> Iterator[str]:
    """A number of at least *low* is wanted; None is no value."""
    if value is not None and value < low:
        yield f"{path} is {value}: use {low} or more"


def user_or_group(path: str, value: int | None) -> Iterator[str]:
    """A user or group id is wanted."""
    return between(path, value, 0, LARGEST_ID)


def address(path: str, value: str) -> Iterator[str]:
    """An IP address is wanted."""
    try:
        ip_address(value)
    except ValueError:
        yield f"{path} is {shown(value)}: use an IP address"


def port(path: str, value: int) -> Iterator[str]:
    """A port is wanted."""
    return between(path, value, 1, 65535)


def absolute(path: str, value: str) -> Iterator[str]:
    """An absolute path of a file is wanted, without going up."""
    yield from _no_zero(path, value)
    if not value.startswith("/"):
        yield f"{path} is {shown(value)}: use a path that begins with /"
    elif ".." in value.split("/"):
        yield f"{path} is {shown(value)}: write the path without '..'"


def relative(path: str, value: str) -> Iterator[str]:
    """A path below a volume is wanted."""
    yield from _no_zero(path, value)
    if value.startswith("/"):
        yield f"{path} is {shown(value)}: use a path below the volume, without / at its beginning"
    elif ".." in value.split("/"):
        yield f"{path} is {shown(value)}: write the path without '..'"


def item_path(path: str, value: str) -> Iterator[str]:
    """The path of a file that is made in a volume is wanted."""
    yield from relative(path, value)
    if not value.strip("/"):
        yield f"{path} is empty: name the file"
    elif value.startswith("..") and ".." not in value.split("/"):
        # Kubernetes' own links in such volumes begin so (..data).
        yield f"{path} is {shown(value)}: names beginning with '..' are kept for the agent"


def key(path: str, value: str) -> Iterator[str]:
    """A key of a ConfigMap or Secret is wanted."""
    if value == "." or not KEY.fullmatch(value):
        yield f"{path} is {shown(value)}: use letters, digits, -, _ and . only"


def mode(path: str, value: int | None) -> Iterator[str]:
    """Permission bits are wanted."""
    if value is not None and not 0 <= value <= 0o777:
        yield f"{path} is {value}: use 0 to 511 (0777 in octal, which JSON does not have)"


def amount(path: str, value: Quantity) -> Iterator[str]:
    """A quantity that is not negative is wanted."""
    try:
        negative = quantity.parse(value) < 0
    except ValueError as error:
        yield f"{path}: {error}"
    else:
        if negative:
            yield f"{path} is {value}: use 0 or more"


def unique(path: str, values: Iterable[str], what: str) -> Iterator[str]:
    """No value may be there twice."""
    seen: set[str] = set()
    told: set[str] = set()
    for value in values:
        if value in seen and value not in told:
            told.add(value)
            yield f"{path}: {what} {shown(value)} is there twice: keep one or rename it"
        seen.add(value)


def exactly_one(path: str, present: Iterable[str], choices: Iterable[str]) -> Iterator[str]:
    """One of several fields has to be set, and no more."""
    found = tuple(present)
    if not found:
        yield f"{path} has none of {', '.join(choices)}: set one"
    elif len(found) > 1:
        yield f"{path} has {' and '.join(found)}: keep one of them"


def _no_zero(path: str, value: str) -> Iterator[str]:
    if "\0" in value:
        yield f"{path} has a zero byte in it: remove it"
