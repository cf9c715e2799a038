"""Which names, labels, ports and addresses can be; each check returns why not, in kube's words."""

import re
from ipaddress import AddressValueError, IPv4Address, ip_address
from typing import Any

from lab.api.objects import FieldErrors, Json, path

PROTOCOLS = ("SCTP", "TCP", "UDP")

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME_PART = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_PORT_NAME = "[a-z0-9]([a-z0-9-]*[a-z0-9])*"

MAX_ANNOTATIONS = 256 * 1024


def _matches(value: str, form: str, most: int, what: str, examples: str) -> str | None:
    if len(value) > most:
        return f"must be no more than {most} characters"
    if re.fullmatch(form, value):
        return None
    return f"{what} (e.g. {examples}, regex used for validation is '{form}')"


def dns_label(value: str) -> str | None:
    """RFC 1123's label."""
    return _matches(
        value, _LABEL, 63,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character", "'my-name',  or '123-abc'",
    )  # fmt: skip


def dns_1035_label(value: str) -> str | None:
    """RFC 1035's label, as services have."""
    return _matches(
        value, _LABEL_1035, 63,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with "
        "an alphabetic character, and end with an alphanumeric character",
        "'my-name',  or 'abc-123'",
    )  # fmt: skip


def dns_subdomain(value: str) -> str | None:
    """RFC 1123's subdomain, as most kinds have."""
    return _matches(
        value, _SUBDOMAIN, 253,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' "
        "or '.', and must start and end with an alphanumeric character", "'example.com'",
    )  # fmt: skip


def qualified_name(value: str) -> str | None:
    """A label's or annotation's key: ``[prefix/]name``."""
    prefix, slash, name = value.rpartition("/")
    if slash and (not prefix or "/" in prefix or dns_subdomain(prefix)):
        return f"prefix part {dns_subdomain(prefix) or 'must be non-empty'}"
    wrong = _matches(
        name, _NAME_PART, 63,
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
        "an alphanumeric character", "'MyName',  or 'my.name',  or '123-abc'",
    )  # fmt: skip
    return f"name part {wrong}" if wrong else None


def label_value(value: str) -> str | None:
    """A label's value; may be empty."""
    if not value:
        return None
    return _matches(
        value, _NAME_PART, 63,
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' "
        "or '.', and must start and end with an alphanumeric character",
        "'MyValue',  or 'my_value',  or '12345'",
    )  # fmt: skip


def config_key(value: str) -> str | None:
    """A key of a config map or secret: it may become the name of a file."""
    wrong = _matches(
        value, "[-._a-zA-Z0-9]+", 253,
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        "'key.name',  or 'KEY_NAME',  or 'key-name'",
    )  # fmt: skip
    return "must not be '.' or '..'" if value in {".", ".."} else wrong


def port_name(value: str) -> str | None:
    """The name of a container's port, which target ports refer to."""
    if len(value) > 15:
        return "must be no more than 15 characters"
    if not re.fullmatch(_PORT_NAME, value) or "--" in value or not re.search("[a-z]", value):
        return (
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), at least one "
            "letter, and no two hyphens in a row"
        )
    return None


def port_number(value: object) -> str | None:
    """1 to 65535."""
    good = isinstance(value, int) and 1 <= value <= 65535
    return None if good else "must be between 1 and 65535, inclusive"


def target_port(value: object) -> str | None:
    """A number or the name of a container's port."""
    return port_name(value) if isinstance(value, str) else port_number(value)


def address(value: object) -> str | None:
    """An IP address."""
    try:
        ip_address(str(value))
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return None


def endpoint_address(value: object) -> str | None:
    """An address that an endpoint may have: none that only means something on one host."""
    wrong = address(value)
    if wrong:
        return wrong
    ip = ip_address(str(value))
    if ip.is_unspecified:
        return "may not be unspecified (0.0.0.0 or ::)"
    if ip.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if ip.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    return "may not be a multicast address" if ip.is_multicast else None


def ipv4(value: object) -> IPv4Address | None:
    """The IPv4 address that *value* is, None when it is none."""
    try:
        return IPv4Address(str(value))
    except AddressValueError:
        return None


def check_labels(errors: FieldErrors, where: str, labels: Json) -> None:
    """Keys and values of labels, or of a selector."""
    for key, value in labels.items():
        errors.check(where, key, qualified_name(key))
        errors.check(where, value, label_value(value))


def check_meta(errors: FieldErrors, obj: Json, name_form: Any) -> None:
    """Name, labels and annotations of an object."""
    meta = obj["metadata"]
    name = meta.get("name", "")
    if not name:
        errors.required("metadata.name", "name or generateName is required")
    else:
        errors.check("metadata.name", name, name_form(name))
    check_labels(errors, "metadata.labels", path(obj, "metadata.labels") or {})
    annotations = path(obj, "metadata.annotations") or {}
    for key in annotations:
        errors.check("metadata.annotations", key, qualified_name(key.lower()))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATIONS:
        text = f"Too long: must have at most {MAX_ANNOTATIONS} bytes"
        errors.found.append(("FieldValueTooLong", "metadata.annotations", text))
