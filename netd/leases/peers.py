"""From lease records to the peers that the overlay is to have: a pure fold.

``Roster`` holds what etcd holds below ``PREFIX/subnets/`` and answers, for one configuration and
one local host, which records are peers and why the others are not. Each record is judged alone,
except for overlaps, where the older record (lower create revision) wins on every host. A record
that is refused never changes the verdict on another one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netd.leases.model import (
    FieldError,
    Lease,
    NetworkConfig,
    backend_type,
    key_name,
    parse_key,
    parse_lease,
)


@dataclass(frozen=True, slots=True)
class Record:
    """One key as etcd holds it; *name* is what stands behind ``PREFIX/subnets/`` in it."""

    key: str
    value: bytes
    lease_id: int
    mod_revision: int
    create_revision: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is no lease. *subnet* is what its key occupies, if the key can be read."""

    key: str
    reason: str
    subnet: IPv4Network | None
    lease_id: int = 0


Entry = Lease | Malformed


@dataclass(frozen=True, slots=True)
class View:
    """What the roster means for one host: usable *peers* by subnet, and the *skipped* with why."""

    peers: Mapping[IPv4Network, Lease]
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Judge:
    """The local facts against which records are judged."""

    config: NetworkConfig
    public_ip: IPv4Address
    own: IPv4Network | None

    def is_own(self, lease: Lease) -> bool:
        """Whether *lease* is this host's record, or may become it while none is chosen yet."""
        return lease.public_ip == self.public_ip and self.own in {None, lease.subnet}

    def reason_against(self, lease: Lease) -> str | None:
        """Why *lease* is not a peer; None when it is one."""
        backend = self.config.backend
        if not lease.subnet.subnet_of(self.config.network):
            return f"subnet {lease.subnet} lies outside Network {self.config.network}"
        kind = backend_type(backend)
        if lease.backend_type != kind:
            return f"backend is {lease.backend_type or 'missing'}, this network uses {kind}"
        vni = getattr(backend, "vni", 0)
        if lease.vni and vni and lease.vni != vni:
            return f"VNI is {lease.vni}, this network uses {vni}"
        if self.own is not None and lease.subnet.overlaps(self.own):
            return f"subnet {lease.subnet} overlaps ours, {self.own}"
        if lease.public_ip == self.public_ip:
            return f"PublicIP {lease.public_ip} is this host's own"
        return None


def interpret(record: Record) -> Entry:
    """Read *record* into a lease, or say what is wrong with it."""
    try:
        return parse_lease(
            record.key,
            record.value,
            lease_id=record.lease_id,
            mod_revision=record.mod_revision,
            create_revision=record.create_revision,
            name=record.name,
        )
    except FieldError as error:
        try:
            subnet, _ = parse_key(record.name or key_name(record.key))
        except FieldError:
            return Malformed(record.key, str(error), None, record.lease_id)
        return Malformed(record.key, str(error), subnet, record.lease_id)


class Roster:
    """Every record by key, at one etcd revision."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0

    def replace(self, records: Iterable[Record], revision: int) -> None:
        """Forget everything and hold *records*."""
        self.entries = {record.key: interpret(record) for record in records}
        self.revision = revision

    def put(self, record: Record) -> Entry:
        """Hold a new or changed record."""
        entry = interpret(record)
        self.entries[record.key] = entry
        self.revision = max(self.revision, record.mod_revision)
        return entry

    def delete(self, key: str, revision: int) -> Entry | None:
        """Forget a record; returns what it was."""
        self.revision = max(self.revision, revision)
        return self.entries.pop(key, None)

    def leases(self) -> Iterable[Lease]:
        """The well-formed records."""
        return (entry for entry in self.entries.values() if isinstance(entry, Lease))

    def occupied(self) -> set[IPv4Network]:
        """Every subnet that some record names, malformed or not."""
        return {entry.subnet for entry in self.entries.values() if entry.subnet is not None}

    def view(self, judge: Judge) -> View:
        """The peers and the skipped records of the host that *judge* describes."""
        peers: dict[IPv4Network, Lease] = {}
        skipped: dict[str, str] = {}
        odd: list[Lease] = []
        for key, entry in self.entries.items():
            if isinstance(entry, Malformed):
                skipped[key] = entry.reason
                continue
            if judge.is_own(entry):
                continue
            reason = judge.reason_against(entry)
            if reason is not None:
                skipped[key] = reason
                continue
            # Two different subnets of one length never overlap.
            if entry.subnet.prefixlen != judge.config.subnet_len:
                odd.append(entry)
            peers[entry.subnet] = entry
        if odd:
            self._drop_overlaps(peers, skipped, odd)
        return View(peers, skipped)

    @staticmethod
    def _drop_overlaps(
        peers: dict[IPv4Network, Lease], skipped: dict[str, str], odd: Iterable[Lease]
    ) -> None:
        """Of two overlapping records keep the older one, in an order that every host shares."""
        suspects: dict[IPv4Network, Lease] = {}
        for lease in odd:
            for other in peers.values():
                if other.subnet.overlaps(lease.subnet):
                    suspects[other.subnet] = other
        kept: list[Lease] = []
        for lease in sorted(suspects.values(), key=lambda one: (one.create_revision, one.key)):
            winner = next((one for one in kept if one.subnet.overlaps(lease.subnet)), None)
            if winner is None:
                kept.append(lease)
            else:
                del peers[lease.subnet]
                skipped[lease.key] = (
                    f"subnet {lease.subnet} overlaps {winner.subnet}, an older lease "
                    f"held by {winner.public_ip}"
                )
