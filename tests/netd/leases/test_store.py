"""Keys and values in etcd: created only if absent, changed only if unchanged, no lease leaked."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from hostkit.etcd.errors import EtcdError, EtcdUnavailable
from hostkit.etcd.gateway import KeyValue
from netd.leases.model import LEASE_TTL, Lease, render_lease
from netd.leases.peers import interpret
from netd.leases.store import LeaseStore
from netd.overlay.model import VxlanOptions
from tests.fakes.etcd import Refused
from tests.netd.leases.conftest import World
from tests.netd.leases.strategies import PREFIX, mac, record, value

SUBNET = IPv4Network("10.1.33.0/24")
IP = IPv4Address("198.18.0.1")
VALUE = render_lease(IP, VxlanOptions(), mac(1))


def lease_of(found: object) -> Lease:
    """*found*, which has to be a lease."""
    assert isinstance(found, Lease)
    return found


async def test_a_record_is_created_under_flannel_s_key_with_its_value_and_ttl(
    world: World,
) -> None:
    store = world.store()
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    assert world.records() == {"10.1.33.0-24": (VALUE, lease.lease_id)}
    assert world.state.leases[lease.lease_id].granted == LEASE_TTL == 86_400
    assert interpret_now(await store.read(SUBNET)) == lease
    assert (store.config_key, store.subnets_prefix) == ("/coreos.com/network/config", PREFIX)


def interpret_now(found: object) -> object:
    """The lease in a record that was read."""
    assert found is not None
    return interpret(found)  # type: ignore[arg-type]


async def test_a_record_that_exists_is_not_created_again_and_no_lease_is_left_behind(
    world: World,
) -> None:
    theirs = world.put(record("10.1.33.0/24", 2))
    assert await world.store().create(SUBNET, VALUE, IP) is None
    assert world.records() == {"10.1.33.0-24": (value(2), theirs)}
    assert list(world.state.leases) == [theirs]


async def test_a_create_that_was_done_although_its_answer_was_lost_is_recognised(
    world: World,
) -> None:
    world.etcd.fail("kv/txn", "lose-reply")
    lease = lease_of(await world.store().create(SUBNET, VALUE, IP))
    assert world.records() == {"10.1.33.0-24": (VALUE, lease.lease_id)}
    assert world.state.granted == [lease.lease_id]
    assert lease == interpret_now(await world.store().read(SUBNET))


async def test_a_create_whose_answer_was_lost_after_another_host_was_faster_is_a_lost_race(
    world: World,
) -> None:
    theirs = world.put(record("10.1.33.0/24", 2))
    world.etcd.fail("kv/txn", "lose-reply")
    assert await world.store().create(SUBNET, VALUE, IP) is None
    assert list(world.state.leases) == [theirs]


async def test_a_create_that_was_never_done_fails_and_the_next_one_uses_the_same_etcd_lease(
    world: World,
) -> None:
    store = world.store()
    world.etcd.fail("kv/txn", "cut")
    with pytest.raises(EtcdUnavailable):
        await store.create(SUBNET, VALUE, IP)
    assert world.records() == {}
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    assert world.state.granted == [lease.lease_id]


async def test_a_create_that_is_committed_after_it_was_given_up_is_recognised_by_its_etcd_lease(
    world: World,
) -> None:
    store = world.store()
    world.etcd.fail("kv/txn", "cut")
    with pytest.raises(EtcdUnavailable):
        await store.create(SUBNET, VALUE, IP)
    (granted,) = world.state.granted
    world.state.put(PREFIX + "10.1.33.0-24", VALUE, granted)
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    assert lease.lease_id == granted
    assert lease == interpret_now(await store.read(SUBNET))
    assert list(world.state.leases) == [granted]


async def test_an_unused_etcd_lease_that_expired_meanwhile_is_replaced(world: World) -> None:
    store = world.store()
    world.etcd.fail("kv/txn", "cut")
    with pytest.raises(EtcdUnavailable):
        await store.create(SUBNET, VALUE, IP)
    world.clock.now += LEASE_TTL + 1
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    assert list(world.state.leases) == [lease.lease_id]
    assert len(world.state.granted) == 2


async def test_a_grant_whose_answer_was_lost_leaves_one_etcd_lease(world: World) -> None:
    world.etcd.fail("lease/grant", "lose-reply")
    lease = lease_of(await world.store().create(SUBNET, VALUE, IP))
    assert list(world.state.leases) == [lease.lease_id]


async def test_an_update_changes_the_value_and_keeps_etcd_lease_and_age(world: World) -> None:
    store = world.store()
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    new = render_lease(IP, VxlanOptions(vni=7), mac(9))
    updated = lease_of(await store.update(lease, new))
    assert world.records() == {"10.1.33.0-24": (new, lease.lease_id)}
    assert (updated.vni, updated.vtep_mac) == (7, mac(9))
    assert updated.create_revision == lease.create_revision
    assert updated.mod_revision > lease.mod_revision
    assert interpret_now(await store.read(SUBNET)) == updated
    assert len(world.state.granted) == 1


async def test_a_record_that_changed_since_it_was_read_is_not_updated(world: World) -> None:
    store = world.store()
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    world.state.put(PREFIX + "10.1.33.0-24", value(2))
    assert await store.update(lease, VALUE) is None
    assert world.records() == {"10.1.33.0-24": (value(2), 0)}
    world.state.delete(PREFIX + "10.1.33.0-24")
    assert await store.update(lease, VALUE) is None
    assert world.records() == {}


async def test_a_reservation_stays_one_through_an_update(world: World) -> None:
    world.put(record("10.1.33.0/24", 1, lease=0))
    store = world.store()
    found = lease_of(interpret_now(await store.read(SUBNET)))
    assert found.is_reservation
    assert lease_of(await store.update(found, VALUE)).is_reservation
    assert world.records() == {"10.1.33.0-24": (VALUE, 0)}
    assert world.state.granted == []


async def test_dropping_a_lease_takes_its_record_and_dropping_a_reservation_takes_nothing(
    world: World,
) -> None:
    store = world.store()
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    await store.drop(lease)
    await store.drop(lease)
    assert (world.records(), world.state.leases) == ({}, {})
    world.put(record("10.1.34.0/24", 1, lease=0))
    await store.drop(lease_of(interpret_now(await store.read(IPv4Network("10.1.34.0/24")))))
    assert list(world.records()) == ["10.1.34.0-24"]


async def test_the_remaining_time_of_a_lease_counts_down_from_what_was_granted(
    world: World,
) -> None:
    store = world.store()
    lease = lease_of(await store.create(SUBNET, VALUE, IP))
    world.clock.now += 100
    info = await store.remaining(lease.lease_id)
    assert (info.ttl, info.granted) == (LEASE_TTL - 100, LEASE_TTL)


async def test_history_tells_who_was_seen_last_and_outlives_the_record(world: World) -> None:
    store = world.store()
    other = IPv4Network("10.1.34.0/24")
    first = lease_of(await store.create(SUBNET, VALUE, IP))
    await store.create(other, VALUE, IP)
    history = await store.history()
    assert history[SUBNET] < history[other]
    await store.remember(SUBNET, IP)
    await store.drop(first)
    history = await store.history()
    assert set(history) == {SUBNET, other}
    assert history[SUBNET] > history[other]


async def test_what_is_no_history_is_ignored(world: World) -> None:
    world.state.put("/coreos.com/network/netd/history/notes", b"x")
    assert await world.store().history() == {}


async def test_history_is_not_among_the_records(world: World) -> None:
    await world.store().remember(SUBNET, IP)
    assert world.records() == {}


async def test_the_configuration_is_written_only_where_there_is_none(world: World) -> None:
    store = world.store()
    await store.seed_config(b"mine")
    await store.seed_config(b"other")
    assert world.state.keys[store.config_key.encode()].value == b"mine"


async def test_a_lost_record_is_put_back_under_an_etcd_lease_that_its_holder_goes_on_with(
    world: World,
) -> None:
    lost = lease_of(interpret(record(str(SUBNET), 1)))
    assert await world.store().restore(lost)
    ((found, lease_id),) = world.records().values()
    assert (found, world.state.leases[lease_id].granted) == (value(1), LEASE_TTL)
    holder = world.host(1, remembered=str(SUBNET)).holder
    holder.use_cached(SUBNET)
    await holder.converge()
    assert world.records() == {"10.1.33.0-24": (value(1), lease_id)}
    assert (holder.lease and holder.lease.lease_id, holder.conflict) == (lease_id, False)
    assert list(world.state.leases) == [lease_id]


async def test_a_lost_reservation_is_put_back_as_one(world: World) -> None:
    assert await world.store().restore(lease_of(interpret(record(str(SUBNET), 1, lease=0))))
    assert world.records() == {"10.1.33.0-24": (value(1), 0)}
    assert world.state.granted == []


class Late(LeaseStore):
    """Reads no record, as just before another host makes it."""

    async def read(self, subnet: IPv4Network) -> None:
        """Nothing."""


@pytest.mark.parametrize("looks_first", [True, False])
async def test_a_record_that_is_there_is_not_put_back_and_no_etcd_lease_is_left_behind(
    world: World, looks_first: bool
) -> None:
    """The host itself, or a new one that was given the subnet, may have been faster."""
    theirs = world.put(record(str(SUBNET), 2))
    store = world.store() if looks_first else Late(world.client, "/coreos.com/network", LEASE_TTL)
    assert not await store.restore(lease_of(interpret(record(str(SUBNET), 1))))
    assert world.records() == {"10.1.33.0-24": (value(2), theirs)}
    assert list(world.state.leases) == [theirs]


async def test_a_refusal_by_etcd_is_raised_and_no_record_is_made(world: World) -> None:
    world.etcd.fail("kv/txn", Refused(429, 8, "etcdserver: mvcc: database space exceeded"))
    with pytest.raises(EtcdError, match="space exceeded"):
        await world.store().create(SUBNET, VALUE, IP)
    assert world.records() == {}


@pytest.mark.parametrize("prefix", ["/coreos.com/network", "/", "/clusters/subnets/blue"])
@pytest.mark.parametrize(
    ("name", "subnet"),
    [
        ("10.1.33.0-24", IPv4Network("10.1.33.0/24")),
        ("x/subnets/10.1.33.0-24", None),
        ("10.1.33.0-24/subnets/10.1.33.0-24", None),
        ("", None),
    ],
)
def test_only_a_key_directly_below_subnets_names_a_subnet(
    world: World, prefix: str, name: str, subnet: IPv4Network | None
) -> None:
    """Otherwise two keys could be one host's subnet, and the order of events would choose."""
    store = LeaseStore(world.client, prefix, LEASE_TTL)
    item = KeyValue(store.subnets_prefix + name, value(2), 5, 6, 1, 9)
    found = store.record(item)
    assert (found.name, found.lease_id, found.create_revision, found.mod_revision) == (
        name, 9, 5, 6,
    )  # fmt: skip
    entry = interpret(found)
    assert isinstance(entry, Lease) is (subnet is not None)
    assert entry.subnet == subnet
