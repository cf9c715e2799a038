"""Texts of settings and what they become; parsers raise ValueError with what to use instead."""

import re
from ipaddress import IPv4Address, ip_address

from hostkit.config import comma_list, duration

# RFC 1123 as k8s.io/apimachinery/pkg/util/validation applies it.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SIZE = re.compile(r"([0-9]+)(Ki|Mi|Gi|k|K|m|M|g|G)?")
# In a quantity of Kubernetes m is a thousandth, in Docker's notation it is a million.
_SIZE_UNITS = {
    "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "m": 10**6, "g": 10**9,
}  # fmt: skip


def period(value: str) -> float:
    """A time of at least a second: what is done that often, or has that long, would otherwise
    keep the host busy or never be done."""
    seconds = duration(value)
    if seconds < 1:
        raise ValueError("use a time of 1s or more")
    return seconds


def address(value: str) -> str:
    """An IP address."""
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("use an address such as 0.0.0.0 or 127.0.0.1") from None


def addresses(value: str) -> tuple[str, ...]:
    """IP addresses, separated by commas."""
    try:
        return tuple(str(ip_address(item)) for item in comma_list(value))
    except ValueError:
        raise ValueError("use addresses such as 10.0.0.10, separated by commas") from None


def node_ip(value: str) -> str:
    """An IPv4 address, "" for the one to be found out."""
    if value.strip() in {"", "0.0.0.0"}:  # noqa: S104 - the kubelet's word for: find out
        return ""
    try:
        return str(IPv4Address(value.strip()))
    except ValueError:
        raise ValueError("use an IPv4 address of this host, such as 192.168.0.201") from None


def node_name(value: str) -> str:
    """The name of a node, in lower case, or ""."""
    name = value.strip().lower()
    if value and (len(name) > 253 or not _NAME.fullmatch(name)):
        raise ValueError(
            "use the name that this host has in the cluster: letters, digits, - and ., "
            "or an IPv4 address"
        )
    return name


def domain(value: str) -> str:
    """A DNS domain without its last dot."""
    name = value.strip().rstrip(".").lower()
    if value and (len(name) > 253 or not _NAME.fullmatch(name)):
        raise ValueError("use a domain such as cluster.local")
    return name


def unix_socket(value: str) -> str:
    """The path of a Unix socket from its URL."""
    path = value.strip().removeprefix("unix://")
    if "://" in path or not path.startswith("/"):
        raise ValueError("use Docker's Unix socket, such as unix:///var/run/docker.sock")
    return path


def runtime_socket(value: str) -> str:
    """Docker's socket from the flag that names a runtime; a CRI runtime's is refused."""
    # dockershim.sock was the kubelet's own, for its Docker runtime.
    if not value.strip() or value.strip().endswith("/dockershim.sock"):
        return ""
    path = unix_socket(value)
    if not path.endswith("/docker.sock"):
        raise ValueError(
            "nodeagent talks to Docker itself, not to a CRI runtime: use --docker-endpoint, "
            "such as unix:///var/run/docker.sock"
        )
    return path


# The readers of these come with half of the agent: they are imported for those who use them, so
# that status and help answer at once.


def labels(value: str) -> tuple[str, ...]:
    """Texts such as ``KEY=VALUE``."""
    from nodeagent.node.settings import parse_labels  # noqa: PLC0415

    parse_labels(value)
    return comma_list(value)


def taints(value: str) -> tuple[str, ...]:
    """Texts such as ``KEY=VALUE:EFFECT``."""
    from nodeagent.node.settings import parse_taints  # noqa: PLC0415

    parse_taints(value)
    return comma_list(value)


def reserved(value: str) -> tuple[str, ...]:
    """Texts such as ``cpu=500m``."""
    from nodeagent.node.settings import parse_reserved  # noqa: PLC0415

    parse_reserved(value)
    return comma_list(value)


def eviction(value: str) -> str:
    """Thresholds such as ``memory.available<100Mi``, checked and kept."""
    from nodeagent.node.pressure import parse_thresholds  # noqa: PLC0415

    parse_thresholds(value)
    return value


def log_size(value: str) -> str:
    """A size as a quantity or in Docker's notation, checked and kept."""
    found = _SIZE.fullmatch(value.strip())
    if found is None or int(found[1]) == 0:
        raise ValueError("use a size such as 10Mi or 500k")
    return value.strip()


def log_bytes(value: str) -> int:
    """The bytes that ``log_size`` let through."""
    number, unit = re.fullmatch(r"([0-9]+)(.*)", value).groups()  # type: ignore[union-attr]
    return int(number) * _SIZE_UNITS[unit if unit in _SIZE_UNITS else unit.lower()]
