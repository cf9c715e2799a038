"""An etcd lease is never left behind: whatever happens to a host's record, it has one or none.

The fake etcd tells every lease that lives. One without a record would count as a dead host's for a
day, and flannel leaks one at each restart.
"""

from collections.abc import Callable
from ipaddress import IPv4Network

import pytest

from hostkit.etcd.errors import EtcdUnavailable
from netd.errors import LeaseError
from netd.leases.model import parse_network_config
from tests.netd.leases.conftest import Host, World
from tests.netd.leases.strategies import PREFIX, mac, record, value

NAME = "10.1.77.0-24"
KEY = PREFIX + NAME
SUBNET = IPv4Network("10.1.77.0/24")
TINY = parse_network_config(
    '{"Network":"10.1.0.0/16","SubnetMin":"10.1.77.0","SubnetMax":"10.1.78.0",'
    '"Backend":{"Type":"vxlan"}}'
)
"""Two subnets: 10.1.77.0/24 and 10.1.78.0/24."""


async def holding(world: World, *, allow_renumber: bool = False) -> tuple[Host, int]:
    """A host that holds 10.1.77.0/24, and its etcd lease."""
    host = world.host(remembered=str(SUBNET), config=TINY, allow_renumber=allow_renumber)
    await world.converge(host)
    (lease_id,) = world.state.leases
    assert world.records() == {NAME: (value(1), lease_id)}
    return host, lease_id


def bare_leases(world: World) -> set[int]:
    """The etcd leases that no record hangs on."""
    return set(world.state.leases) - {lease for _, lease in world.records().values()}


async def settle(world: World, host: Host) -> None:
    """Passes until nothing more is to do."""
    for _ in range(3):
        await world.converge(host)


async def test_without_room_to_renumber_no_etcd_lease_waits(world: World) -> None:
    host, _ = await holding(world, allow_renumber=True)
    theirs = {world.put(record(str(SUBNET), 2)), world.put(record("10.1.78.0/24", 3))}
    for _ in range(2):
        with pytest.raises(LeaseError, match="all 2 subnets"):
            await world.converge(host)
    assert set(world.state.leases) == theirs


async def test_a_reservation_found_while_renumbering_needs_no_etcd_lease(world: World) -> None:
    host, _ = await holding(world, allow_renumber=True)
    world.put(record("10.1.78.0/24", 1, lease=0))
    theirs = world.put(record(str(SUBNET), 2))
    await settle(world, host)
    assert host.holder.subnet == IPv4Network("10.1.78.0/24")
    assert list(world.state.leases) == [theirs]


async def test_a_reservation_made_while_a_create_failed_needs_no_etcd_lease(world: World) -> None:
    host = world.host(remembered=str(SUBNET), config=TINY)
    world.etcd.fail("kv/txn", "cut")
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    world.put(record("10.1.78.0/24", 1, lease=0))
    await settle(world, host)
    assert host.holder.subnet == IPv4Network("10.1.78.0/24")
    assert world.state.leases == {}


def made_reservation(world: World, _host: Host) -> None:
    world.state.put(KEY, value(1))


def overwritten(world: World, _host: Host) -> None:
    world.put(record(str(SUBNET), 2))


def shut_out(_world: World, host: Host) -> None:
    host.holder.config = parse_network_config('{"Network":"10.2.0.0/16"}')
    host.holder._allow_renumber = True


@pytest.mark.parametrize("happens", [made_reservation, overwritten, shut_out])
async def test_a_return_of_an_etcd_lease_that_failed_is_made_up_for(
    world: World, happens: Callable[[World, Host], None]
) -> None:
    host, lease_id = await holding(world)
    happens(world, host)
    world.etcd.fail("lease/revoke", "cut", times=50)
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    world.etcd._faults.clear()
    await settle(world, host)
    assert lease_id not in world.state.leases
    assert bare_leases(world) == set()


async def test_a_reservation_is_never_said_to_have_just_ended_cached(world: World) -> None:
    """Cached subnet in force, no record; the operator reserved another subnet for our address,
    whose record still bears our old MAC."""
    from ipaddress import IPv4Address  # noqa

    world.put(record("10.1.33.0/24", 1, lease=0, BackendData={"VNI": 1, "VtepMAC": mac(99)}))
    host = world.host()
    host.holder.use_cached(SUBNET)
    await settle(world, host)


async def test_a_reservation_is_never_said_to_have_just_ended_moved(world: World) -> None:
    """Our reservation, with our MAC in it, under our former address: Contested, lease id 0."""
    world.state.put(KEY, value(5, BackendData={"VNI": 1, "VtepMAC": mac(1)}))
    host = world.host(remembered=str(SUBNET))
    await settle(world, host)
