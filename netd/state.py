"""What netd remembers across a reboot, so that a host comes up into a working overlay alone.

One JSON file, replaced atomically. A damaged file counts as none: etcd is the truth, this is
only what is used until etcd answers.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from hostkit.files import write_atomic
from hostkit.problems import Problems
from netd.leases.model import Lease, is_unicast_mac, lease_value
from netd.leases.peers import Record

log = logging.getLogger(__name__)

FORMAT = 1

SAVE_PAUSE = 1.0
"""Seconds between two writes."""


class SavedRecord(msgspec.Struct, array_like=True):
    """A well-formed lease record."""

    key: str
    public_ip: str
    backend_type: str
    vni: int
    vtep_mac: str
    lease_id: int
    create_revision: int

    @classmethod
    def of(cls, lease: Lease) -> "SavedRecord":
        """What to save of *lease*."""
        return cls(
            lease.key,
            str(lease.public_ip),
            lease.backend_type,
            lease.vni,
            lease.vtep_mac,
            lease.lease_id,
            lease.create_revision,
        )

    def record(self) -> Record:
        """The record in the form that a roster takes."""
        value = lease_value(self.public_ip, self.backend_type, self.vni, self.vtep_mac)
        return Record(self.key, value, self.lease_id, 0, self.create_revision)


class State(msgspec.Struct):
    """The VTEP's MAC, the subnet in force, the network configuration and all records."""

    format: int = FORMAT
    vtep_mac: str = ""
    subnet: str = ""
    public_ip: str = ""
    config: str = ""
    saved_at: float = 0.0
    records: list[SavedRecord] = msgspec.field(default_factory=list)

    @property
    def remembered(self) -> IPv4Network | None:
        """The subnet, if there is a well-formed one."""
        try:
            return IPv4Network(self.subnet) if self.subnet else None
        except ValueError:
            return None

    def to_records(self) -> list[Record]:
        """The records in the form that a roster takes."""
        return [one.record() for one in self.records]


def load_state(path: Path) -> State:
    """The saved state; an empty one when there is none or it is damaged."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("saved state %s is not used: %s", path, error)
        return State()
    if state.format != FORMAT:
        return State()
    if not is_unicast_mac(state.vtep_mac):
        state.vtep_mac = ""
    if not 0 <= state.saved_at < 1 << 33:
        state.saved_at = 0.0
    return state


def save_state(path: Path, state: State) -> None:
    """Write *state* so that it survives a power failure; raises OSError."""
    write_atomic(path, msgspec.json.encode(state), mode=0o600, sync=True)


class StateSaver:
    """Saves what *collect* gives whenever ``changed`` was called, at most once a second.

    *collect* runs on the event loop, where the state changes; only the writing is left to a
    thread. None from it means that there is nothing worth saving.
    """

    def __init__(self, path: Path, problems: Problems, collect: Callable[[], State | None]) -> None:
        self.path = path
        self._problems = problems
        self._collect = collect
        self._pending = asyncio.Event()
        self._saved = b""

    def changed(self) -> None:
        """There is something new."""
        self._pending.set()

    async def run(self) -> None:
        """Save for ever."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            state = self._collect()
            if state is not None:
                await self.save(state)
            await asyncio.sleep(SAVE_PAUSE)

    async def save(self, state: State) -> None:
        """Save *state* now; a failure is a problem, not an error."""
        self._problems.update("state", await asyncio.to_thread(self._write, state))

    def flush(self) -> None:
        """Save what is pending, at the end."""
        state = self._collect() if self._pending.is_set() else None
        if state is not None:
            self._write(state)

    def _write(self, state: State) -> str | None:
        """Save *state*; returns what is wrong if that fails."""
        # The same state again, but for its time, is not worth a disk's sync.
        timeless = hashlib.sha256(
            msgspec.json.encode(msgspec.structs.replace(state, saved_at=0.0))
        ).digest()
        if timeless == self._saved and self.path.exists():
            return None
        try:
            save_state(self.path, state)
        except OSError as error:
            return (
                f"cannot save to {self.path} ({error.strerror}): after a reboot without etcd "
                "this host would not find its peers"
            )
        self._saved = timeless
        return None
