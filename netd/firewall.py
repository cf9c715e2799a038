"""Keeping flannel's chains true: one loop, woken by any change of the rules on this host."""

import asyncio
import logging
import time
from collections.abc import Callable
from ipaddress import IPv4Network

from hostkit.command import Runner
from hostkit.problems import Problems
from hostkit.reconcile import Reconciler
from netd.errors import FirewallError
from netd.iptables.chain import Wish
from netd.iptables.flannel import forward, masquerade
from netd.iptables.table import Generation, Tables, detect_variant

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between looks at the generation number; a look costs two system calls."""


class Firewall:
    """Owns FLANNEL-FWD and FLANNEL-POSTRTG; *repaired* is called with ``iptables`` per repair."""

    def __init__(
        self,
        runner: Runner,
        problems: Problems,
        *,
        variant: str,
        ip_masq: bool,
        forward_rules: bool,
        resync: float,
        repaired: Callable[[str], None],
    ) -> None:
        self._runner = runner
        self._problems = problems
        self._asked_variant = variant
        self._ip_masq = ip_masq
        self._forward_rules = forward_rules
        self._resync = resync
        self._repaired = repaired
        self._network: IPv4Network | None = None
        self._subnet: IPv4Network | None = None
        self._applied: tuple[IPv4Network, IPv4Network] | None = None
        self._random_fully = True
        self.tables: Tables | None = None
        self._generation: Generation | None = None
        self._seen: object = None
        self._look_took = 0.0
        self.loop = Reconciler(
            "iptables", self.converge, settle=0.02, tolerate=(FirewallError, OSError)
        )

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
        async with asyncio.TaskGroup() as group:
            group.create_task(self.loop.run())
            group.create_task(self._poll())

    def close(self) -> None:
        """Close what was opened; the rules stay."""
        if self._generation is not None:
            self._generation.close()

    async def converge(self) -> None:
        """One pass."""
        if self._network is None or self._subnet is None:
            return
        began = time.monotonic()
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
        self._look_took = time.monotonic() - began
        self._problems.clear("iptables")

    async def _ensure(self, network: IPv4Network, subnet: IPv4Network) -> None:
        tables = await self._open()
        assert self._generation is not None  # noqa: S101 - made together with the tables
        before = self._generation.read(("nat", "filter"))
        try:
            changed = await tables.ensure(self._wishes(network, subnet))
        except FirewallError as error:
            # iptables before 1.6.2 does not know the option.
            if not self._random_fully or "random-fully" not in str(error):
                raise
            self._random_fully = False
            changed = await tables.ensure(self._wishes(network, subnet))
        if changed and self._applied == (network, subnet):
            for what in changed:
                log.warning("repaired iptables (%s): %s", tables.variant, what)
                self._repaired("iptables")
        elif changed:
            log.info("iptables (%s): %s", tables.variant, ", ".join(changed))
        self._applied = (network, subnet)
        # As it was before we looked: a change made meanwhile, ours too, causes one more look.
        self._seen = before

    def _wishes(self, network: IPv4Network, subnet: IPv4Network) -> list[Wish]:
        return [
            forward(network if self._forward_rules else None),
            masquerade(network if self._ip_masq else None, subnet, random_fully=self._random_fully),
        ]

    async def _open(self) -> Tables:
        if self.tables is None:
            variant = self._asked_variant
            if variant == "auto":
                variant = await detect_variant(self._runner)
            self.tables = Tables(self._runner, variant)
            self._generation = Generation(variant)
            log.info("iptables variant is %s", variant)
        return self.tables

    async def _poll(self) -> None:
        looked = time.monotonic()
        while True:
            await asyncio.sleep(POLL)
            if self._generation is None or self._applied is None:
                continue
            since = time.monotonic() - looked
            now = self._generation.read(("nat", "filter"))
            # The legacy tables' figures do not change when a rule is replaced by one of its size.
            sure = now is not None and self._generation.is_exact
            if now is not None and now != self._seen:
                # Among thousands of rules of others a look is dear: at most a tenth of the time.
                due = since >= 10 * self._look_took
            else:
                due = not sure and since >= self._resync
            if due:
                looked = time.monotonic()
                self.loop.trigger()
