"""Failures of iptables that a caller answers in different ways."""

from netd.errors import FirewallError


class LockBusy(FirewallError):  # noqa: N818 - a state of the lock, gone in a moment
    """Another program holds the xtables lock; nothing is wrong, the same will work soon."""


class BadRule(FirewallError):  # noqa: N818 - the rule's fault, not one of the tables
    """iptables refuses one rule; *table*, *chain* and *rule* (text behind ``-A CHAIN``) say which.

    Nothing of its table was written.
    """

    def __init__(self, table: str, chain: str, rule: str, why: str) -> None:
        self.table = table
        self.chain = chain
        self.rule = rule
        super().__init__(f"iptables refuses rule '{rule}' of chain {chain} in {table}: {why}")
