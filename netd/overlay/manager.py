"""Keeping this host's overlay as it should be.

Model: ``set_local``, ``set_peers`` and ``update_peer`` say what should be; the monitor and dumps
say what is; a pass observes, brings the device into shape, then puts and deletes entries at the
keys that either side touched. ``run`` makes passes for ever, on every trigger, and looks at
everything anew once a minute.

Invariants:

* entries are planned only against a mirror that is not stale and a device in shape;
* no entry is touched before ``set_peers`` told for the first time which there should be;
* a missing or downed underlay is a named problem, not an error; its return triggers a pass;
* nothing is taken down when the daemon ends; only ``remove`` does that.
"""

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from types import MappingProxyType

from hostkit.reconcile import Backoff, Reconciler
from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.netlink.socket import Monitor, NetlinkError, NetlinkSocket
from netd.overlay.cleanup import take_down
from netd.overlay.device import Device
from netd.overlay.entries import Entries
from netd.overlay.floods import Floods, lines
from netd.overlay.intent import Intent, peer_changes
from netd.overlay.links import LinkWriter, OverlayError, PyrouteLinks, RestlessError
from netd.overlay.mirror import Mirror
from netd.overlay.model import ROUTE_PROTOCOL, LocalNode, Peer

log = logging.getLogger(__name__)

KINDS = ("link", "address", "mtu", "route", "neighbour", "fdb")
"""The kinds of repair."""

# Our own changes come back as notifications: a few rounds settle what others did meanwhile.
_ROUNDS = 4
# Short enough to be right within a second after the other one has ended.
_PAUSE = 0.25


def _unheard(_value: object) -> None:
    """The listener of those who do not listen."""


class Overlay:
    """This host's part of the overlay, in the network namespace in which ``start`` is called.

    *on_repair* is called once for each repaired thing with its kind, *on_mtu* with the MTU in
    bytes whenever it changes. *clock* is monotonic, *wall* gives the times in ``peer_changed``,
    both in seconds; *resync* is the time between full looks. *connect* makes the sockets.
    The log gets one line per kind of repair in ten seconds; problems are the reader's to log.
    """

    def __init__(
        self,
        *,
        on_repair: Callable[[str], None] = _unheard,
        on_mtu: Callable[[int], None] = _unheard,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resync: float = 60.0,
        retry: Backoff | None = None,
        links: LinkWriter | None = None,
        connect: Callable[[], tuple[NetlinkSocket, Monitor]] = lambda: (NetlinkSocket(), Monitor()),
    ) -> None:
        self._on_repair = on_repair
        self._clock = clock
        self._wall = wall
        self._resync = resync
        self._links = links or PyrouteLinks()
        self._sleep = sleep
        self._floods = Floods(
            lines(log, logging.WARNING, "repaired: {n} {kind}", "repaired: {n} {kind} {span}"),
            clock,
        )
        self._rivalry = Floods(
            lines(log, logging.WARNING, "{kind}", "{kind} ({n} times {span})"), clock
        )
        self._connect = connect
        self._socket: NetlinkSocket | None = None
        self._monitor: Monitor | None = None
        self._intent = Intent()
        self._mirror = Mirror()
        self._local: LocalNode | None = None
        self._listed = False
        self._programmed = False
        self._ground_changed = True
        self._dumped = 0.0
        self._dumping = False
        self._repairs: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._peer_changed: dict[IPv4Network, float] = {}
        self._pass_lock = asyncio.Lock()
        self._reconciler = Reconciler(
            "overlay",
            self._keep,
            resync=resync,
            tolerate=(OverlayError, NetlinkError, OSError),
            backoff=Backoff(first=0.1, most=2.0),
            clock=clock,
        )
        self._entries = Entries(
            self._intent,
            self._mirror,
            retry or Backoff(first=0.2, most=30.0),
            self._reconciler.trigger,
        )
        self._device = Device(
            self._mirror, self._links, flushed=self._flushed, on_mtu=on_mtu, clock=clock
        )

    async def start(self) -> None:
        """Open the sockets in the current namespace and listen. Raises NetlinkError."""
        if self._socket is not None:
            return
        self._socket, self._monitor = self._connect()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._heard)

    async def stop(self) -> None:
        """Close the sockets; the kernel keeps everything."""
        self._entries.stop()
        self._device.stop()
        self._floods.stop()
        self._rivalry.stop()
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._monitor = None

    def set_local(self, node: LocalNode | None) -> None:
        """Say what this host is; None leaves the kernel as it is."""
        if node == self._local:
            return
        if node is not None and self._local is not None and self._local.device:
            self._device.retire(self._local.device)
        self._device.expect(node.device if node is not None else "")
        self._programmed = False
        self._local = node
        self._ground_changed = True
        self._reconciler.trigger()

    def retire(self, device: str) -> None:
        """Have *device*, which an earlier life made, removed once the local node is another."""
        self._device.retire(device)

    def set_peers(self, peers: Mapping[IPv4Network, Peer]) -> None:
        """Replace all peers. Until it is called, the entries that there are stay."""
        for subnet, peer in peer_changes(self._intent.peers, peers).items():
            self.update_peer(subnet, peer)
        self._listed = True
        self._reconciler.trigger()

    def update_peer(self, subnet: IPv4Network, peer: Peer | None) -> None:
        """Enter or change one peer, or drop it with None."""
        before = self._intent.peers.get(subnet)
        if before == peer:
            return
        if peer is None:
            self._peer_changed.pop(subnet, None)
        elif before is None or replace(before, revision=peer.revision) != peer:
            self._peer_changed[subnet] = self._wall()
        self._entries.ask(self._intent.set_peer(subnet, peer))
        self._reconciler.trigger()

    def _started(self) -> tuple[NetlinkSocket, Monitor]:
        if self._socket is None or self._monitor is None:
            raise OverlayError("the overlay was not started")
        return self._socket, self._monitor

    # --- what is reported ---

    @property
    def mtu(self) -> int:
        """The MTU in bytes that the device was seen to have (with host-gw that of the underlay or
        Backend.MTU), 0 before that."""
        return self._device.mtu

    @property
    def settled(self) -> bool:
        """Whether the device is as wished and all entries were programmed since ``set_local``.

        An entry that the kernel refused is a problem of its peer and does not count here.
        """
        return self._device.ready and self._programmed

    @property
    def blocking(self) -> tuple[str, ...]:
        """What is wrong with device or underlay: no peer at all can be reached well."""
        return self._device.blocking if self._local is not None else ()

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong now, each naming device or peer: ``blocking`` comes first."""
        if self._local is None:
            return self._entries.problems()
        told = self.blocking + self._device.advice
        return told + self._intent.problems() + self._entries.problems()

    @property
    def repairs(self) -> Mapping[str, int]:
        """Repairs since the start, by kind."""
        return MappingProxyType(self._repairs)

    @property
    def entries(self) -> int:
        """Neighbours, FDB entries and routes of ours that the kernel has."""
        mirror = self._mirror
        routes = sum(r.protocol == ROUTE_PROTOCOL for rs in mirror.routes.values() for r in rs)
        permanent = nl.NUD_PERMANENT
        return (
            routes
            + sum(bool(n.state & permanent) for n in mirror.neighbours.values())
            + sum(bool(e.state & permanent) for e in mirror.fdb.values())
        )

    @property
    def peer_changed(self) -> Mapping[IPv4Network, float]:
        """When each peer was last entered or changed, in wall-clock seconds."""
        return MappingProxyType(self._peer_changed)

    # --- the loop ---

    async def run(self) -> None:
        """Keep the overlay for ever; ``start`` must have been called."""
        self._reconciler.trigger()
        await self._reconciler.run()

    async def converge(self) -> None:
        """Make one full pass now.

        Raises OverlayError when something is not as it should be afterwards, NetlinkError when
        the kernel cannot be asked.
        """
        await self._work(fresh=True)
        wrong = self.blocking + self._entries.problems()
        if wrong:
            more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise OverlayError("; ".join(wrong[:10]) + more)

    async def _keep(self) -> None:
        try:
            await self._work()
        except RestlessError as error:
            # Passes fail and succeed in turn then, so that the reconciler would log each failure.
            self._rivalry.note(str(error))
            await self._sleep(_PAUSE)
            self._reconciler.trigger()

    async def _work(self, *, fresh: bool = False) -> None:
        async with self._pass_lock:
            self._mirror.stale |= fresh
            try:
                await self._pass()
            except (OverlayError, NetlinkError, OSError):
                # Nothing is known about how far it came.
                self._mirror.stale = True
                raise

    async def _pass(self) -> None:
        repaired: Counter[str] = Counter()
        try:
            for _round in range(_ROUNDS):
                if await self._round(repaired):
                    return
        finally:
            self._count(repaired)
        raise RestlessError("the kernel's state does not stay as it was set")

    async def _round(self, repaired: Counter[str]) -> bool:
        """Observe, plan, apply once; True when nothing is left to do."""
        self._drain()
        if self._mirror.stale or self._clock() - self._dumped >= self._resync:
            await self._dump()
        local = self._local
        if local is None:
            return True
        if self._ground_changed and not await self._ground(local, repaired):
            return False
        if self._listed:
            repaired.update(await self._entries.program(self._started()[0], self._drain))
            self._programmed |= self._device.ready
        if self._device.broken is not None:
            raise self._device.broken
        if self._mirror.stale or self._ground_changed:
            return False
        return not (self._listed and self._entries.touched)

    async def _ground(self, local: LocalNode, repaired: Counter[str]) -> bool:
        """Bring the device into shape; True when entries can be programmed next."""
        self._ground_changed = False
        try:
            repaired.update(await self._device.bring(local))
        except BaseException:
            self._ground_changed = True
            raise
        self._drain()
        if local != self._local:
            return False
        self._place(local)
        if self._device.broken is None:
            return not (self._mirror.stale or self._ground_changed)
        # What can be programmed on the device as it is, is; then the cause is raised.
        if self._mirror.stale:
            await self._dump()
            self._place(local)
        return True

    def _place(self, local: LocalNode) -> None:
        """Have the entries meant for the device and underlay that there are now."""
        mirror = self._mirror
        mirror.point_at(local.device, local.interface)
        if self._intent.set_place(local, mirror.facts(local.interface), mirror.device):
            self._entries.ask_all()
            self._entries.touch_all()

    def _flushed(self) -> None:
        # What the kernel forgets with the device is part of that one repair.
        self._entries.ask_all()
        self._mirror.stale = True

    def _heard(self) -> None:
        if self._dumping:
            # What is said now must be absorbed after the dump, which may be older.
            return
        try:
            if self._drain():
                self._reconciler.trigger()
        except NetlinkError as error:
            log.warning("netlink monitor: %s", error)
            self._mirror.stale = True
            self._reconciler.trigger()

    def _drain(self) -> bool:
        """Take in what the kernel said; True when it concerns us."""
        heard = self._started()[1].drain()
        touched, ground = self._mirror.absorb(heard.events)
        self._entries.touch(touched)
        self._mirror.stale |= heard.lost
        self._ground_changed |= ground
        return bool(touched) or ground or self._mirror.stale

    async def _dump(self) -> None:
        self._dumping = True
        try:
            await self._load(self._started()[0])
        finally:
            self._dumping = False
        self._mirror.stale = False
        self._dumped = self._clock()
        self._ground_changed = True
        self._entries.touch_all()

    async def _load(self, socket: NetlinkSocket) -> None:
        mirror = self._mirror
        mirror.load_links(await socket.dump(rq.dump_links()))
        mirror.load_addresses(await socket.dump(rq.dump_addresses()))
        if self._local is not None:
            mirror.watch(self._local.network)
            mirror.point_at(self._local.device, self._local.interface)
        # A namespace without any route has no main table yet, and a device may go meanwhile.
        values = await socket.dump(rq.dump_routes(), absent=(errno.ENOENT,))
        if mirror.device:
            gone = (errno.ENODEV, errno.ENOENT, errno.EINVAL)
            values += await socket.dump(rq.dump_neighbours(mirror.device), absent=gone)
            values += await socket.dump(rq.dump_fdb(mirror.device), absent=gone)
        mirror.load_entries(values)

    def _count(self, repaired: Counter[str]) -> None:
        for kind, number in repaired.items():
            self._repairs[kind] += number
            for _ in range(number):
                self._on_repair(kind)
            self._floods.note(kind, number)

    # --- the end ---

    async def remove(self, network: IPv4Network | None = None, device: str = "") -> list[str]:
        """Delete the device and our routes; what was there. Needs ``start``, but no earlier state.

        *network* limits the routes, *device* names the VXLAN device; both default to what
        ``set_local`` said. Raises OverlayError or NetlinkError.
        """
        socket = self._started()[0]
        local, self._local = self._local, None
        if local is not None:
            network, device = network or local.network, device or local.device
        async with self._pass_lock:
            return await take_down(socket, self._links, network, device)
