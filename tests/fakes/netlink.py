"""A kernel in memory: links, addresses, neighbours, FDB entries and routes behind rtnetlink.

It keeps state, announces changes to a listener, forgets what the real one forgets (routes and
neighbours of a downed device, silently), and fails on demand: ``refuse`` maps a message's value
to an errno, ``refuse_link`` is the reason against any change of a device, ``lose_replies`` and
``lose_events`` drop datagrams with ENOBUFS.
"""

import collections
import errno
import os
import struct
from collections.abc import Callable

from netd.netlink import messages as nl
from netd.netlink.requests import Request, encode
from netd.overlay.links import OverlayError
from netd.overlay.model import VXLAN_OVERHEAD
from netd.overlay.plan import LinkPlan, LinkWish


def _attr(kind: int, payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack("=HH", size + 4, kind) + payload + b"\0" * (-size % 4)


def render(kind: int, value: nl.Value, *, flags: int = 0, seq: int = 0) -> bytes:
    """*value* as the kernel would send it in a message of type *kind*."""
    if isinstance(value, nl.Link):
        body = nl.IFINFO.pack(0, 1, value.ifindex, value.flags, 0)
        body += _attr(3, value.name.encode() + b"\0") + _attr(4, nl.U32.pack(value.mtu))
        body += _attr(1, value.mac)
        body += _attr(10, nl.U32.pack(value.master)) if value.master else b""
        if value.vxlan is not None:
            v = value.vxlan
            data = _attr(1, nl.U32.pack(v.vni)) + _attr(3, nl.U32.pack(v.lower))
            data += _attr(4, v.local) + _attr(7, bytes([v.learning]))
            data += _attr(15, v.port.to_bytes(2, "big")) + (_attr(23, b"") if v.gbp else b"")
            body += _attr(18, _attr(1, value.kind.encode() + b"\0") + _attr(2, data))
    elif isinstance(value, nl.Address):
        body = nl.IFADDR.pack(2, value.prefixlen, 0, value.scope, value.ifindex)
        body += _attr(1, value.ip) + _attr(2, value.ip)
    elif isinstance(value, nl.Neighbour):
        body = nl.NDMSG.pack(2, value.ifindex, value.state, 0, 0)
        body += _attr(1, value.ip) + _attr(2, value.mac)
    elif isinstance(value, nl.FdbEntry):
        body = nl.NDMSG.pack(7, value.ifindex, value.state, value.flags, 0)
        body += _attr(2, value.mac) + _attr(1, value.dst)
    else:
        body = nl.RTMSG.pack(
            2,
            value.prefixlen,
            0,
            value.tos,
            value.table,
            value.protocol,
            0,
            value.type,
            value.flags,
        )
        body += _attr(1, value.dst)
        body += _attr(4, nl.U32.pack(value.oif)) if value.oif else b""
        body += _attr(5, value.gateway) if value.gateway else b""
        body += _attr(6, nl.U32.pack(value.priority)) if value.priority else b""
    return encode(Request(kind, flags, body), seq)


class _Queue:
    """Datagrams waiting for a reader; readable by its descriptor like a socket."""

    def __init__(self) -> None:
        self._items: collections.deque[bytes | int] = collections.deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def put(self, item: bytes | int) -> None:
        self._items.append(item)
        os.write(self._write, b"x")

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        if not self._items:
            raise BlockingIOError(errno.EAGAIN, "empty")
        os.read(self._read, 1)
        item = self._items.popleft()
        if isinstance(item, int):
            raise OSError(item, os.strerror(item))
        return item

    def send(self, data: bytes, /) -> int:
        raise AssertionError("listeners send nothing")

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class FakeKernel:
    """The state and both ends of it: ``asker()`` and ``listener()`` are Transports; it is also a
    LinkWriter."""

    def __init__(self) -> None:
        self.links: dict[int, nl.Link] = {}
        self.addresses: set[nl.Address] = set()
        self.neighbours: dict[tuple[int, bytes], nl.Neighbour] = {}
        self.fdb: dict[tuple[int, bytes], nl.FdbEntry] = {}
        self.routes: list[nl.Route] = []
        self.refuse: Callable[[nl.Message], int] = lambda _message: 0
        self.refuse_link = ""
        self.lose_replies = 0
        self.lose_events = False
        self.log: list[nl.Message] = []
        self._listeners: list[_Queue] = []
        self._next = 1

    # --- as seen by a daemon ---

    def listener(self) -> _Queue:
        """A transport for a Monitor."""
        queue = _Queue()
        self._listeners.append(queue)
        return queue

    def asker(self) -> "_Asker":
        """A transport for a NetlinkSocket."""
        return _Asker(self)

    async def apply(self, plan: LinkPlan, wish: LinkWish, index: int) -> None:
        """Be a LinkWriter."""
        if self.refuse_link:
            raise OverlayError(f"device {wish.name}: {self.refuse_link}")
        room = self.links[wish.lower].mtu - VXLAN_OVERHEAD
        if plan.mtu is not None and plan.mtu > room:
            raise OverlayError(f"device {wish.name}: Invalid argument")
        if plan.delete:
            self.del_link(plan.delete)
        if plan.create:
            vxlan = nl.Vxlan(
                wish.vni, wish.local.packed, wish.lower, wish.port, wish.learning, wish.gbp, False
            )
            # At creation the kernel takes what fits instead of refusing.
            mtu = min(wish.mtu, room)
            index = self.add_link(wish.name, mtu=mtu, mac=wish.mac, kind="vxlan", vxlan=vxlan)
        self.put_link(_changed(self.links[index], plan))
        for address in plan.drop:
            self.del_address(address)
        if plan.add_address:
            self.add_address(nl.Address(index, wish.address.packed, 32, 0))

    async def delete(self, index: int) -> None:
        """Be a LinkWriter."""
        self.del_link(index)

    # --- as used by tests and by the above ---

    def add_link(
        self,
        name: str,
        *,
        mtu: int = 1500,
        mac: bytes = b"",
        kind: str = "",
        vxlan: nl.Vxlan | None = None,
    ) -> int:
        """Make a link that is up; its index."""
        index, self._next = self._next, self._next + 1
        flags = nl.IFF_UP | nl.IFF_LOWER_UP
        self.put_link(nl.Link(index, name, flags, mtu, mac, kind, vxlan))
        return index

    def put_link(self, link: nl.Link) -> None:
        """Make or change a link; one that goes down loses routes and neighbours silently, one
        that ceases or begins to resolve neighbours loses those, announced."""
        before = self.links.get(link.ifindex)
        if before == link:
            return
        self.links[link.ifindex] = link
        if not link.up:
            self._forget(link.ifindex)
        self._announce(nl.RTM_NEWLINK, link)
        if before is not None and before.arp != link.arp:
            for key in [k for k in self.neighbours if k[0] == link.ifindex]:
                self._announce(nl.RTM_DELNEIGH, self.neighbours.pop(key))

    def del_link(self, index: int) -> None:
        """Delete a link with all that hangs on it."""
        link = self.links.pop(index)
        self._forget(index)
        self.addresses = {a for a in self.addresses if a.ifindex != index}
        for key in [k for k in self.fdb if k[0] == index]:
            del self.fdb[key]
        self._announce(nl.RTM_DELLINK, link)
        for upper in [u for u in self.links.values() if u.vxlan and u.vxlan.lower == index]:
            self.del_link(upper.ifindex)

    def add_address(self, address: nl.Address) -> None:
        """Give a link an address."""
        self.addresses.add(address)
        self._announce(nl.RTM_NEWADDR, address)

    def del_address(self, address: nl.Address) -> None:
        """Take an address away."""
        self.addresses.discard(address)
        self._announce(nl.RTM_DELADDR, address)

    def request(self, request: Request) -> int:
        """Carry out one change; an errno, 0 for success."""
        message = next(nl.decode(encode(request, 0)))
        return self._change(message)

    def _forget(self, index: int) -> None:
        self.routes = [r for r in self.routes if r.oif != index]
        for key in [k for k in self.neighbours if k[0] == index]:
            del self.neighbours[key]

    def _announce(self, kind: int, value: nl.Value, flags: int = 0) -> None:
        for queue in self._listeners:
            if self.lose_events:
                queue.put(errno.ENOBUFS)
            else:
                queue.put(render(kind, value, flags=flags & ~nl.NLM_F_ACK))

    def _change(self, message: nl.Message) -> int:
        self.log.append(message)
        value = message.value
        refusal = self.refuse(message)
        if refusal:
            return refusal
        if isinstance(value, nl.Route):
            return self._change_route(message, value)
        table: dict[tuple[int, bytes], nl.Neighbour] | dict[tuple[int, bytes], nl.FdbEntry]
        if isinstance(value, nl.Neighbour):
            table, key = self.neighbours, (value.ifindex, value.ip)
        elif isinstance(value, nl.FdbEntry):
            table, key = self.fdb, (value.ifindex, value.mac)
        else:
            return errno.EOPNOTSUPP
        if value.ifindex not in self.links:
            return errno.ENODEV
        if message.type == nl.RTM_DELNEIGH:
            gone = table.pop(key, None)
            if gone is None:
                return errno.ENOENT
            self._announce(nl.RTM_DELNEIGH, gone)
        else:
            table[key] = value  # type: ignore[assignment]  # table and value were chosen together
            self._announce(nl.RTM_NEWNEIGH, value)
        return 0

    def _change_route(self, message: nl.Message, route: nl.Route) -> int:
        if message.type == nl.RTM_DELROUTE:
            found = [r for r in self.routes if _names(route, r)]
            if not found:
                return errno.ESRCH
            self.routes.remove(found[0])
            self._announce(nl.RTM_DELROUTE, found[0])
            return 0
        link = self.links.get(route.oif)
        if link is None:
            return errno.ENODEV
        if not link.up:
            return errno.ENETDOWN
        at = (route.dst, route.prefixlen, route.priority, route.tos)
        rival = next(
            (r for r in self.routes if (r.dst, r.prefixlen, r.priority, r.tos) == at), None
        )
        if rival is not None:
            if not message.flags & nl.NLM_F_REPLACE:
                return errno.EEXIST
            self.routes[self.routes.index(rival)] = route
        else:
            self.routes.append(route)
        self._announce(nl.RTM_NEWROUTE, route, message.flags if rival else 0)
        return 0


def _names(asked: nl.Route, route: nl.Route) -> bool:
    """Whether a deletion of *asked* means *route*; flags do not matter."""
    return asked._replace(flags=0, table=route.table) == route._replace(flags=0)


class _Asker:
    """The requesting end."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._replies: collections.deque[bytes | None] = collections.deque()
        self._congested = False

    def send(self, data: bytes, /) -> int:
        for message in nl.decode(data):
            if message.flags & nl.NLM_F_DUMP == nl.NLM_F_DUMP and message.value is None:
                self._dump(message, data)
                continue
            code = self._kernel._change(message)
            if code or message.flags & nl.NLM_F_ACK:
                if self._kernel.lose_replies:
                    self._kernel.lose_replies -= 1
                    self._replies.append(None)
                    self._congested = True
                elif not self._congested:
                    self._replies.append(_reply(code, message.seq))
        return len(data)

    def _dump(self, message: nl.Message, data: bytes) -> None:
        kernel = self._kernel
        family = data[nl.HEADER_SIZE]
        values: list[nl.Value] = []
        if message.type == nl.RTM_GETLINK:
            kind, values = nl.RTM_NEWLINK, [*kernel.links.values()]
        elif message.type == nl.RTM_GETADDR:
            kind, values = nl.RTM_NEWADDR, [*kernel.addresses]
        elif message.type == nl.RTM_GETROUTE:
            kind, values = nl.RTM_NEWROUTE, [*kernel.routes]
        else:
            kind = nl.RTM_NEWNEIGH
            values = [*(kernel.fdb if family == nl.AF_BRIDGE else kernel.neighbours).values()]
        text = b"".join(render(kind, value, seq=message.seq) for value in values)
        done = nl.HEADER.pack(nl.HEADER_SIZE + 4, nl.NLMSG_DONE, 0, message.seq, 0) + b"\0" * 4
        self._replies.append(text + done)

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        if not self._replies:
            # Only a reader that found the queue empty ends the congestion, as in the kernel.
            self._congested = False
            raise BlockingIOError(errno.EAGAIN, "nothing")
        reply = self._replies.popleft()
        if reply is None:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return reply

    def fileno(self) -> int:
        raise AssertionError("nobody waits on it")

    def close(self) -> None:
        self._replies.clear()


def _reply(code: int, seq: int) -> bytes:
    quoted = nl.HEADER.pack(nl.HEADER_SIZE, 0, 0, seq, 0)
    body = nl.ERRNO.pack(-code) + quoted
    return nl.HEADER.pack(nl.HEADER_SIZE + len(body), nl.NLMSG_ERROR, 0, seq, 0) + body


def _changed(link: nl.Link, plan: LinkPlan) -> nl.Link:
    if plan.mtu is not None:
        link = link._replace(mtu=plan.mtu)
    if plan.mac is not None:
        link = link._replace(mac=plan.mac)
    if plan.up:
        link = link._replace(flags=link.flags | nl.IFF_UP)
    if plan.arp:
        link = link._replace(flags=link.flags & ~nl.IFF_NOARP)
    if plan.release:
        link = link._replace(master=0)
    if plan.learning is not None and link.vxlan is not None:
        link = link._replace(vxlan=link.vxlan._replace(learning=plan.learning))
    return link
