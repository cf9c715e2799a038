"""An etcd that has nothing gets back what a host remembers, before anybody can lease a subnet."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from hostkit.etcd.errors import EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient
from hostkit.problems import Problems
from netd.feed import Feed, Seed
from netd.leases.model import LEASE_TTL, Lease, NetworkConfig, subnet_key
from netd.leases.peers import Entry, Record, Roster, interpret
from netd.leases.store import LeaseStore
from tests.fakes.etcd import Refused
from tests.netd.leases.conftest import World
from tests.netd.leases.strategies import mac, record, value
from tests.support.poll import eventually

OURS = "10.1.77.0/24"
GOOD = b'{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}'


class Heard:
    """Says what a feed told, and how many records there were then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.configs: list[tuple[str, int]] = []
        self.rosters: list[int] = []
        self.roster = Roster()

    def config_changed(self, config: NetworkConfig, raw: str) -> None:
        self.configs.append((raw, len(self._world.records())))

    def config_listed(self) -> None:
        """Nobody waits for it here."""

    def roster_replaced(self) -> None:
        self.rosters.append(len(self.roster.entries))

    def records_changed(self, changed: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Counted when they are asked for."""

    @property
    def records(self) -> list[str]:
        """What the feed's roster holds."""
        return [subnet_key(one.subnet) for one in self.roster.leases()]


@asynccontextmanager
async def following(world: World, *lost: Lease) -> AsyncIterator[tuple[Heard, Problems]]:
    """A host that follows the configuration, with GOOD and the leases *lost* to write."""
    heard, problems = Heard(world), Problems()
    feed = Feed(world.client, world.store(), heard.roster, problems, heard)
    works = (feed.follow_config(Seed(GOOD, lost)), feed.follow_records())
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield heard, problems
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def lease(subnet: str, number: int) -> Lease:
    """The lease of host *number*."""
    made = interpret(record(subnet, number))
    assert isinstance(made, Lease)
    return made


async def test_an_empty_etcd_gets_the_remembered_records_before_the_configuration(
    world: World,
) -> None:
    """Who has the configuration may lease a subnet: none that another host comes back with."""
    hosts = {f"10.1.{number}.0-24": number for number in range(1, 41)}
    lost = [lease(name.replace("-", "/"), number) for name, number in hosts.items()]
    async with following(world, *lost) as (heard, problems):
        await eventually(lambda: set(heard.configs) == {(GOOD.decode(), 40)})
        assert problems.all() == ()
    records = world.records()
    assert {name: found for name, (found, _) in records.items()} == {
        name: value(number) for name, number in hosts.items()
    }
    assert {lease_id for _, lease_id in records.values()} == set(world.state.leases)
    assert {one.granted for one in world.state.leases.values()} == {LEASE_TTL}
    assert set(await world.store().history()) == {one.subnet for one in lost}


async def test_a_configuration_that_is_there_is_left_alone_and_so_are_the_records(
    world: World,
) -> None:
    """They went because their hosts did."""
    world.state.put("/coreos.com/network/config", b'{"Network":"10.9.0.0/16"}')
    async with following(world, lease("10.1.7.0/24", 2)) as (heard, _):
        await eventually(lambda: set(heard.configs) == {('{"Network":"10.9.0.0/16"}', 0)})
    assert world.records() == {}


async def test_a_configuration_that_is_deleted_later_comes_back_without_old_records(
    world: World,
) -> None:
    """Since it was there etcd has known better which hosts there are."""
    world.state.put("/coreos.com/network/config", b'{"Network":"10.9.0.0/16"}')
    async with following(world, lease("10.1.7.0/24", 2)) as (heard, _):
        await eventually(lambda: bool(heard.configs))
        world.state.delete("/coreos.com/network/config")
        await eventually(lambda: heard.configs[-1] == (GOOD.decode(), 0))
    assert world.records() == {}


@pytest.mark.parametrize("path", ["lease/grant", "kv/txn"])
async def test_an_etcd_that_refuses_at_first_gets_it_all_the_same(world: World, path: str) -> None:
    """Nothing else would make netd try again: the watch itself goes well."""
    world.etcd.fail(path, Refused(429, 8, "etcdserver: mvcc: database space exceeded"), times=2)
    async with following(world, lease("10.1.7.0/24", 2)) as (heard, problems):
        await eventually(lambda: "config" in problems)
        (problem,) = problems.all()
        assert "cannot be written to /coreos.com/network/config: " in problem.text
        assert "space exceeded" in problem.text
        await eventually(lambda: set(heard.configs) == {(GOOD.decode(), 1)})
        assert problems.all() == ()
    assert list(world.state.leases) == [lease_id for _, lease_id in world.records().values()]


async def test_a_configuration_that_somebody_else_writes_is_taken_by_who_may_not_write_it(
    world: World,
) -> None:
    """etcd checks the right to write before it looks whether there is anything."""
    world.etcd.fail("kv/txn", Refused(403, 7, "etcdserver: permission denied"), times=1000)
    async with following(world) as (heard, problems):
        await eventually(lambda: "config" in problems)
        world.state.put("/coreos.com/network/config", b'{"Network":"10.9.0.0/16"}')
        await eventually(lambda: set(heard.configs) == {('{"Network":"10.9.0.0/16"}', 0)})
        assert "config" not in problems


async def test_an_etcd_that_is_rebuilt_while_we_run_gets_the_records_that_it_had(
    world: World,
) -> None:
    """Those of now, not of the time when we started."""
    for _ in range(20):
        world.state.put("/some/other/program", b"")
    world.state.put("/coreos.com/network/config", GOOD)
    world.put(record("10.1.8.0/24", 3))
    async with following(world, lease("10.1.7.0/24", 2)) as (heard, _):
        await eventually(lambda: bool(heard.configs) and heard.rosters == [1])
        world.state.rebuild()
        world.etcd.cut_streams()
        await eventually(lambda: (GOOD.decode(), 1) in heard.configs[1:])
        await eventually(lambda: heard.records == ["10.1.8.0-24"])
    ((name, (found, _lease_id)),) = world.records().items()
    assert (name, found) == ("10.1.8.0-24", value(3))


async def test_a_host_whose_record_is_put_back_before_it_takes_its_subnet_keeps_it(
    world: World,
) -> None:
    """Its watch may not have told yet: it meets the record when it creates its own."""
    host = world.host(1, remembered=OURS)
    assert await world.store().restore(lease(OURS, 1))
    await host.holder.converge()
    assert [str(held.subnet) for held in host.told] == [OURS]
    ((_, lease_id),) = world.records().values()
    assert list(world.state.leases) == [lease_id]
    assert (host.holder.lease and host.holder.lease.lease_id, host.holder.conflict) == (
        lease_id, False,
    )  # fmt: skip


@pytest.mark.parametrize("known", ["as its VTEP was", "as its address was"])
async def test_a_host_is_itself_although_it_is_remembered_otherwise(
    world: World, known: str
) -> None:
    """As for a record that is found at the start: nobody would renew this one, for a day."""
    was = lease(OURS, 1)
    if known == "as its VTEP was":
        was = replace(was, vtep_mac=mac(77))
    else:
        was = replace(was, public_ip=IPv4Address("198.18.0.66"))
    assert await world.store().restore(was)
    host = world.host(1, remembered=OURS)
    host.holder.use_cached(IPv4Network(OURS))
    await world.converge(host)
    ((_, lease_id),) = world.records().values()
    assert world.records() == {"10.1.77.0-24": (value(1), lease_id)}
    assert (host.holder.conflict, host.problems.all()) == (False, ())
    assert host.holder.lease and host.holder.lease.lease_id == lease_id


async def test_a_lease_for_a_record_that_another_put_back_meanwhile_is_given_back(
    world: World,
) -> None:
    """Its creation failed without a word, and was not done."""
    host = world.host(1, remembered=OURS)
    host.holder.use_cached(IPv4Network(OURS))
    world.etcd.fail("kv/txn", "hang")
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    assert await world.store().restore(lease(OURS, 1))
    await world.converge(host)
    ((_, lease_id),) = world.records().values()
    assert list(world.state.leases) == [lease_id]


class CutOff(LeaseStore):
    """Cannot be read the second time: just after a creation whose answer was lost."""

    def __init__(self, client: EtcdClient, prefix: str, ttl: int) -> None:
        super().__init__(client, prefix, ttl)
        self._reads = 0

    async def read(self, subnet: IPv4Network) -> Record | None:
        """See LeaseStore.read."""
        self._reads += 1
        if self._reads == 2:
            raise EtcdUnavailable({"etcd": "cut off"})
        return await super().read(subnet)


async def test_a_creation_that_was_done_although_nobody_said_so_keeps_its_lease(
    world: World,
) -> None:
    """The next look finds the record by address and MAC, on the lease that still waits for one."""
    host = world.host(1, remembered=OURS)
    host.holder.use_cached(IPv4Network(OURS))
    host.holder.store = CutOff(world.client, "/coreos.com/network", LEASE_TTL)
    world.etcd.fail("kv/txn", "lose-reply")
    with pytest.raises(EtcdUnavailable):
        await host.holder.converge()
    await world.converge(host)
    ((_, lease_id),) = world.records().values()
    assert list(world.state.leases) == [lease_id]
    assert host.holder.lease and host.holder.lease.lease_id == lease_id
