"""One watch: the changes of the selected objects, as lines of JSON, until its time is over.

A selector makes events of its own: an object that begins to fit is ADDED, one that ceases to
is DELETED. A consumer that reads too slowly finds the changes it has missed forgotten and is
told 410, so that no queue grows.
"""

import asyncio

import msgspec
from aiohttp import web

from lab.api.faults import Faults
from lab.api.mirror import Change, EventType, Mirror, Shelf
from lab.api.objects import Json, StatusError, expired
from lab.api.selectors import Selection
from lab.api.table import Sheet


def _line(kind: str, raw: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), raw)


class Watch:
    """Follows *chosen* for *seconds*; *bookmarks* is after how many quiet ones a bookmark comes.

    With *sheet* each object comes as a Table of one row.
    """

    def __init__(
        self,
        faults: Faults,
        chosen: Selection,
        sheet: Sheet | None,
        *,
        bookmarks: float,
        seconds: float,
    ) -> None:
        self._faults = faults
        self._chosen = chosen
        self._sheet = sheet
        self._bookmarks = bookmarks
        self._seconds = seconds
        self._columns = True

    def failure(self, error: StatusError) -> bytes:
        """The line that ends a watch."""
        return _line("ERROR", msgspec.json.encode(error.body()))

    async def run(self, response: web.StreamResponse, revision: int) -> None:
        """Send what came after *revision* (0: what is there, first); raises CutError."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._follow(response, revision)
        except TimeoutError:
            return
        except StatusError as error:
            await self._faults.write(response, self.failure(error))

    async def _follow(self, response: web.StreamResponse, revision: int) -> None:
        mirror = self._faults.mirror
        shelf = mirror.shelves[self._chosen.kind]
        position = shelf.at(revision) if revision else shelf.end()
        lines = [] if revision else self._present(shelf)
        epoch = shelf.epoch
        while True:
            changed = shelf.changed
            await self._faults.before_answer()
            if shelf.epoch != epoch:
                raise expired(revision, mirror.revision)
            for change in shelf.since(position):
                lines += self._event(change)
            position = shelf.end()
            if lines:
                data, lines = b"".join(lines), []
                await self._faults.write(response, data)
            try:
                async with asyncio.timeout(self._bookmarks or None):
                    await changed.wait()
            except TimeoutError:
                # A change that came with the end of the wait is older than the bookmark.
                if shelf.end() == position:
                    lines = [self._bookmark(mirror)]

    def _present(self, shelf: Shelf) -> list[bytes]:
        names = [name for name in shelf.names() if self._chosen.has(name, shelf.items[name])]
        return [self._shown("ADDED", shelf.items[name].raw) for name in names]

    def _event(self, change: Change) -> list[bytes]:
        had = self._chosen.has(change.name, change.before)
        has = self._chosen.has(change.name, change.after)
        if has:
            return [self._shown("MODIFIED" if had else "ADDED", change.last())]
        return [self._shown("DELETED", change.gone())] if had else []

    def _shown(self, kind: EventType, raw: bytes) -> bytes:
        if self._sheet is None:
            return _line(kind, raw)
        obj: Json = msgspec.json.decode(raw)
        revision = str((obj.get("metadata") or {}).get("resourceVersion", ""))
        table = self._sheet.of([obj], revision, columns=self._columns)
        self._columns = False
        return _line(kind, msgspec.json.encode(table))

    def _bookmark(self, mirror: Mirror) -> bytes:
        kind = self._chosen.kind
        meta = {"resourceVersion": str(mirror.revision), "creationTimestamp": None}
        mark = {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta}
        return _line("BOOKMARK", msgspec.json.encode(mark))
