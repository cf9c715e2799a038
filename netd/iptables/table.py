"""Reading and writing the tables through iptables' own programs, in the variant that is in use.

Debian ships two: ``nft`` (iptables on nf_tables) and ``legacy``. Rules written with one are not
seen by the other, so the variant that already carries other programs' rules is the one to use.

Measured with 33,000 rules in 2,700 chains (1.8.9): the text that ``plan`` writes needs nothing but
the names of chains from iptables-nft-restore, so one chain is replaced in 15 to 20 ms; ``-I`` with
a number and ``-D`` read that one chain. iptables-nft-save reads the rules of all tables whichever
is asked for (0.23 s for an empty one), so several tables are read by one command.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from hostkit.command import CommandError, Runner
from netd.errors import FirewallError
from netd.iptables.chain import Wish
from netd.iptables.diff import Change, Observed, bad_rules, hidden_tables, parse_saves, plan
from netd.iptables.errors import BadRule, HiddenTable, LockBusy, RestoreError, one_line
from netd.iptables.generation import LOCK_FILE, Generation, LockFile, Source
from netd.iptables.watch import RuleWatch

log = logging.getLogger(__name__)

VARIANTS = ("nft", "legacy")
LOCK_WAIT = 5
"""Seconds to wait for another program's hold on the xtables lock."""

DEADLINE = 120.0
"""Seconds that one program may take; writing 33,000 rules takes 1.1 s on two idle cores."""


async def detect_variant(runner: Runner) -> str:
    """``nft`` or ``legacy``: the one with rules of known programs, else with more rules, else
    the one that the plain ``iptables`` command is.

    Raises FirewallError when there is no iptables at all.
    """
    known = ("DOCKER", "FLANNEL", "KUBE-", "CNI-", "ufw-")
    scores: dict[str, tuple[int, int]] = {}
    for variant in VARIANTS:
        with contextlib.suppress(CommandError):
            saved = (await runner.run([f"iptables-{variant}-save"])).stdout
            lines = [line for line in saved.splitlines() if line.startswith((":", "-A"))]
            hints = sum(1 for line in lines if any(f" {k}" in f" {line[1:]}" for k in known))
            scores[variant] = (hints, sum(1 for line in lines if line.startswith("-A")))
    try:
        version = (await runner.run(["iptables", "--version"])).stdout
    except CommandError as error:
        raise FirewallError(
            f"iptables cannot be used ({error}): install the iptables package, or switch off "
            "--ip-masq and --iptables-forward-rules"
        ) from error
    default = "nft" if "nf_tables" in version else "legacy"
    if not scores:
        return default
    other = "legacy" if default == "nft" else "nft"
    return other if scores.get(other, (0, 0)) > scores.get(default, (0, 0)) else default


class Tables:
    """The tables of one variant. Methods raise FirewallError.

    Every write happens inside the *watch*'s ``own_commit``, when there is a watch.
    """

    def __init__(self, runner: Runner, variant: str, watch: RuleWatch | None = None) -> None:
        self.variant = variant
        self._runner = runner
        self._watch = watch
        self.restore_failures = 0

    async def save(self, tables: Collection[str]) -> dict[str, Observed]:
        """What each of *tables* holds now; one that does not exist is empty.

        Raises HiddenTable when one cannot be shown, or another FirewallError.
        """
        found, hidden = await self._read(tables)
        if hidden:
            raise HiddenTable(hidden[0])
        return found

    async def _read(self, tables: Collection[str]) -> tuple[dict[str, Observed], list[str]]:
        """What is in those of *tables* that can be shown, and the names of the others."""
        program = f"iptables-{self.variant}-save"
        if self.variant == "nft" and len(tables) > 1:
            commands = [[program]]
        else:
            commands = [[program, "-t", table] for table in tables]
        found: dict[str, Observed] = {}
        hidden: set[str] = set()
        for argv in commands:
            try:
                done = await self._runner.run(argv, timeout=DEADLINE)
            except CommandError as error:
                raise FirewallError(
                    f"reading tables {', '.join(tables)}: {_outcome(error)}"
                ) from error
            found |= parse_saves(done.stdout)
            hidden |= hidden_tables(done.stdout)
        there = {name: found.get(name, Observed({})) for name in tables if name not in hidden}
        return there, [name for name in tables if name in hidden]

    async def has_chain(self, table: str, chain: str) -> bool:
        """Whether *chain* exists; works in a table that ``save`` cannot show, too."""
        argv = [f"iptables-{self.variant}", "-t", table, "-S", chain]
        try:
            done = await self._runner.run(argv, check=False, timeout=DEADLINE)
        except CommandError as error:
            raise FirewallError(f"reading table {table}: {_outcome(error)}") from error
        return done.returncode == 0

    async def restore(self, changes: Sequence[Change]) -> None:
        """Commit *changes*, one for each of several tables, in their order.

        Raises LockBusy, BadRule, RestoreError or another FirewallError. The table that fails is as
        it was; those before it have been committed.
        """
        try:
            await self._commit(changes)
        except FirewallError:
            self.restore_failures += 1
            raise

    async def attempt(self, change: Change) -> None:
        """As ``restore`` of one change, which may fail: that is not counted."""
        await self._commit([change])

    async def _commit(self, changes: Sequence[Change]) -> None:
        argv = [f"iptables-{self.variant}-restore", "--noflush", "-w", str(LOCK_WAIT)]
        text = "".join(change.text for change in changes)
        counted = (
            contextlib.nullcontext()
            if self._watch is None
            else self._watch.own_commit(len(changes))
        )
        try:
            async with counted:
                await self._runner.run(argv, stdin=text, timeout=DEADLINE)
        except CommandError as error:
            raise _explained(error, text) from error

    async def ensure(self, wishes: Iterable[Wish]) -> tuple[str, ...]:
        """Make the tables as wished, one commit each; returns what had to be changed.

        Raises HiddenTable after the tables that can be shown were put right.
        """
        wanted = list(wishes)
        there, hidden = await self._read([wish.table for wish in wanted])
        changed: list[str] = []
        for wish in wanted:
            change = plan(wish, there[wish.table]) if wish.table in there else None
            if change is not None:
                await self.restore([change])
                changed += change.what
        if hidden:
            raise HiddenTable(hidden[0])
        return tuple(changed)


async def remove_all(
    tables: Tables, names: Collection[str], prefixes: tuple[str, ...]
) -> tuple[str, ...]:
    """Remove every chain with one of *prefixes* from the tables *names*, with all that enters it;
    returns what was removed. Raises FirewallError."""
    return await tables.ensure([Wish(name, prefixes=prefixes) for name in names])


def _outcome(error: CommandError) -> str:
    """Program, exit status and message; the input is that of thousands of rules."""
    how = "did not run" if error.returncode is None else f"exit status {error.returncode}"
    return f"{error.argv[0]}: {how}: {one_line(error.stderr)}"


def _explained(error: CommandError, text: str) -> FirewallError:
    if "xtables lock" in error.stderr or "xtables.lock" in error.stderr:
        return LockBusy()
    found = bad_rules(text, error.stderr)
    if found:
        return BadRule(found, error.stderr)
    kind = FirewallError if error.returncode is None else RestoreError
    return kind(f"writing the tables: {_outcome(error)}")


class Iptables:
    """This host's iptables, shared by all who own chains: the variant is chosen at first use.

    *variant* is ``nft``, ``legacy`` or ``auto``; *resync* as for RuleWatch.
    """

    def __init__(
        self,
        runner: Runner,
        variant: str,
        *,
        resync: float,
        source: Callable[[str], Source] = Generation,
        lock_file: Path = LOCK_FILE,
    ) -> None:
        self._runner = runner
        self._source = source
        self._asked = variant
        self._lock_path = lock_file
        self._opening = asyncio.Lock()
        self.watch = RuleWatch(resync=resync)
        self.tables: Tables | None = None

    async def open(self) -> Tables:
        """The tables, watched from now on. Raises FirewallError when there is no iptables."""
        async with self._opening:
            if self.tables is None:
                variant = self._asked
                if variant == "auto":
                    variant = await detect_variant(self._runner)
                lock_file = None
                if variant == "legacy":
                    with contextlib.suppress(OSError):
                        lock_file = LockFile(self._lock_path)
                self.watch.start(self._source(variant), lock_file)
                self.tables = Tables(self._runner, variant, self.watch)
                log.info("iptables variant is %s", variant)
            return self.tables

    def close(self) -> None:
        """Close what was opened; the rules stay."""
        self.watch.close()
