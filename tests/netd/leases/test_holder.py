"""Acquiring a subnet: whose record is kept, taken over or refused, and at what cost in etcd."""

from collections.abc import Callable
from ipaddress import IPv4Network

import pytest

from hostkit.etcd.errors import EtcdUnavailable
from netd.errors import LeaseError
from netd.leases.holder import Held
from netd.leases.model import LEASE_TTL, parse_network_config
from tests.netd.leases.conftest import World
from tests.netd.leases.strategies import PREFIX, mac, record, value

TINY = parse_network_config(
    '{"Network":"10.1.0.0/16","SubnetMin":"10.1.10.0","SubnetMax":"10.1.11.0",'
    '"Backend":{"Type":"vxlan"}}'
)
"""Two subnets: 10.1.10.0/24 and 10.1.11.0/24."""


def net(text: str) -> IPv4Network:
    """Short for a subnet."""
    return IPv4Network(text)


async def test_without_a_configuration_nothing_is_asked_of_etcd(world: World) -> None:
    host = world.host()
    host.holder.config = None
    await host.holder.converge()
    assert world.etcd.requests == []
    assert host.holder.subnet is None


async def test_a_new_host_gets_a_subnet_with_one_etcd_lease(world: World) -> None:
    host = world.host()
    await world.converge(host)
    subnet, lease = host.holder.subnet, host.holder.lease
    assert subnet is not None
    assert lease is not None
    assert world.records() == {f"{subnet.network_address}-24": (value(1), lease.lease_id)}
    assert world.state.granted == [lease.lease_id]
    assert host.told == [Held(subnet, mac(1), lease)]
    assert host.holder.acquired_at == world.clock.now
    assert host.problems.all() == ()


async def test_further_passes_ask_for_nothing_more_and_tell_nothing_new(world: World) -> None:
    host = world.host()
    await world.converge(host)
    before = world.records()
    for _ in range(3):
        await world.converge(host)
    assert world.records() == before
    assert len(world.state.granted) == 1
    assert world.etcd.count("kv/txn") == 1
    assert len(host.told) == 1
    assert (host.holder.renumbered, host.holder.reacquired) == (0, 0)


async def test_the_remembered_subnet_is_taken_when_it_is_free(world: World) -> None:
    host = world.host(remembered="10.1.77.0/24")
    await world.converge(host)
    assert list(world.records()) == ["10.1.77.0-24"]


async def test_an_existing_lease_is_kept_under_its_own_etcd_lease(world: World) -> None:
    lease_id = world.put(record("10.1.33.0/24", 1))
    host = world.host()
    await world.converge(host)
    assert host.holder.subnet == net("10.1.33.0/24")
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert world.state.granted == [lease_id]


async def test_a_host_without_a_mac_takes_over_the_one_in_its_old_record(world: World) -> None:
    lease_id = world.put(record("10.1.33.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)}))
    world.clock.now += 3600
    before = world.records()
    host = world.host(remembered="10.1.33.0/24", mac_is_new=True)
    await world.converge(host)
    assert host.holder.vtep_mac == mac(99)
    assert host.told[0].vtep_mac == mac(99)
    assert world.records() == before
    assert world.state.granted == [lease_id]


async def test_a_host_with_a_mac_puts_it_into_its_old_record_under_the_same_etcd_lease(
    world: World,
) -> None:
    lease_id = world.put(record("10.1.33.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)}))
    host = world.host(remembered="10.1.33.0/24")
    await world.converge(host)
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert world.state.granted == [lease_id]


async def test_a_record_of_another_backend_is_rewritten_for_the_present_one(world: World) -> None:
    lease_id = world.put(record("10.1.33.0/24", 1, BackendType="host-gw", BackendData=None))
    host = world.host(remembered="10.1.33.0/24")
    await world.converge(host)
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}


async def test_a_reservation_for_us_stays_one_and_gets_our_mac(world: World) -> None:
    world.state.put(PREFIX + "10.1.33.0-24", b'{"PublicIP":"198.18.0.1"}')
    host = world.host()
    await world.converge(host)
    await world.converge(host)
    assert host.holder.subnet == net("10.1.33.0/24")
    assert world.records() == {"10.1.33.0-24": (value(1), 0)}
    assert world.state.granted == []
    assert host.holder.expires_at is None


async def test_a_reservation_for_another_host_is_never_taken(world: World) -> None:
    world.put(record("10.1.10.0/24", 2, lease=0))
    before = world.records()["10.1.10.0-24"]
    host = world.host(config=TINY, remembered="10.1.10.0/24")
    await world.converge(host)
    assert host.holder.subnet == net("10.1.11.0/24")
    assert world.records()["10.1.10.0-24"] == before


async def test_a_lost_race_excludes_that_subnet_and_goes_on_without_leaking_a_lease(
    world: World,
) -> None:
    host = world.host(config=TINY, remembered="10.1.10.0/24")
    theirs = world.put(record("10.1.10.0/24", 2))
    await host.holder.converge()
    assert host.holder.subnet == net("10.1.11.0/24")
    lease = host.holder.lease
    assert lease is not None
    assert set(world.state.leases) == {theirs, lease.lease_id}
    assert host.holder.renumbered == 0


async def test_hosts_with_the_same_dice_that_do_not_see_each_other_get_different_subnets(
    world: World,
) -> None:
    hosts = [world.host(number, seed=5) for number in range(1, 9)]
    for host in hosts:
        await host.holder.converge()
    assert len({host.holder.subnet for host in hosts}) == 8
    assert len(world.state.leases) == 8


async def test_a_full_network_is_a_blocking_problem_that_goes_when_there_is_room(
    world: World,
) -> None:
    world.put(record("10.1.10.0/24", 2))
    world.put(record("10.1.11.0/24", 3, lease=0))
    host = world.host(config=TINY)
    with pytest.raises(LeaseError, match="all 2 subnets"):
        await world.converge(host)
    (problem,) = host.problems.blocking()
    assert problem.key == "lease"
    assert "stale reservations" in problem.text
    world.state.delete(PREFIX + "10.1.11.0-24")
    await world.converge(host)
    assert host.holder.subnet == net("10.1.11.0/24")
    assert host.problems.all() == ()


def foreign_lease(world: World) -> int:
    """A lease with host 1's address that another machine wrote."""
    return world.put(record("10.1.33.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)}))


async def test_an_address_that_another_live_host_holds_is_refused_with_its_lease_named(
    world: World,
) -> None:
    lease_id = foreign_lease(world)
    before = world.records()
    world.clock.now += 60
    host = world.host()
    with pytest.raises(LeaseError) as caught:
        await world.converge(host)
    for word in ("198.18.0.1", "10.1.33.0-24", mac(99), "--public-ip"):
        assert word in str(caught.value)
    assert [one.key for one in host.problems.blocking()] == ["public-ip"]
    assert world.records() == before
    assert host.told == []
    # The other host goes on renewing, and the refusal stands.
    world.clock.now += 60
    world.state.call("lease/keepalive", {"ID": str(lease_id)})
    with pytest.raises(LeaseError, match="another live host"):
        await world.converge(host)


async def test_a_record_with_our_address_that_nobody_renews_is_taken_over(world: World) -> None:
    lease_id = foreign_lease(world)
    host = world.host()
    with pytest.raises(LeaseError):
        await world.converge(host)
    world.clock.now += 126
    await world.converge(host)
    assert host.holder.subnet == net("10.1.33.0/24")
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert host.problems.all() == ()
    assert world.state.granted == [lease_id]


async def test_an_old_record_with_our_address_is_refused_while_another_host_answers_for_it(
    world: World,
) -> None:
    """flanneld renews once a day: the age of its lease tells nothing."""
    lease_id = foreign_lease(world)
    before = world.records()
    world.clock.now += 3600
    host = world.host(answers=mac(99))
    for _ in range(2):
        with pytest.raises(LeaseError, match="another live host"):
            await world.converge(host)
    assert [one.key for one in host.problems.blocking()] == ["public-ip"]
    assert (world.records(), host.told) == (before, [])
    assert list(world.state.leases) == [lease_id]


async def test_an_old_record_with_our_address_is_taken_over_when_nobody_answers_for_it(
    world: World,
) -> None:
    lease_id = foreign_lease(world)
    world.clock.now += 3600
    refused = world.host(answers=mac(99))
    with pytest.raises(LeaseError):
        await world.converge(refused)
    host = world.host(answers=None)
    await world.converge(host)
    assert host.holder.subnet == net("10.1.33.0/24")
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert host.problems.all() == ()
    assert list(world.state.leases) == [lease_id]


async def test_a_record_whose_etcd_lease_has_just_ended_is_not_said_to_be_a_live_host_s(
    world: World,
) -> None:
    lease_id = foreign_lease(world)
    host = world.host()
    world.end(lease_id)
    with pytest.raises(LeaseError, match="has just ended, looking again"):
        await host.holder.converge()
    assert host.problems.all() == ()
    await world.converge(host)
    assert len(world.records()) == len(world.state.leases) == 1


async def test_a_cached_subnet_is_not_leased_beside_another_live_host_s_record_with_our_address(
    world: World,
) -> None:
    foreign_lease(world)
    before = world.records()
    host = world.host()
    host.holder.use_cached(net("10.1.77.0/24"))
    with pytest.raises(LeaseError, match="another live host"):
        await world.converge(host)
    assert [one.key for one in host.problems.blocking()] == ["public-ip"]
    assert world.records() == before


async def test_our_record_that_became_another_s_since_the_watch_told_is_not_adopted(
    world: World,
) -> None:
    mine = world.put(record("10.1.77.0/24", 1))
    host = world.host()
    world.end(mine)
    theirs = world.put(record("10.1.77.0/24", 2))
    with pytest.raises(LeaseError, match="changed while it was being adopted"):
        await host.holder.converge()
    assert host.told == []
    await world.converge(host)
    assert world.records()["10.1.77.0-24"] == (value(2), theirs)
    assert host.holder.subnet not in {None, net("10.1.77.0/24")}
    assert len(world.state.leases) == 2


async def test_our_record_that_was_written_anew_since_the_watch_told_is_adopted_as_it_is_now(
    world: World,
) -> None:
    mine = world.put(record("10.1.77.0/24", 1))
    host = world.host()
    world.end(mine)
    new = world.put(record("10.1.77.0/24", 1))
    with pytest.raises(LeaseError, match="changed while it was being adopted"):
        await host.holder.converge()
    await world.converge(host)
    assert host.holder.lease is not None
    assert host.holder.lease.lease_id == new
    assert world.records() == {"10.1.77.0-24": (value(1), new)}
    assert list(world.state.leases) == [new]


async def test_a_create_that_is_committed_after_it_was_given_up_ends_with_one_lease(
    world: World,
) -> None:
    host = world.host(remembered="10.1.77.0/24")
    world.etcd.fail("kv/txn", "cut")
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    (granted,) = world.state.granted
    world.state.put(PREFIX + "10.1.77.0-24", value(1), granted)
    await world.converge(host)
    assert host.holder.subnet == net("10.1.77.0/24")
    assert world.records() == {"10.1.77.0-24": (value(1), granted)}
    assert list(world.state.leases) == [granted]


async def test_a_create_whose_answer_was_lost_is_recognised_and_makes_one_lease(
    world: World,
) -> None:
    host = world.host()
    world.etcd.fail("kv/txn", "lose-reply")
    await world.converge(host)
    await world.converge(host)
    assert len(world.records()) == 1
    assert len(world.state.granted) == 1
    assert len(host.told) == 1


FAILING: list[tuple[str, Callable[[World], None]]] = [
    ("history", lambda world: world.etcd.fail("kv/range", "cut", times=50)),
    ("grant", lambda world: world.etcd.fail("lease/grant", "cut", times=50)),
    ("create", lambda world: world.etcd.fail("kv/txn", "cut")),
]


@pytest.mark.parametrize(("where", "fail"), FAILING, ids=[where for where, _ in FAILING])
async def test_wherever_etcd_fails_the_next_pass_ends_with_one_record_and_one_lease(
    world: World, where: str, fail: Callable[[World], None]
) -> None:
    host = world.host(remembered="10.1.77.0/24")
    fail(world)
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    world.etcd._faults.clear()
    await world.converge(host)
    assert list(world.records()) == ["10.1.77.0-24"], where
    assert len(world.state.leases) == len(world.state.granted) == 1


async def test_an_update_whose_answer_was_lost_ends_with_the_same_record(world: World) -> None:
    lease_id = world.put(record("10.1.33.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)}))
    host = world.host(remembered="10.1.33.0/24")
    world.etcd.fail("kv/txn", "lose-reply")
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    await world.converge(host)
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert world.state.granted == [lease_id]


async def test_history_is_noted_at_first_and_then_every_six_hours(world: World) -> None:
    host = world.host(remembered="10.1.77.0/24")
    await world.converge(host)
    first = (await host.holder.store.history())[net("10.1.77.0/24")]
    world.clock.now += 6 * 3600 - 1
    world.state.call("lease/keepalive", {"ID": str(world.state.granted[0])})
    await world.converge(host)
    assert (await host.holder.store.history())[net("10.1.77.0/24")] == first
    world.clock.now += 1
    await world.converge(host)
    assert (await host.holder.store.history())[net("10.1.77.0/24")] > first


async def test_the_end_of_the_lease_is_a_full_term_after_the_renewal(world: World) -> None:
    host = world.host()
    await world.converge(host)
    assert host.holder.expires_at == pytest.approx(world.clock.now + LEASE_TTL, abs=60)
    await host.holder.close()
    assert host.holder.expires_at is None
    assert len(world.records()) == 1


async def test_two_live_hosts_with_one_address_that_started_together_are_reported(
    world: World,
) -> None:
    """Neither saw the other's record when it made its own; afterwards both say so."""
    host = world.host(1)
    await world.converge(host)
    foreign_lease(world)
    await world.converge(host)
    (problem,) = host.problems.blocking()
    assert problem.key == "public-ip"
    assert mac(99) in problem.text
    world.state.delete(PREFIX + "10.1.33.0-24")
    await world.converge(host)
    assert host.problems.all() == ()
