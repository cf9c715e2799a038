"""Holding one subnet: acquire it, keep it alive, defend it, and never renumber silently.

``converge`` is one pass of the loop over what the watch has delivered so far. Once a subnet is
in force in this process it is changed only with *allow_renumber*: containers run on it.

    no subnet in force   decide -> keep / take over / create
    record as expected   keep its etcd lease alive
    record missing       create it again for the same subnet
    record foreign       problem "lease" (blocking), data plane untouched, retried on every change
"""

import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hostkit.etcd.errors import EtcdError
from hostkit.problems import Problems
from netd.errors import LeaseError
from netd.leases.allocate import Contested, Exhausted, Identity, Keep, Take, decide
from netd.leases.keeping import Keeping
from netd.leases.model import Lease, NetworkConfig, backend_type, render_lease
from netd.leases.peers import Entry, Record, Roster, interpret
from netd.leases.signs import SignsOfLife
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
        find_owner: Callable[[IPv4Address], Awaitable[str | None]],
        on_link: Callable[[IPv4Address], bool],
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
        self._allow_renumber = allow_renumber
        self._clock = clock
        self._rng = rng or random.Random()
        self._signs = SignsOfLife(
            store, keepalive=keepalive, find_owner=find_owner, on_link=on_link
        )
        self.config: NetworkConfig | None = None
        self.subnet: IPv4Network | None = None
        self.lease: Lease | None = None
        self.acquired_at: float | None = None
        self.renumbered = 0
        self.reacquired = 0
        self.conflict = False
        self._keeping = Keeping(store.client, store.ttl, keepalive, trigger)
        self._noted_at = 0.0

    @property
    def expires_at(self) -> float | None:
        """Unix time at which etcd drops the record unless it is renewed; None: not in etcd, or
        a reservation."""
        end = self._keeping.expires_at
        return None if end is None else self._clock() + end - time.monotonic()

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
        await self.store.sweep()
        await self._look_for_twins()
        await self._note_history()

    async def close(self) -> None:
        """Stop renewing; the record stays."""
        await self._keeping.stop()

    async def _acquire(self, config: NetworkConfig, *, renumber: bool) -> None:
        left = await self.store.settle()
        if left is not None:
            await self._hold(left, "leased (an earlier attempt was committed after all)")
            return
        history = await self.store.history()
        excluded: set[IPv4Network] = set()
        while True:
            identity = self._identity(None if renumber else self._remembered)
            decision = decide(
                config, self.roster, identity, history, excluded=excluded, rng=self._rng
            )
            match decision:
                case Keep(lease):
                    await self._adopt(config, lease, "kept")
                    await self.store.release_unbound()
                    return
                case Contested(lease):
                    await self._refuse_if_live(lease)
                    await self._adopt(config, lease, "taken over from an earlier life")
                    await self.store.release_unbound()
                    return
                case Take(subnet, why):
                    lease_or_none = await self.store.create(
                        subnet, self._value(config), self.public_ip
                    )
                    if lease_or_none is not None:
                        await self._hold(lease_or_none, f"leased ({why})")
                        await self._drop_misfits(config, identity)
                        return
                    if await self._found_put_back(config, subnet, identity):
                        return
                    log.info("subnet %s was taken by another host meanwhile", subnet)
                    excluded.add(subnet)
                case Exhausted(capacity):
                    text = (
                        f"all {capacity} subnets of {config.network} are taken: remove stale "
                        "reservations or use a larger Network"
                    )
                    self.problems.set("lease", text, blocking=True)
                    await self.store.release_unbound()
                    raise LeaseError(text)

    def _identity(self, remembered: IPv4Network | None) -> Identity:
        return Identity(self.public_ip, self._known_macs | {self.vtep_mac}, remembered)

    async def _found_put_back(
        self, config: NetworkConfig, subnet: IPv4Network, identity: Identity
    ) -> bool:
        """Adopt the record of *subnet* if it is ours: a host that remembers it was faster."""
        record = await self.store.read(subnet)
        found = None if record is None else interpret(record)
        if not isinstance(found, Lease) or not identity.owns(found):
            return False
        await self._adopt(config, found, "kept, put back by a host that remembered it")
        return True

    async def _drop_misfits(self, config: NetworkConfig, identity: Identity) -> None:
        """End records that are certainly ours, for subnets that the configuration has left."""
        for lease in list(self.roster.leases()):
            if identity.owns(lease) and not config.admits(lease.subnet) and lease != self.lease:
                await self.store.drop(lease)

    async def _look_for_twins(self) -> None:
        """Report another live host that entered itself with our address."""
        if self.lease is None or self.conflict:
            return
        for other in list(self.roster.leases()):
            if (
                other.public_ip == self.public_ip
                and other.subnet != self.subnet
                and not other.is_reservation
                and not self._is_ours(other)
                and await self._signs.of(other, self.public_ip)
            ):
                self.problems.set(
                    "public-ip",
                    f"another live host holds our PublicIP {self.public_ip} too: lease {other.key} "
                    f"(VTEP {other.vtep_mac or 'none'}); give one of them another address",
                    blocking=True,
                )
                return
        self.problems.clear("public-ip")

    async def _refuse_if_live(self, lease: Lease) -> None:
        """Raise LeaseError while *lease*, which looks like ours, belongs to another live host."""
        sign = await self._signs.of(lease, self.public_ip)
        if not sign:
            self.problems.clear("public-ip")
            return
        # Without the age: the same refusal again is no new problem.
        mac = lease.vtep_mac or "none"
        text = (
            f"PublicIP {lease.public_ip} is held by another live host: lease {lease.key} (VTEP "
            f"{mac}); give this host an address of its own with --public-ip or --iface. If it "
            "is this very host after a reinstallation, the lease is taken over in a few minutes"
        )
        log.debug("lease %s %s", lease.key, sign)
        self.problems.set("public-ip", text, blocking=True)
        raise LeaseError(text)

    async def _adopt(self, config: NetworkConfig, lease: Lease, how: str) -> None:
        """Go on with an existing record, putting our value into it where it differs."""
        current = await self.store.read(lease.subnet)
        # Decided on what the watch had told: etcd may be further, and the subnet another's.
        if current is None or current.mod_revision != lease.mod_revision:
            raise LeaseError(f"lease {lease.key} changed while it was being adopted")
        if self._mac_is_new and lease.vtep_mac:
            self.vtep_mac = lease.vtep_mac
        await self._hold(await self._write(config, current, lease), how)

    def _value(self, config: NetworkConfig) -> bytes:
        """What our record says under *config*."""
        return render_lease(self.public_ip, config.backend, self.vtep_mac)

    async def _write(self, config: NetworkConfig, record: Record, known: Lease | None) -> Lease:
        """Put our value into *record* unless it is there; returns the record as a lease."""
        value = self._value(config)
        if known is not None and record.value == value:
            return known
        updated = await self.store.update(record, value)
        if updated is None:
            raise LeaseError(f"lease {record.key} was changed by somebody else meanwhile")
        return updated

    async def _hold(self, lease: Lease, how: str) -> None:
        """*lease* is ours: renew it, give back the one we had, and tell when the subnet moved."""
        moved = self.subnet != lease.subnet
        if moved and self.subnet is not None:
            self.renumbered += 1
        new = self.lease is None or self.lease.lease_id != lease.lease_id
        old = self.lease
        self._mac_is_new = False
        self.subnet, self.lease, self.conflict = lease.subnet, lease, False
        self._keeping.keep(lease.lease_id)
        self.problems.clear("lease")
        if new:
            self.acquired_at = self._clock()
            kind = "reservation" if lease.is_reservation else f"lease {lease.lease_id:x}"
            log.info("subnet %s %s, %s", lease.subnet, how, kind)
        if moved:
            self._changed(Held(lease.subnet, self.vtep_mac, lease))
        if new and old is not None and old.lease_id:
            await self.store.drop(old)

    async def _defend(self, config: NetworkConfig, subnet: IPv4Network) -> None:
        """Make etcd say what is in force here, or say why it cannot."""
        if not config.admits(subnet):
            await self._leave(
                config,
                f"the network configuration ({config.network}, /{config.subnet_len}) no longer "
                f"admits our subnet {subnet}",
            )
            return
        entry = self.roster.entries.get(self.store.key(subnet))
        if isinstance(entry, Lease) and self._is_current(entry, config):
            await self._hold(entry, "confirmed")
            return
        # The watch may lag behind our own writes: ask etcd itself before acting.
        record = await self.store.read(subnet) or await self._create_again(config, subnet)
        if record is None:
            return
        found = interpret(record)
        if self._is_ours(found) or await self._was_ours(found):
            known = found if isinstance(found, Lease) else None
            if self._mac_is_new and known is not None and known.vtep_mac:
                self.vtep_mac = known.vtep_mac
            await self._hold(await self._write(config, record, known), "confirmed by etcd")
            await self.store.bind(record.lease_id)
            return
        holder = f"host {found.public_ip}" if isinstance(found, Lease) else "a damaged record"
        await self._lost(config, f"our subnet {subnet} is now held by {holder} ({record.key})")

    async def _create_again(self, config: NetworkConfig, subnet: IPv4Network) -> Record | None:
        """Create our missing record, under its etcd lease if that lives, or give the faster's."""
        if self.lease is None:
            for other in self.roster.leases():
                if other.public_ip == self.public_ip and not self._is_ours(other):
                    await self._refuse_if_live(other)
        else:
            self.store.reuse(self.lease.lease_id)
        lease = await self.store.create(subnet, self._value(config), self.public_ip)
        if lease is None:
            # Maybe of a host that puts back what etcd has lost, ours too.
            return await self.store.read(subnet)
        if self.lease is not None or self.conflict:
            self.reacquired += 1
            self.lease = None
        await self._hold(lease, "leased again, its record was missing")
        return None

    def _is_ours(self, entry: Entry) -> bool:
        """Whether *entry* is this host's: by address and MAC, or because it hangs on the etcd
        lease that only we hold, whatever somebody wrote into it."""
        if self.lease is not None and entry.lease_id and entry.lease_id == self.lease.lease_id:
            return True
        return (
            isinstance(entry, Lease)
            and entry.public_ip == self.public_ip
            and (
                not entry.vtep_mac
                or self._mac_is_new
                or entry.vtep_mac in self._known_macs | {self.vtep_mac}
            )
        )

    async def _was_ours(self, entry: Entry) -> bool:
        """Whether *entry*, at the first look, is ours with the MAC or the address of before: so it
        is put back by who remembers us. As ``decide`` judges; raises LeaseError likewise."""
        me = self._identity(self._remembered)
        if self.lease is not None or self.conflict or not isinstance(entry, Lease):
            return False
        if me.had(entry):
            await self._refuse_if_live(entry)
        return me.owns(entry) or me.had(entry)

    def _is_current(self, entry: Lease, config: NetworkConfig) -> bool:
        """Whether the watched record is what we would write, under the lease that we renew."""
        return (
            self.lease is not None
            and entry.lease_id == self.lease.lease_id
            and entry.public_ip == self.public_ip
            and entry.backend_type == backend_type(config.backend)
            and (entry.backend_type != "vxlan" or entry.vtep_mac == self.vtep_mac)
            and entry.vni == getattr(config.backend, "vni", 0)
            and entry.lease_id == self._keeping.lease_id
        )

    async def _lost(self, config: NetworkConfig, what: str) -> None:
        """Another holds our subnet: keep everything as it is unless renumbering was allowed."""
        self.conflict = True
        await self._keeping.stop()
        if self.lease is not None:
            # The record hangs on another lease now: ours is good for the next one.
            self.store.reuse(self.lease.lease_id)
            self.lease = None
        if self._allow_renumber:
            log.warning("%s; renumbering as --allow-renumber says", what)
            await self._acquire(config, renumber=True)
            return
        self._refuse(what)
        await self.store.release_unbound()

    async def _leave(self, config: NetworkConfig, what: str) -> None:
        """Our subnet is no longer wanted by the configuration: the same choice."""
        if not self._allow_renumber:
            self.conflict = True
            self._refuse(what)
            return
        log.warning("%s; renumbering as --allow-renumber says", what)
        await self._keeping.stop()
        if self.lease is not None:
            old, self.lease = self.lease, None
            await self.store.drop(old)
        await self._acquire(config, renumber=True)

    def _refuse(self, what: str) -> None:
        self.problems.set(
            "lease",
            f"{what}; containers may run on it, so nothing is renumbered and the data plane "
            "stays. Stop the containers and restart netd with --allow-renumber",
            blocking=True,
        )

    async def _note_history(self) -> None:
        if self.lease is None or self.conflict:
            return
        now = self._clock()
        # A clock that was set back must not stop the notes.
        if 0 <= now - self._noted_at < HISTORY_ROUND:
            return
        with contextlib.suppress(EtcdError):
            await self.store.remember(self.lease.subnet, self.public_ip)
            self._noted_at = now
