"""Keeping this host's overlay as it should be.

Model: ``set_local``, ``set_peers`` and ``update_peer`` say what should be; the monitor and dumps
say what is; a pass observes, brings the device into shape, then puts and deletes entries at the
keys that either side touched. ``run`` makes passes for ever, on every trigger, and looks at
everything anew once a minute.

Invariants:

* entries are planned only against a mirror that is not stale and a device in shape;
* a change of the device is a *repair* when it differs from a wish that was fulfilled before;
* a missing or downed underlay is a named problem, not an error; its return triggers a pass;
* nothing is taken down when the daemon ends; only ``remove`` does that.
"""

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network
from types import MappingProxyType

from hostkit.reconcile import Backoff, Reconciler
from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.netlink.socket import Monitor, NetlinkError, NetlinkSocket
from netd.overlay.cleanup import take_down
from netd.overlay.entries import Entries
from netd.overlay.intent import Intent, peer_changes
from netd.overlay.links import LinkWriter, OverlayError, PyrouteLinks
from netd.overlay.mirror import Mirror
from netd.overlay.model import ROUTE_PROTOCOL, LocalNode, Peer
from netd.overlay.plan import LinkWish, ground_problems, overlay_mtu, plan_link, wish_link

log = logging.getLogger(__name__)

KINDS = ("link", "address", "mtu", "route", "neighbour", "fdb")
"""The kinds of repair."""

# Our own changes come back as notifications: a few rounds settle what others did meanwhile.
_ROUNDS = 4


def _unheard(_value: object) -> None:
    """The listener of those who do not listen."""


class Overlay:
    """This host's part of the overlay, in the network namespace in which ``start`` is called.

    *on_repair* is called once for each repaired thing with its kind, *on_mtu* with the MTU in
    bytes whenever it changes. *clock* is monotonic, *wall* gives the times in ``peer_changed``,
    both in seconds; *resync* is the time between full looks. *connect* makes the sockets.
    """

    def __init__(
        self,
        *,
        on_repair: Callable[[str], None] = _unheard,
        on_mtu: Callable[[int], None] = _unheard,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        resync: float = 60.0,
        retry: Backoff | None = None,
        links: LinkWriter | None = None,
        connect: Callable[[], tuple[NetlinkSocket, Monitor]] = lambda: (NetlinkSocket(), Monitor()),
    ) -> None:
        self._on_repair = on_repair
        self._on_mtu = on_mtu
        self._clock = clock
        self._wall = wall
        self._resync = resync
        self._links = links or PyrouteLinks()
        self._connect = connect
        self._socket: NetlinkSocket | None = None
        self._monitor: Monitor | None = None
        self._intent = Intent()
        self._mirror = Mirror()
        self._local: LocalNode | None = None
        self._retired: set[str] = set()
        self._settled: LinkWish | None = None
        self._broken: OverlayError | None = None
        self._ground_changed = True
        self._dumped = 0.0
        self._dumping = False
        self._mtu = 0
        self._ground_problems: tuple[str, ...] = ()
        self._told: tuple[str, ...] = ()
        self._repairs: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._peer_changed: dict[IPv4Network, float] = {}
        self._pass_lock = asyncio.Lock()
        self._reconciler = Reconciler(
            "overlay",
            self._work,
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

    async def start(self) -> None:
        """Open the sockets in the current namespace and listen. Raises NetlinkError."""
        if self._socket is not None:
            return
        self._socket, self._monitor = self._connect()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._heard)

    async def stop(self) -> None:
        """Close the sockets; the kernel keeps everything."""
        self._entries.stop()
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
            self._retired.add(self._local.device)
        self._retired.discard(node.device if node is not None else "")
        self._local = node
        self._ground_changed = True
        self._reconciler.trigger()

    def retire(self, device: str) -> None:
        """Have *device*, which an earlier life made, removed once the local node is another."""
        self._retired.add(device)

    def set_peers(self, peers: Mapping[IPv4Network, Peer]) -> None:
        """Replace all peers."""
        for subnet, peer in peer_changes(self._intent.peers, peers).items():
            self.update_peer(subnet, peer)
        self._reconciler.trigger()

    def update_peer(self, subnet: IPv4Network, peer: Peer | None) -> None:
        """Enter or change one peer, or drop it with None."""
        if self._intent.peers.get(subnet) == peer:
            return
        if peer is None:
            self._peer_changed.pop(subnet, None)
        else:
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
        """The overlay's MTU in bytes, 0 before it is known."""
        return self._mtu

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong now, each naming device or peer."""
        refused = self._intent.problems() if self._local is not None else ()
        return self._ground_problems + refused + self._entries.problems()

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
        wrong = self._ground_problems + self._entries.problems()
        if wrong:
            more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise OverlayError("; ".join(wrong[:10]) + more)

    async def _work(self, *, fresh: bool = False) -> None:
        async with self._pass_lock:
            self._mirror.stale |= fresh
            try:
                await self._pass()
            except (OverlayError, NetlinkError, OSError):
                # Nothing is known about how far it came.
                self._mirror.stale = True
                raise
        self._tell_problems()

    async def _pass(self) -> None:
        repaired: Counter[str] = Counter()
        try:
            for _round in range(_ROUNDS):
                if await self._round(repaired):
                    return
        finally:
            self._count(repaired)
        raise OverlayError("the kernel's state does not stay as it was set")

    async def _round(self, repaired: Counter[str]) -> bool:
        """Observe, plan, apply once; True when nothing is left to do."""
        self._drain()
        if self._mirror.stale or self._clock() - self._dumped >= self._resync:
            await self._dump()
        if self._local is None:
            return True
        if self._ground_changed:
            self._ground_changed = False
            try:
                repaired.update(await self._ground(self._local))
            except BaseException:
                self._ground_changed = True
                raise
            self._drain()
            if self._mirror.stale or self._ground_changed:
                return False
        repaired.update(await self._entries.program(self._started()[0], self._drain))
        if self._broken is not None:
            raise self._broken
        return not (self._entries.touched or self._mirror.stale or self._ground_changed)

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

    # --- device and underlay ---

    async def _ground(self, local: LocalNode) -> tuple[str, ...]:
        """Bring the device into shape; returns the kinds that were repaired."""
        mirror = self._mirror
        facts = mirror.facts(local.interface)
        self._ground_problems = ground_problems(local, facts, mirror)
        for name in sorted(self._retired):
            link = mirror.by_name(name)
            if link is not None and link.kind == "vxlan":
                await self._links.delete(link.ifindex)
            self._retired.discard(name)
        repaired: tuple[str, ...] = ()
        self._broken = None
        if facts is not None:
            self._set_mtu(overlay_mtu(local, facts))
            wish = wish_link(local, facts)
            try:
                repaired = await self._shape(wish) if wish is not None else ()
            except OverlayError as error:
                # What can be programmed on the device as it is, is; then this is raised.
                self._broken = error
                self._ground_problems += (str(error),)
        else:
            self._settled = None
        mirror.point_at(local.device, local.interface)
        if self._intent.set_place(local, facts, mirror.device):
            self._entries.ask_all()
            self._entries.touch_all()
        return repaired

    async def _shape(self, wish: LinkWish) -> tuple[str, ...]:
        mirror = self._mirror
        link = mirror.by_name(wish.name)
        held = mirror.addresses.get(link.ifindex, ()) if link else ()
        plan = plan_link(wish, link, held)
        if not plan:
            self._settled = wish
            return ()
        unasked = wish == self._settled
        if plan.flushes:
            # What the kernel forgets with the device is part of that one repair.
            self._entries.ask_all()
            mirror.stale = True
        await self._links.apply(plan, wish, link.ifindex if link else 0)
        log.info("device %s: %s", wish.name, "created" if plan.create else "changed")
        self._settled = wish
        self._drain()
        return plan.repairs if unasked else ()

    def _set_mtu(self, mtu: int) -> None:
        if mtu != self._mtu:
            self._mtu = mtu
            self._on_mtu(mtu)

    # --- telling ---

    def _count(self, repaired: Counter[str]) -> None:
        if not repaired:
            return
        for kind, number in repaired.items():
            self._repairs[kind] += number
            for _ in range(number):
                self._on_repair(kind)
        log.warning(
            "repaired: %s", ", ".join(f"{n} {kind}" for kind, n in sorted(repaired.items()))
        )

    def _tell_problems(self) -> None:
        now = self.problems
        if now == self._told:
            return
        for text in now:
            if text not in self._told:
                log.warning("problem: %s", text)
        for text in self._told:
            if text not in now:
                log.info("solved: %s", text)
        self._told = now

    # --- the end ---

    async def remove(self, network: IPv4Network | None = None, device: str = "") -> None:
        """Delete the device and our routes; works without earlier state. Needs ``start``.

        *network* limits the routes, *device* names the VXLAN device; both default to what
        ``set_local`` said. Raises OverlayError or NetlinkError.
        """
        socket = self._started()[0]
        local, self._local = self._local, None
        if local is not None:
            network, device = network or local.network, device or local.device
        async with self._pass_lock:
            await take_down(socket, self._links, network, device)
