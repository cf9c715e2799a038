"""Defending a subnet in force: it is taken back if free and never changed silently."""

import json
from ipaddress import IPv4Network

import pytest

from netd.leases.holder import Held
from netd.leases.model import LEASE_TTL, parse_network_config
from tests.netd.leases.conftest import Host, World
from tests.netd.leases.strategies import CONFIG, PREFIX, mac, record, value
from tests.support.poll import eventually

NAME = "10.1.77.0-24"
SUBNET = IPv4Network("10.1.77.0/24")


async def holding(world: World, *, allow_renumber: bool = False) -> Host:
    """A host that holds 10.1.77.0/24."""
    host = world.host(remembered=str(SUBNET), allow_renumber=allow_renumber)
    await world.converge(host)
    assert list(world.records()) == [NAME]
    return host


def ours(world: World) -> int:
    """The etcd lease of the record."""
    return world.records()[NAME][1]


async def test_a_deleted_record_is_made_again_for_the_same_subnet(world: World) -> None:
    host = await holding(world)
    world.state.delete(PREFIX + NAME)
    await world.converge(host)
    assert world.records()[NAME] == (value(1), ours(world))
    assert host.holder.subnet == SUBNET
    assert (host.holder.reacquired, host.holder.renumbered) == (1, 0)
    assert len(host.told) == 1


async def test_an_etcd_that_lost_everything_gets_the_same_record_again(world: World) -> None:
    host = await holding(world)
    world.state.rebuild()
    await world.converge(host)
    assert list(world.records()) == [NAME]
    assert ours(world) in world.state.leases
    assert host.holder.subnet == SUBNET


async def test_an_etcd_lease_that_ended_is_noticed_and_the_subnet_taken_back(
    world: World,
) -> None:
    host = await holding(world)
    world.end(ours(world))
    assert world.records() == {}
    await world.converge(host)
    assert list(world.records()) == [NAME]
    assert list(world.state.leases) == [ours(world)]


async def test_the_keeper_notices_the_end_of_the_lease_by_itself_and_asks_for_a_pass(
    world: World,
) -> None:
    lease_id = world.put(record(str(SUBNET), 1))
    host = world.host(remembered=str(SUBNET), keepalive=0.01)
    await world.converge(host)
    world.end(lease_id)
    await eventually(lambda: bool(host.woken))
    await world.converge(host)
    assert list(world.records()) == [NAME]
    assert host.holder.reacquired == 1


async def test_a_lagging_watch_does_not_make_a_second_record(world: World) -> None:
    host = world.host(remembered=str(SUBNET))
    await host.holder.converge()
    for _ in range(3):
        await host.holder.converge()
    assert len(world.records()) == 1
    assert len(world.state.granted) == 1


async def test_a_subnet_taken_by_another_host_is_a_blocking_problem_and_nothing_moves(
    world: World,
) -> None:
    host = await holding(world)
    world.end(ours(world))
    theirs = world.put(record(str(SUBNET), 2))
    await world.converge(host)
    await world.converge(host)
    assert world.records() == {NAME: (value(2), theirs)}
    assert host.holder.conflict
    assert (host.holder.subnet, host.holder.renumbered) == (SUBNET, 0)
    assert len(host.told) == 1
    (problem,) = host.problems.blocking()
    assert problem.key == "lease"
    for word in (str(SUBNET), "198.18.0.2", NAME, "--allow-renumber"):
        assert word in problem.text
    assert list(world.state.leases) == [theirs]


async def test_the_conflict_is_over_as_soon_as_the_other_host_leaves(world: World) -> None:
    host = await holding(world)
    world.end(ours(world))
    theirs = world.put(record(str(SUBNET), 2))
    await world.converge(host)
    world.end(theirs)
    await world.converge(host)
    assert world.records() == {NAME: (value(1), ours(world))}
    assert not host.holder.conflict
    assert host.problems.all() == ()
    assert len(host.told) == 1


async def test_with_leave_to_renumber_another_subnet_is_taken_and_told(world: World) -> None:
    host = await holding(world, allow_renumber=True)
    world.end(ours(world))
    theirs = world.put(record(str(SUBNET), 2))
    await world.converge(host)
    lease = host.holder.lease
    assert lease is not None
    assert lease.subnet == host.holder.subnet != SUBNET
    assert world.records()[NAME] == (value(2), theirs)
    assert host.told[-1] == Held(lease.subnet, mac(1), lease)
    assert host.holder.renumbered == 1
    assert not host.holder.conflict
    assert host.problems.all() == ()
    assert set(world.state.leases) == {theirs, lease.lease_id}


async def test_a_network_that_no_longer_admits_the_subnet_is_a_blocking_problem(
    world: World,
) -> None:
    host = await holding(world)
    host.holder.config = parse_network_config('{"Network":"10.2.0.0/16"}')
    await world.converge(host)
    assert host.holder.subnet == SUBNET
    (problem,) = host.problems.blocking()
    assert "10.2.0.0/16" in problem.text
    assert str(SUBNET) in problem.text
    host.holder.config = CONFIG
    await world.converge(host)
    assert host.problems.all() == ()


async def test_a_network_that_no_longer_admits_the_subnet_renumbers_with_leave(
    world: World,
) -> None:
    host = await holding(world, allow_renumber=True)
    config = parse_network_config('{"Network":"10.2.0.0/16"}')
    host.holder.config = config
    await world.converge(host)
    assert host.holder.subnet is not None
    assert config.admits(host.holder.subnet)
    assert host.holder.renumbered == 1


@pytest.mark.parametrize(
    "backend",
    [{"Type": "vxlan", "VNI": 7}, {"Type": "host-gw"}],
)
async def test_a_changed_backend_is_put_into_our_record_under_the_same_etcd_lease(
    world: World, backend: dict[str, object]
) -> None:
    host = await holding(world)
    lease_id = ours(world)
    host.holder.config = parse_network_config(
        json.dumps({"Network": "10.1.0.0/16", "Backend": backend})
    )
    await world.converge(host)
    document = json.loads(world.records()[NAME][0])
    assert document["BackendType"] == backend["Type"]
    if "VNI" in backend:
        assert document["BackendData"] == {"VNI": 7, "VtepMAC": mac(1)}
    assert ours(world) == lease_id
    assert world.state.granted == [lease_id]


async def test_a_value_that_somebody_changed_is_put_right(world: World) -> None:
    host = await holding(world)
    lease_id = ours(world)
    old = value(1, BackendData={"VNI": 2, "VtepMAC": mac(1)})
    world.state.put(PREFIX + NAME, old, lease_id)
    await world.converge(host)
    assert world.records() == {NAME: (value(1), lease_id)}
    assert host.problems.all() == ()


async def test_a_subnet_from_the_cache_is_in_force_at_once_and_confirmed_later(
    world: World,
) -> None:
    lease_id = world.put(record(str(SUBNET), 1))
    host = world.host()
    host.holder.use_cached(SUBNET)
    assert host.told == [Held(SUBNET, mac(1), None)]
    await world.converge(host)
    assert len(host.told) == 1
    assert world.records() == {NAME: (value(1), lease_id)}
    assert host.holder.lease is not None
    assert world.state.granted == [lease_id]


async def test_a_subnet_from_the_cache_whose_record_expired_is_leased_again(world: World) -> None:
    host = world.host()
    host.holder.use_cached(SUBNET)
    await world.converge(host)
    assert world.records() == {NAME: (value(1), ours(world))}
    assert host.holder.reacquired == 0


async def test_a_subnet_from_the_cache_that_another_host_holds_is_a_conflict(
    world: World,
) -> None:
    theirs = world.put(record(str(SUBNET), 2))
    host = world.host()
    host.holder.use_cached(SUBNET)
    await world.converge(host)
    assert host.holder.conflict
    assert host.problems.blocking()
    assert world.records() == {NAME: (value(2), theirs)}


async def test_a_restart_keeps_record_and_etcd_lease(world: World) -> None:
    host = await holding(world)
    lease_id = ours(world)
    await host.holder.close()
    world.clock.now += 3600
    again = world.host(remembered=str(SUBNET))
    await world.converge(again)
    assert world.records() == {NAME: (value(1), lease_id)}
    assert world.state.granted == [lease_id]


async def test_after_the_lease_expired_a_restart_takes_the_remembered_subnet_again(
    world: World,
) -> None:
    host = await holding(world)
    await host.holder.close()
    world.clock.now += LEASE_TTL + 1
    again = world.host(remembered=str(SUBNET))
    await world.converge(again)
    assert list(world.records()) == [NAME]
    assert list(world.state.leases) == [ours(world)]
