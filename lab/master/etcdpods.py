"""The static pods of a master that are etcd: that of Kubernetes, and that of the network.

Pure. With TLS a second, small etcd holds netd's keys alone, so that a host which leases a subnet
needs no credential for Kubernetes' own. Its clients are whoever the cluster's CA has signed; its
members know each other by the pair that those of Kubernetes' etcd have.
"""

from dataclasses import dataclass

from lab.master.plane import (
    ETCD_OLD_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    NETWORK_ETCD_PORT,
    NETWORK_PEER_PORT,
    Master,
    Plane,
)
from lab.master.staticpod import PKI, Raw, flags, static_pod

ETCD_DATA = "/var/lib/etcd"
ETCD_HEALTH_PORT = 2381
NETWORK_DATA = "/var/lib/etcd-network"
NETWORK_HEALTH_PORT = 12381
_NETWORK_QUOTA = 128 * 1024 * 1024
"""Bytes. A host has a record and a note in the history, together below 1 KiB."""


@dataclass(frozen=True, slots=True)
class Etcd:
    """An etcd of the masters.

    *authority*, the one of its clients, and *server*, its pair, are paths below the PKI folder
    without suffix. *mounts*: what it reads of the host, by path; *further*: flags of its own.
    """

    name: str
    data: str
    port: int
    peer_port: int
    health_port: int
    authority: str
    server: str
    mounts: tuple[str, ...]
    cpu: str
    further: tuple[tuple[str, object], ...] = ()


KUBERNETES_ETCD = Etcd(
    name="etcd",
    data=ETCD_DATA,
    port=ETCD_PORT,
    peer_port=ETCD_PEER_PORT,
    health_port=ETCD_HEALTH_PORT,
    authority="etcd/ca",
    server="etcd/server",
    mounts=(f"{PKI}/etcd",),
    cpu="100m",
)
NETWORK_ETCD = Etcd(
    name="etcd-network",
    data=NETWORK_DATA,
    port=NETWORK_ETCD_PORT,
    peer_port=NETWORK_PEER_PORT,
    health_port=NETWORK_HEALTH_PORT,
    authority="ca",
    server="network/server",
    # Single files: beside these lie the keys of the authorities and of Kubernetes' etcd.
    mounts=(
        f"{PKI}/network",
        f"{PKI}/ca.crt",
        f"{PKI}/etcd/ca.crt",
        f"{PKI}/etcd/peer.crt",
        f"{PKI}/etcd/peer.key",
    ),
    cpu="20m",
    further=(
        ("initial-cluster-token", "etcd-network"),
        # Kubernetes' history is dropped by its API server; nobody would drop this one.
        ("auto-compaction-mode", "periodic"),
        ("auto-compaction-retention", "1h"),
        ("quota-backend-bytes", _NETWORK_QUOTA),
    ),
)


def etcds(plane: Plane) -> tuple[Etcd, ...]:
    """Which there are on each master of *plane*."""
    return (KUBERNETES_ETCD,) if plane.insecure else (KUBERNETES_ETCD, NETWORK_ETCD)


def etcd_pod(etcd: Etcd, plane: Plane, master: Master) -> Raw:
    """The member of *etcd* on *master*."""
    scheme = "http" if plane.insecure else "https"
    peers = ",".join(f"{m.name}={scheme}://{m.address}:{etcd.peer_port}" for m in plane.masters)
    here = (master.address, "127.0.0.1")
    ports = (etcd.port, ETCD_OLD_PORT) if plane.insecure else (etcd.port,)
    peer = f"{scheme}://{master.address}:{etcd.peer_port}"
    settings: dict[str, object] = {
        "name": master.name,
        "data-dir": f"{etcd.data}/data",
        "listen-client-urls": ",".join(f"{scheme}://{a}:{p}" for p in ports for a in here),
        "advertise-client-urls": f"{scheme}://{master.address}:{etcd.port}",
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": peers,
        "initial-cluster-state": "new",
        "listen-metrics-urls": f"http://127.0.0.1:{etcd.health_port}",
        "snapshot-count": 10000,
        "logger": "zap",
        **dict(etcd.further),
    }
    if not plane.insecure:
        settings |= {
            "client-cert-auth": "true",
            "trusted-ca-file": f"{PKI}/{etcd.authority}.crt",
            "cert-file": f"{PKI}/{etcd.server}.crt",
            "key-file": f"{PKI}/{etcd.server}.key",
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": f"{PKI}/etcd/ca.crt",
            "peer-cert-file": f"{PKI}/etcd/peer.crt",
            "peer-key-file": f"{PKI}/etcd/peer.key",
        }
    # /health asks for a leader: a member must not be restarted because the others are away.
    health = {"host": "127.0.0.1", "port": etcd.health_port, "path": "/metrics", "scheme": "HTTP"}
    return static_pod(
        etcd.name,
        plane.etcd_image,
        ("etcd", *flags(settings)),
        mounts={etcd.data: False, **dict.fromkeys(etcd.mounts, True)},
        liveness={"httpGet": health},
        cpu=etcd.cpu,
    )
