"""All objects in memory, as etcd holds them below ``/registry/``, with their latest changes.

Model: etcd is the truth and ``Mirror`` follows it; a write goes to etcd, and who wrote waits
until the mirror has ``reached`` that revision. An object is kept as the JSON that is served,
stamped with etcd's modification revision as its ``resourceVersion``, so that a list is a join.

Invariants: changes are in the order of etcd's revisions; a value that is no JSON object counts
as absent and is logged; the changes kept per kind are bounded, and who asks for older ones, or
for any after etcd itself was replaced, is told so (``Shelf.at``).
"""

import asyncio
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import msgspec

from hostkit.etcd.gateway import EtcdClient, KeyValue
from hostkit.etcd.watch import Snapshot, watch_prefix
from lab.api.kinds import BY_RESOURCE, KINDS, SERVICE, Kind
from lab.api.objects import Json, expired, part
from lab.api.services import claims

log = logging.getLogger(__name__)

PREFIX = "/registry/"
Name = tuple[str, str]
"""Namespace ("" for kinds without one) and name."""
EventType = Literal["ADDED", "MODIFIED", "DELETED"]

_decode = msgspec.json.Decoder(dict).decode
_encode = msgspec.json.Encoder().encode


def etcd_key(kind: Kind, name: Name) -> str:
    """Where an object is kept."""
    return PREFIX + "/".join([kind.plural, *filter(None, name)])


@dataclass(frozen=True, slots=True)
class Item:
    """An object: ``raw`` is the JSON to serve, ``claims`` what no second service may have."""

    raw: bytes
    revision: int
    labels: Mapping[str, str]
    claims: Collection[str] = ()

    def obj(self) -> Json:
        """A copy of the object."""
        found: Json = _decode(self.raw)
        return found

    @classmethod
    def make(cls, kind: Kind, value: bytes, revision: int) -> "Item":
        """From a value in etcd; raises ValueError when that is no JSON object."""
        try:
            obj = _decode(value)
        # RecursionError is what msgspec raises for JSON that is nested thousands deep.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        meta = obj.get("metadata")
        if isinstance(meta, dict):
            meta["resourceVersion"] = str(revision)
        labels = {k: v for k, v in part(obj, "metadata.labels").items() if isinstance(v, str)}
        return cls(_encode(obj), revision, labels, claims(obj) if kind is SERVICE else ())


@dataclass(frozen=True, slots=True)
class Change:
    """One change: the item ``before`` (None: created) and ``after`` (None: deleted)."""

    revision: int
    name: Name
    before: Item | None
    after: Item | None

    @property
    def type(self) -> EventType:
        """What a watch calls it."""
        return "DELETED" if self.after is None else "MODIFIED" if self.before else "ADDED"

    def last(self) -> bytes:
        """The JSON to show: that after the change; of a deleted item the last, at this revision."""
        return self.after.raw if self.after is not None else self.gone()

    def gone(self) -> bytes:
        """The JSON of the item before, at the revision of its end."""
        obj = self.before.obj() if self.before is not None else {}
        if isinstance(obj.get("metadata"), dict):
            obj["metadata"]["resourceVersion"] = str(self.revision)
        return _encode(obj)


class Shelf:
    """The objects of one kind and their last changes, at most twice *history* of them.

    A position counts the changes ever made; ``start`` is that of the first one still known.
    ``epoch`` counts the replacements of everything.
    """

    def __init__(self, history: int) -> None:
        self.items: dict[Name, Item] = {}
        self.taken: Counter[str] = Counter()
        self.changed = asyncio.Event()
        self.epoch = 0
        self._history = history
        self._log: list[Change] = []
        self.start = 0
        self._floor = 0
        self._sorted: list[Name] | None = None

    def names(self) -> list[Name]:
        """All names in order."""
        if self._sorted is None:
            self._sorted = sorted(self.items)
        return self._sorted

    def end(self) -> int:
        """The position after the last change."""
        return self.start + len(self._log)

    def at(self, revision: int) -> int:
        """The position right after *revision*; raises 410 when it is too old."""
        if revision < self._floor:
            raise expired(revision, self._floor)
        found = bisect_right(self._log, revision, key=lambda change: change.revision)
        return self.start + found

    def since(self, position: int) -> list[Change]:
        """The changes from *position* on; raises 410 when they are forgotten."""
        if position < self.start:
            raise expired(0, self._floor)
        return self._log[position - self.start :]

    def difference(self, known: Mapping[Name, Item]) -> list[Change]:
        """What leads from *known* to the objects as they are."""
        gone = [
            Change(self._floor, n, item, None) for n, item in known.items() if n not in self.items
        ]
        return gone + [
            Change(item.revision, name, known.get(name), item)
            for name, item in self.items.items()
            # Another etcd may have given another object the same revision.
            if known.get(name) != item
        ]

    def replace(self, items: dict[Name, Item], revision: int) -> None:
        """Become *items* as of *revision*, with no history."""
        self.items, self._sorted = items, None
        self.taken = Counter(claim for item in items.values() for claim in item.claims)
        self.start, self._log, self._floor = self.end(), [], revision
        self.epoch += 1
        self.wake()

    def set(self, name: Name, item: Item | None, revision: int) -> None:
        """Take in one change."""
        before = self.items.get(name)
        if before is None and item is None:
            return
        if before is None or item is None:
            self._sorted = None
        for claim in before.claims if before else ():
            self.taken[claim] -= 1
            if not self.taken[claim]:
                del self.taken[claim]
        if item is None:
            del self.items[name]
        else:
            self.items[name] = item
            self.taken.update(item.claims)
        self._log.append(Change(revision, name, before, item))
        if len(self._log) > 2 * self._history:
            self._floor = self._log[self._history - 1].revision
            del self._log[: self._history]
            self.start += self._history
        self.wake()

    def wake(self) -> None:
        """Let those who follow look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def copy(self) -> "Shelf":
        """The same objects with the same history: who is behind it misses nothing."""
        other = Shelf(self._history)
        other.replace(dict(self.items), self._floor)
        other.start, other._log = self.start, list(self._log)
        return other


class Mirror:
    """Follows etcd; ``revision`` is how far. *history* is per kind."""

    def __init__(self, client: EtcdClient, *, history: int = 10_000) -> None:
        self._client = client
        self._history = history
        self.revision = 0
        self.shelves = {kind: Shelf(history) for kind in KINDS}
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever."""
        async with aclosing(watch_prefix(self._client, PREFIX)) as received:
            async for news in received:
                if isinstance(news, Snapshot):
                    self._replace(news)
                else:
                    for event in news.events:
                        self._apply(event.kv, deleted=event.type == "delete")
                self.revision = news.revision
                self._moved.set()
                self._moved = asyncio.Event()

    async def reached(self, revision: int) -> None:
        """Wait until the mirror is at *revision*."""
        while self.revision < revision:
            await self._moved.wait()

    async def differs(self, kind: Kind, name: Name, revision: int) -> None:
        """Wait until an object is no longer the one of *revision*."""
        while (item := self.shelves[kind].items.get(name)) and item.revision == revision:
            await self._moved.wait()

    def frozen(self) -> "Mirror":
        """The objects as they are now: a mirror that follows nothing."""
        other = Mirror(self._client, history=self._history)
        other.revision = self.revision
        other.shelves = {kind: shelf.copy() for kind, shelf in self.shelves.items()}
        return other

    def end(self) -> None:
        """Let nobody follow these objects any longer: open watches are told 410."""
        for shelf in self.shelves.values():
            shelf.replace(shelf.items, self.revision)

    def _replace(self, snapshot: Snapshot) -> None:
        found: dict[Kind, dict[Name, Item]] = {kind: {} for kind in KINDS}
        for kv in snapshot.kvs:
            where = _parse_key(kv.key)
            item = _item(where, kv)
            if where is not None and item is not None:
                found[where[0]][where[1]] = item
        for kind, items in found.items():
            self.shelves[kind].replace(items, snapshot.revision)

    def _apply(self, kv: KeyValue, *, deleted: bool) -> None:
        where = _parse_key(kv.key)
        if where is not None:
            item = None if deleted else _item(where, kv)
            self.shelves[where[0]].set(where[1], item, kv.mod_revision)


def _parse_key(key: str) -> tuple[Kind, Name] | None:
    plural, *names = key.removeprefix(PREFIX).split("/")
    kind = BY_RESOURCE.get(plural)
    if kind is None or len(names) != 1 + kind.namespaced or not all(names):
        return None
    return kind, (names[0] if kind.namespaced else "", names[-1])


def _item(where: tuple[Kind, Name] | None, kv: KeyValue) -> Item | None:
    try:
        return Item.make(where[0], kv.value, kv.mod_revision) if where else None
    except ValueError as error:
        log.warning("%s: the value in etcd is no JSON object, skipped: %s", kv.key, error)
        return None
