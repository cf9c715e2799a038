"""What netd says of itself: the status document, its metrics and how a person reads them."""

import os
import time
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from hostkit.logs import printable
from hostkit.metrics import Metrics
from netd.leases.model import Backend
from netd.overlay.model import VxlanOptions

if TYPE_CHECKING:
    from netd.app import NetdApp


REPAIRS = (
    "link", "mtu", "address", "route", "neighbour", "fdb", "bridge", "iptables", "sysctl", "file",
)  # fmt: skip
"""What can be repaired."""


class Figures:
    """netd's metrics; those that mirror a state are read when they are asked for."""

    def __init__(self, metrics: Metrics, app: "NetdApp") -> None:
        self._repairs = metrics.counter(
            "repairs", "Things of ours that somebody changed and netd put right", "kind"
        )
        self.repair_counts: dict[str, int] = {}
        self._app = app
        for name, text, read in (
            ("peers", "Other hosts in the overlay", lambda: len(app.overlay.peer_changed)),
            ("overlay_entries", "Neighbours, FDB entries and routes in the kernel",
             lambda: app.overlay.entries),
            ("overlay_mtu_bytes", "MTU of the overlay", lambda: app.overlay.mtu),
            ("skipped_leases", "Lease records that are not used",
             lambda: len(app.peering.skipped)),
            ("etcd_connected", "1 while lease changes arrive", lambda: app.feed.connected),
            ("from_cache", "1 while the saved state stands in for etcd", lambda: app.from_cache),
            ("lease_conflict", "1 while another host holds our subnet",
             lambda: app.holder is not None and app.holder.conflict),
            ("lease_expiry_timestamp_seconds", "When the lease ends unless renewed, 0 for never",
             lambda: (app.holder.expires_at if app.holder else None) or 0.0),
            ("problems", "Problems that stand", lambda: len(app.problems.all())),
        ):  # fmt: skip
            metrics.gauge(name, text).set_function(_number(read))
        for name, text, read in (
            ("lease_reacquired", "How often a lost record was created again",
             lambda: app.holder.reacquired if app.holder else 0),
            ("renumbered", "How often this host took another subnet",
             lambda: app.holder.renumbered if app.holder else 0),
            ("iptables_restore_failures", "Failed writes of iptables rules",
             lambda: app.firewall.tables.restore_failures if app.firewall.tables else 0),
        ):  # fmt: skip
            metrics.reading(name, text, _number(read))
        for kind in REPAIRS:
            self._repairs.labels(kind)

    def repaired(self, kind: str) -> None:
        """Count one repair."""
        self.repair_counts[kind] = self.repair_counts.get(kind, 0) + 1
        self._repairs.labels(kind).inc()


def _number(read: Any) -> Any:
    return lambda: float(read())


def collect(app: "NetdApp") -> dict[str, Any]:
    """The status document; times are Unix seconds, absent things null."""
    return {
        "version": app.version,
        "pid": os.getpid(),
        "started": app.started,
        "lease": _lease(app),
        "etcd": {
            "endpoint": app.client.endpoint,
            "connected": app.feed.connected,
            "endpoint_errors": dict(app.client.endpoint_errors),
            "from_cache": app.from_cache,
            "prefix": app.store.prefix,
        },
        "network": _network(app),
        "peers": _peers(app),
        "skipped": [
            {"key": printable(key), "reason": why}
            for key, why in sorted(app.peering.skipped.items())
        ],
        "repairs": dict(sorted(app.figures.repair_counts.items())),
        "sysctls": [
            {"name": one.name, "wanted": one.wanted, "found": one.found, "error": one.error}
            for one in app.host.sysctls
        ],
        "iptables": {
            "variant": app.firewall.tables.variant if app.firewall.tables else None,
            "in_place": app.firewall.is_done,
        },
        "files_and_bridge_in_place": app.host.is_done,
    }


def _lease(app: "NetdApp") -> dict[str, Any] | None:
    holder = app.holder
    if holder is None or holder.subnet is None:
        return None
    lease = holder.lease
    state = "held"
    if holder.conflict:
        state = "lost to another host"
    elif app.from_cache or lease is None:
        state = "not confirmed by etcd"
    now = time.time()
    return {
        "subnet": str(holder.subnet),
        "state": state,
        "key": app.store.key(holder.subnet),
        "lease_id": f"{lease.lease_id:x}" if lease else None,
        "reservation": lease is not None and lease.is_reservation,
        "acquired": holder.acquired_at,
        "age_seconds": now - holder.acquired_at if holder.acquired_at else None,
        "expires": holder.expires_at,
        "reacquired": holder.reacquired,
    }


def _network(app: "NetdApp") -> dict[str, Any]:
    config, underlay, holder = app.config, app.underlay, app.holder
    return {
        "network": str(config.network) if config else None,
        "subnet_len": config.subnet_len if config else None,
        "backend": _backend(config.backend) if config else None,
        "interface": underlay.interface.name if underlay else None,
        "public_ip": str(underlay.public_ip) if underlay else None,
        "vtep_mac": holder.vtep_mac if holder else None,
        "mtu": app.overlay.mtu,
    }


def _backend(backend: Backend) -> dict[str, Any]:
    if isinstance(backend, VxlanOptions):
        return {
            "type": "vxlan",
            "vni": backend.vni,
            "port": backend.port,
            "direct_routing": backend.direct_routing,
        }
    return {"type": "host-gw"}


def _peers(app: "NetdApp") -> list[dict[str, Any]]:
    changed = app.overlay.peer_changed
    return [
        {
            "subnet": str(lease.subnet),
            "public_ip": str(lease.public_ip),
            "vtep_mac": lease.vtep_mac or None,
            "changed": changed[lease.subnet],
        }
        for lease in sorted(app.roster.leases(), key=lambda one: _by_address(one.subnet))
        if lease.subnet in changed and lease.key not in app.peering.skipped
    ]


def _by_address(subnet: IPv4Network) -> tuple[int, int]:
    return int(subnet.network_address), subnet.prefixlen
