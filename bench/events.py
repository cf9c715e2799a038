"""What happens in a namespace's kernel tables, with the time.

Model: a notification socket collects; ``wait_for`` empties it every two milliseconds and only
decodes once enough route and neighbour messages came, so that watching costs netd no CPU time.

Invariant: a lost notification is an error, never a wrong figure.
"""

import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from bench.peers import Entry
from bench.result import BenchError
from netd.netlink import messages as nl
from netd.netlink.socket import MONITOR_GROUPS, open_socket
from tests.support.netns import enter

T = TypeVar("T")

RESOLUTION = 0.002
"""Seconds between looks of ``wait_for``."""

_TYPE = struct.Struct("=4xH")
_NEW = (nl.RTM_NEWROUTE, nl.RTM_NEWNEIGH)
_DEL = (nl.RTM_DELROUTE, nl.RTM_DELNEIGH)


def made_in(namespace: Path, make: Callable[[], T]) -> T:
    """What *make* returns when called inside *namespace*; sockets made there stay there."""
    made: list[T] = []
    failed: list[OSError | BenchError] = []

    def work() -> None:
        try:
            enter(namespace)
            made.append(make())
        except (OSError, BenchError) as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise BenchError(f"namespace {namespace.name}: {failed[0]}") from failed[0]
    if not made:
        raise BenchError(f"namespace {namespace.name}: nothing was made inside")
    return made[0]


def entry_of(message: nl.Message) -> Entry | None:
    """The entry that *message* is about; None when it is none of an overlay's."""
    value = message.value
    if isinstance(value, nl.Route):
        return ("route", value.dst) if value.gateway and value.prefixlen else None
    if isinstance(value, nl.Neighbour):
        # A neighbour is no longer permanent when its removal is told.
        ours = value.state & nl.NUD_PERMANENT or message.type == nl.RTM_DELNEIGH
        return ("neighbour", value.ip) if ours else None
    if isinstance(value, nl.FdbEntry):
        return ("fdb", value.mac) if value.dst else None
    return None


class Recorder:
    """Listens in *namespace* from the moment it is made; a context manager."""

    def __init__(self, namespace: Path) -> None:
        self._socket: socket.socket = made_in(
            namespace, lambda: open_socket(MONITOR_GROUPS, 64 << 20, timeout=0)
        )
        self._raw: list[tuple[float, bytes]] = []
        self._decoded = 0

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def _collect(self) -> int:
        """Take in what waits; returns how many messages may be about entries."""
        count = 0
        now = time.monotonic()
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return count
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise BenchError("kernel notifications were lost") from error
                raise
            if _TYPE.unpack_from(data)[0] in (*_NEW, *_DEL):
                self._raw.append((now, data))
                count += 1

    def _decode(self) -> Iterator[tuple[float, bool, Entry]]:
        """When, whether it is there now, and which entry, for all not decoded yet."""
        pending = self._raw[self._decoded :]
        self._decoded = len(self._raw)
        for at, data in pending:
            for message in nl.decode(data):
                entry = entry_of(message)
                if entry is not None:
                    yield at, message.type in _NEW, entry

    def forget(self) -> None:
        """Drop everything that came until now."""
        self._collect()
        self._raw.clear()
        self._decoded = 0

    def wait_for(
        self, wanted: Iterable[Entry], *, deadline: float, alive: Callable[[], None]
    ) -> float:
        """Wait until all *wanted* entries were added; returns when, on the monotonic clock.

        *alive* is called now and then and raises when waiting is pointless. Raises BenchError
        after *deadline* seconds.
        """
        asked = frozenset(wanted)
        missing = set(asked)
        end = time.monotonic() + deadline
        at_least = len(missing)
        came = 0
        last = time.monotonic()
        while missing:
            came += self._collect()
            if came >= at_least:
                for at, present, entry in self._decode():
                    if present and entry in missing:
                        missing.discard(entry)
                        last = at
                    elif not present and entry in asked:
                        raise BenchError(f"{entry[0]} {entry[1].hex()} was removed meanwhile")
                at_least = came + len(missing)
            if missing:
                alive()
                if time.monotonic() > end:
                    raise BenchError(f"{len(missing)} entries missing after {deadline:g} s")
                time.sleep(RESOLUTION)
        return last

    def removed(self) -> list[Entry]:
        """The entries that were removed, of all that came and was not looked at yet."""
        self._collect()
        return [entry for _, present, entry in self._decode() if not present]

    def wait_one(self, wanted: Iterable[Entry], *, present: bool, deadline: float) -> float:
        """Wait for a few entries at once, waking at each message; returns when.

        Raises BenchError after *deadline* seconds.
        """
        missing = set(wanted)
        end = time.monotonic() + deadline
        while missing:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise BenchError(f"{len(missing)} of the entries missing after {deadline:g} s")
            self._collect()
            for _, there, entry in self._decode():
                if there == present:
                    missing.discard(entry)
        return time.monotonic()
