"""The services half of netd: wiring.

    API --feed--> book --planner--> chains --sync--> kernel --> stale flows, health ports
                                                ^
    foreign changes of the rules ---------------+

Nothing is written before services and endpoints have been listed once. When the API server is
gone, everything stays as it is.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.kube.transport import KubeClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.reconcile import Backoff, Reconciler
from netd.apiaccess import kube_config
from netd.errors import NetdError
from netd.iptables.owned import ServiceTables
from netd.iptables.table import Iptables
from netd.netlink.socket import Transport
from netd.proxyflags import node_name, node_port_ranges
from netd.services.addresses import LocalAddresses, ephemeral_range
from netd.services.book import Book
from netd.services.explain import explain
from netd.services.feed import ServiceFeed
from netd.services.figures import ProxyFigures
from netd.services.flows import FlowCleaner
from netd.services.hairpin import HairpinKeeper
from netd.services.health import HealthServers
from netd.services.limits import Files, LimitKeeper, Limits, tcp_be_liberal
from netd.services.names import port_of
from netd.services.planner import RulePlanner
from netd.services.rules import Policy
from netd.services.sync import RuleSync
from netd.services.values import Trouble
from netd.sysctls import ensure as ensure_sysctls

log = logging.getLogger(__name__)

RESYNC = 60.0
"""Seconds after which sysctls and limits are looked at again."""

MOST_TOLD = 5
"""Most sentences about one object in the log; the status has all."""


@dataclass(frozen=True, slots=True)
class Host:
    """The kernel's other sides; tests give others. A transport that is None is the kernel's."""

    files: Files = field(default_factory=Files)
    addresses: Transport | None = None
    notices: Transport | None = None
    cleaner: FlowCleaner = field(default_factory=FlowCleaner)


class ServicesHalf:
    """Balances services; raises ConfigError for an API server that cannot be used."""

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        problems: Problems,
        metrics: Metrics,
        *,
        repaired: Callable[[str], None],
        iptables: Iptables,
        host: Host | None = None,
    ) -> None:
        self._settings = settings
        self._host = host = host or Host()
        self._problems = problems
        self._iptables = iptables
        self._client = KubeClient(kube_config(settings), user_agent="netd")
        self.book = Book(node_name(settings))
        self.planner = RulePlanner(self.book, self._policy(settings["cluster-cidr"]))
        self._tables: ServiceTables | None = None
        self._figures = ProxyFigures(
            metrics,
            {
                "iptables_restore_failures": lambda: self._failures(partial=False),
                "iptables_partial_restore_failures": lambda: self._failures(partial=True),
            },
        )
        self._addresses = LocalAddresses(
            problems,
            on_change=self._addresses_changed,
            transport=host.addresses,
            listener=host.notices,
        )
        self._health = HealthServers(problems)
        self._hairpin = HairpinKeeper(settings["bridge"], problems, repaired)
        self._sync = RuleSync(
            self.planner,
            self._open,
            host.cleaner,
            self._health,
            problems,
            figures=self._figures,
            local_addresses=self._node_port_addresses,
            repaired=repaired,
        )
        self.loop = Reconciler(
            "services",
            self._converge,
            sources=("services", "endpoints"),
            settle=settings["iptables-min-sync-period"],
            tolerate=(NetdError, OSError),
            backoff=Backoff(first=0.05, most=5.0),
        )
        self._feed = ServiceFeed(
            self._client,
            self.book,
            problems,
            self._figures,
            changed=self.loop.trigger,
            listed=self.loop.listed,
        )
        self._limits = LimitKeeper(_limits(settings), problems, files=host.files)

    def _policy(self, cluster_cidr: str) -> Policy:
        settings = self._settings
        return Policy(
            masquerade_bit=settings["iptables-masquerade-bit"],
            masquerade_all=settings["masquerade-all"],
            cluster_cidr=cluster_cidr,
            node_port_ranges=node_port_ranges(settings),
            drop_invalid=not tcp_be_liberal(self._host.files.sysctls),
        )

    def _node_port_addresses(self) -> frozenset[str]:
        return self._addresses.in_ranges(map(IPv4Network, self.planner.policy.node_port_ranges))

    async def run(self) -> None:
        """Keep services balanced for ever."""
        await self._addresses.look()
        async with asyncio.TaskGroup() as group:
            for work in (
                self._feed.run(),
                self.loop.run(),
                self._addresses.run(),
                self._keep_settings(),
            ):
                group.create_task(work)
            if self._settings["bridge"] != "none":
                group.create_task(self._hairpin.run())

    def missing(self) -> str | None:
        """What has not been done yet on the way to balanced services."""
        waiting = self.loop.waiting_for
        if waiting:
            return f"the API server has not listed {' and '.join(sorted(waiting))} yet"
        return None if self._sync.last is not None else "service chains not written yet"

    def network_known(self, network: IPv4Network) -> None:
        """The pods' network, for when --cluster-cidr does not say it."""
        if not self._settings["cluster-cidr"]:
            self.planner.set_policy(self._policy(str(network)))
            self.loop.trigger()

    def explain(self, target: str) -> dict[str, Any]:
        """The path of a packet to *target*."""
        document = explain(target, self.planner)
        if self.loop.waiting_for:
            document["wrong"].append(f"nothing is known yet: {self.missing()}")
        elif self.planner.touched or self.loop.dirty:
            cause = f" ({self.loop.last_error})" if self.loop.last_error else ""
            document["wrong"].append(f"the latest changes are not in the kernel yet{cause}")
        return document

    def status(self) -> dict[str, Any]:
        """The section ``services`` of the status document."""
        book, last, tables = self.book, self._sync.last, self._iptables.tables
        policy = self.planner.policy
        return {
            "api": {
                "servers": list(self._client.config.servers),
                "server": self._client.endpoint,
                "connected": self._feed.connected,
                "endpoint_errors": dict(self._client.endpoint_errors),
                "source": self._feed.source,
            },
            "node": book.node,
            "listed": not self.loop.waiting_for,
            "services": len(book.services),
            "endpoints": book.endpoint_count,
            "frontends": book.frontend_count,
            "chains": len(self.planner.chains),
            "rules": sum(self._sync.rule_counts().values()),
            "variant": tables.variant if tables else None,
            "last_sync": last.at if last else None,
            "last_sync_seconds": last.seconds if last else None,
            "last_sync_full": last.full if last else None,
            "pending": sum(self._figures.pending.values()),
            "skipped": [
                {"key": one.key, "text": one.text}
                for one in (*self._feed.troubles(), *book.troubles())
            ],
            "masquerade": _masquerade(policy),
        }

    async def close(self) -> None:
        """Close what was opened; the rules stay."""
        self._addresses.close()
        self._hairpin.close()
        await self._health.close()
        await self._client.close()

    # --- inside ---

    async def _converge(self) -> None:
        try:
            await self._sync.converge()
        finally:
            self._tell()

    def _addresses_changed(self, _current: frozenset[str]) -> None:
        self._sync.recheck_flows()
        self.loop.trigger()

    def _tell(self) -> None:
        """Name what is left out, and node ports that outgoing connections may take."""
        troubles = (*self._feed.troubles(), *self.book.troubles())
        self._problems.replace_group("skipped ", _gathered(troubles).items())
        low, high = ephemeral_range(self._host.files.of("net.ipv4.ip_local_port_range"))
        risky = sorted(
            {port for _, port in map(port_of, self.book.node_ports) if low <= port <= high}
        )
        self._problems.update(
            "node-ports",
            f"node ports {', '.join(map(str, risky[:10]))}{' ...' if len(risky) > 10 else ''} lie "
            f"between {low} and {high}, from which the kernel takes ports for outgoing "
            "connections: reserve them by the sysctl net.ipv4.ip_local_reserved_ports"
            if risky
            else None,
        )

    async def _open(self) -> ServiceTables:
        if self._tables is None:
            tables = await self._iptables.open()
            subscription = self._iptables.watch.subscribe(self.loop.trigger)
            self._tables = ServiceTables(tables, subscription)
        return self._tables

    def _failures(self, *, partial: bool) -> float:
        if self._tables is None:
            return 0.0
        if partial:
            return float(self._tables.partial_restore_failures)
        return float(self._tables.restore_failures)

    async def _keep_settings(self) -> None:
        while True:
            self.look_at_settings()
            await asyncio.sleep(RESYNC)

    def look_at_settings(self) -> None:
        """Set sysctls and limits that are not as needed, and follow those that rules depend on."""
        sysctls = self._host.files.sysctls
        for one in ensure_sysctls(sysctls):
            self._problems.update(
                f"sysctl/{one.name}",
                f"is {one.found}, must be {one.wanted}, and cannot be set ({one.error})"
                if one.error
                else None,
            )
        self._limits.ensure()
        if self.book.release():
            self.loop.trigger()
        if self.planner.policy.drop_invalid == tcp_be_liberal(sysctls):
            self.planner.set_policy(self._policy(self.planner.policy.cluster_cidr))
            self.loop.trigger()


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings["conntrack-max-per-core"],
        settings["conntrack-min"],
        int(settings["conntrack-tcp-timeout-established"]),
        int(settings["conntrack-tcp-timeout-close-wait"]),
    )


def _gathered(troubles: Iterable[Trouble]) -> dict[str, str]:
    """One text for each object."""
    found: dict[str, list[str]] = {}
    for one in troubles:
        found.setdefault(one.key, []).append(one.text)
    return {
        key: "; ".join(texts[:MOST_TOLD])
        + (f"; and {len(texts) - MOST_TOLD} more" if len(texts) > MOST_TOLD else "")
        for key, texts in found.items()
    }


def _masquerade(policy: Policy) -> str:
    if policy.masquerade_all:
        return "every client of a service"
    if policy.cluster_cidr:
        return f"clients outside {policy.cluster_cidr}, and this host"
    return "clients of node ports and external addresses, and this host"
