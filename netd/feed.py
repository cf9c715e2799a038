"""Following etcd: the network configuration and the lease records, as they are and as they change.

The feed keeps the roster true to etcd and tells its owner, through ``FeedEvents``, what that
means; it decides nothing about the host itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostkit.etcd.errors import EtcdError
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.watch import Changes, Snapshot, watch_key, watch_prefix
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from netd.leases.model import FieldError, Lease, NetworkConfig, parse_network_config
from netd.leases.peers import Entry, Record, Roster, interpret
from netd.leases.store import LeaseStore

log = logging.getLogger(__name__)

SOW_AGAIN = Backoff(first=0.2, most=5.0)
_AT_ONCE = 16
"""Records that are put back at the same time: some ten thousand are a matter of seconds."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What etcd gets where it has no configuration: this one, and before it these *leases*."""

    config: bytes
    leases: tuple[Lease, ...] = ()


class FeedEvents(Protocol):
    """What the owner of a feed wants to hear."""

    def config_changed(self, config: NetworkConfig, raw: str) -> None:
        """etcd has this well-formed configuration."""
        ...

    def config_listed(self) -> None:
        """The configuration was looked up, whether there is one or not."""
        ...

    def roster_replaced(self) -> None:
        """The roster was filled anew."""
        ...

    def records_changed(self, changed: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Records changed, in this order: what each was and what it is."""
        ...


class _Connection:
    """Says once when one watch loses etcd and once when it has it again."""

    def __init__(self, problems: Problems, key: str) -> None:
        self._problems = problems
        self._key = key
        self.is_connected = False

    def connected(self, endpoint: str) -> None:
        if not self.is_connected:
            log.info("%s: following etcd at %s", self._key, endpoint)
        self.is_connected = True
        self._problems.clear(self._key)

    def disconnected(self, error: EtcdError) -> None:
        self.is_connected = False
        self._problems.set(self._key, f"{error}; the data plane stays as it is")


class Feed:
    """Runs the two watches."""

    def __init__(
        self,
        client: EtcdClient,
        store: LeaseStore,
        roster: Roster,
        problems: Problems,
        events: FeedEvents,
    ) -> None:
        self._client = client
        self._store = store
        self._roster = roster
        self._problems = problems
        self._events = events
        self._records_link = _Connection(problems, "etcd")
        self._config_link = _Connection(problems, "etcd-config")
        self._known_before: tuple[Lease, ...] = ()

    @property
    def connected(self) -> bool:
        """Whether lease changes are arriving."""
        return self._records_link.is_connected

    async def follow_config(self, seed: Seed | None = None) -> None:
        """Follow ``PREFIX/config`` for ever; *seed* is written when there is none.

        Before it go the leases that were known to the last etcd that had one: those of *seed*,
        of an earlier life, and later those that were followed until etcd was rebuilt. One that
        deletes its configuration knows itself which hosts there are.
        """
        key = self._store.config_key
        self._known_before = () if seed is None else seed.leases
        stream = watch_key(self._client, key, listener=self._config_link)
        async with contextlib.aclosing(stream) as items:
            async for item in items:
                if isinstance(item, Snapshot):
                    value = item.kvs[0].value if item.kvs else None
                    self._notice_rebuilt(item.revision)
                else:
                    last = item.events[-1]
                    value = last.kv.value if last.type == "put" else None
                if value is None and seed is not None:
                    leases = self._known_before if isinstance(item, Snapshot) else ()
                    value = await self._sow(key, seed.config, leases)
                if value is not None:
                    self._known_before = ()
                self._take_config(key, value)

    async def _sow(self, key: str, config: bytes, leases: Sequence[Lease]) -> bytes | None:
        """Write *config* where there is none, *leases* before it, however long etcd refuses.

        Returns what is there then; None when that is gone again, which the watch tells.
        """
        failures = 0
        while True:
            try:
                # First: a host that leases a subnet needs the configuration, and must not be able
                # to choose one whose holder has not come back yet.
                await self._put_back(leases)
                if await self._store.seed_config(config):
                    log.info("wrote the network configuration to %s", key)
            except EtcdError as error:
                failures += 1
                self._problems.set(
                    "config", f"the network configuration cannot be written to {key}: {error}"
                )
                await asyncio.sleep(SOW_AGAIN.delay(failures))
            with contextlib.suppress(EtcdError):
                found = await self._client.get(key)
                if found is not None or not failures:
                    return None if found is None else found.value

    async def _put_back(self, leases: Sequence[Lease]) -> None:
        written = 0
        for start in range(0, len(leases), _AT_ONCE):
            done = await asyncio.gather(
                *map(self._store.restore, leases[start : start + _AT_ONCE]),
                return_exceptions=True,
            )
            written += done.count(True)
            for error in done:
                if isinstance(error, BaseException):
                    raise error
        if written:
            log.info("put back %d lease records that etcd did not have", written)

    def _take_config(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._problems.set(
                "config",
                f"there is no network configuration at {key}: write one, for example "
                f"""etcdctl put {key} '{{"Network":"10.1.0.0/16","Backend":{{"Type":"vxlan"}}}}'""",
            )
        else:
            try:
                config = parse_network_config(value)
            except FieldError as error:
                self._problems.set(
                    "config",
                    f"{key} is refused, a good one stays in force if there was one: {error}",
                )
            else:
                self._problems.clear("config")
                self._problems.replace_group(
                    "config-note/", ((str(i), note) for i, note in enumerate(config.notes))
                )
                self._events.config_changed(config, value.decode())
        self._events.config_listed()

    async def follow_records(self) -> None:
        """Follow ``PREFIX/subnets/`` for ever."""
        stream = watch_prefix(self._client, self._store.subnets_prefix, listener=self._records_link)
        async with contextlib.aclosing(stream) as items:
            async for item in items:
                if isinstance(item, Snapshot):
                    self._notice_rebuilt(item.revision)
                    self._roster.replace(map(self._store.record, item.kvs), item.revision)
                    self._events.roster_replaced()
                else:
                    self._events.records_changed(list(self._fold(item)))

    def _notice_rebuilt(self, revision: int) -> None:
        """An etcd whose *revision* is lower than the roster's is not the one that filled it."""
        if revision < self._roster.revision:
            self._known_before = tuple(self._roster.leases())

    def _fold(self, changes: Changes) -> Iterable[tuple[Entry | None, Entry | None]]:
        for event in changes.events:
            before = self._roster.entries.get(event.kv.key)
            if event.type == "put":
                yield before, self._roster.put(self._store.record(event.kv))
            else:
                self._roster.delete(event.kv.key, event.kv.mod_revision)
                yield before, None


def read_seed(path: str, problems: Problems, remembered: Iterable[Record] = ()) -> Seed | None:
    """The configuration to write where etcd has none; None without *path* or when it is bad.

    With it go those of the *remembered* lease records that it admits.
    """
    if not path:
        return None
    try:
        raw = Path(path).read_bytes()
        config = parse_network_config(raw)
    except (OSError, FieldError) as error:
        problems.set("net-config-path", f"{path} is not used: {error}")
        return None
    entries = map(interpret, remembered)
    return Seed(
        raw,
        tuple(one for one in entries if isinstance(one, Lease) and config.admits(one.subnet)),
    )
