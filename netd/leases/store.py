"""Reading and writing flannel's keys in etcd.

    PREFIX/config                         network configuration, written by the operator
    PREFIX/subnets/10.1.33.0-24           a lease record, bound to an etcd lease, or a reservation
    PREFIX/netd/history/10.1.33.0-24      ours: who held the subnet last, never expires

A record is only ever created if absent and only changed if unchanged since it was read, so two
hosts cannot share a subnet. After a call whose outcome is unknown the key is read again.
"""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hostkit.etcd.errors import EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient, KeyValue, LeaseInfo, absent, mod_revision_is, put
from netd.errors import LeaseError
from netd.leases.model import FieldError, Lease, lease_value, parse_key, parse_lease, subnet_key
from netd.leases.peers import Record, interpret


class LeaseStore:
    """The lease records below one prefix. Every method raises EtcdError."""

    def __init__(self, client: EtcdClient, prefix: str, ttl: int) -> None:
        self.client = client
        self.prefix = prefix.rstrip("/")
        self.ttl = ttl
        # A lease that was granted for a record whose creation is not settled yet.
        self._unbound = 0
        # Leases that are to end and may not have.
        self._ending: set[int] = set()
        # The subnet of a creation whose outcome is not known.
        self._unsettled: IPv4Network | None = None
        # Leases granted for records that are to be put back, and may have been.
        self._restoring: dict[IPv4Network, int] = {}

    @property
    def config_key(self) -> str:
        """Where the network configuration is."""
        return f"{self.prefix}/config"

    @property
    def subnets_prefix(self) -> str:
        """What the keys of all records start with."""
        return f"{self.prefix}/subnets/"

    def key(self, subnet: IPv4Network) -> str:
        """The key of the record for *subnet*."""
        return self.subnets_prefix + subnet_key(subnet)

    def record(self, item: KeyValue) -> Record:
        """An etcd key below ``subnets/`` with its value as a lease record."""
        name = item.key.removeprefix(self.subnets_prefix)
        return Record(
            item.key, item.value, item.lease, item.mod_revision, item.create_revision, name
        )

    def _history_key(self, subnet: IPv4Network) -> str:
        return f"{self.prefix}/netd/history/{subnet_key(subnet)}"

    async def read(self, subnet: IPv4Network) -> Record | None:
        """The record for *subnet* as etcd has it now."""
        item = await self.client.get(self.key(subnet))
        return None if item is None else self.record(item)

    async def create(
        self, subnet: IPv4Network, value: bytes, public_ip: IPv4Address
    ) -> Lease | None:
        """Create the record for *subnet*; None when somebody else was faster.

        Raises LeaseError when our own record would not be accepted by others.
        """
        key = self.key(subnet)
        try:
            wanted = parse_lease(key, value)
        except FieldError as error:
            raise LeaseError(f"our own record would be refused by every host: {error}") from error
        self._ending.discard(self._unbound)
        lease_id = self._unbound = await self._living(self._unbound)
        self._unsettled = subnet
        try:
            result = await self.client.txn(
                [absent(key)],
                [
                    put(key, value, lease=lease_id),
                    put(self._history_key(subnet), str(public_ip).encode()),
                ],
            )
        except EtcdUnavailable:
            found = await self.read(subnet)
            if found is None:
                # It may still be committed.
                raise
        else:
            if result.succeeded:
                self._unbound, self._unsettled = 0, None
                at = result.revision
                return replace(wanted, lease_id=lease_id, mod_revision=at, create_revision=at)
            found = await self.read(subnet)
        # An earlier attempt, which timed out, may have been committed after all.
        lease = self._claim(found)
        if lease is None:
            await self.release_unbound()
        return lease

    async def _living(self, lease_id: int) -> int:
        """*lease_id* if it still lives, else a new one."""
        if lease_id and await self.client.lease_keepalive(lease_id) > 0:
            return lease_id
        return (await self.client.lease_grant(self.ttl))[0]

    async def settle(self) -> Lease | None:
        """The record that an earlier ``create`` made although it failed, if it did."""
        if self._unsettled is None:
            return None
        return self._claim(await self.read(self._unsettled))

    def _claim(self, record: Record | None) -> Lease | None:
        """*record* if it hangs on the lease that waits for one; the creation is settled then."""
        self._unsettled = None
        entry = None if record is None else interpret(record)
        if not isinstance(entry, Lease) or not entry.lease_id or entry.lease_id != self._unbound:
            return None
        self._unbound = 0
        return entry

    def reuse(self, lease_id: int) -> None:
        """Use *lease_id*, whose record is gone, for the next record instead of another lease."""
        self._unbound = self._unbound or lease_id

    async def bind(self, lease_id: int) -> None:
        """Our record hangs on *lease_id*: give back another lease that was granted for it."""
        self._unsettled = None
        if self._unbound == lease_id:
            self._unbound = 0
        await self.release_unbound()

    async def release_unbound(self) -> None:
        """Give back a granted lease that no record uses."""
        if self._unbound:
            lease_id, self._unbound = self._unbound, 0
            await self._revoke(lease_id)

    async def sweep(self) -> None:
        """Try again to end the leases whose end failed."""
        for lease_id in list(self._ending):
            await self._revoke(lease_id)

    async def _revoke(self, lease_id: int) -> None:
        self._ending.add(lease_id)
        await self.client.lease_revoke(lease_id)
        self._ending.discard(lease_id)

    async def update(self, record: Record | Lease, value: bytes) -> Lease | None:
        """Change the value of *record* and keep its etcd lease; None when it changed meanwhile."""
        result = await self.client.txn(
            [mod_revision_is(record.key, record.mod_revision)],
            [put(record.key, value, lease=record.lease_id)],
        )
        if not result.succeeded:
            return None
        return parse_lease(
            record.key,
            value,
            lease_id=record.lease_id,
            mod_revision=result.revision,
            create_revision=record.create_revision,
        )

    async def remaining(self, lease_id: int) -> LeaseInfo:
        """How long an etcd lease still lives and how long it was granted for, in seconds."""
        return await self.client.lease_time_to_live(lease_id)

    async def seed_config(self, value: bytes) -> bool:
        """Write the network configuration unless there is one; returns whether it was written."""
        result = await self.client.txn([absent(self.config_key)], [put(self.config_key, value)])
        return result.succeeded

    async def restore(self, lost: Lease) -> bool:
        """Put *lost* back unless its subnet has a record; returns whether that was done.

        Its holder, who finds it by address and MAC, goes on with the etcd lease that it gets here.
        """
        key, holder = self.key(lost.subnet), str(lost.public_ip)
        lease_id = self._restoring.get(lost.subnet, 0)
        there = await self.read(lost.subnet)
        done = there is not None and there.lease_id == lease_id != 0
        if there is None:
            if not lost.is_reservation:
                lease_id = self._restoring[lost.subnet] = await self._living(lease_id)
            value = lease_value(holder, lost.backend_type, lost.vni, lost.vtep_mac)
            result = await self.client.txn(
                [absent(key)],
                [
                    put(key, value, lease=lease_id),
                    put(self._history_key(lost.subnet), holder.encode()),
                ],
            )
            done = result.succeeded
        self._restoring.pop(lost.subnet, None)
        if lease_id and not done:
            await self._revoke(lease_id)
        return done

    async def history(self) -> dict[IPv4Network, int]:
        """The subnets that were held once, with the revision of the last sign of their holder."""
        found = await self.client.range_prefix(f"{self.prefix}/netd/history/")
        result: dict[IPv4Network, int] = {}
        for item in found.kvs:
            try:
                subnet, _ = parse_key(item.key.rpartition("/")[2])
            except FieldError:
                continue
            result[subnet] = item.mod_revision
        return result

    async def remember(self, subnet: IPv4Network, public_ip: IPv4Address) -> None:
        """Note that *subnet* is held by *public_ip* now."""
        await self.client.put(self._history_key(subnet), str(public_ip).encode())

    async def drop(self, lease: Lease) -> None:
        """End our hold: the record goes with its etcd lease; a reservation is not ours to end."""
        if lease.lease_id:
            await self._revoke(lease.lease_id)
