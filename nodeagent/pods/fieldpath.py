"""Fields of a pod as variables and files: the paths of fieldRef (``k8s.io/api/core/v1``)."""

import re
from collections.abc import Mapping

from nodeagent.errors import PodError
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod

REASON = "CreateContainerConfigError"

PLAIN = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
"""Paths of single values."""

WHOLE = ("metadata.labels", "metadata.annotations")
"""Paths of maps: with a key in brackets everywhere, without one in volumes only."""

_SUBSCRIPT = re.compile(r"(metadata\.(?:labels|annotations))\['([^']*)'\]", re.DOTALL)

_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def supported(path: str, *, whole: bool = False) -> bool:
    """Whether *path* names a field that can be had; *whole* also allows all labels at once."""
    return path in PLAIN or bool(_SUBSCRIPT.fullmatch(path)) or (whole and path in WHOLE)


def field_value(pod: Pod, path: str, *, pod_ip: str, host: Host, whole: bool = False) -> str:
    """The value of the field at *path*; a label or annotation that is not there is empty.

    *pod_ip* is the sandbox's address; a pod in the host's network has the host's. Raises PodError
    for other paths.
    """
    if not supported(path, whole=whole):
        raise PodError(
            REASON,
            f"fieldPath {path!r} is not one that can be had here: use one of {', '.join(PLAIN)}, "
            "metadata.labels['KEY'] or metadata.annotations['KEY']",
            final=True,
        )
    found = _SUBSCRIPT.fullmatch(path)
    if found:
        return _map(pod, found[1]).get(found[2], "")
    if path in WHOLE:
        return formatted(_map(pod, path))
    address = host.address if pod.spec.host_network else pod_ip
    values = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.spec.node_name or host.name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": host.address,
        "status.hostIPs": host.address,
        "status.podIP": address,
        "status.podIPs": address,
    }
    return values[path]


def formatted(values: Mapping[str, str]) -> str:
    """Lines ``key="value"`` sorted by key, without a line's end after the last.

    Values are quoted as Go's ``strconv.Quote`` does, which readers of these files rely on.
    """
    return "\n".join(f"{key}={_quoted(values[key])}" for key in sorted(values))


def _map(pod: Pod, path: str) -> Mapping[str, str]:
    return pod.metadata.labels if path == "metadata.labels" else pod.metadata.annotations


def _quoted(text: str) -> str:
    return f'"{"".join(_escaped(one) for one in text)}"'


def _escaped(one: str) -> str:
    if one in _ESCAPES:
        return _ESCAPES[one]
    if one.isprintable():
        return one
    number = ord(one)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
