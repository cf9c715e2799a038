"""Following etcd: the network configuration and the lease records, as they are and as they change.

The feed keeps the roster true to etcd and tells its owner, through ``FeedEvents``, what that
means; it decides nothing about the host itself.
"""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hostkit.etcd.errors import EtcdError
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.watch import Changes, Snapshot, watch_key, watch_prefix
from hostkit.problems import Problems
from netd.leases.model import FieldError, NetworkConfig, parse_network_config
from netd.leases.peers import Entry, Roster
from netd.leases.store import LeaseStore

log = logging.getLogger(__name__)


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

    @property
    def connected(self) -> bool:
        """Whether lease changes are arriving."""
        return self._records_link.is_connected

    async def follow_config(self, seed: bytes | None = None) -> None:
        """Follow ``PREFIX/config`` for ever; *seed* is written when there is none."""
        key = self._store.config_key
        stream = watch_key(self._client, key, listener=self._config_link)
        async with contextlib.aclosing(stream) as items:
            async for item in items:
                if isinstance(item, Snapshot):
                    value = item.kvs[0].value if item.kvs else None
                else:
                    last = item.events[-1]
                    value = last.kv.value if last.type == "put" else None
                if value is None and seed is not None:
                    with contextlib.suppress(EtcdError):
                        if await self._store.seed_config(seed):
                            log.info("wrote the network configuration to %s", key)
                            value = seed
                self._take_config(key, value)

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
                    self._roster.replace(map(self._store.record, item.kvs), item.revision)
                    self._events.roster_replaced()
                else:
                    self._events.records_changed(list(self._fold(item)))

    def _fold(self, changes: Changes) -> Iterable[tuple[Entry | None, Entry | None]]:
        for event in changes.events:
            before = self._roster.entries.get(event.kv.key)
            if event.type == "put":
                yield before, self._roster.put(self._store.record(event.kv))
            else:
                self._roster.delete(event.kv.key, event.kv.mod_revision)
                yield before, None


def read_seed(path: str, problems: Problems) -> bytes | None:
    """The configuration to write where etcd has none; None without *path* or when it is bad."""
    if not path:
        return None
    try:
        raw = Path(path).read_bytes()
        parse_network_config(raw)
    except (OSError, FieldError) as error:
        problems.set("net-config-path", f"{path} is not used: {error}")
        return None
    return raw
