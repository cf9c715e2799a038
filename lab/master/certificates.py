"""Which certificates a cluster needs: a plan in values, without keys.

File names and subjects are those that kubeadm uses, so that its documentation, and tools that
look for certificates, hold for these hosts too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from lab.errors import UsageError
from lab.master.plane import Master, Plane

AUTHORITIES = ("ca", "etcd/ca", "front-proxy-ca")
AUTHORITY_NAMES: Mapping[str, str] = {
    "ca": "kubernetes",
    "etcd/ca": "etcd-ca",
    "front-proxy-ca": "front-proxy-ca",
}
"""The common names of the authorities."""

ADMINISTRATORS = "system:masters"
"""The group that the API server lets do everything, whatever its roles say."""

USED_BY: Mapping[str, tuple[str, ...]] = {
    "apiserver": ("kube-apiserver",),
    "apiserver-kubelet-client": ("kube-apiserver",),
    "apiserver-etcd-client": ("kube-apiserver",),
    "front-proxy-client": ("kube-apiserver",),
    "etcd/server": ("etcd",),
    "etcd/peer": ("etcd", "etcd-network"),
    "network/server": ("etcd-network",),
    "admin": ("kube-apiserver-http",),
    "controller-manager": ("kube-controller-manager",),
    "scheduler": ("kube-scheduler",),
    "nodeagent": ("nodeagent",),
    "kubelet": ("nodeagent",),
    "netd": ("netd",),
}
"""The daemons that read each certificate; one that is not here is read at each use."""

KUBECONFIGS: Mapping[str, str] = {
    "admin": "kubernetes-admin",
    "controller-manager": "system:kube-controller-manager",
    "scheduler": "system:kube-scheduler",
}
"""The users of a master whose certificates go into kubeconfigs: file name to common name."""

NODE_KUBECONFIGS = ("nodeagent", "netd")
"""The certificates of every host that go into kubeconfigs, by file name."""

BESIDE_API = ("controller-manager", "scheduler")
"""The users of a master that talk to the API server beside them.

The administrator is none of them: that file is copied to where the administrator sits.
"""

NODE_AUTHORITIES = ("ca",)
"""The authorities whose certificates a host that is no master has to know."""

NETD_OF_OLD = "etcd/netd"
"""netd's certificate while it kept the network in Kubernetes' own etcd: it opens all of that."""

# RFC 5280, appendix A.1: ub-common-name and ub-organization-name.
_LONGEST = 64
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
# RFC 1123, section 2.1; RFC 6125, section 6.4.3 for the asterisk.
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate. *name* is its path below the PKI folder, without ``.crt`` or ``.key``.

    *issuer* is one of ``AUTHORITIES``; *addresses* and *names* are its subject alternative names.
    Common name and organizations have 1 to 64 characters. Raises UsageError naming the field.
    """

    name: str
    issuer: str
    common_name: str
    organizations: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    server: bool = False
    client: bool = False

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no name of a certificate: use letters, digits, '.', '_', '-'"
            )
        where = f"certificate {self.name}"
        if self.issuer not in AUTHORITIES:
            raise UsageError(
                f"{where}: issuer {self.issuer!r}: choose one of {', '.join(AUTHORITIES)}"
            )
        for part, text in (
            ("common name", self.common_name),
            *(("organization", text) for text in self.organizations),
        ):
            if not 1 <= len(text) <= _LONGEST or not text.isprintable():
                raise UsageError(
                    f"{where}: {part} {text!r}: use 1 to {_LONGEST} printable characters"
                )
        for text in self.addresses:
            if not is_address(text):
                raise UsageError(f"{where}: {text!r} is no IP address: write it like 10.0.0.1")
        for text in self.names:
            check_name(text, where)
        if not (self.server or self.client):
            raise UsageError(f"{where}: it is neither a server's nor a client's: set one of both")
        if self.server and not (self.addresses or self.names):
            raise UsageError(f"{where}: a server's certificate needs an address or a name")


def is_address(text: str) -> bool:
    """Whether *text* is an IP address and no name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def check_name(text: str, where: str) -> str:
    """Return *text* if it is a DNS name; raises UsageError that begins with *where*."""
    if len(text) > 253 or not _DNS_NAME.fullmatch(text):
        raise UsageError(
            f"{where}: {text!r} is neither an address nor a DNS name: "
            "use letters, digits and '-', with dots between"
        )
    return text


def check_node(text: str, where: str) -> str:
    """Return *text* if a node can be called so; raises UsageError that begins with *where*."""
    if check_name(text, where) != text.lower() or text.startswith("*"):
        raise UsageError(f"{where}: {text!r} is no name of a node: use small letters, and no '*'")
    return text


def for_master(plane: Plane, master: Master) -> tuple[Wanted, ...]:
    """What *master* needs to run both etcds and the API server; raises UsageError.

    The API server's certificate fits every master, so that a balancer may stand in front of them.
    """
    addresses, names = _split(
        text
        for source in (
            (master.address, master.name),
            *((other.address, other.name) for other in plane.masters),
            (plane.api_address, "127.0.0.1", "localhost", "kubernetes", "kubernetes.default"),
            ("kubernetes.default.svc", f"kubernetes.default.svc.{plane.domain}"),
            plane.names,
        )
        for text in source
    )
    return (
        Wanted("apiserver", "ca", "kube-apiserver", addresses=addresses, names=names, server=True),
        Wanted(
            "apiserver-kubelet-client",
            "ca",
            "kube-apiserver-kubelet-client",
            (ADMINISTRATORS,),
            client=True,
        ),
        Wanted("front-proxy-client", "front-proxy-ca", "front-proxy-client", client=True),
        *_etcd_members(master),
        Wanted(
            "etcd/healthcheck-client",
            "etcd/ca",
            "kube-etcd-healthcheck-client",
            (ADMINISTRATORS,),
            client=True,
        ),
        Wanted("apiserver-etcd-client", "etcd/ca", "kube-apiserver-etcd-client", client=True),
    )


def _etcd_members(master: Master) -> Iterator[Wanted]:
    own, called = _split((master.address, master.name, "127.0.0.1", "localhost"))
    for name, issuer in (
        ("etcd/server", "etcd/ca"),
        ("etcd/peer", "etcd/ca"),
        ("network/server", "ca"),
    ):
        # etcd's JSON gateway logs in to its own server with the server's certificate: without
        # the usage clientAuth it answers every request with 503.
        yield Wanted(
            name, issuer, master.name, addresses=own, names=called, server=True, client=True
        )


def for_users(plane: Plane) -> tuple[Wanted, ...]:
    """The certificates for the kubeconfigs of a master of *plane*.

    An insecure plane has the same: its own daemons use TLS all the same.
    """
    return tuple(
        Wanted(name, "ca", user, (ADMINISTRATORS,) if name == "admin" else (), client=True)
        for name, user in KUBECONFIGS.items()
    )


def for_node(name: str, address: str) -> tuple[Wanted, ...]:
    """What the daemons of the node *name* need; raises UsageError.

    ``kubelet`` is what the API server checks when it fetches a container's log. ``netd`` is the
    user to whom every cluster lets its proxy watch services, endpoints and nodes; the network's
    etcd lets it in as it does every client of the cluster's CA.
    """
    check_node(name, "node")
    addresses, names = _split((address, name))
    if not addresses:
        raise UsageError(f"node {name}: {address!r} is no IP address: write it like 10.0.0.1")
    return (
        Wanted("nodeagent", "ca", f"system:node:{name}", ("system:nodes",), client=True),
        Wanted(
            "kubelet", "ca", f"system:node:{name}", addresses=addresses, names=names, server=True
        ),
        Wanted("netd", "ca", "system:kube-proxy", client=True),
    )


def _split(texts: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """*texts* as addresses and names, each once, in their order."""
    every = tuple(dict.fromkeys(texts))
    addresses = tuple(text for text in every if is_address(text))
    return addresses, tuple(text for text in every if not is_address(text))
