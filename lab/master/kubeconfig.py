"""Kubeconfigs that stand alone: server, CA and credentials in one file.

The format is that of ``k8s.io/client-go/tools/clientcmd/api/v1``, which kubectl, Kubernetes' own
daemons and ours read.
"""

from base64 import b64decode, b64encode
from typing import Annotated, Literal

import msgspec
import yaml

from lab.errors import UsageError


def kubeconfig(
    server: str,
    user: str,
    *,
    ca: bytes = b"",
    cert: bytes = b"",
    key: bytes = b"",
    cluster: str = "barenode",
) -> str:
    """The YAML text; the same arguments give the same text.

    *server* is a base URL, "" when the reader is told otherwise where the servers are. *ca*,
    *cert* and *key* are PEM; without *ca* the system's CAs count, or none with http. Raises
    UsageError when a certificate comes without its key, or a key without its certificate.
    """
    if bool(cert) != bool(key):
        missing = "key" if cert else "certificate"
        raise UsageError(f"kubeconfig of {user}: the {missing} is missing: give both or neither")
    context = f"{user}@{cluster}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster,
                "cluster": _given({"server": server, "certificate-authority-data": _data(ca)}),
            }
        ],
        "users": [
            {
                "name": user,
                "user": _given(
                    {"client-certificate-data": _data(cert), "client-key-data": _data(key)}
                ),
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    }
    return yaml.safe_dump(document, sort_keys=False, width=2**20)


def holder(text: str, cluster: str = "barenode") -> str:
    """The user of a kubeconfig that ``kubeconfig`` made for *cluster*; "" for any other text."""
    made = _read(text)
    if made is None or made.clusters[0].name != cluster:
        return ""
    return made.users[0].name


def renewed(text: str, cert: bytes, key: bytes) -> str:
    """*text*, which ``kubeconfig`` made, with another certificate and its key."""
    made = _read(text)
    if made is None:
        raise UsageError("this is no kubeconfig that barenode made: make a new one")
    entry = made.clusters[0]
    return kubeconfig(
        entry.cluster.server,
        made.users[0].name,
        ca=b64decode(entry.cluster.ca),
        cert=cert,
        key=key,
        cluster=entry.name,
    )


class _Cluster(msgspec.Struct):
    server: str = ""
    ca: str = msgspec.field(default="", name="certificate-authority-data")


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str


class _Made(msgspec.Struct):
    kind: Literal["Config"]
    clusters: Annotated[list[_NamedCluster], msgspec.Meta(min_length=1, max_length=1)]
    users: Annotated[list[_NamedUser], msgspec.Meta(min_length=1, max_length=1)]


def _read(text: str) -> _Made | None:
    try:
        return msgspec.convert(yaml.safe_load(text), _Made)
    except (yaml.YAMLError, RecursionError, msgspec.ValidationError):
        return None


def _data(pem: bytes) -> str:
    return b64encode(pem).decode("ascii")


def _given(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}
