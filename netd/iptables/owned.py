"""Thousands of chains of ours, kept as wished: only what differs is sent, in one restore.

    touched chains -----plan_partial against what was last written--> Change -+
    None, or a look is due --save--> Observed --plan------------------> Change -+-> one restore

A partial commit trusts what was last written and reads nothing. After a failure nothing is trusted:
the next commit is full.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from netd.errors import FirewallError
from netd.iptables.chain import Jump, Wish
from netd.iptables.diff import Change, Observed, plan, plan_partial
from netd.iptables.errors import LockBusy
from netd.iptables.table import Tables
from netd.iptables.watch import Subscription


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did, in *seconds*.

    *changed* names the chains written or removed; *what* says in words what was done, jumps too.
    *foreign* says in words what others had changed since our last commit; *full* whether the
    tables were read.
    """

    changed: tuple[str, ...]
    what: tuple[str, ...]
    foreign: tuple[str, ...]
    full: bool
    seconds: float


@dataclass(slots=True)
class _Written:
    """What one table holds of ours since the last commit; the tuples are the planner's own."""

    chains: dict[str, tuple[str, ...]]
    jumps: tuple[Jump, ...]
    prefixes: tuple[str, ...]


class ServiceTables:
    """The tables of which all chains with certain prefixes are ours."""

    def __init__(
        self,
        tables: Tables,
        subscription: Subscription,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._subscription = subscription
        self._clock = clock
        self._written: dict[str, _Written] = {}
        self._must_read = True
        self.restore_failures = 0
        self.partial_restore_failures = 0

    async def commit(
        self, wishes: Sequence[Wish], touched: Mapping[str, Collection[str]] | None
    ) -> Committed:
        """Make the tables as wished, one Wish for each table.

        *touched* names by table the chains that may differ from the last commit's wishes; None
        means all. Everything is read and compared when *touched* is None, when jumps or prefixes
        differ, after a failure, and when a foreign change is due to be looked at.

        Raises LockBusy (try again soon), BadRule (leave that rule out) or another FirewallError.
        """
        began = self._clock()
        # The planner goes on changing its mapping while a restore runs.
        wishes = [replace(wish, chains=dict(wish.chains)) for wish in wishes]
        changes: list[Change] | None = None
        if touched is not None and not self._subscription.is_due and self._is_known(wishes):
            changes = await self._partial(wishes, touched)
        foreign: tuple[str, ...] = ()
        full = changes is None
        if changes is None:
            changes, foreign = await self._full(wishes)
        return Committed(
            tuple(name for one in changes for name in (*one.filled, *one.removed)),
            tuple(f"{one.table}: {what}" for one in changes for what in one.what),
            foreign,
            full,
            self._clock() - began,
        )

    def _is_known(self, wishes: Sequence[Wish]) -> bool:
        if self._must_read:
            return False
        for wish in wishes:
            last = self._written.get(wish.table)
            if last is None or (last.jumps, last.prefixes) != (wish.jumps, wish.prefixes):
                return False
        return True

    async def _partial(
        self, wishes: Sequence[Wish], touched: Mapping[str, Collection[str]]
    ) -> list[Change] | None:
        """What was written; None when it failed in a way that a full commit may put right."""
        changes: list[Change] = []
        for wish in wishes:
            last = self._written[wish.table]
            change = plan_partial(wish, touched.get(wish.table, ()), last.chains)
            if change is not None:
                changes.append(change)
        if not changes:
            return []
        try:
            await self._tables.restore(changes)
        except FirewallError as error:
            self.partial_restore_failures += 1
            self._forget(changes)
            if isinstance(error, LockBusy):
                raise
            return None
        for change in changes:
            chains = self._written[change.table].chains
            chains.update(change.filled)
            for name in change.removed:
                del chains[name]
        return changes

    async def _full(self, wishes: Sequence[Wish]) -> tuple[list[Change], tuple[str, ...]]:
        self._must_read = True
        with self._subscription.looking() as look:
            there = await self._tables.save([wish.table for wish in wishes])
            changes = [one for wish in wishes if (one := plan(wish, there[wish.table]))]
            foreign = _foreign(self._written, there) if changes else ()
            look.found = bool(foreign)
            if changes:
                try:
                    await self._tables.restore(changes)
                except FirewallError:
                    self.restore_failures += 1
                    self._forget(changes)
                    raise
        self._written = {
            wish.table: _Written(dict(wish.chains), wish.jumps, wish.prefixes) for wish in wishes
        }
        self._must_read = False
        return changes, foreign

    def _forget(self, changes: Sequence[Change]) -> None:
        """After a failed restore: of several tables the first ones may have been committed."""
        if len(changes) > 1:
            for change in changes:
                self._written.pop(change.table, None)


def _foreign(known: Mapping[str, _Written], there: Mapping[str, Observed]) -> tuple[str, ...]:
    """What differs from our last commit; at the first one nothing is known."""
    found: list[str] = []
    for table, last in known.items():
        before = Wish(table, last.chains, last.jumps, prefixes=last.prefixes)
        change = plan(before, there[table]) if table in there else None
        if change is not None:
            found += [f"{table}: {what}" for what in change.what]
    return tuple(found)
