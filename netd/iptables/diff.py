"""From what is wanted and what is there to the input of one ``iptables-restore --noflush``.

Pure. The text changes one table in one commit, so a packet sees either the old or the new
rules: a chain that differs is flushed and refilled, a missing or doubled jump is put right, and
a chain that is right is not mentioned. Foreign chains and rules are never touched.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from netd.iptables.chain import Wish

_RULE = re.compile(r"-A (\S+) (.*)")
_COMMENT = r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) '
_CATCH_ALL = re.compile(rf"(?:{_COMMENT})?-j (?:DROP|REJECT)(?: --reject-with \S+)?")


@dataclass(frozen=True, slots=True)
class Observed:
    """One table as iptables-save prints it: the rules of each chain."""

    chains: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Change:
    """Input for iptables-restore and, for people, what it changes."""

    text: str
    what: tuple[str, ...]


def parse_save(text: str) -> Observed:
    """Read the output of ``iptables-save -t TABLE``."""
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif match := _RULE.fullmatch(line.rstrip()):
            chains.setdefault(match[1], []).append(match[2])
    return Observed({name: tuple(rules) for name, rules in chains.items()})


def plan(wish: Wish, observed: Observed) -> Change | None:
    """What makes the table as wished; None when it is."""
    head: list[str] = []
    body: list[str] = []
    what: list[str] = []
    for chain in wish.chains:
        there = observed.chains.get(chain.name)
        if there == chain.rules:
            continue
        what.append(f"chain {chain.name} " + ("missing" if there is None else "altered"))
        head.append(f":{chain.name} - [0:0]")
        body += [f"-A {chain.name} {rule}" for rule in chain.rules]
    for jump in wish.jumps:
        rules = observed.chains.get(jump.parent, ())
        found = [(i, rule) for i, rule in enumerate(rules) if _enters(rule, jump.target)]
        wall = _first_catch_all(rules)
        if len(found) == 1 and found[0][1] == jump.rule and (wall is None or found[0][0] < wall):
            continue
        what.append(
            f"jump {jump.parent} to {jump.target} "
            + ("missing" if not found else "doubled" if len(found) > 1 else "misplaced")
        )
        body += [f"-D {jump.parent} {rule}" for _, rule in found]
        if wall is None:
            body.append(f"-A {jump.parent} {jump.rule}")
        else:
            before = wall - sum(1 for i, _ in found if i < wall)
            body.append(f"-I {jump.parent} {before + 1} {jump.rule}")
    gone = [name for name in wish.absent if name in observed.chains]
    for name in gone:
        what.append(f"chain {name} removed")
        for parent, rules in observed.chains.items():
            body += [f"-D {parent} {rule}" for rule in rules if _enters(rule, name)]
        head.append(f":{name} - [0:0]")
        body.append(f"-X {name}")
    if not what:
        return None
    return Change("\n".join([f"*{wish.table}", *head, *body, "COMMIT", ""]), tuple(what))


def _enters(rule: str, chain: str) -> bool:
    """Whether *rule* jumps or goes to *chain*; its name may also stand in a quoted text."""
    if chain not in rule:
        return False
    try:
        words = shlex.split(rule)
    except ValueError:
        return False
    return any(pair in {("-j", chain), ("-g", chain)} for pair in pairwise(words))


def _first_catch_all(rules: tuple[str, ...]) -> int | None:
    """Where a rule without condition ends the chain: a jump behind it is never reached."""
    return next((i for i, rule in enumerate(rules) if _CATCH_ALL.fullmatch(rule)), None)
