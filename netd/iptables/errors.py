"""Failures of iptables that a caller answers in different ways."""

from hostkit.errors import cut
from netd.errors import FirewallError

Refused = tuple[str, str, str]
"""Table, chain and the text behind ``-A CHAIN`` of a rule that iptables refuses."""

SHOWN = 300
"""Characters of iptables' own message that an error shows."""


def one_line(stderr: str) -> str:
    """What iptables said, on one line, cut short."""
    return cut(" ".join(stderr.split()), SHOWN) or "no message"


class LockBusy(FirewallError):  # noqa: N818 - a state of the lock, gone in a moment
    """Another program holds the xtables lock; nothing is wrong, the same will work soon."""

    def __init__(self) -> None:
        super().__init__(
            "another program holds the xtables lock (/run/xtables.lock), "
            "see 'fuser /run/xtables.lock'"
        )


class RestoreError(FirewallError):
    """iptables-restore ended with an error that names no rule."""


class BadRule(FirewallError):  # noqa: N818 - the rule's fault, not one of the tables
    """iptables refuses some rules, one at least; *rules* says which.

    Nothing of their table was written.
    """

    def __init__(self, rules: tuple[Refused, ...], why: str) -> None:
        self.rules = rules
        table, chain, rule = rules[0]
        more = f" and {len(rules) - 1} more" if len(rules) > 1 else ""
        super().__init__(
            f"iptables refuses rule '{rule}' of chain {chain} in {table}{more}: {one_line(why)}"
        )


class HiddenTable(FirewallError):  # noqa: N818 - a state of the table, which its owner can end
    """A table holds rules that only nft can show, so what is there of ours cannot be known.

    *is_written* tells whether all that was wished differently than before has been written.
    """

    def __init__(self, table: str, *, is_written: bool = False) -> None:
        self.table = table
        self.is_written = is_written
        super().__init__(
            f"table {table} holds rules that iptables cannot show, so ours cannot be compared: "
            f"look at 'nft list table ip {table}' and move the foreign rules to a table of their "
            "own"
        )
