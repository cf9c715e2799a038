"""Programming neighbours, FDB entries and routes at the keys that were touched.

Model: ``touch`` notes keys to look at, ``ask`` notes keys at which the intent changed; ``program``
plans and applies at all of them in one batch.

Invariants:

* a key stops being touched only when kernel and intent agree on it, or when its failure is noted
  and its retry scheduled;
* a change at a key nobody asked for since it was last right is a repair;
* what the kernel refuses for one entry never keeps another from being programmed.
"""

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from types import MappingProxyType

from hostkit.reconcile import Backoff
from netd.netlink.socket import NetlinkSocket
from netd.overlay.intent import FDB, NEIGHBOUR, Intent, Key
from netd.overlay.mirror import Mirror
from netd.overlay.plan import plan_entries

# What the kernel says to deleting something that is not there, or whose device has just gone.
GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})


class Entries:
    """The entries of *intent* in the kernel that *mirror* copies.

    *again* is called when failed entries are due to be tried again.
    """

    def __init__(
        self, intent: Intent, mirror: Mirror, retry: Backoff, again: Callable[[], None]
    ) -> None:
        self._intent = intent
        self._mirror = mirror
        self._retry = retry
        self._again = again
        self._touched: set[Key] = set()
        self._asked: set[Key] = set()
        self._all_asked = True
        self._failed: dict[Key, str] = {}
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def touched(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._touched)

    @property
    def failed(self) -> Mapping[Key, str]:
        """The keys that could not be programmed, with the kernel's reason."""
        return MappingProxyType(self._failed)

    def problems(self) -> tuple[str, ...]:
        """The failures, each naming its peer."""
        return tuple(sorted(f"{self._describe(k)}: {text}" for k, text in self._failed.items()))

    def touch(self, keys: Iterable[Key]) -> None:
        """Look at *keys* in the next pass."""
        self._touched.update(keys)

    def touch_all(self) -> None:
        """Look at everything that is or should be."""
        self._touched.update(self._mirror.entries(), self._intent.keys())

    def ask(self, keys: Iterable[Key]) -> None:
        """Look at *keys*, where a difference is what somebody wanted."""
        keys = tuple(keys)
        self._touched.update(keys)
        self._asked.update(keys)

    def ask_all(self) -> None:
        """No difference found in the next pass is a repair."""
        self._all_asked = True

    async def program(self, socket: NetlinkSocket, settle: Callable[[], object]) -> Counter[str]:
        """Plan and apply at the touched keys; returns how many repairs were made, by kind.

        *settle* takes in the kernel's notifications. Raises NetlinkError when the kernel does
        not answer; all keys stay touched then.
        """
        keys, self._touched = self._touched, set()
        asked, self._asked = self._asked, set()
        all_asked, self._all_asked = self._all_asked, False
        plan = plan_entries(self._intent, self._mirror, keys)
        steps = plan.steps
        try:
            results = await socket.batch([step.request for step in steps])
        except BaseException:
            self._touched |= keys
            self._asked |= asked
            self._all_asked |= all_asked
            raise
        failed = dict(plan.blocked)
        repaired: Counter[str] = Counter()
        for number, (step, failure) in enumerate(zip(steps, results, strict=True)):
            deletion = number >= len(plan.puts)
            if failure is not None and not (deletion and failure.errno in GONE):
                failed[step.key] = failure.text or errno.errorcode.get(failure.errno, "refused")
            elif not all_asked and step.key not in asked:
                repaired[step.key.kind] += 1
        self._note(keys, failed)
        # Still asked for: what failed now, and what was asked for without having been looked at.
        self._asked |= (asked - keys) | {k for k in failed if all_asked or k in asked}
        settle()
        # Our own changes come back as notifications; only those at odds with us stay touched.
        self._touched -= failed.keys()
        self._touched -= {s.key for s in steps if s.key in self._touched and self._agrees(s.key)}
        return repaired

    def stop(self) -> None:
        """Forget the scheduled retry."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, keys: set[Key], failed: dict[Key, str]) -> None:
        for key in keys:
            self._failed.pop(key, None)
        self._failed.update(failed)
        if not self._failed:
            self._failures = 0
        elif self._timer is None:
            self._failures += 1
            delay = self._retry.delay(self._failures)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._touched.update(self._failed)
        self._again()

    def _agrees(self, key: Key) -> bool:
        return not plan_entries(self._intent, self._mirror, (key,)).steps

    def _describe(self, key: Key) -> str:
        owners = " and ".join(str(o) for o in self._intent.owners(key))
        if key.kind == FDB:
            what = f"FDB entry {key.data.hex(':')}"
        elif key.kind == NEIGHBOUR:
            what = f"neighbour {IPv4Address(key.data)}"
        else:
            what = f"route {IPv4Address(key.data)}/{key.prefixlen}"
        return f"peer {owners}, {what}" if owners else what
