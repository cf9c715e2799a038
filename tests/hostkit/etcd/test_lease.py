"""A lease is renewed through outages and its end is noticed."""

import asyncio

import pytest

from hostkit.etcd.errors import LeaseGone
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.lease import LeaseKeeper
from tests.fakes.etcd import FakeEtcd, Refused, Store
from tests.support.poll import eventually


class Clock:
    """Seconds that pass only in ``sleep``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock(store: Store) -> Clock:
    """The clock of keeper and server."""
    made = Clock()
    store.clock = made
    return made


@pytest.mark.parametrize(("ttl", "every"), [(86_400, 60.0), (30, 10.0)])
async def test_renewals_come_every_third_of_the_ttl_and_at_least_every_interval(
    client: EtcdClient, clock: Clock, ttl: int, every: float
) -> None:
    lease_id, _ = await client.lease_grant(ttl)
    keeper = LeaseKeeper(client, lease_id, ttl, sleep=clock.sleep, clock=clock)
    assert await keeper.renew() == every
    assert keeper.last_success == clock.now
    assert keeper.expires_at == clock.now + ttl


async def test_the_lease_lives_on_while_it_is_kept(
    client: EtcdClient, clock: Clock, store: Store
) -> None:
    lease_id, _ = await client.lease_grant(30)
    keeper = LeaseKeeper(client, lease_id, 30, sleep=clock.sleep, clock=clock)
    task = asyncio.create_task(keeper.run())
    await eventually(lambda: clock.now > 1300)
    assert lease_id in store.leases
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_end_of_the_lease_is_told_at_the_next_renewal(
    client: EtcdClient, clock: Clock
) -> None:
    lease_id, _ = await client.lease_grant(30)
    keeper = LeaseKeeper(client, lease_id, 30, sleep=clock.sleep, clock=clock)
    await keeper.renew()
    await client.lease_revoke(lease_id)
    with pytest.raises(LeaseGone) as caught:
        await keeper.run()
    assert caught.value.lease_id == lease_id


async def test_an_outage_is_outlasted_with_short_pauses_and_one_log_line(
    client: EtcdClient,
    clock: Clock,
    members: list[FakeEtcd],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lease_id, _ = await client.lease_grant(86_400)
    keeper = LeaseKeeper(client, lease_id, 86_400, sleep=clock.sleep, clock=clock)
    await keeper.renew()
    renewed = keeper.last_success
    members[0].fail("lease/keepalive", Refused(400, 3, "etcdserver: odd"), times=4)
    for _ in range(4):
        pause = await keeper.renew()
        assert pause < 10
        await clock.sleep(pause)
    assert keeper.failures == 4
    assert "odd" in str(keeper.last_error)
    assert keeper.last_success == renewed
    assert len([line for line in caplog.records if line.levelname == "WARNING"]) == 1
    assert await keeper.renew() == 60.0
    assert (keeper.failures, keeper.last_error) == (0, None)
    assert keeper.last_success == clock.now
