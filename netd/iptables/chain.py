"""Chains and jumps as values, in the notation that ``iptables-save`` prints.

A rule is the text behind ``-A CHAIN``. It has to be written exactly as iptables-save prints it
(addresses first, then matches in order, then the target), because comparison is by text.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that is wholly ours, with all its rules."""

    name: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """The one rule in a kernel chain that enters a chain of ours."""

    parent: str
    rule: str
    target: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What one table is to contain of ours; *absent* names chains of ours that must not be."""

    table: str
    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()
    absent: tuple[str, ...] = ()
