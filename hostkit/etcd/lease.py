"""Keeping one etcd lease alive.

Model: a renewal every ``min(ttl / 3, interval)`` seconds; a failed one is repeated soon, with a
growing pause, for as long as it takes. Only etcd's own word ends the lease: it answers that the
lease does not exist. Passing ``expires_at`` is no proof, because etcd extends all leases when
its leader changes and a stopped etcd ends none.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from hostkit.etcd.errors import EtcdError, LeaseGone
from hostkit.etcd.gateway import EtcdClient
from hostkit.reconcile import Backoff

__all__ = ["LeaseGone", "LeaseKeeper"]

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews *lease_id*, granted for *ttl* seconds, at least every *interval* seconds."""

    def __init__(
        self,
        client: EtcdClient,
        lease_id: int,
        ttl: int,
        *,
        interval: float = 60.0,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self.lease_id = lease_id
        self.ttl = ttl
        self._interval = interval
        self._backoff = backoff or Backoff(first=0.25, most=5.0)
        self._sleep = sleep
        self._clock = clock
        self.failures = 0
        self.last_error: EtcdError | None = None
        self.last_success = clock()

    @property
    def expires_at(self) -> float:
        """When, on the clock, etcd may end the lease if it gets no further renewal."""
        return self.last_success + self.ttl

    async def renew(self) -> float:
        """Renew once; returns the seconds to wait before the next time.

        Raises LeaseGone when etcd has no such lease; any other failure is kept in
        ``last_error`` and leads to a short wait.
        """
        asked = self._clock()
        try:
            left = await self._client.lease_keepalive(self.lease_id)
        except EtcdError as error:
            if self.last_error is None:
                log.warning("etcd lease %x not renewed, will retry: %s", self.lease_id, error)
            self.failures += 1
            self.last_error = error
            return min(self._backoff.delay(self.failures), self._pause())
        if left <= 0:
            raise LeaseGone(self.lease_id)
        if self.last_error is not None:
            log.info("etcd lease %x renewed again", self.lease_id)
        self.failures = 0
        self.last_error = None
        # etcd counts from when it handled the request, so this is the earliest possible end.
        self.last_success = asked
        self.ttl = left
        return self._pause()

    async def run(self) -> None:
        """Renew for ever; raises LeaseGone when the lease has ended."""
        while True:
            await self._sleep(await self.renew())

    def _pause(self) -> float:
        return min(self.ttl / 3, self._interval)
