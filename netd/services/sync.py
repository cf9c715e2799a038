"""One pass from the book to the kernel, and what has to follow it.

    book --planner--> chains --tables--> iptables-restore --> stale UDP flows, health ports

Invariants: nothing is written before the API has listed everything; what a failed write was to
change stays pending; flows are cleaned only after the rules are in the kernel, and a failed
cleaning stays pending too. A service whose rule the kernel refuses is left out and named, so
that it does not hold up the others.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hostkit.problems import Problems
from netd.errors import FirewallError, NetdError
from netd.iptables.chain import Wish
from netd.iptables.errors import BadRule, HiddenTable
from netd.iptables.owned import Committed, ServiceTables
from netd.services import names
from netd.services.book import Book
from netd.services.figures import ProxyFigures
from netd.services.flows import FlowCleaner
from netd.services.health import HealthServers
from netd.services.planner import RulePlanner
from netd.services.rules import filter_chains, filter_jumps, nat_jumps
from netd.services.udp import UdpPlaces

log = logging.getLogger(__name__)

_SHOWN = 5
"""Most repairs that are told one by one: a flush changes thousands of chains."""

_SERVICE = re.compile(r'--comment "([^":]+/[^":]+):')


@dataclass(slots=True)
class LastSync:
    """The latest successful sync: when, in Unix seconds, how long it took, in seconds."""

    at: float
    seconds: float
    full: bool


class RuleSync:
    """Brings the kernel in line with the planner's book."""

    def __init__(
        self,
        planner: RulePlanner,
        open_tables: Callable[[], Awaitable[ServiceTables]],
        cleaner: FlowCleaner,
        health: HealthServers,
        problems: Problems,
        *,
        figures: ProxyFigures,
        local_addresses: Callable[[], frozenset[str]],
        repaired: Callable[[str], None],
    ) -> None:
        self._planner = planner
        self._open_tables = open_tables
        self._cleaner = cleaner
        self._health = health
        self._problems = problems
        self._figures = figures
        self._local_addresses = local_addresses
        self._repaired = repaired
        self._udp_pending = True
        self._udp = UdpPlaces()
        self.last: LastSync | None = None

    def recheck_flows(self) -> None:
        """Node ports answer at other addresses now: the next pass looks for stale flows."""
        self._udp_pending = True

    @property
    def _book(self) -> Book:
        return self._planner.book

    async def converge(self) -> None:
        """One pass; raises FirewallError or NetdError."""
        self._figures.begun()
        began = time.monotonic()
        done = None
        while done is None:
            self._plan()
            try:
                done = await self._write()
            except HiddenTable as error:
                if error.is_written:
                    await self._follow_up()
                raise
        seconds = time.monotonic() - began
        if done.what or self.last is None:
            self.last = LastSync(time.time(), seconds, done.full)
        self._figures.written(seconds, self.rule_counts())
        self._tell(done)
        await self._follow_up()

    def rule_counts(self) -> dict[str, int]:
        """How many rules each table holds of ours."""
        policy = self._planner.policy
        return {
            "nat": sum(map(len, self._planner.chains.values())),
            "filter": sum(map(len, filter_chains(policy).values())),
        }

    def _plan(self) -> None:
        affected = self._planner.update()
        if affected.udp:
            self._udp_pending = True
            self._udp.refresh(self._book, affected)

    async def _write(self) -> Committed | None:
        """What was written; None when a service was left out and the rest is to be written."""
        tables = await self._open_tables()
        # The policy may change during the write.
        pending = self._planner.pending()
        try:
            done = await tables.commit(
                self._wishes(), {"nat": pending, "filter": names.FILTER_CHAINS}
            )
        except FirewallError as error:
            if isinstance(error, BadRule) and self._leave_out(error):
                return None
            self._problems.set("services", str(error))
            if isinstance(error, HiddenTable) and error.is_written:
                self._planner.written(pending)
            raise
        self._problems.clear("services")
        self._planner.written(pending)
        return done

    def _wishes(self) -> tuple[Wish, Wish]:
        policy = self._planner.policy
        return (
            Wish("nat", self._planner.chains, nat_jumps(), prefixes=names.PREFIXES),
            Wish("filter", filter_chains(policy), filter_jumps(), prefixes=names.PREFIXES),
        )

    def _leave_out(self, error: BadRule) -> bool:
        """Whether there was a service to leave out that was not left out before."""
        found = False
        for _table, _chain, rule in error.rules:
            match = _SERVICE.search(rule)
            if match is not None and self._book.frontends_of(match[1]):
                found = True
                log.warning("service %s is left out: iptables refuses %s", match[1], rule)
                self._book.quarantine(match[1], f"left out, iptables refuses its rule: {rule}")
        return found

    def _tell(self, done: Committed) -> None:
        if done.rivals is not None:
            self._problems.update(
                "kube-proxy",
                "its chains are still there and every new connection walks them: stop it and run "
                "'kube-proxy --cleanup'"
                if done.rivals
                else None,
            )
        if not done.foreign:
            return
        canary = f"chain {names.CANARY} missing"
        if any(what.endswith(canary) for what in done.foreign):
            log.warning("another program emptied the tables, chains and all")
        shown = "; ".join(done.foreign[:_SHOWN])
        more = len(done.foreign) - _SHOWN
        log.warning("repaired iptables: %s%s", shown, f"; and {more} more" if more > 0 else "")
        self._repaired("iptables")

    async def _follow_up(self) -> None:
        await self._health.set(self._book.health_checks())
        if self._udp_pending:
            # Cleared first: a change of addresses during the cleaning asks for another one.
            self._udp_pending = False
            try:
                await self._cleaner.clean(self._udp.view(self._local_addresses()))
            except NetdError as error:
                self._udp_pending = True
                self._problems.set("conntrack", str(error))
                raise
            self._problems.clear("conntrack")
            self._udp.cleaned()
