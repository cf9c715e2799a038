"""Keeping one etcd lease alive in the background, and exchanging it for another."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.lease import LeaseGone, LeaseKeeper

log = logging.getLogger(__name__)


class Keeping:
    """Renews at most one lease; *gone* is called when etcd says that it has ended."""

    def __init__(
        self, client: EtcdClient, ttl: int, interval: float, gone: Callable[[], None]
    ) -> None:
        self._client = client
        self._ttl = ttl
        self._interval = interval
        self._gone = gone
        self._keeper: LeaseKeeper | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def lease_id(self) -> int:
        """The lease that is renewed, 0 for none."""
        return 0 if self._keeper is None else self._keeper.lease_id

    @property
    def expires_at(self) -> float | None:
        """When the lease ends unless renewed, on the monotonic clock; None without a lease."""
        return None if self._keeper is None else self._keeper.expires_at

    def keep(self, lease_id: int) -> None:
        """Renew *lease_id* from now on, and no other; 0 renews none."""
        if lease_id == self.lease_id:
            return
        if self._task is not None:
            self._task.cancel()
        self._keeper = self._task = None
        if lease_id:
            keeper = LeaseKeeper(self._client, lease_id, self._ttl, interval=self._interval)
            self._keeper = keeper
            self._task = asyncio.create_task(self._run(keeper))

    async def stop(self) -> None:
        """Renew nothing any more; the lease lives on until it expires."""
        task = self._task
        self.keep(0)
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, keeper: LeaseKeeper) -> None:
        try:
            await keeper.run()
        except LeaseGone:
            log.warning("etcd lease %x is gone, its record will be created again", keeper.lease_id)
        finally:
            # Whatever ended it: a lease that nobody renews must not look renewed.
            if self._keeper is keeper:
                self._keeper = self._task = None
                self._gone()
