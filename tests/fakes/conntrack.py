"""A connection-tracking table in memory behind ctnetlink, and entries as the kernel writes them.

It keeps state, deletes only what a request names by reply tuple, zone and id, and fails on demand:
``refuse`` maps a source to an errno, ``refuse_dump`` is the errno of a dump, ``silent`` gives no
answer any more, ``before_delete`` is called between a dump and the first deletion.
"""

import collections
import errno
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from netd.netlink import conntrack as ct
from netd.netlink import messages as nl
from netd.netlink.requests import Request, encode

NESTED = 0x8000
TCP, UDP = 6, 17


@dataclass(frozen=True)
class Entry:
    """An entry; source, destination and target (who answers) are ``address:port``."""

    source: str
    destination: str
    target: str = ""
    protocol: int = UDP
    zone: int = 0
    number: int = 0

    @property
    def answers(self) -> str:
        """Who answers: the target, or the destination of an entry without one."""
        return self.target or self.destination


def attr(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded."""
    size = len(payload)
    return struct.pack("=HH", size + 4, kind) + payload + b"\0" * (-size % 4)


def half(source: str, destination: str, protocol: int) -> bytes:
    """The payload of one tuple."""
    (src, sport), (dst, dport) = (end.split(":") for end in (source, destination))
    addresses = attr(1, IPv4Address(src).packed) + attr(2, IPv4Address(dst).packed)
    ports = attr(2, struct.pack("!H", int(sport))) + attr(3, struct.pack("!H", int(dport)))
    return attr(1 | NESTED, addresses) + attr(2 | NESTED, attr(1, bytes([protocol])) + ports)


def body(entry: Entry, *, timeout: int = 600) -> bytes:
    """The body of the message that describes *entry* in a dump."""
    made = struct.pack("=BBH", 2, 0, 0)
    made += attr(1 | NESTED, half(entry.source, entry.destination, entry.protocol))
    made += attr(2 | NESTED, half(entry.answers, entry.source, entry.protocol))
    if entry.zone:
        made += attr(18, struct.pack("!H", entry.zone))
    made += attr(3, struct.pack("!I", 0x18E)) + attr(7, struct.pack("!I", timeout))
    return made + attr(12, struct.pack("!I", entry.number))


def create(entry: Entry, *, timeout: int = 600) -> Request:
    """Ask the real kernel for *entry*, as if its packets had passed a DNAT rule."""
    made = struct.pack("=BBH", 2, 0, 0)
    made += attr(1 | NESTED, half(entry.source, entry.destination, entry.protocol))
    made += attr(2 | NESTED, half(entry.answers, entry.source, entry.protocol))
    made += attr(7, struct.pack("!I", timeout)) + attr(3, struct.pack("!I", 0xE))
    if entry.zone:
        made += attr(18, struct.pack("!H", entry.zone))
    if entry.protocol == TCP:
        made += attr(4 | NESTED, attr(1 | NESTED, attr(1, b"\3")))
    if entry.target:
        address, port = entry.target.split(":")
        packed = struct.pack("!H", int(port))
        made += attr(
            13 | NESTED,
            attr(1, IPv4Address(address).packed)
            + attr(3 | NESTED, attr(1, packed) + attr(2, packed)),
        )
    return Request(ct.CT_NEW, nl.NLM_F_CREATE, made)


def flows(entries: Iterable[Entry]) -> list[ct.Flow]:
    """What the codec makes of *entries*, without those that are no UDP flows."""
    read = [ct.read_flow(data := body(entry), 0, len(data)) for entry in entries]
    return [flow for flow in read if flow is not None]


class FakeTable:
    """The table; ``open()`` is a Transport."""

    def __init__(self, *entries: Entry) -> None:
        self._numbers = iter(range(1, 1 << 30))
        self.entries: dict[int, Entry] = {}
        self.refuse: dict[str, int] = {}
        self.refuse_dump = 0
        self.silent = False
        self.before_delete: Callable[[], None] | None = None
        self.opened = self.closed = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Put *entry* with an id of its own."""
        number = next(self._numbers)
        self.entries[number] = replace(entry, number=number)

    def replace(self, source: str, target: str) -> None:
        """The entry of *source* ends and a new one, with the same id, leads to *target*."""
        (old,) = (one for one in self.entries.values() if one.source == source)
        self.entries[old.number] = replace(old, target=target)

    def sources(self) -> set[str]:
        """Who has an entry."""
        return {entry.source for entry in self.entries.values()}

    def open(self) -> "_Asker":
        """A socket to the table."""
        self.opened += 1
        return _Asker(self)

    def answer(self, request: bytes) -> list[bytes]:
        """The datagrams that answer *request*."""
        _size, kind, _flags, seq, _pid = nl.HEADER.unpack_from(request)
        if self.silent:
            return []
        if kind == ct.CT_GET:
            if self.refuse_dump:
                return [_error(self.refuse_dump, seq)]
            messages = [
                encode(Request(ct.CT_NEW, 0, body(entry)), seq) for entry in self.entries.values()
            ]
            # A few to the datagram, and the end beside the last, as the kernel does.
            messages.append(nl.HEADER.pack(20, nl.NLMSG_DONE, 0, seq, 0) + bytes(4))
            return [b"".join(messages[at : at + 3]) for at in range(0, len(messages), 3)]
        assert kind == ct.CT_DELETE
        if self.before_delete is not None:
            self.before_delete()
            self.before_delete = None
        return [_error(self._delete(request[nl.HEADER_SIZE :]), seq)]

    def _delete(self, asked: bytes) -> int:
        for number, entry in self.entries.items():
            whole = body(entry)
            parts = [whole[at : at + size] for at, size in _attributes(whole)]
            named = b"".join(part for part in parts if part[2] in (2, 12, 18))
            if asked[4:] == named:
                if entry.source in self.refuse:
                    return self.refuse[entry.source]
                del self.entries[number]
                return 0
        return errno.ENOENT


def _attributes(data: bytes) -> Iterable[tuple[int, int]]:
    at = 4
    while at < len(data):
        size = struct.unpack_from("=H", data, at)[0]
        yield at, size + 3 & ~3
        at += size + 3 & ~3


def _error(code: int, seq: int) -> bytes:
    return nl.HEADER.pack(36, nl.NLMSG_ERROR, 0, seq, 0) + nl.ERRNO.pack(-code) + bytes(16)


class _Asker:
    def __init__(self, table: FakeTable) -> None:
        self._table = table
        self._answers: collections.deque[bytes] = collections.deque()

    def send(self, data: bytes, /) -> int:
        self._answers.extend(self._table.answer(data))
        return len(data)

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, "empty")
        return self._answers.popleft()

    def close(self) -> None:
        self._table.closed += 1

    def fileno(self) -> int:
        raise AssertionError("nobody waits for this socket")
