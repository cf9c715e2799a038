"""Between the roster of lease records and the overlay: which record is a peer right now.

One changed record is judged by itself, so that it costs the same among ten hosts and among
thousands. Where records may overlap (a subnet of unusual length) all are judged together.
"""

from collections.abc import Sequence
from typing import Protocol

from hostkit.logs import printable
from hostkit.problems import Problems
from netd.leases.model import Lease
from netd.leases.peers import Entry, Judge, Malformed, Roster
from netd.overlay.manager import Overlay
from netd.overlay.model import Peer

SKIPPED_SHOWN = 50
"""How many refused records are reported one by one."""

MANY = 100
"""From so many changes at once on, judging everything anew is cheaper."""


class Judging(Protocol):
    """Gives the local facts to judge by; None while they are not known."""

    def __call__(self) -> Judge | None: ...


class Peering:
    """Keeps the overlay's peers true to the roster; ``skipped`` tells which records are not."""

    def __init__(
        self, roster: Roster, overlay: Overlay, problems: Problems, judge: Judging
    ) -> None:
        self._roster = roster
        self._overlay = overlay
        self._problems = problems
        self._judge = judge
        self._odd = False
        self.listed = False
        self.skipped: dict[str, str] = {}

    def refresh(self) -> None:
        """Judge every record anew, once the roster has been filled."""
        judge = self._judge()
        if judge is None or not self.listed:
            return
        view = self._roster.view(judge)
        self._odd = any(_is_odd(entry, judge) for entry in self._roster.entries.values())
        self.skipped = dict(view.skipped)
        self._overlay.set_peers({subnet: _peer(lease) for subnet, lease in view.peers.items()})
        self._report()

    def apply(self, changes: Sequence[tuple[Entry | None, Entry | None]]) -> None:
        """Follow *changes*: what each record was and what it is."""
        judge = self._judge()
        if judge is None or not self.listed:
            return
        odd = self._odd or any(_is_odd(one, judge) for pair in changes for one in pair)
        if odd or len(changes) >= MANY:
            self.refresh()
            return
        before = len(self.skipped)
        for old, new in changes:
            self._enter(judge, old, new)
        if before or self.skipped:
            self._report()

    def _enter(self, judge: Judge, old: Entry | None, new: Entry | None) -> None:
        entry = new or old
        if entry is None:
            return
        self.skipped.pop(entry.key, None)
        if isinstance(new, Lease) and not judge.is_own(new):
            reason = judge.reason_against(new)
            if reason is None:
                self._overlay.update_peer(new.subnet, _peer(new))
                return
            self.skipped[new.key] = reason
        elif isinstance(new, Malformed):
            self.skipped[new.key] = new.reason
        # Only what this very key brought in: a dual-stack key may name another record's subnet.
        if isinstance(old, Lease):
            self._overlay.update_peer(old.subnet, None)

    def _report(self) -> None:
        rows = sorted((printable(key), why) for key, why in self.skipped.items())
        texts = [(key, f"lease record skipped: {why}") for key, why in rows[:SKIPPED_SHOWN]]
        if len(rows) > SKIPPED_SHOWN:
            texts.append(("more", f"{len(rows) - SKIPPED_SHOWN} more lease records are skipped"))
        self._problems.replace_group("record ", texts)


def _is_odd(entry: Entry | None, judge: Judge) -> bool:
    """Whether *entry* might overlap another subnet; equal lengths never do."""
    if entry is None or entry.subnet is None:
        return False
    return entry.subnet.prefixlen != judge.config.subnet_len


def _peer(lease: Lease) -> Peer:
    return Peer(lease.subnet, lease.public_ip, lease.vtep_mac or None, lease.mod_revision)
