"""Single fields of API objects, which may hold anything: each is taken, or refused by a sentence.

An etcd that was written by hand, or a server of another age, serves objects of any shape. One
bad field must not cost the whole object, so objects are decoded into structs whose leaves are
untyped; what does not even have the structs' shape is decoded again without types and its fit
parts are picked out. Every leaf then passes one of the functions below.
"""

import json
import re
import sys
from datetime import datetime
from ipaddress import AddressValueError, IPv4Network, IPv6Address
from math import inf
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from netd.services.values import Trouble

MOST_SHOWN = 80
"""Most characters of a value that are repeated in a sentence."""

MOST_FAULTS = 10
"""Most sentences about one object."""

MOST_LABEL = 63
MOST_SUBDOMAIN = 253
"""Longest names (RFC 1123; k8s.io/apimachinery/pkg/util/validation)."""

PROTOCOL_NAMES = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(?:\.{_LABEL.pattern})*")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"({_OCTET})\.({_OCTET})\.{_OCTET}\.{_OCTET}")
_NETWORK = re.compile(rf"{_IPV4.pattern}/(?:3[0-2]|[12]?[0-9])")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bad input; the last for thousands of brackets."""


def _wire_name(name: str) -> str:
    """The API's spelling of a field: ``cluster_ip`` is clusterIP."""
    first, *rest = name.split("_")
    capitals = {"ip": "IP", "ips": "IPs"}
    return first + "".join(capitals.get(word, word.capitalize()) for word in rest)


class Shape(msgspec.Struct, rename=_wire_name, gc=False):
    """A part of an API object: leaves are untyped, other parts are shapes or lists of them."""


AnyShape = TypeVar("AnyShape", bound=Shape)


class Meta(Shape):
    """The part of ObjectMeta that every kind needs."""

    name: Any = None
    namespace: Any = None
    creation_timestamp: Any = None


class Faults:
    """What is wrong with one object: the first ``MOST_FAULTS`` sentences, then a count."""

    __slots__ = ("_more", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        """One more sentence, which names a field and the fix."""
        if len(self._texts) < MOST_FAULTS:
            self._texts.append(text)
        else:
            self._more += 1

    def troubles(self, key: str) -> tuple[Trouble, ...]:
        """All of it, about the object *key*."""
        if not self._texts:
            return ()
        told = [Trouble(key, text) for text in self._texts]
        if self._more:
            told.append(Trouble(key, f"{self._more} more of its fields are wrong: mend these too"))
        return tuple(told)


def shown(value: object) -> str:
    """*value* for a sentence: printable ASCII, about ``MOST_SHOWN`` characters at most."""
    if value is None:
        return "missing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    # ascii() makes up to ten characters of one.
    text = ascii(value[: MOST_SHOWN + 1]) if isinstance(value, str) else str(value)
    if len(text) <= MOST_SHOWN + 2:
        return text
    return text[: MOST_SHOWN - 2] + "..." + (text[0] if isinstance(value, str) else "")


def read(
    decoder: msgspec.json.Decoder[AnyShape], raw: bytes | msgspec.Raw, faults: Faults
) -> AnyShape:
    """Decode *raw*, leaving out parts of a wrong shape; raises ValueError when it is no JSON
    object."""
    try:
        return decoder.decode(raw)
    except _UNREADABLE:
        pass
    try:
        data = json.loads(bytes(raw).decode(errors="replace"), strict=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the object is not JSON ({str(error)[:MOST_SHOWN]})") from error
    if not isinstance(data, dict):
        raise ValueError(f"the object is {shown(data)} instead of a JSON object")
    kind: type[AnyShape] = decoder.type
    return _salvage(kind, data, "", faults)


def _salvage(kind: type[AnyShape], data: dict[str, Any], path: str, faults: Faults) -> AnyShape:
    """A *kind* of what fits it in *data*."""
    fit: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        found = data.get(field.encode_name)
        where = f"{path}{field.encode_name}"
        inner, many = _inner(field.type)
        if inner is None or found is None:
            fit[field.name] = found
        elif many and isinstance(found, list):
            fit[field.name] = [
                _salvage(inner, one, f"{where}[{index}].", faults) if isinstance(one, dict)
                else None for index, one in enumerate(found)
            ]  # fmt: skip
        elif not many and isinstance(found, dict):
            fit[field.name] = _salvage(inner, found, f"{where}.", faults)
        else:
            faults.add(f"{where} is {shown(found)}: make it {'a list' if many else 'an object'}")
    return kind(**fit)


def _inner(hint: Any) -> tuple[type[Shape] | None, bool]:
    """The struct in ``Struct | None`` or ``list[Struct | None] | None``, and whether a list;
    None for an untyped leaf."""
    for part in get_args(hint):
        if get_origin(part) is list:
            return _inner(get_args(part)[0])[0], True
        if part is not type(None):
            return part, False
    return None, False


def object_key(meta: Meta | None, kind: str, faults: Faults) -> tuple[str, bool]:
    """``namespace/name``, and whether both are names that the API allows.

    Names of Services are DNS labels, others subdomains. The key of names that are not allowed
    is quoted, so it is never that of another object whose names are. Raises ValueError when one
    is missing.
    """
    if meta is None:
        raise ValueError(f"{kind} without metadata")
    good = True
    parts = []
    for field in ("namespace", "name"):
        value = getattr(meta, field)
        if type(value) is not str or not value:
            raise ValueError(f"{kind} whose metadata.{field} is {shown(value)}")
        is_label = field == "namespace" or kind == "service"
        if is_label_text(value) if is_label else is_subdomain(value):
            parts.append(value)
            continue
        good = False
        parts.append(shown(value))
        longest = MOST_LABEL if is_label else MOST_SUBDOMAIN
        faults.add(
            f"metadata.{field} is {shown(value)}: use at most {longest} small letters, digits "
            f"and '-'{'' if is_label else ' or dots'}"
        )
    return sys.intern("/".join(parts)), good


def is_label_text(value: str) -> bool:
    """Whether *value* is a DNS label."""
    return len(value) <= MOST_LABEL and _LABEL.fullmatch(value) is not None


def is_subdomain(value: str) -> bool:
    """Whether *value* is a DNS subdomain."""
    return len(value) <= MOST_SUBDOMAIN and _SUBDOMAIN.fullmatch(value) is not None


def timestamp(value: object, where: str, faults: Faults) -> float:
    """Unix seconds of an RFC 3339 time; infinity, so the youngest, when missing or bad."""
    if value is None:
        return inf
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]  # raises TypeError
        if time.tzinfo is not None:
            return time.timestamp()
    except (TypeError, ValueError, OverflowError):
        pass
    faults.add(f"{where} is {shown(value)}: use a time such as 2024-01-31T12:00:00Z")
    return inf


def port_number(value: object, where: str, faults: Faults) -> int:
    """A port; 0 when it is not one."""
    if type(value) is int and 1 <= value <= 0xFFFF:
        return value
    faults.add(f"{where} is {shown(value)}: use 1 to 65535")
    return 0


def port_name(value: object, where: str, faults: Faults) -> str | None:
    """A port's name, empty when absent; None when it is not a DNS label."""
    if value is None or value == "":
        return ""
    if type(value) is str and is_label_text(value):
        return sys.intern(value)
    faults.add(f"{where} is {shown(value)}: use at most {MOST_LABEL} small letters, digits and '-'")
    return None


def protocol(value: object, where: str, faults: Faults) -> str | None:
    """One of ``values.PROTOCOLS``, tcp when absent; None when unknown."""
    if value is None or value == "":
        return "tcp"
    known = PROTOCOL_NAMES.get(value) if type(value) is str else None
    if known is None:
        faults.add(f"{where} is {shown(value)}: use TCP, UDP or SCTP")
    return known


def choice(value: object, default: str, others: tuple[str, ...], where: str, faults: Faults) -> str:
    """*value* if it is *default* or one of *others*; else, and when absent, *default*."""
    if value is None or value in ("", default):
        return default
    if type(value) is str and value in others:
        return value
    faults.add(f"{where} is {shown(value)}: use {' or '.join((default, *others))}")
    return default


def items(value: object, where: str, faults: Faults) -> list[Any]:
    """The elements of a list, none when absent or when it is not a list."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    faults.add(f"{where} is {shown(value)}: make it a list")
    return []


def is_ipv6(value: object) -> bool:
    """Whether *value* is an IPv6 address, which is nothing for netd but no fault."""
    if type(value) is not str or ":" not in value:
        return False
    try:
        IPv6Address(value)
    except AddressValueError:
        return False
    return True


def ipv4(value: object, where: str, faults: Faults, *, link_local: bool = False) -> str | None:
    """A dotted IPv4 address to which packets for a service or pod can go; None when it is not.

    Link-local ones are refused, as the API server does (ValidateNonSpecialIP), unless
    *link_local*.
    """
    match = _IPV4.fullmatch(value) if type(value) is str else None
    if match is None:
        faults.add(f"{where} is {shown(value)}: use an IPv4 address such as 10.1.2.3")
        return None
    first = int(match[1])
    if first == 0:
        what = "an unspecified"
    elif first == 127:
        what = "a loopback"
    elif 224 <= first <= 239:
        what = "a multicast"
    elif match[0] == "255.255.255.255":
        what = "the broadcast"
    elif not link_local and first == 169 and match[2] == "254":
        what = "a link-local"
    else:
        return match[0]
    faults.add(f"{where} is {match[0]}, {what} address: use one that other hosts can reach")
    return None


def network(value: object, where: str, faults: Faults) -> str | None:
    """A canonical IPv4 network; None when it is not one."""
    # The API server forgives blanks around a range.
    text = value.strip(" ") if type(value) is str else ""
    if _NETWORK.fullmatch(text):
        return str(IPv4Network(text, strict=False))
    address, slash, bits = text.partition("/")
    if slash and is_ipv6(address) and bits.isdecimal():
        return None
    faults.add(f"{where} is {shown(value)}: use an IPv4 network such as 10.0.0.0/8")
    return None
