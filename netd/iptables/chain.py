"""Chains and jumps as values, in the notation that ``iptables-save`` prints.

A rule is the text behind ``-A CHAIN``. It has to be written exactly as iptables-save prints it
(addresses first, then matches in order, then the target), because comparison is by text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Chains = Mapping[str, tuple[str, ...]]
"""The rules of each chain, in order."""


@dataclass(frozen=True, slots=True)
class Jump:
    """The one rule in a kernel chain that enters a chain of ours.

    It stands before the first rule that ends the chain. With *first* it stands before every rule
    that is not a jump to a chain of ours; several such jumps of one parent keep their order.
    """

    parent: str
    rule: str
    target: str
    first: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What one table is to contain of ours.

    *chains* are wholly ours, with all their rules. *absent* names chains that must not be.
    A chain whose name starts with one of *prefixes* is ours too: it must not be unless it is in
    *chains*, and outside our chains only *jumps* may enter it.
    """

    table: str
    chains: Chains = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()
    absent: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
