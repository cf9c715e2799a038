"""Holding one subnet: acquire it, keep it alive, defend it, and never renumber silently.

``converge`` is one pass of the loop over what the watch has delivered so far. Once a subnet is
in force in this process it is changed only with *allow_renumber*: containers run on it.

    no subnet in force   decide -> keep / take over / create
    record as expected   keep its etcd lease alive
    record missing       create it again for the same subnet
    record foreign       problem "lease" (blocking), data plane untouched, retried on every change
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hostkit.etcd.errors import EtcdError
from hostkit.etcd.lease import LeaseGone, LeaseKeeper
from hostkit.problems import Problems
from netd.errors import LeaseError
from netd.leases.allocate import Contested, Exhausted, Identity, Keep, Take, decide
from netd.leases.model import Lease, NetworkConfig, backend_type, render_lease
from netd.leases.peers import Roster, interpret
from netd.leases.store import LeaseStore

log = logging.getLogger(__name__)

KEEPALIVE = 60.0
"""Seconds between keep-alives. Far below TTL/3 so that a lease's age tells whether its holder
lives: a record kept alive within the last two rounds belongs to a running host."""

HISTORY_ROUND = 6 * 3600.0
"""Seconds between notes in the history, which only orders subnets by last use."""


@dataclass(frozen=True, slots=True)
class Held:
    """The subnet in force. *lease* is None while it comes from the cache, without etcd's word."""

    subnet: IPv4Network
    vtep_mac: str
    lease: Lease | None


class LeaseHolder:
    """Keeps this host's record in etcd; *changed* is called when the subnet in force changes."""

    def __init__(
        self,
        store: LeaseStore,
        roster: Roster,
        problems: Problems,
        *,
        public_ip: IPv4Address,
        vtep_mac: str,
        mac_is_new: bool,
        known_macs: frozenset[str],
        remembered: IPv4Network | None,
        changed: Callable[[Held], None],
        trigger: Callable[[], None],
        allow_renumber: bool = False,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        keepalive: float = KEEPALIVE,
    ) -> None:
        self.store = store
        self.roster = roster
        self.problems = problems
        self.public_ip = public_ip
        self.vtep_mac = vtep_mac
        self._mac_is_new = mac_is_new
        self._known_macs = known_macs
        self._remembered = remembered
        self._changed = changed
        self._trigger = trigger
        self._allow_renumber = allow_renumber
        self._clock = clock
        self._rng = rng or random.Random()
        self._keepalive = keepalive
        self.config: NetworkConfig | None = None
        self.subnet: IPv4Network | None = None
        self.lease: Lease | None = None
        self.acquired_at: float | None = None
        self.renumbered = 0
        self.reacquired = 0
        self.conflict = False
        self._keeper: LeaseKeeper | None = None
        self._keeper_task: asyncio.Task[None] | None = None
        self._noted_at = 0.0

    @property
    def expires_at(self) -> float | None:
        """Unix time at which etcd drops the record unless it is renewed; None: not in etcd, or
        a reservation."""
        if self._keeper is None:
            return None
        return self._clock() + self._keeper.expires_at - time.monotonic()

    def use_cached(self, subnet: IPv4Network) -> None:
        """Put *subnet* in force without etcd; it is validated when etcd answers."""
        self.subnet = subnet
        self._changed(Held(subnet, self.vtep_mac, None))

    async def converge(self) -> None:
        """One pass; raises EtcdError or LeaseError when it must be tried again."""
        if self.config is None:
            return
        if self.subnet is None:
            await self._acquire(self.config, renumber=False)
        else:
            await self._defend(self.config, self.subnet)
        await self._note_history()

    async def close(self) -> None:
        """Stop renewing; the record stays."""
        await self._stop_keeper()

    async def _acquire(self, config: NetworkConfig, *, renumber: bool) -> None:
        history = await self.store.history()
        excluded: set[IPv4Network] = set()
        while True:
            identity = Identity(
                self.public_ip,
                self._known_macs | {self.vtep_mac},
                None if renumber else self._remembered,
            )
            decision = decide(
                config, self.roster, identity, history, excluded=excluded, rng=self._rng
            )
            match decision:
                case Keep(lease):
                    await self._adopt(config, lease, "kept")
                    return
                case Contested(lease):
                    await self._refuse_if_live(lease)
                    await self._adopt(config, lease, "taken over from an earlier installation")
                    return
                case Take(subnet, why):
                    value = render_lease(self.public_ip, config.backend, self.vtep_mac)
                    lease_or_none = await self.store.create(subnet, value, self.public_ip)
                    if lease_or_none is not None:
                        self._hold(lease_or_none, f"leased ({why})")
                        return
                    log.info("subnet %s was taken by another host meanwhile", subnet)
                    excluded.add(subnet)
                case Exhausted(capacity):
                    text = (
                        f"all {capacity} subnets of {config.network} are taken: remove stale "
                        "reservations or use a larger Network"
                    )
                    self.problems.set("lease", text, blocking=True)
                    raise LeaseError(text)

    async def _refuse_if_live(self, lease: Lease) -> None:
        """Raise LeaseError while *lease*, which bears our address, is kept alive by another host.

        Only netd renews often enough to be seen alive; a record that was not renewed for two
        rounds is taken to be this host's own from before its state was lost.
        """
        info = await self.store.remaining(lease.lease_id)
        if info.ttl >= info.granted - 2 * self._keepalive - 5:
            text = (
                f"PublicIP {self.public_ip} is held by another live host: lease {lease.key} "
                f"(VTEP {lease.vtep_mac or 'none'}) was renewed in the last "
                f"{max(0, info.granted - info.ttl)} s; give this host an address of its own "
                "with --public-ip or --iface. If it is this very host after a reinstallation, "
                "the lease will be taken over in a few minutes"
            )
            self.problems.set("public-ip", text, blocking=True)
            raise LeaseError(text)
        self.problems.clear("public-ip")

    async def _adopt(self, config: NetworkConfig, lease: Lease, how: str) -> None:
        """Go on with an existing record, putting our value into it where it differs."""
        if self._mac_is_new and lease.vtep_mac:
            self.vtep_mac = lease.vtep_mac
        value = render_lease(self.public_ip, config.backend, self.vtep_mac)
        current = await self.store.read(lease.subnet)
        if current is None:
            raise LeaseError(f"lease {lease.key} went away while it was being adopted")
        if current.value != value:
            entry = interpret(current)
            if not isinstance(entry, Lease):
                raise LeaseError(f"lease {lease.key} was damaged meanwhile: {entry.reason}")
            updated = await self.store.update(entry, value)
            if updated is None:
                raise LeaseError(f"lease {lease.key} was changed by somebody else meanwhile")
            lease = updated
        self._hold(lease, how)

    def _hold(self, lease: Lease, how: str) -> None:
        first_or_moved = self.subnet != lease.subnet
        if first_or_moved and self.subnet is not None:
            self.renumbered += 1
        self._mac_is_new = False
        self.subnet = lease.subnet
        if self.lease is None or self.lease.lease_id != lease.lease_id:
            self.acquired_at = self._clock()
        self.lease = lease
        self.conflict = False
        self._start_keeper(lease)
        for key in ("lease", "public-ip"):
            self.problems.clear(key)
        kind = "reservation" if lease.is_reservation else f"lease {lease.lease_id:x}"
        log.info("subnet %s %s, %s", lease.subnet, how, kind)
        if first_or_moved:
            self._changed(Held(lease.subnet, self.vtep_mac, lease))

    async def _defend(self, config: NetworkConfig, subnet: IPv4Network) -> None:
        """Make etcd say what is in force here, or say why it cannot."""
        if not config.admits(subnet):
            await self._lost(
                config,
                f"the network configuration ({config.network}, /{config.subnet_len}) no longer "
                f"admits our subnet {subnet}",
            )
            return
        value = render_lease(self.public_ip, config.backend, self.vtep_mac)
        entry = self.roster.entries.get(self.store.key(subnet))
        if self._is_current(entry, config):
            self._settle(entry)
            return
        # The watch may lag behind our own writes: ask etcd itself before acting.
        record = await self.store.read(subnet)
        if record is None:
            lease = await self.store.create(subnet, value, self.public_ip)
            if lease is not None:
                if self.lease is not None:
                    self.reacquired += 1
                self._hold(lease, "leased again after its record was lost")
                return
            record = await self.store.read(subnet)
            if record is None:
                raise LeaseError(f"the record of {subnet} appears and vanishes, trying again")
        found = interpret(record)
        if isinstance(found, Lease) and self._is_ours(found):
            if self._mac_is_new and found.vtep_mac:
                self.vtep_mac = found.vtep_mac
                value = render_lease(self.public_ip, config.backend, self.vtep_mac)
            if record.value != value:
                updated = await self.store.update(found, value)
                if updated is None:
                    raise LeaseError(f"lease {found.key} changed while it was updated")
                found = updated
            self._settle(found)
            return
        holder = f"host {found.public_ip}" if isinstance(found, Lease) else "a damaged record"
        await self._lost(config, f"our subnet {subnet} is now held by {holder} ({record.key})")

    def _is_ours(self, lease: Lease) -> bool:
        return lease.public_ip == self.public_ip and (
            not lease.vtep_mac
            or self._mac_is_new
            or lease.vtep_mac in self._known_macs | {self.vtep_mac}
        )

    def _is_current(self, entry: object, config: NetworkConfig) -> bool:
        """Whether the watched record is what we would write, under the lease that we renew."""
        return (
            isinstance(entry, Lease)
            and self.lease is not None
            and entry.lease_id == self.lease.lease_id
            and entry.public_ip == self.public_ip
            and entry.backend_type == backend_type(config.backend)
            and (entry.backend_type != "vxlan" or entry.vtep_mac == self.vtep_mac)
            and entry.vni == getattr(config.backend, "vni", 0)
            and (entry.lease_id == 0 or self._keeper is not None)
        )

    def _settle(self, lease: object) -> None:
        assert isinstance(lease, Lease)  # noqa: S101 - narrowed by the callers
        if self.lease is None:
            self._hold(lease, "confirmed by etcd")
            return
        self.lease = lease
        self.conflict = False
        self._start_keeper(lease)
        self.problems.clear("lease")

    async def _lost(self, config: NetworkConfig, what: str) -> None:
        """Another holds our subnet: keep everything as it is unless renumbering was allowed."""
        self.conflict = True
        await self._stop_keeper()
        if not self._allow_renumber:
            self.problems.set(
                "lease",
                f"{what}; containers run on it, so nothing is renumbered and the data plane "
                "stays. Stop the containers and restart netd with --allow-renumber",
                blocking=True,
            )
            return
        log.warning("%s; renumbering as --allow-renumber says", what)
        self.lease = None
        await self._acquire(config, renumber=True)

    def _start_keeper(self, lease: Lease) -> None:
        if lease.lease_id == 0 or (
            self._keeper is not None and self._keeper.lease_id == lease.lease_id
        ):
            return
        if self._keeper_task is not None:
            self._keeper_task.cancel()
        self._keeper = LeaseKeeper(
            self.store.client, lease.lease_id, self.store.ttl, interval=self._keepalive
        )
        self._keeper_task = asyncio.create_task(self._keep(self._keeper))

    async def _keep(self, keeper: LeaseKeeper) -> None:
        try:
            await keeper.run()
        except LeaseGone:
            log.warning("etcd lease %x is gone, its record will be created again", keeper.lease_id)
        if self._keeper is keeper:
            self._keeper = None
        self._trigger()

    async def _stop_keeper(self) -> None:
        task, self._keeper_task, self._keeper = self._keeper_task, None, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _note_history(self) -> None:
        if self.lease is None or self.conflict:
            return
        now = self._clock()
        if now - self._noted_at < HISTORY_ROUND:
            return
        with contextlib.suppress(EtcdError):
            await self.store.remember(self.lease.subnet, self.public_ip)
            self._noted_at = now
