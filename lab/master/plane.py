"""The values that describe a control plane: its masters, ranges, version and images.

Pure. Everything else in this package is derived from a ``Plane``: the same value gives the same
manifests and asks for the same certificates, on a host of a lab as on a real one.
"""

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Network

from lab.errors import UsageError

API_PORT = 6443
INSECURE_PORT = 8080
ETCD_PORT = 2379
ETCD_OLD_PORT = 4001
"""etcd's client port of its first years, to which flannel's default still points."""
ETCD_PEER_PORT = 2380
NETWORK_ETCD_PORT = 12379
NETWORK_PEER_PORT = 12380
"""Ports of the network's etcd, which holds netd's keys and nothing else."""

_VERSION = re.compile(r"v?(?P<major>\d+)\.(?P<minor>\d+)(?:[.+-].*)?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of Kubernetes, as far as flags depend on it."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> "Version":
        """``v1.20.2`` and the like; raises UsageError."""
        match = _VERSION.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{text!r} is no version of Kubernetes: write it like v1.20.2")
        return cls(int(match["major"]), int(match["minor"]))

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class Master:
    """A host of the control plane: its node's name and the IPv4 address others reach it at."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Plane:
    """A control plane. *masters* are in the order in which clients prefer them.

    *services* is the range of cluster IPs, *pods* the overlay's network, *domain* what cluster
    names end in. *insecure*: API and etcd answer plain HTTP without credentials, as in
    Kubernetes' first years. *names* are further names or addresses of the API, for its certificate.
    """

    masters: tuple[Master, ...]
    services: IPv4Network
    pods: IPv4Network
    version: Version
    hyperkube_image: str
    etcd_image: str
    insecure: bool = False
    domain: str = "cluster.local"
    names: tuple[str, ...] = ()

    @property
    def api_address(self) -> str:
        """The cluster IP of the service ``kubernetes``: the first of the range."""
        return str(self.services[1])

    def master(self, name: str) -> Master | None:
        """The master called *name*, if there is one."""
        return next((master for master in self.masters if master.name == name), None)

    def first_subnet(self, master: Master) -> IPv4Network:
        """The subnet with which *master* comes up before there is an etcd to lease one from.

        From the top of the pods' network: leases are chosen at random from all of it, and one
        that is registered is never given away.
        """
        last = int(self.pods.broadcast_address) - 256 * self.masters.index(master)
        return IPv4Network((last & ~255, 24))

    def first_mac(self, master: Master) -> str:
        """The MAC of *master*'s VTEP to begin with: locally administered, and the same whoever
        derives it, since masters tell of each other what they begin with."""
        digest = hashlib.sha256(f"{master.name} {master.address}".encode()).digest()
        return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")

    def api_urls(self, first: str = "") -> tuple[str, ...]:
        """The API servers; that of the master called *first*, if there is one, leads."""
        scheme, port = ("http", INSECURE_PORT) if self.insecure else ("https", API_PORT)
        return tuple(f"{scheme}://{m.address}:{port}" for m in self._order(first))

    def etcd_urls(self, first: str = "") -> tuple[str, ...]:
        """etcd's client URLs, likewise."""
        scheme = "http" if self.insecure else "https"
        return tuple(f"{scheme}://{m.address}:{ETCD_PORT}" for m in self._order(first))

    def network_etcd_urls(self, first: str = "") -> tuple[str, ...]:
        """The client URLs of the etcd in which netd keeps the network, likewise.

        An insecure plane has one etcd for all; who reaches it may do anything there anyway.
        """
        if self.insecure:
            return self.etcd_urls(first)
        return tuple(f"https://{m.address}:{NETWORK_ETCD_PORT}" for m in self._order(first))

    def _order(self, first: str) -> list[Master]:
        return sorted(self.masters, key=lambda master: master.name != first)
