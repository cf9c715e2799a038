"""Which subnet this host is to have: one pure decision over what etcd holds.

Order: the lease that is already ours, then the subnet remembered on disk, then one that nobody
ever had, then the one whose last holder left longest ago. What any record occupies, malformed
records and reservations included, is never given away.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netd.leases.model import Lease, NetworkConfig
from netd.leases.peers import Roster


@dataclass(frozen=True, slots=True)
class Identity:
    """How this host recognises its own records: its address, its VTEP MACs, its last subnet."""

    public_ip: IPv4Address
    macs: frozenset[str] = frozenset()
    remembered: IPv4Network | None = None

    def owns(self, lease: Lease) -> bool:
        """Whether *lease*, with our address, was certainly written by this very host."""
        return lease.public_ip == self.public_ip and (
            lease.vtep_mac in self.macs or lease.subnet == self.remembered
        )

    def had(self, lease: Lease) -> bool:
        """Whether *lease* was this host's under another address, or is a cloned machine's."""
        return (
            lease.public_ip != self.public_ip
            and lease.subnet == self.remembered
            and lease.vtep_mac in self.macs
        )


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on with an existing record of ours."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Contested:
    """A record that is ours from an earlier life, or another living host's: it bears our address
    with another MAC, or our subnet and MAC with another address. Signs of life must tell."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Take:
    """Create a record for *subnet*; *why* is for the log."""

    subnet: IPv4Network
    why: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No subnet is left."""

    capacity: int


Decision = Keep | Contested | Take | Exhausted


def decide(
    config: NetworkConfig,
    roster: Roster,
    identity: Identity,
    history: Mapping[IPv4Network, int],
    *,
    excluded: Iterable[IPv4Network] = (),
    rng: random.Random,
) -> Decision:
    """Choose. *history* gives for subnets once held a number that grows with the time of their
    last holding; *excluded* are subnets that a race has just shown to be taken."""
    mine = sorted(
        (
            lease
            for lease in roster.leases()
            if lease.public_ip == identity.public_ip or identity.had(lease)
        ),
        # A reservation is the operator's word; then certain ownership; then age.
        key=lambda lease: (
            not (lease.is_reservation and lease.public_ip == identity.public_ip),
            lease.subnet != identity.remembered,
            not identity.owns(lease),
            lease.create_revision,
            lease.key,
        ),
    )
    fitting = [lease for lease in mine if config.admits(lease.subnet)]
    if fitting:
        best = fitting[0]
        sure = identity.owns(best) or (best.is_reservation and not identity.had(best))
        return Keep(best) if sure else Contested(best)
    occupied = roster.occupied() | set(excluded)
    taken = _Taken(occupied, config)
    remembered = identity.remembered
    if remembered is not None and config.admits(remembered) and not taken.has(remembered):
        return Take(remembered, "the subnet remembered on this host")
    return _free(config, taken, history, rng)


class _Taken:
    """Whether a candidate overlaps an occupied subnet, without comparing it to each one."""

    def __init__(self, occupied: Iterable[IPv4Network], config: NetworkConfig) -> None:
        self._length = config.subnet_len
        self._exact = {one for one in occupied if one.prefixlen == self._length}
        self._odd = [one for one in occupied if one.prefixlen != self._length]

    def has(self, subnet: IPv4Network) -> bool:
        return subnet in self._exact or any(one.overlaps(subnet) for one in self._odd)


def _free(
    config: NetworkConfig,
    taken: _Taken,
    history: Mapping[IPv4Network, int],
    rng: random.Random,
) -> Decision:
    capacity = config.capacity
    # Random first: hosts that start together rarely meet. A full scan only when that fails.
    for _ in range(64):
        subnet = config.subnet_at(rng.randrange(capacity))
        if subnet not in history and not taken.has(subnet):
            return Take(subnet, "a subnet that no host had before")
    start = rng.randrange(capacity)
    free_but_used: list[IPv4Network] = []
    for offset in range(capacity):
        subnet = config.subnet_at((start + offset) % capacity)
        if taken.has(subnet):
            continue
        if subnet not in history:
            return Take(subnet, "a subnet that no host had before")
        free_but_used.append(subnet)
    if free_but_used:
        oldest = min(free_but_used, key=lambda one: (history[one], int(one.network_address)))
        return Take(oldest, "the free subnet whose holder left longest ago")
    return Exhausted(capacity)
