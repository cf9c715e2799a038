"""What netd says of itself: the overlay's part of the status document, and its metrics."""

import time
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from hostkit.logs import printable
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from netd.leases.model import Backend
from netd.overlay.model import VxlanOptions

if TYPE_CHECKING:
    from netd.overlayhalf import OverlayHalf


REPAIRS = (
    "link", "mtu", "address", "route", "neighbour", "fdb", "bridge", "iptables", "sysctl", "file",
)  # fmt: skip
"""What the overlay half can repair."""

OVERLAY_SECTIONS = (
    "lease", "etcd", "network", "peers", "skipped", "sysctls", "iptables",
    "files_and_bridge_in_place",
)  # fmt: skip
"""The status document's sections that are the overlay half's."""


class Repairs:
    """How often something of ours was put right, by kind."""

    def __init__(self, metrics: Metrics) -> None:
        self._counter = metrics.counter(
            "repairs", "Things of ours that somebody changed and netd put right", "kind"
        )
        self.counts: dict[str, int] = {}

    def expect(self, *kinds: str) -> None:
        """Show *kinds* from the beginning, as zero."""
        for kind in kinds:
            self._counter.labels(kind)

    def count(self, kind: str) -> None:
        """One more of *kind*."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._counter.labels(kind).inc()


def show_problems(metrics: Metrics, problems: Problems) -> None:
    """Make the number of *problems* a metric."""
    gauge = metrics.gauge("problems", "Problems that stand")
    gauge.set_function(_number(lambda: len(problems.all())))


class Figures:
    """The overlay's metrics; those that mirror a state are read when they are asked for."""

    def __init__(self, metrics: Metrics, half: "OverlayHalf") -> None:
        for name, text, read in (
            ("peers", "Other hosts in the overlay", lambda: len(half.overlay.peer_changed)),
            ("overlay_entries", "Neighbours, FDB entries and routes in the kernel",
             lambda: half.overlay.entries),
            ("overlay_mtu_bytes", "MTU of the overlay", lambda: half.overlay.mtu),
            ("skipped_leases", "Lease records that are not used",
             lambda: len(half.peering.skipped)),
            ("etcd_connected", "1 while lease changes arrive", lambda: half.feed.connected),
            ("from_cache", "1 while the saved state stands in for etcd", lambda: half.from_cache),
            ("lease_conflict", "1 while another host holds our subnet",
             lambda: half.holder is not None and half.holder.conflict),
            ("lease_expiry_timestamp_seconds", "When the lease ends unless renewed, 0 for never",
             lambda: (half.holder.expires_at if half.holder else None) or 0.0),
        ):  # fmt: skip
            metrics.gauge(name, text).set_function(_number(read))
        for name, text, read in (
            ("lease_reacquired", "How often a lost record was created again",
             lambda: half.holder.reacquired if half.holder else 0),
            ("renumbered", "How often this host took another subnet",
             lambda: half.holder.renumbered if half.holder else 0),
            ("iptables_restore_failures", "Failed writes of iptables rules",
             lambda: half.firewall.tables.restore_failures if half.firewall.tables else 0),
        ):  # fmt: skip
            metrics.reading(name, text, _number(read))


def _number(read: Callable[[], float]) -> Callable[[], float]:
    return lambda: float(read())


def overlay_sections(half: "OverlayHalf") -> dict[str, Any]:
    """The sections of ``OVERLAY_SECTIONS``; times are Unix seconds, absent things null."""
    return {
        "lease": _lease(half),
        "etcd": {
            "endpoint": half.client.endpoint,
            "connected": half.feed.connected,
            "endpoint_errors": dict(half.client.endpoint_errors),
            "from_cache": half.from_cache,
            "prefix": half.store.prefix,
        },
        "network": _network(half),
        "peers": _peers(half),
        "skipped": [
            {"key": printable(key), "reason": why}
            for key, why in sorted(half.peering.skipped.items())
        ],
        "sysctls": [
            {"name": one.name, "wanted": one.wanted, "found": one.found, "error": one.error}
            for one in half.host.sysctls
        ],
        "iptables": {
            "variant": half.firewall.tables.variant if half.firewall.tables else None,
            "in_place": half.firewall.is_done,
        },
        "files_and_bridge_in_place": half.host.is_done,
    }


def _lease(half: "OverlayHalf") -> dict[str, Any] | None:
    holder = half.holder
    if holder is None or holder.subnet is None:
        return None
    lease = holder.lease
    state = "held"
    if holder.conflict:
        state = "lost to another host"
    elif half.from_cache or lease is None:
        state = "not confirmed by etcd"
    now = time.time()
    return {
        "subnet": str(holder.subnet),
        "state": state,
        "key": half.store.key(holder.subnet),
        "lease_id": f"{lease.lease_id:x}" if lease else None,
        "reservation": lease is not None and lease.is_reservation,
        "acquired": holder.acquired_at,
        "age_seconds": now - holder.acquired_at if holder.acquired_at else None,
        "expires": holder.expires_at,
        "reacquired": holder.reacquired,
    }


def _network(half: "OverlayHalf") -> dict[str, Any]:
    config, underlay, holder = half.config, half.underlay, half.holder
    return {
        "network": str(config.network) if config else None,
        "subnet_len": config.subnet_len if config else None,
        "backend": _backend(config.backend) if config else None,
        "interface": underlay.interface.name if underlay else None,
        "public_ip": str(underlay.public_ip) if underlay else None,
        "vtep_mac": holder.vtep_mac if holder else None,
        "mtu": half.overlay.mtu,
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


def _peers(half: "OverlayHalf") -> list[dict[str, Any]]:
    changed = half.overlay.peer_changed
    return [
        {
            "subnet": str(lease.subnet),
            "public_ip": str(lease.public_ip),
            "vtep_mac": lease.vtep_mac or None,
            "changed": changed[lease.subnet],
        }
        for lease in sorted(half.roster.leases(), key=lambda one: _by_address(one.subnet))
        if lease.subnet in changed and lease.key not in half.peering.skipped
    ]


def _by_address(subnet: IPv4Network) -> tuple[int, int]:
    return int(subnet.network_address), subnet.prefixlen
