"""Thousands of chains of ours, kept as wished: only what differs is sent, in one restore.

    touched chains -----plan_partial against what was last written--> Change -+
    None, or a look is due --save--> Observed --plan------------------> Change -+-> one restore

A partial commit trusts what was last written and reads nothing. After a failure nothing is trusted:
the next commit is full. A table that cannot be shown is trusted on, for lack of anything better, so
that updates go on; jumps to our chains are then left as they are.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from netd.errors import FirewallError
from netd.iptables.chain import Jump, Wish
from netd.iptables.diff import Change, Observed, plan, plan_partial
from netd.iptables.errors import BadRule, HiddenTable, LockBusy, RestoreError
from netd.iptables.table import Tables
from netd.iptables.trial import refused_rules
from netd.iptables.watch import Subscription


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did, in *seconds*.

    *changed* names the chains written or removed; *what* says in words what was done, jumps too.
    *foreign* says in words what others had changed since our last commit; *full* whether the
    tables were read. *rivals* are chains of another service proxy that have rules; None when the
    tables were not read.
    """

    changed: tuple[str, ...]
    what: tuple[str, ...]
    foreign: tuple[str, ...]
    full: bool
    seconds: float
    rivals: tuple[str, ...] | None


@dataclass(slots=True)
class _Written:
    """What one table holds of ours since the last commit; the tuples are the planner's own."""

    chains: dict[str, tuple[str, ...]]
    jumps: tuple[Jump, ...]
    prefixes: tuple[str, ...]


class ServiceTables:
    """The tables of which all chains with certain prefixes are ours.

    *rivals* names the chains of nat that another service proxy fills.
    """

    def __init__(
        self,
        tables: Tables,
        subscription: Subscription,
        *,
        rivals: Collection[str] = ("KUBE-SERVICES",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._subscription = subscription
        self._rivals = tuple(rivals)
        self._clock = clock
        self._written: dict[str, _Written] = {}
        self._must_read = True
        self._is_hidden = False
        self.restore_failures = 0
        self.partial_restore_failures = 0

    async def commit(
        self, wishes: Sequence[Wish], touched: Mapping[str, Collection[str]] | None
    ) -> Committed:
        """Make the tables as wished, one Wish for each table.

        *touched* names by table the chains that may differ from the last commit's wishes; None
        means all. Everything is read and compared when *touched* is None, when jumps or prefixes
        differ, after a failure, and when a foreign change is due to be looked at.

        Raises LockBusy (try again soon), BadRule (leave those rules out), HiddenTable (as long as a
        table cannot be shown; what is wished was written if ``is_written``) or another
        FirewallError.
        """
        began = self._clock()
        # The planner goes on changing its mapping while a restore runs.
        wishes = [replace(wish, chains=dict(wish.chains)) for wish in wishes]
        changes: list[Change] | None = None
        must_look = touched is None or self._is_hidden or self._subscription.is_due
        if touched is not None and not must_look and self._is_known(wishes):
            changes = await self._partial(wishes, touched)
        foreign: tuple[str, ...] = ()
        rivals: tuple[str, ...] | None = None
        full = changes is None
        if changes is None:
            changes, foreign, rivals = await self._full(wishes)
        return Committed(
            tuple(name for one in changes for name in (*one.filled, *one.removed)),
            tuple(f"{one.table}: {what}" for one in changes for what in one.what),
            foreign,
            full,
            self._clock() - began,
            rivals,
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
            self._note(change)
        return changes

    def _note(self, change: Change) -> None:
        """A partial change was written."""
        chains = self._written[change.table].chains
        chains.update(change.filled)
        for name in change.removed:
            del chains[name]

    async def _full(
        self, wishes: Sequence[Wish]
    ) -> tuple[list[Change], tuple[str, ...], tuple[str, ...]]:
        """What was written, what was foreign, and the rivals."""
        was_known = self._is_known(wishes)
        self._must_read = True
        hidden: HiddenTable | None = None
        changes: list[Change] = []
        foreign: tuple[str, ...] = ()
        there: dict[str, Observed] = {}
        with self._subscription.looking() as look:
            try:
                there = await self._tables.save([wish.table for wish in wishes])
            except HiddenTable as error:
                hidden = error
            else:
                changes = [one for wish in wishes if (one := plan(wish, there[wish.table]))]
                foreign = _foreign(self._written, there) if changes else ()
                look.found = bool(foreign)
                await self._write(changes)
        self._is_hidden = hidden is not None
        if hidden is not None:
            if was_known:
                await self._write_unseen(wishes)
            raise HiddenTable(hidden.table, is_written=was_known) from hidden
        self._written = {
            wish.table: _Written(dict(wish.chains), wish.jumps, wish.prefixes) for wish in wishes
        }
        self._must_read = False
        nat = there["nat"].chains if "nat" in there else {}
        return changes, foreign, tuple(name for name in self._rivals if nat.get(name))

    async def _write(self, changes: Sequence[Change]) -> None:
        """The changes of a look."""
        if not changes:
            return
        try:
            await self._tables.restore(changes)
        except FirewallError as error:
            self.restore_failures += 1
            self._forget(changes)
            if isinstance(error, RestoreError):
                refused = await refused_rules(self._tables, changes)
                if refused:
                    raise BadRule(refused, str(error)) from error
            raise

    async def _write_unseen(self, wishes: Sequence[Wish]) -> None:
        """What differs from what was last written, one table at a time."""
        for wish in wishes:
            last = self._written[wish.table].chains
            change = plan_partial(wish, wish.chains.keys() | last.keys(), last)
            if change is None:
                continue
            try:
                await self._tables.restore([change])
            except (LockBusy, BadRule):
                # The table is as it was, so what was last written is known still.
                self.partial_restore_failures += 1
                self._must_read = False
                raise
            except FirewallError:
                self.partial_restore_failures += 1
                raise
            self._note(change)
        self._must_read = False

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
