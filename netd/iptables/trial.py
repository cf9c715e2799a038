"""Which rules the kernel refuses, found by trial where iptables does not tell.

iptables-legacy hands the kernel a whole table and can name only the line of COMMIT. So the rules
are written, in ever smaller parts, to a scratch chain that no packet enters.

A rule that the kernel refuses only behind certain hooks is not found this way: no hook leads to the
scratch chain.
"""

import contextlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

from netd.errors import FirewallError
from netd.iptables.diff import Change, target
from netd.iptables.errors import BadRule, Refused, RestoreError
from netd.iptables.table import Tables

SCRATCH = "KUBE-PORTALS-TRIAL"
"""The chain; one that stays after a failure has a prefix of ours, so the next look removes it."""

TABLE = "nat"
"""The table whose rules are tried: those of filter are not made for services."""

MOST = 60
"""Restores for one search; each replaces a whole table, 0.1 to 0.3 s with 30,000 rules."""


class _Trials:
    """Restores of the scratch chain, *left* of them."""

    def __init__(self, tables: Tables, left: int) -> None:
        self._tables = tables
        self._left = left

    async def accepts(self, rules: Sequence[str]) -> bool:
        """Raises RestoreError when no trial is left, and what a restore raises otherwise."""
        if not self._left:
            raise RestoreError(f"{MOST} trials were not enough")
        self._left -= 1
        try:
            await self._tables.attempt(_change(rules))
        except (BadRule, RestoreError):
            return False
        return True

    async def search(self, rules: Sequence[str], found: list[str]) -> None:
        """Add to *found* what is refused of *rules*, which together are refused."""
        if len(rules) == 1:
            found += rules
            return
        middle = len(rules) // 2
        first, second = rules[:middle], rules[middle:]
        first_is_good = await self.accepts(first)
        if not first_is_good:
            await self.search(first, found)
        if first_is_good or not await self.accepts(second):
            await self.search(second, found)


async def refused_rules(tables: Tables, changes: Iterable[Change]) -> tuple[Refused, ...]:
    """Rules of *changes* that the kernel refuses, after MOST trials perhaps not all of them.

    Empty when it is no rule's fault. Rules that enter a chain of a change are not tried. Raises
    LockBusy or another FirewallError.
    """
    filled = [change.filled for change in changes if change.table == TABLE]
    chains = {name for one in filled for name in one}
    places = [
        (chain, rule)
        for one in filled
        for chain, rules in one.items()
        for rule in rules
        if target(rule) not in chains
    ]
    if not places:
        return ()
    # Alike ones side by side are found together.
    rules = sorted({rule for _, rule in places}, key=_kind)
    trials = _Trials(tables, MOST)
    found: list[str] = []
    try:
        if await trials.accepts(()) and not await trials.accepts(rules):
            with contextlib.suppress(RestoreError):
                await trials.search(rules, found)
    finally:
        with contextlib.suppress(FirewallError):
            await tables.attempt(_change(None))
    refused = set(found)
    return tuple((TABLE, chain, rule) for chain, rule in places if rule in refused)


def _kind(rule: str) -> tuple[list[str], str]:
    """What sorts rules by the extensions that they use."""
    words = rule.split()
    return [name for option, name in pairwise(words) if option in ("-m", "-j")], rule


def _change(rules: Sequence[str] | None) -> Change:
    """The scratch chain with *rules*; None removes it."""
    lines = [f"*{TABLE}", f":{SCRATCH} - [0:0]"]
    if rules is None:
        lines.append(f"-X {SCRATCH}")
    else:
        lines += [f"-A {SCRATCH} {rule}" for rule in rules]
    return Change(TABLE, "\n".join([*lines, "COMMIT", ""]), (), {})
