"""From what is wanted and what is there to the input of one ``iptables-restore --noflush``.

Pure. The text changes one table in one commit, so a packet sees either the old or the new
rules: a chain that differs is flushed and refilled, a missing or doubled jump is put right, and
a chain that is right is not mentioned. Foreign chains and rules are never touched.

Order inside the text, which both variants need: every chain that is filled or removed is declared
(made, or emptied) first, then rules are added and deleted, then the empty chains are removed.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from netd.iptables.chain import Chains, Jump, Wish

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_COMMENT = rf"-m comment --comment (?:{_QUOTED}|\S+) "
_CATCH_ALL = re.compile(rf"(?:{_COMMENT})?-j (?:DROP|REJECT)(?: --reject-with \S+)?")
_TEXT = re.compile(rf"--comment (?:{_QUOTED}|\S+)|{_QUOTED}")
_TARGET = re.compile(r"(?:^| )-[jg] (\S+)")
# iptables-restore names the first line that it cannot read, iptables-nft-restore also all lines
# that the kernel refuses; iptables-legacy-restore then names the line of COMMIT.
_LINE = re.compile(r"(?:Error occurred at line: |^(?:\S+: )?line )(\d+)", re.MULTILINE)
_HIDDEN = re.compile(r"^# Table [`'](\S+)' is incompatible", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Observed:
    """One table as iptables-save prints it: the rules of each chain."""

    chains: Chains


@dataclass(frozen=True, slots=True)
class Change:
    """Input for iptables-restore and, for people, what it changes.

    *filled* are the chains that it writes, with their rules; *removed* those that it takes away.
    """

    table: str
    text: str
    what: tuple[str, ...]
    filled: Chains
    removed: tuple[str, ...] = ()


def parse_saves(text: str) -> dict[str, Observed]:
    """Read the output of ``iptables-save``: each table by its name."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            rules = chains.get(name)
            if rules is None:
                rules = chains[name] = []
            rules.append(rule.rstrip())
        elif line.startswith(":"):
            chains.setdefault(line[1:].partition(" ")[0], [])
        elif line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
    return {
        table: Observed({name: tuple(rules) for name, rules in chains.items()})
        for table, chains in tables.items()
    }


def hidden_tables(text: str) -> frozenset[str]:
    """The tables that iptables-nft-save (*text* is its output) could not print, for a rule in them
    that was made with nft: it says so in a comment and succeeds."""
    return frozenset(_HIDDEN.findall(text))


class _Draft:
    """A change of one table in the making."""

    def __init__(self, table: str) -> None:
        self.what: list[str] = []
        self._table = table
        self._filled: dict[str, tuple[str, ...]] = {}
        self._removed: list[str] = []
        self._rules: list[str] = []

    def mentions(self, chain: str) -> bool:
        """Whether *chain* is emptied, so that none of its rules can be named."""
        return chain in self._filled or chain in self._removed

    def fill(self, chain: str, rules: tuple[str, ...], why: str) -> None:
        self.what.append(f"chain {chain} {why}")
        self._filled[chain] = rules

    def remove(self, chain: str) -> None:
        self.what.append(f"chain {chain} removed")
        self._removed.append(chain)

    def command(self, line: str) -> None:
        self._rules.append(line)

    def change(self) -> Change | None:
        if not self.what:
            return None
        lines = [f"*{self._table}"]
        lines += [f":{chain} - [0:0]" for chain in (*self._filled, *self._removed)]
        lines += [f"-A {chain} {rule}" for chain, rules in self._filled.items() for rule in rules]
        lines += self._rules
        lines += [f"-X {chain}" for chain in self._removed]
        lines += ["COMMIT", ""]
        return Change(
            self._table, "\n".join(lines), tuple(self.what), self._filled, tuple(self._removed)
        )


class _Parent:
    """A chain that is not ours, as it is after the commands drafted so far."""

    def __init__(self, name: str, rules: Iterable[str], draft: _Draft) -> None:
        self.name = name
        self.rules = list(rules)
        self._draft = draft

    def delete(self, rules: Iterable[str]) -> None:
        for rule in rules:
            self._draft.command(f"-D {self.name} {rule}")
            self.rules.remove(rule)

    def insert(self, index: int, rule: str) -> None:
        where = f"-A {self.name}"
        if index < len(self.rules):
            where = f"-I {self.name} {index + 1}"
        self._draft.command(f"{where} {rule}")
        self.rules.insert(index, rule)

    def entering(self, targets: Collection[str]) -> list[str]:
        return [rule for rule in self.rules if target(rule) in targets]


def plan(wish: Wish, observed: Observed) -> Change | None:
    """What makes the table as wished; None when it is."""
    draft = _Draft(wish.table)
    for name, rules in wish.chains.items():
        there = observed.chains.get(name)
        if there != rules:
            draft.fill(name, rules, "missing" if there is None else "altered")
    unwanted = {name for name in observed.chains if _is_unwanted(wish, name)}
    for name in sorted(unwanted):
        draft.remove(name)
    parents: dict[str, _Parent] = {}
    if unwanted or wish.prefixes:
        _drop_entries(wish, observed, unwanted, draft, parents)
    for name, jumps in groupby(sorted(wish.jumps, key=_parent), _parent):
        if name not in parents:
            parents[name] = _Parent(name, observed.chains.get(name, ()), draft)
        wanted = list(jumps)
        _put_first(wish, parents[name], [jump for jump in wanted if jump.first], draft)
        for jump in wanted:
            if not jump.first:
                _put_before_end(parents[name], jump, draft)
    return draft.change()


def plan_partial(wish: Wish, touched: Iterable[str], written: Chains) -> Change | None:
    """What brings the *touched* chains from what was *written* to what is wished.

    Right only while the kernel has what was written; jumps are not looked at.
    """
    draft = _Draft(wish.table)
    for name in sorted(set(touched)):
        rules = wish.chains.get(name)
        if rules == written.get(name):
            continue
        if rules is None:
            draft.remove(name)
        else:
            draft.fill(name, rules, "altered" if name in written else "added")
    return draft.change()


def bad_rules(text: str, message: str) -> tuple[tuple[str, str, str], ...]:
    """Table, chain and rule at each line of the input *text* that *message* (stderr) names.

    Lines that add no rule are left out. Empty when a chain could not be made or emptied: the kernel
    then refuses its rules for that alone.
    """
    lines = text.splitlines()
    numbers = {int(match[1]) for match in _LINE.finditer(message)}
    named = [(n, lines[n - 1]) for n in sorted(numbers) if 1 <= n <= len(lines)]
    if any(line.startswith(":") for _, line in named):
        return ()
    found: list[tuple[str, str, str]] = []
    for number, line in named:
        if line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            table = next((up[1:] for up in reversed(lines[:number]) if up.startswith("*")), "")
            found.append((table, chain, rule))
    return tuple(found)


def target(rule: str) -> str | None:
    """The chain or target that *rule* jumps or goes to; None when it has none."""
    match = _TARGET.search(_TEXT.sub("", rule) if '"' in rule or "--comment" in rule else rule)
    return match[1] if match else None


def _parent(jump: Jump) -> str:
    return jump.parent


def _is_unwanted(wish: Wish, chain: str) -> bool:
    if chain in wish.chains:
        return False
    return chain in wish.absent or chain.startswith(wish.prefixes)


def _drop_entries(
    wish: Wish, observed: Observed, unwanted: set[str], draft: _Draft, parents: dict[str, _Parent]
) -> None:
    """Delete rules that enter unwanted chains, or ours from where it is not wished."""
    allowed = {(jump.parent, jump.target) for jump in wish.jumps}
    ours = unwanted | {name for name in wish.chains if name.startswith(wish.prefixes)}
    for name, rules in observed.chains.items():
        if name in wish.chains or draft.mentions(name):
            continue
        entries = [(rule, target(rule)) for rule in rules]
        doomed = [rule for rule, to in entries if to in ours and (name, to) not in allowed]
        if doomed:
            parents[name] = _Parent(name, rules, draft)
            parents[name].delete(doomed)
            draft.what += [
                f"jump {name} to {to} removed"
                for rule, to in entries
                if to in ours - unwanted and (name, to) not in allowed
            ]


def _put_first(wish: Wish, parent: _Parent, jumps: Sequence[Jump], draft: _Draft) -> None:
    targets = {jump.target for jump in jumps}
    wanted = [jump.rule for jump in jumps]

    def is_ours(rule: str) -> bool:
        to = target(rule)
        return to is not None and (to in targets or to.startswith(wish.prefixes))

    found = parent.entering(targets)
    ahead = list(takewhile(is_ours, parent.rules))
    if found == wanted and all(rule in ahead for rule in wanted):
        return
    entries = {jump: parent.entering({jump.target}) for jump in jumps}
    wrong = [jump for jump in jumps if entries[jump] != [jump.rule] or jump.rule not in ahead]
    draft.what += [_jump_text(jump, len(entries[jump])) for jump in wrong or jumps]
    parent.delete(found)
    for index, rule in enumerate(wanted):
        parent.insert(index, rule)


def _put_before_end(parent: _Parent, jump: Jump, draft: _Draft) -> None:
    found = parent.entering({jump.target})
    end = _first_catch_all(parent.rules)
    if found == [jump.rule] and (end is None or parent.rules.index(jump.rule) < end):
        return
    draft.what.append(_jump_text(jump, len(found)))
    parent.delete(found)
    end = _first_catch_all(parent.rules)
    parent.insert(len(parent.rules) if end is None else end, jump.rule)


def _jump_text(jump: Jump, count: int) -> str:
    how = "missing" if not count else "doubled" if count > 1 else "misplaced"
    return f"jump {jump.parent} to {jump.target} {how}"


def _first_catch_all(rules: Sequence[str]) -> int | None:
    """Where a rule without condition ends the chain: a jump behind it is never reached."""
    return next((i for i, rule in enumerate(rules) if _CATCH_ALL.fullmatch(rule)), None)
