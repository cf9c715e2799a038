"""Following a prefix: complete, in order, through every kind of trouble."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdError
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.watch import Changes, Snapshot, watch_key, watch_prefix
from hostkit.reconcile import Backoff
from tests.fakes.etcd import FakeEtcd, Refused, Store
from tests.support.poll import eventually


class Follower:
    """Applies what the watch gives, as a daemon would, and remembers it."""

    def __init__(self) -> None:
        self.items: list[Snapshot | Changes] = []
        self.seen: dict[str, bytes] = {}
        self.revisions: list[int] = []
        self.states: list[str] = []
        self.errors: list[EtcdError] = []
        self._news = asyncio.Event()

    def connected(self, endpoint: str) -> None:
        self.states.append(endpoint)
        self._news.set()

    def disconnected(self, error: EtcdError) -> None:
        self.states.append("down")
        self.errors.append(error)
        self._news.set()

    def take(self, item: Snapshot | Changes) -> None:
        self.items.append(item)
        if isinstance(item, Snapshot):
            self.seen = {kv.key: kv.value for kv in item.kvs}
        else:
            for event in item.events:
                self.revisions.append(event.kv.mod_revision)
                if event.type == "put":
                    self.seen[event.kv.key] = event.kv.value
                else:
                    del self.seen[event.kv.key]
        self._news.set()

    @property
    def snapshots(self) -> int:
        return sum(isinstance(item, Snapshot) for item in self.items)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def following(
    client: EtcdClient, prefix: str = "/n/", *, key: str = "", probe_timeout: float = 20.0
) -> AsyncIterator[Follower]:
    """A running watch of *prefix*, or of *key* alone."""
    follower = Follower()

    async def run() -> None:
        watch = (watch_key if key else watch_prefix)(
            client,
            key or prefix,
            probe_interval=0.2,
            probe_timeout=probe_timeout,
            backoff=Backoff(first=0.01, most=0.05),
            listener=follower,
        )
        async with aclosing(watch) as items:
            async for item in items:
                follower.take(item)

    task = asyncio.create_task(run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def connected(follower: Follower) -> None:
    await follower.until(lambda: bool(follower.states) and follower.states[-1] != "down")


async def test_the_first_item_is_the_full_truth_and_then_come_the_changes_in_order(
    client: EtcdClient, store: Store
) -> None:
    store.put("/n/a", b"1")
    store.put("/other", b"x")
    async with following(client) as follower:
        await connected(follower)
        store.put("/n/b", b"2")
        store.put("/other", b"y")
        store.delete("/n/a")
        store.put("/n/b", b"3")
        await follower.until(lambda: follower.seen == {"/n/b": b"3"})
    first = follower.items[0]
    assert isinstance(first, Snapshot)
    assert [kv.key for kv in first.kvs] == ["/n/a"]
    assert first.revision == 3
    assert follower.revisions == [4, 6, 7]
    assert follower.snapshots == 1


async def test_a_cut_stream_goes_on_elsewhere_without_loss_or_repetition(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    async with following(client) as follower:
        await connected(follower)
        wanted: list[int] = []
        for round_ in range(5):
            for number in range(10):
                wanted.append(store.put(f"/n/{number}", str(round_).encode()))
                if number == round_:
                    for member in members:
                        member.cut_streams()
        await follower.until(lambda: follower.revisions[-1:] == wanted[-1:])
        assert follower.revisions == wanted
        assert follower.snapshots == 1
        assert follower.states[:3] == [members[0].url, "down", members[1].url]


async def test_a_silent_member_is_left_for_another_and_nothing_is_missed(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    async with following(client, probe_timeout=0.5) as follower:
        await connected(follower)
        members[0].pause()
        store.put("/n/a", b"1")
        await follower.until(lambda: follower.seen == {"/n/a": b"1"})
        assert client.endpoint == members[1].url
        members[0].resume()
        store.put("/n/a", b"2")
        await follower.until(lambda: follower.seen == {"/n/a": b"2"})
    assert len(follower.revisions) == 2


async def test_a_quiet_prefix_is_probed_and_the_healthy_stream_kept(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    async with following(client) as follower:
        await connected(follower)
        await eventually(lambda: sum("count_only" in body for _, body in members[0].requests) >= 3)
        assert members[0].count("watch") == 1
        store.put("/n/a", b"1")
        await follower.until(lambda: follower.seen == {"/n/a": b"1"})
    assert follower.states == [members[0].url]


async def test_after_an_outage_of_all_members_everything_missed_arrives_and_no_cause_is_told_twice(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    store.put("/n/a", b"1")
    async with following(client) as follower:
        await connected(follower)
        for member in members:
            await member.down()
        await follower.until(lambda: follower.states[-1] == "down")
        store.delete("/n/a")
        store.put("/n/b", b"1")
        await eventually(lambda: len(client.endpoint_errors) == 3)
        for member in members:
            await member.up()
        await follower.until(lambda: follower.seen == {"/n/b": b"1"})
    assert follower.revisions == [3, 4]
    texts = [str(error) for error in follower.errors]
    assert len(set(texts)) == len(texts)


async def test_history_compacted_during_an_outage_leads_to_a_new_full_truth(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    store.put("/n/a", b"1")
    async with following(client) as follower:
        await connected(follower)
        for member in members:
            await member.down()
        store.delete("/n/a")
        store.put("/n/b", b"1")
        store.compact()
        for member in members:
            await member.up()
        await follower.until(lambda: follower.snapshots == 2)
        assert follower.seen == {"/n/b": b"1"}
        await connected(follower)
        store.put("/n/c", b"1")
        await follower.until(lambda: "/n/c" in follower.seen)
    assert follower.snapshots == 2


@pytest.mark.parametrize("cluster_id", [None, 99])
@pytest.mark.parametrize("writes", [0, 1, 20])
async def test_an_etcd_rebuilt_meanwhile_leads_to_a_new_full_truth(
    client: EtcdClient,
    store: Store,
    members: list[FakeEtcd],
    cluster_id: int | None,
    writes: int,
) -> None:
    """Also when the new history has grown past our revision under the same cluster id."""
    for number in range(5):
        store.put(f"/n/old{number}", b"1")
    async with following(client) as follower:
        await connected(follower)
        for member in members:
            await member.down()
        store.rebuild(cluster_id=cluster_id)
        for number in range(writes):
            store.put(f"/n/new{number}", b"1")
        for member in members:
            await member.up()
        await follower.until(lambda: follower.snapshots == 2)
        assert set(follower.seen) == {f"/n/new{number}" for number in range(writes)}
        await connected(follower)
        store.put("/n/last", b"1")
        await follower.until(lambda: "/n/last" in follower.seen)
    assert follower.snapshots == 2


async def test_a_watch_outlives_refusals_and_tells_the_cause(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    for member in members:
        member.fail("watch", Refused(403, 7, "etcdserver: permission denied"), times=2)
        member.fail("kv/range", Refused(400, 3, "etcdserver: odd"), times=1)
    async with following(client) as follower:
        await connected(follower)
        store.put("/n/a", b"1")
        await follower.until(lambda: follower.seen == {"/n/a": b"1"})
    assert follower.states[0] == "down"
    assert "odd" in str(follower.errors[0])


async def test_each_change_of_the_cause_is_told_while_there_is_no_connection(
    members: list[FakeEtcd], store: Store, config: EtcdConfig
) -> None:
    member = members[0]
    await member.down()
    client = EtcdClient(replace(config, endpoints=(member.url,)))

    async with following(client) as follower:

        async def told(text: str) -> None:
            await follower.until(lambda: text in str(follower.errors[-1:]))

        await told("refused")
        member.v2_only = True
        await member.up()
        await told("no /v3 API")
        store.user, store.password = "netd", "s3cret"
        unwanted = "CommonName of client sending a request against gateway will be ignored"
        member.fail("kv/range", Refused(400, 3, unwanted), times=3)
        member.v2_only = False
        await told("without CN")
        await told("wants username and password")
        store.user = ""
        await connected(follower)
        await member.down()
        await told("refused")
    await client.close()
    texts = [str(error) for error in follower.errors]
    assert all(one != next_ for one, next_ in pairwise(texts))


async def test_a_first_connection_that_takes_long_is_told_before_it_is_given_up(
    members: list[FakeEtcd], store: Store, config: EtcdConfig
) -> None:
    """The total deadline is an hour, so nothing but an early word ends the waiting."""
    client = EtcdClient(replace(config, total_timeout=3600.0))
    for member in members:
        member.pause()
    async with following(client) as follower:
        await follower.until(lambda: bool(follower.errors))
        assert f"{members[0].url}: no answer within" in str(follower.errors[0])
        await follower.until(lambda: all(m.url in str(follower.errors[-1]) for m in members))
        for member in members:
            member.resume()
        await connected(follower)
        store.put("/n/a", b"1")
        await follower.until(lambda: follower.seen == {"/n/a": b"1"})
    await client.close()


async def test_one_dead_member_of_three_is_no_trouble_for_a_first_connection(
    client: EtcdClient, members: list[FakeEtcd]
) -> None:
    members[0].fail("kv/range", Refused(503, 14, "etcdserver: no leader"))
    async with following(client) as follower:
        await connected(follower)
    assert follower.states == [members[1].url]


async def test_a_stream_of_nonsense_is_left_for_another_endpoint(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    for text in ["[" * 200_000, '{"result":' * 200_000, '{"x":' + "[" * 200_000, "<html>"]:
        for member in members:
            member.fail("watch", Refused(200, -1, text + "\n"))
    async with following(client) as follower:
        await connected(follower)
        store.put("/n/a", b"1")
        await follower.until(lambda: follower.seen == {"/n/a": b"1"})
    assert all("no etcd answer" in str(error) for error in follower.errors)
    assert follower.snapshots == 1


async def test_a_single_key_is_followed_and_its_neighbours_are_not(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    store.put("/n/config", b"1")
    store.put("/n/config2", b"x")
    async with following(client, key="/n/config") as follower:
        await connected(follower)
        assert follower.seen == {"/n/config": b"1"}
        store.put("/n/config/sub", b"x")
        store.put("/n/config2", b"y")
        wanted = [store.put("/n/config", b"2"), store.delete("/n/config")]
        wanted.append(store.put("/n/config", b"3"))
        await follower.until(lambda: follower.revisions == wanted)
        await eventually(lambda: any("count_only" in body for _, body in members[0].requests))
    assert follower.seen == {"/n/config": b"3"}
    ranges = [body.get("create_request", body) for _, body in members[0].requests]
    assert ranges
    assert not any("range_end" in body for body in ranges)


async def test_a_single_key_that_is_not_there_yet_is_followed_through_outage_and_compaction(
    client: EtcdClient, store: Store, members: list[FakeEtcd]
) -> None:
    async with following(client, key="/n/config") as follower:
        await connected(follower)
        assert follower.seen == {}
        for member in members:
            await member.down()
        store.put("/n/config", b"1")
        store.put("/n/other", b"1")
        for member in members:
            await member.up()
        await follower.until(lambda: follower.seen == {"/n/config": b"1"})
        assert follower.snapshots == 1
        for member in members:
            await member.down()
        store.put("/n/config", b"2")
        store.compact()
        for member in members:
            await member.up()
        await follower.until(lambda: follower.snapshots == 2)
        assert follower.seen == {"/n/config": b"2"}


async def test_one_item_carries_large_values_and_odd_keys(client: EtcdClient, store: Store) -> None:
    large = bytes(range(256)) * 4000
    async with following(client) as follower:
        await connected(follower)
        store.put("/n/\udcff", large)
        await follower.until(lambda: "/n/\udcff" in follower.seen)
        assert follower.seen["/n/\udcff"] == large


async def test_closing_the_watch_closes_its_stream(
    client: EtcdClient, members: list[FakeEtcd], store: Store
) -> None:
    async with following(client) as follower:
        await connected(follower)
        assert members[0].streams == 1

    # A server notices when it next writes.
    await eventually(lambda: store.put("/n/a", b"1") > 0 and not members[0].streams)


async def test_an_item_is_not_lost_when_the_consumer_is_slow(
    client: EtcdClient, store: Store
) -> None:
    watch = watch_prefix(client, "/n/", probe_interval=0.05)
    async with aclosing(watch) as items, asyncio.timeout(20):
        assert isinstance(await anext(items), Snapshot)
        wanted = [store.put(f"/n/{number}", b"1") for number in range(300)]
        got: list[int] = []
        while len(got) < 300:
            item = await anext(items)
            assert isinstance(item, Changes)
            got += [event.kv.mod_revision for event in item.events]
            assert item.revision == got[-1]
            wanted.append(store.put("/n/x", b"2"))
        assert got == wanted[: len(got)]
