"""One noticer of foreign changes for everybody in this process who owns rules.

    Generation, LockFile --poll--> changes += 1 --> Subscription.due --> callback --> a look

``changes`` counts what others did. What this process commits inside ``own_commit`` is taken off by
exact steps of the generation number, so that one owner's commit makes no other owner look; a
number that moved by more than our own steps means that somebody else was there too.

The number is asked for four times a second, which costs 6 microseconds. The events of nf_tables'
multicast group were measured against it: while anybody listens, the kernel renders every rule of
every commit of the host (20,000 rules: 1.1 s become 1.3 to 1.7 s, and the socket overflows).

There is no canary chain (KEP-3866) in another table: the number tells a flush of any one table,
which a canary in mangle does not, and costs no process. Where the number cannot be read, or does
not tell everything (legacy), owners look by a timer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from netd.iptables.generation import LockFile, Source

POLL = 0.25
"""Seconds between looks at the number."""

TABLES = ("nat", "filter")
"""The tables that are asked for; to ask makes the kernel create a legacy table."""

SHARE = 0.1
"""Largest share of the time that looking may take while others change the rules all the time."""

FREE_LOOKS = 5.0
"""Seconds of looks in vain that are free after a quiet time."""

FREE_REPAIRS = 30.0
"""Seconds of looks that put something right, free after a quiet time: repair does not wait, unless
another program takes our rules away again and again."""

LONGEST = 60.0
"""Seconds between looks by the timer where only a change of equal size without the lock of
iptables-legacy would go unnoticed."""


class _Allowance:
    """Seconds that may be spent: at most *most*, refilled by SHARE."""

    def __init__(self, most: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._left = most
        self._at = clock()

    @property
    def left(self) -> float:
        return min(self._most, self._left + SHARE * (self._clock() - self._at))

    def spend(self, seconds: float) -> None:
        self._left, self._at = self.left - seconds, self._clock()


@dataclass(slots=True)
class Look:
    """One look; *found* is to be set when something of the owner's had been changed by others."""

    found: bool = False


class Subscription:
    """One owner's view: whether it has to look, and what it has seen. Made by RuleWatch."""

    def __init__(
        self, watch: "RuleWatch", callback: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.callback = callback
        self._watch = watch
        self._clock = clock
        self._seen: int | None = None
        self._looked = clock()
        self._in_vain = _Allowance(FREE_LOOKS, clock)
        self._repairs = _Allowance(FREE_REPAIRS, clock)

    @property
    def is_pending(self) -> bool:
        """Whether others changed something since the last look; never before the first look."""
        return self._seen is not None and self._seen != self._watch.changes

    @property
    def is_due(self) -> bool:
        """Whether to look now."""
        if self._seen is None:
            return False
        if self.is_pending and self._in_vain.left > 0 and self._repairs.left > 0:
            return True
        timer = self._watch.timer
        return timer is not None and self._clock() - self._looked >= timer

    @contextlib.contextmanager
    def looking(self) -> Iterator[Look]:
        """Surrounds reading and putting right; when it ends well, what had happened before it
        began has been seen."""
        seen, look = self._watch.poll(), Look()
        was_pending, began = self.is_pending, self._clock()
        try:
            yield look
        finally:
            self._looked = self._clock()
            if was_pending:
                allowance = self._repairs if look.found else self._in_vain
                allowance.spend(self._looked - began)
        self._seen = seen


class RuleWatch:
    """Polls for foreign changes once ``start`` has told it how.

    *resync* is the time in seconds after which an owner looks unasked where changes may go
    unnoticed.
    """

    def __init__(
        self,
        *,
        resync: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.changes = 0
        self._resync = resync
        self._clock = clock
        self._sleep = sleep
        self._source: Source | None = None
        self._lock_file: LockFile | None = None
        self._number: object = None
        self._commit = asyncio.Lock()
        self._is_committing = False
        self._subscriptions: list[Subscription] = []

    @property
    def timer(self) -> float | None:
        """Seconds after which to look unasked; None where every change is noticed."""
        if self._number is None or self._source is None:
            return self._resync
        if self._source.is_exact:
            return None
        return self._resync if self._lock_file is None else max(LONGEST, self._resync)

    def subscribe(self, callback: Callable[[], None]) -> Subscription:
        """*callback* is called while a look is due; it starts one, and does not itself look."""
        made = Subscription(self, callback, self._clock)
        self._subscriptions.append(made)
        return made

    def start(self, source: Source, lock_file: LockFile | None) -> None:
        """Use *source*, and *lock_file* where the number does not tell everything."""
        self._source = source
        self._lock_file = lock_file
        self._number = source.read(TABLES)

    def poll(self) -> int:
        """Ask now; returns ``changes``."""
        if self._source is None or self._is_committing:
            return self.changes
        number = self._source.read(TABLES)
        used = self._lock_users()
        if number != self._number or used:
            self.changes += 1
            self._number = number
        return self.changes

    @contextlib.asynccontextmanager
    async def own_commit(self, tables: int) -> AsyncIterator[None]:
        """Surrounds one run of iptables-restore that commits *tables* tables; one at a time."""
        async with self._commit:
            self.poll()
            before, own = self._number, 0
            self._is_committing = True
            try:
                yield
                own = tables
            finally:
                self._is_committing = False
                self._account(before, own)

    async def run(self) -> None:
        """Poll for ever, from the start on."""
        while True:
            await self._sleep(POLL)
            self.step()

    def step(self) -> None:
        """One poll; calls back who has to look."""
        self.poll()
        for subscription in self._subscriptions:
            if subscription.is_due:
                subscription.callback()

    def close(self) -> None:
        """Close what was opened."""
        if self._source is not None:
            self._source.close()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _lock_users(self) -> int:
        """How many processes gave the lock back since the last call."""
        if self._lock_file is None:
            return 0
        count = len(self._lock_file.take())
        if self._lock_file.is_lost:
            # From now on by the timer.
            self._lock_file.close()
            self._lock_file = None
        return count

    def _account(self, before: object, own: int) -> None:
        """After a run of iptables-restore that committed *own* tables, 0 when it failed."""
        now = self._source.read(TABLES) if self._source is not None else None
        used = self._lock_users()
        if isinstance(before, int) and isinstance(now, int):
            foreign = (now - before) % (1 << 32) != own
        else:
            # The figures of a legacy table tell no steps, but ours is one process with the lock.
            foreign = used > 1 or (not own and now != before)
        self._number = now
        if foreign:
            self.changes += 1
