"""The etcd client against a real cluster: leaders killed, members stopped, history gone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostkit.etcd.errors import LeaseGone
from hostkit.etcd.gateway import put
from hostkit.etcd.lease import LeaseKeeper
from tests.support.etcd import EtcdCluster
from tests.support.watching import PREFIX, WAIT, client_of, create, following, member_of, until

pytestmark = pytest.mark.kernel


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members."""
    with EtcdCluster(tmp_path / "etcd", 3) as made:
        yield made


@pytest.fixture
def single(tmp_path: Path) -> Iterator[EtcdCluster]:
    """One member."""
    with EtcdCluster(tmp_path / "etcd", 1) as made:
        yield made


async def test_no_write_and_no_event_is_lost_when_the_leader_is_killed_during_a_burst(
    cluster: EtcdCluster,
) -> None:
    """The watched member is the leader too, so that writes, reads and watch all have to move."""
    leader = cluster.leader()
    async with client_of(cluster) as writer, client_of(cluster) as reader:
        reader.answered(cluster.endpoints[leader])
        writer.answered(cluster.endpoints[leader])
        async with following(reader) as follower:
            assert follower.connected_to == cluster.endpoints[leader]
            for number in range(200):
                if number == 60:
                    cluster.kill(leader)
                await create(writer, f"{PREFIX}{number}", str(number).encode())
            wanted = {f"{PREFIX}{number}": str(number).encode() for number in range(200)}
            await until(lambda: follower.seen == wanted)
            assert follower.snapshots == 1
            # Each key was created once, and each creation was told once and in order.
            assert len(follower.revisions) == 200
            assert follower.revisions == sorted(set(follower.revisions))
            assert follower.outages >= 1


async def test_a_watch_leaves_a_stopped_member_and_the_others_tell_what_it_missed(
    cluster: EtcdCluster,
) -> None:
    leader = cluster.leader()
    watched = (leader + 1) % 3
    async with client_of(cluster) as writer, client_of(cluster) as reader:
        writer.answered(cluster.endpoints[leader])
        reader.answered(cluster.endpoints[watched])
        async with following(reader) as follower:
            assert member_of(cluster, follower.connected_to) == watched
            cluster.pause(watched)
            await writer.put(f"{PREFIX}a", b"1")
            await until(lambda: follower.seen == {f"{PREFIX}a": b"1"})
            assert member_of(cluster, follower.connected_to) != watched
            cluster.resume(watched)
            await writer.put(f"{PREFIX}a", b"2")
            await until(lambda: follower.seen == {f"{PREFIX}a": b"2"})
            assert len(follower.revisions) == 2
            assert follower.snapshots == 1


async def test_calls_move_away_from_a_stopped_member(cluster: EtcdCluster) -> None:
    async with client_of(cluster, call_timeout=1.0) as client:
        await client.put("/a", b"v")
        stopped = member_of(cluster, client.endpoint)
        cluster.pause(stopped)
        kv = await client.get("/a")
        assert kv is not None
        assert member_of(cluster, client.endpoint) != stopped
        assert "no answer within" in client.endpoint_errors[cluster.endpoints[stopped]]


async def test_history_compacted_during_an_outage_is_replaced_by_the_full_truth(
    single: EtcdCluster,
) -> None:
    single.ctl("put", f"{PREFIX}gone", "1")
    single.ctl("put", f"{PREFIX}kept", "1")
    async with client_of(single) as client, following(client) as follower:
        # Freeze the consumer's view: the watch is cut and cannot come back meanwhile.
        single.kill(0)
        await until(lambda: not follower.connected_to)
        with EtcdCluster(single.directory, 1, like=single) as hidden:
            hidden.ctl("del", f"{PREFIX}gone")
            hidden.ctl("put", f"{PREFIX}new", "1")
            hidden.compact()
            hidden.defrag(0)
        single.start_member(0)
        single.wait_ready()
        await until(lambda: follower.snapshots == 2)
        assert set(follower.seen) == {f"{PREFIX}kept", f"{PREFIX}new"}
        await until(lambda: bool(follower.connected_to))
        await client.put(f"{PREFIX}later", b"1")
        await until(lambda: f"{PREFIX}later" in follower.seen)


@pytest.mark.parametrize("writes", [1, 30])
async def test_a_wiped_etcd_is_noticed_also_when_it_has_grown_past_us(
    single: EtcdCluster, writes: int
) -> None:
    """The same member addresses give the same cluster id again."""
    for number in range(10):
        single.ctl("put", f"{PREFIX}old{number}", "1")
    async with client_of(single) as client, following(client) as follower:
        assert len(follower.seen) == 10
        single.kill(0)
        await until(lambda: not follower.connected_to)
        single.wipe(0)
        with EtcdCluster(single.directory, 1, like=single) as hidden:
            for number in range(writes):
                hidden.ctl("put", f"{PREFIX}new{number}", "1")
        single.start_member(0)
        await until(lambda: set(follower.seen) == {f"{PREFIX}new{n}" for n in range(writes)})
        assert follower.snapshots == 2


async def test_everything_missed_while_all_members_were_down_arrives_afterwards(
    cluster: EtcdCluster,
) -> None:
    async with client_of(cluster) as client, following(client) as follower:
        await client.put(f"{PREFIX}a", b"1")
        for index in range(3):
            cluster.kill(index)
        await until(lambda: not follower.connected_to)
        for index in range(3):
            cluster.start_member(index)
        cluster.wait_ready()
        await create(client, f"{PREFIX}b", b"1")
        await until(lambda: set(follower.seen) == {f"{PREFIX}a", f"{PREFIX}b"})
        assert follower.snapshots == 1
        assert follower.outages >= 1


async def test_a_large_prefix_and_a_large_value_pass_whole(single: EtcdCluster) -> None:
    large = bytes(range(256)) * 4096
    async with client_of(single) as client, following(client) as follower:
        for begin in range(0, 3000, 100):
            ops = [put(f"{PREFIX}{number}", b"x" * 180) for number in range(begin, begin + 100)]
            assert (await client.txn([], ops)).succeeded
        await client.put(f"{PREFIX}large", large)
        await until(lambda: len(follower.seen) == 3001)
        assert follower.seen[f"{PREFIX}large"] == large
        assert len((await client.range_prefix(PREFIX)).kvs) == 3001


async def test_a_lease_is_kept_past_its_ttl_and_its_end_is_noticed(cluster: EtcdCluster) -> None:
    async with client_of(cluster) as client:
        lease_id, ttl = await client.lease_grant(6)
        await client.put(f"{PREFIX}a", b"1", lease=lease_id)
        keeper = LeaseKeeper(client, lease_id, ttl)
        task = asyncio.create_task(keeper.run())
        begun = keeper.last_success
        await until(lambda: keeper.last_success > begun + 2 * ttl)
        assert await client.get(f"{PREFIX}a") is not None
        # The leader, which alone knows when leases end, goes away in between.
        before = keeper.last_success
        cluster.kill(cluster.leader())
        await until(lambda: keeper.last_success > before + ttl)
        assert await client.get(f"{PREFIX}a") is not None
        await client.lease_revoke(lease_id)
        async with asyncio.timeout(WAIT):
            with pytest.raises(LeaseGone):
                await task
