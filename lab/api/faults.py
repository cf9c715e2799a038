"""Faults on demand, for tests of clients: switched on by ``--faults``, set by POST /faults.

The body is a JSON object; what it names is set, the rest stays. ``/faults`` itself always works.

    refuse     true: connections are closed without an answer, and open watches cut
    stall      true: nothing is answered and open watches are silent, but stay open
    gone       N: the next N watches are answered 410, as after a compaction
    cut        N: the next watch that sends events is closed after N more bytes of them
    garbage    N: before the next events of the next N watches comes a line that is no JSON
    serve_old  true: lists and watches stay at what is there now; false: they catch up
"""

import asyncio
from dataclasses import asdict, dataclass

from aiohttp import web

from lab.api.mirror import Mirror
from lab.api.objects import Json, bad_request

GARBAGE = b'{"type":"MODIFIED","object":{"metadata":}\n'


@dataclass
class Switches:
    """What is wrong with the server at present; ``cut`` is off below 0."""

    refuse: bool = False
    stall: bool = False
    gone: int = 0
    cut: int = -1
    garbage: int = 0
    serve_old: bool = False


class CutError(Exception):
    """The connection has to be closed where it stands."""


class Faults:
    """The switches and what they do."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._old: Mirror | None = None
        self._changed = asyncio.Event()
        self.switches = Switches()

    @property
    def mirror(self) -> Mirror:
        """What is to be served."""
        return self._old or self._mirror

    def set(self, wanted: Json) -> Json:
        """Set switches; returns all of them; raises 400."""
        known = asdict(self.switches)
        for name, value in wanted.items():
            if name not in known:
                raise bad_request(f"{name} is no fault; there are {', '.join(known)}")
            if not isinstance(value, int):
                raise bad_request(f"{name} has to be true, false or a number")
            setattr(self.switches, name, type(known[name])(value))
        if self.switches.serve_old and self._old is None:
            self._old = self._mirror.frozen()
        elif not self.switches.serve_old and self._old is not None:
            old, self._old = self._old, None
            old.end()
        self._changed.set()
        self._changed = asyncio.Event()
        # Watches from before serve_old still follow the mirror that moves on.
        for mirror in filter(None, (self._mirror, self._old)):
            for shelf in mirror.shelves.values():
                shelf.wake()
        return asdict(self.switches)

    async def before_answer(self) -> None:
        """Wait as long as the server stalls; raises CutError if it refuses."""
        while self.switches.stall and not self.switches.refuse:
            await self._changed.wait()
        if self.switches.refuse:
            raise CutError

    def next_watch_gone(self) -> bool:
        """Whether the watch that begins is to be answered 410."""
        if not self.switches.gone:
            return False
        self.switches.gone -= 1
        return True

    async def write(self, response: web.StreamResponse, data: bytes) -> None:
        """Send *data* to a watch, or what the switches leave of it."""
        await self.before_answer()
        if self.switches.garbage:
            self.switches.garbage -= 1
            data = GARBAGE + data
        left = self.switches.cut
        if left < 0:
            await response.write(data)
            return
        self.switches.cut = left - len(data)
        await response.write(data[:left])
        if self.switches.cut <= 0:
            self.switches.cut = -1
            raise CutError
