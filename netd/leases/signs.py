"""Whether another host lives behind a lease record: by its lease's age, or as the network says."""

import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from netd.errors import LeaseError
from netd.leases.model import Lease
from netd.leases.store import LeaseStore

log = logging.getLogger(__name__)


class SignsOfLife:
    """Looks for them. *keepalive* is how many seconds lie between two renewals of a netd,
    *find_owner* gives the MAC that answers for an address, *on_link* whether one would."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        keepalive: float,
        find_owner: Callable[[IPv4Address], Awaitable[str | None]],
        on_link: Callable[[IPv4Address], bool],
    ) -> None:
        self._store = store
        self._keepalive = keepalive
        self._find_owner = find_owner
        self._on_link = on_link

    async def of(self, lease: Lease, own: IPv4Address) -> str:
        """What shows that another host lives behind *lease*; empty when nothing does.

        A netd renews so often that the lease's age tells it alive; any other host is found by
        asking the network who has the address. A former address of ours, whose one now is *own*,
        says more than the age, which this very host may have caused before.
        """
        ours_once = lease.public_ip != own and self._on_link(lease.public_ip)
        if not ours_once and not lease.is_reservation:
            info = await self._store.remaining(lease.lease_id)
            if info.ttl < 0:
                raise LeaseError(f"lease {lease.key} has just ended, looking again")
            age = max(0, info.granted - info.ttl)
            if age <= min(2 * self._keepalive + 5, info.granted / 2):
                return f"was renewed {age} s ago"
        if owner := await self._ask_network(lease.public_ip):
            return f"and {owner} on this network answers for the address"
        return ""

    async def _ask_network(self, address: IPv4Address) -> str | None:
        try:
            return await self._find_owner(address)
        except OSError as error:
            log.debug("cannot ask the network for %s: %s", address, error)
            return None
