"""Keeping flannel's chains true: one loop, woken by foreign changes of the rules on this host."""

import logging
from collections.abc import Callable
from ipaddress import IPv4Network

from hostkit.problems import Problems
from hostkit.reconcile import Reconciler
from netd.errors import FirewallError
from netd.iptables.chain import Wish
from netd.iptables.errors import HiddenTable
from netd.iptables.flannel import forward, masquerade
from netd.iptables.table import Iptables, Tables

log = logging.getLogger(__name__)


class Firewall:
    """Owns FLANNEL-FWD and FLANNEL-POSTRTG; *repaired* is called with ``iptables`` per repair.

    *iptables* is what the other owners of chains use too, and whoever made it runs its watch.
    """

    def __init__(
        self,
        iptables: Iptables,
        problems: Problems,
        *,
        ip_masq: bool,
        forward_rules: bool,
        repaired: Callable[[str], None],
    ) -> None:
        self._problems = problems
        self._ip_masq = ip_masq
        self._forward_rules = forward_rules
        self._repaired = repaired
        self._network: IPv4Network | None = None
        self._subnet: IPv4Network | None = None
        self._applied: tuple[IPv4Network, IPv4Network] | None = None
        self._random_fully = True
        self._iptables = iptables
        self.loop = Reconciler(
            "iptables", self.converge, settle=0.02, tolerate=(FirewallError, OSError)
        )
        self._subscription = self._iptables.watch.subscribe(self.loop.trigger)

    @property
    def tables(self) -> Tables | None:
        """The tables; None before the first pass."""
        return self._iptables.tables

    @property
    def is_done(self) -> bool:
        """Whether the rules for the present subnet were put in place."""
        return self._applied is not None and self._applied == (self._network, self._subnet)

    def set_subnet(self, network: IPv4Network, subnet: IPv4Network) -> None:
        """What the rules are about."""
        if (network, subnet) != (self._network, self._subnet):
            self._network, self._subnet = network, subnet
            self.loop.trigger()

    async def run(self) -> None:
        """Converge for ever."""
        await self.loop.run()

    async def converge(self) -> None:
        """One pass."""
        if self._network is None or self._subnet is None:
            return
        try:
            await self._ensure(self._network, self._subnet)
        except FirewallError as error:
            if not self._ip_masq and not self._forward_rules:
                # Nothing is wanted of iptables, which need not even be installed.
                log.debug("iptables: %s", error)
                self._applied = (self._network, self._subnet)
                return
            self._problems.set("iptables", str(error), blocking=self._applied is None)
            raise
        self._problems.clear("iptables")

    async def _ensure(self, network: IPv4Network, subnet: IPv4Network) -> None:
        tables = await self._iptables.open()
        hidden: HiddenTable | None = None
        changed: tuple[str, ...] = ()
        with self._subscription.looking() as look:
            try:
                changed = await self._write(tables, network, subnet)
            except HiddenTable as error:
                # It was looked at: until others change something there is nothing new to see.
                hidden = error
            look.found = bool(changed)
        if hidden is not None:
            raise hidden
        if changed and self._applied == (network, subnet):
            for what in changed:
                log.warning("repaired iptables (%s): %s", tables.variant, what)
                self._repaired("iptables")
        elif changed:
            log.info("iptables (%s): %s", tables.variant, ", ".join(changed))
        self._applied = (network, subnet)

    async def _write(
        self, tables: Tables, network: IPv4Network, subnet: IPv4Network
    ) -> tuple[str, ...]:
        try:
            return await tables.ensure(self._wishes(network, subnet))
        except FirewallError as error:
            # iptables before 1.6.2 does not know the option.
            if not self._random_fully or "random-fully" not in str(error):
                raise
            self._random_fully = False
            return await tables.ensure(self._wishes(network, subnet))

    def _wishes(self, network: IPv4Network, subnet: IPv4Network) -> list[Wish]:
        return [
            forward(network if self._forward_rules else None),
            masquerade(network if self._ip_masq else None, subnet, random_fully=self._random_fully),
        ]
