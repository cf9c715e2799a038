"""An etcd lease is never left behind: whatever happens to a host's record, it has one or none.

The fake etcd tells every lease that lives. One without a record would count as a dead host's for a
day, and flannel leaks one at each restart.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from hostkit.etcd.errors import EtcdUnavailable
from netd.errors import LeaseError
from netd.leases.model import LEASE_TTL, Lease, parse_network_config
from netd.leases.store import LeaseStore
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


async def test_a_deleted_record_comes_back_under_the_etcd_lease_that_it_had(world: World) -> None:
    host, lease_id = await holding(world)
    world.state.delete(KEY)
    await settle(world, host)
    assert world.records() == {NAME: (value(1), lease_id)}
    assert world.state.granted == [lease_id]
    assert not host.problems.all()


@pytest.mark.parametrize("reserved", [False, True])
async def test_a_record_overwritten_by_another_host_costs_us_our_etcd_lease(
    world: World, reserved: bool
) -> None:
    host, lease_id = await holding(world)
    theirs = world.put(record(str(SUBNET), 2, lease=0 if reserved else -1))
    await settle(world, host)
    assert host.holder.conflict
    assert world.records() == {NAME: (value(2), theirs)}
    assert list(world.state.leases) == ([] if reserved else [theirs])
    assert lease_id not in world.state.leases
    assert host.holder.expires_at is None


async def test_a_host_that_may_renumber_takes_its_etcd_lease_along(world: World) -> None:
    host, lease_id = await holding(world, allow_renumber=True)
    theirs = world.put(record(str(SUBNET), 2))
    await settle(world, host)
    assert world.records() == {NAME: (value(2), theirs), "10.1.78.0-24": (value(1), lease_id)}
    assert set(world.state.granted) == {lease_id, theirs}
    assert bare_leases(world) == set()


async def test_a_record_that_was_made_a_reservation_stays_one_and_our_etcd_lease_ends(
    world: World,
) -> None:
    host, lease_id = await holding(world)
    world.state.put(KEY, value(1))
    await settle(world, host)
    assert world.records() == {NAME: (value(1), 0)}
    assert world.state.leases == {}
    assert world.state.granted == [lease_id]
    assert (host.holder.subnet, host.holder.expires_at) == (SUBNET, None)
    assert not host.problems.all()
    assert len(host.told) == 1


async def test_a_reservation_that_was_deleted_becomes_one_lease(world: World) -> None:
    host, _ = await holding(world)
    world.state.put(KEY, value(1))
    await settle(world, host)
    world.state.delete(KEY)
    await settle(world, host)
    (lease_id,) = world.state.leases
    assert world.records() == {NAME: (value(1), lease_id)}


async def test_a_record_that_was_moved_to_another_etcd_lease_is_renewed_there_only(
    world: World,
) -> None:
    """As flanneld does when it is started beside us."""
    host, lease_id = await holding(world)
    new = world.put(record(str(SUBNET), 1))
    await settle(world, host)
    assert world.records() == {NAME: (value(1), new)}
    assert list(world.state.leases) == [new] != [lease_id]
    assert host.holder.lease is not None
    assert host.holder.lease.lease_id == new


@pytest.mark.parametrize(
    "written",
    [b"garbage", b"", value(2), value(1, PublicIP="192.0.2.7"), value(1, BackendType="udp"),
     value(1, BackendData={"VNI": 1, "VtepMAC": mac(9)})],
    ids=["garbage", "nothing", "another host", "another address", "another backend", "a MAC"],
)  # fmt: skip
async def test_what_was_written_under_our_own_etcd_lease_is_written_over(
    world: World, written: bytes
) -> None:
    """Nobody else hangs a record on our lease: it is ours, damaged."""
    host, lease_id = await holding(world)
    world.state.put(KEY, written, lease_id)
    await settle(world, host)
    assert world.records() == {NAME: (value(1), lease_id)}
    assert list(world.state.leases) == world.state.granted == [lease_id]
    assert not host.problems.all()
    assert not host.holder.conflict
    assert len(host.told) == 1


async def test_garbage_under_no_etcd_lease_of_ours_is_left_alone_and_said(world: World) -> None:
    host, _ = await holding(world)
    world.state.put(KEY, b"garbage")
    await settle(world, host)
    assert world.records() == {NAME: (b"garbage", 0)}
    assert world.state.leases == {}
    (problem,) = host.problems.blocking()
    assert "a damaged record" in problem.text


async def test_renumbering_for_a_changed_network_takes_the_old_record_away(world: World) -> None:
    host, lease_id = await holding(world, allow_renumber=True)
    host.holder.config = config = parse_network_config('{"Network":"10.2.0.0/16"}')
    await settle(world, host)
    assert host.holder.subnet is not None
    assert config.admits(host.holder.subnet)
    ((name, (_, new)),) = world.records().items()
    assert name == f"{host.holder.subnet.network_address}-24"
    assert list(world.state.leases) == [new] != [lease_id]
    assert host.holder.renumbered == 1


async def test_a_network_that_shuts_us_out_keeps_our_record_and_etcd_lease(world: World) -> None:
    host, lease_id = await holding(world)
    host.holder.config = parse_network_config('{"Network":"10.2.0.0/16"}')
    await settle(world, host)
    assert world.records() == {NAME: (value(1), lease_id)}
    assert list(world.state.leases) == [lease_id]


async def test_a_record_that_etcd_would_not_end_while_we_renumbered_ends_later(
    world: World,
) -> None:
    host, lease_id = await holding(world, allow_renumber=True)
    host.holder.config = parse_network_config('{"Network":"10.2.0.0/16"}')
    world.etcd.fail("lease/revoke", "cut", times=50)
    with pytest.raises(EtcdUnavailable):
        await world.converge(host)
    world.etcd._faults.clear()
    await settle(world, host)
    assert lease_id not in world.state.leases
    assert NAME not in world.records()
    assert len(world.state.leases) == 1
    assert bare_leases(world) == set()


class RacedStore(LeaseStore):
    """Records among which another host is faster, just before each creation."""

    def __init__(self, world: World) -> None:
        super().__init__(world.client, PREFIX.removesuffix("/subnets/"), LEASE_TTL)
        self._world = world

    async def create(
        self, subnet: IPv4Network, value: bytes, public_ip: IPv4Address
    ) -> Lease | None:
        """See LeaseStore.create."""
        self._world.put(record(str(subnet), 2))
        return await super().create(subnet, value, public_ip)


async def test_a_lost_race_for_our_own_subnet_leaves_the_winner_s_etcd_lease_only(
    world: World,
) -> None:
    host, _ = await holding(world)
    world.state.delete(KEY)
    host.holder.store = RacedStore(world)
    await world.converge(host)
    await settle(world, host)
    ((written, theirs),) = world.records().values()
    assert written == value(2)
    assert list(world.state.leases) == [theirs]
    assert host.holder.conflict


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
