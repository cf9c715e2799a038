"""What hosts of a cluster have to agree on, and what a host remembers of having joined.

Pure. The first is a document in the API server, which a host with a join token may read; the
second a file on the host's disk.
"""

from ipaddress import IPv4Network
from typing import Literal

import msgspec

from lab.errors import LabError
from lab.master.plane import Master, Plane, Version

RECORD_FILE = "/var/lib/barenode/host.json"
"""Where a host remembers what it has become."""
CONFIG_NAMESPACE = "kube-system"
CONFIG_NAME = "barenode"
CONFIG_KEY = "cluster.json"
"""The ConfigMap, and the key in it, that holds a ``ClusterConfig``."""
JOIN_GROUP = "system:bootstrappers:barenode:join"
"""The group of whoever comes with a join token."""

NODE_PAIR = "node"
"""The certificate that a joined host asked for itself, below the PKI folder, without ``.crt``."""


class Host(msgspec.Struct, frozen=True):
    """A master: its node's name and IPv4 address."""

    name: str
    address: str


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a joining host has to know. *masters* are in the order in which clients prefer them.

    *pods* and *services* are networks in CIDR notation, *version* is that of Kubernetes, such as
    ``v1.20``.
    """

    masters: tuple[Host, ...]
    pods: str
    services: str
    domain: str
    version: str

    @classmethod
    def of(cls, plane: Plane) -> "ClusterConfig":
        """The document of *plane*."""
        return cls(
            masters=tuple(Host(master.name, master.address) for master in plane.masters),
            pods=str(plane.pods),
            services=str(plane.services),
            domain=plane.domain,
            version=str(plane.version),
        )

    def plane(self) -> Plane:
        """The plane as a worker knows it, without images; raises LabError for a bad document."""
        try:
            return Plane(
                tuple(Master(one.name, one.address) for one in self.masters),
                services=IPv4Network(self.services),
                pods=IPv4Network(self.pods),
                version=Version.parse(self.version),
                hyperkube_image="",
                etcd_image="",
                domain=self.domain,
            )
        except ValueError as error:
            raise LabError(f"the cluster's configuration cannot be used: {error}") from error


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has become. *server* is the API server's URL, *ca_hash* the CA's pin.

    *at* is the time of the first success, in seconds since 1970; 0 while it is under way.
    """

    role: Literal["master", "worker"]
    name: str
    address: str
    server: str
    ca_hash: str
    at: float = 0.0
