"""Following a collection: complete, in order, through every kind of trouble."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any, Unpack

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.kube.config import KubeConfig
from hostkit.kube.listwatch import Changed, FollowOptions, Listed, follow
from hostkit.kube.transport import KubeClient
from hostkit.reconcile import Backoff
from tests.fakes.kube import FakeKube, Fault, Refused, Store, status_object
from tests.support.poll import eventually

PODS = "/api/v1/pods"


def name_of(raw: msgspec.Raw) -> str:
    """namespace/name of an object."""
    meta = json.loads(bytes(raw))["metadata"]
    return f"{meta['namespace']}/{meta['name']}"


class Follower:
    """Applies what comes, as a daemon would, and remembers it."""

    def __init__(self) -> None:
        self.lists: list[Listed] = []
        self.seen: dict[str, Any] = {}
        self.versions: list[int] = []
        self.states: list[tuple[bool, str]] = []
        self._news = asyncio.Event()

    def state(self, connected: bool, text: str) -> None:
        self.states.append((connected, text))
        self._news.set()

    @property
    def connected(self) -> bool:
        """Whether a watch runs."""
        return bool(self.states) and self.states[-1][0]

    @property
    def troubles(self) -> list[str]:
        """The sentences told so far."""
        return [text for connected, text in self.states if not connected]

    def take(self, item: Listed | Changed) -> None:
        if isinstance(item, Listed):
            self.lists.append(item)
            self.seen = {name_of(raw): spec_of(raw) for raw in item.items}
        else:
            self.versions.append(int(item.version))
            if item.kind == "DELETED":
                del self.seen[name_of(item.object)]
            else:
                self.seen[name_of(item.object)] = spec_of(item.object)
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._news.clear()
                await self._news.wait()


def spec_of(raw: msgspec.Raw) -> Any:
    """The spec of an object."""
    return json.loads(bytes(raw))["spec"]


@asynccontextmanager
async def following(
    client: KubeClient, **options: Unpack[FollowOptions]
) -> AsyncIterator[Follower]:
    """A running watch of all pods."""
    follower = Follower()
    defaults: FollowOptions = {
        "probe_every": 0.05,
        "probe_timeout": 20,
        "backoff": Backoff(first=0.01, most=0.05),
        "on_state": follower.state,
    }

    defaults.update(options)

    async def run() -> None:
        async with aclosing(follow(client, PODS, **defaults)) as items:
            async for item in items:
                follower.take(item)

    task = asyncio.create_task(run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


def truth(store: Store) -> dict[str, Any]:
    """What a follower must end up with."""
    return {name: body["spec"] for name, body in store.at(PODS, store.version).items()}


async def test_the_list_comes_first_and_then_the_changes_in_order(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    store.put(PODS, "default/a", x=1)
    store.put("/api/v1/services", "default/other")
    async with following(client, params=[("labelSelector", "x")]) as follower:
        await follower.until(lambda: follower.connected)
        store.put(PODS, "default/b", x=2)
        store.put("/api/v1/services", "default/more")
        store.put(PODS, "default/a", x=3)
        store.delete(PODS, "default/b")
        await follower.until(lambda: len(follower.versions) == 3)
    assert follower.lists[0].version == "12"
    assert follower.versions == [13, 15, 16]
    assert follower.seen == {"default/a": {"x": 3}}
    assert follower.states == [(True, servers[0].url)]
    lists, watches = servers[0].queries("list"), servers[0].queries("watch")
    assert lists == [{"labelSelector": "x", "resourceVersion": "0"}]
    assert (
        watches[0].items()
        >= {
            "labelSelector": "x",
            "resourceVersion": "12",
            "allowWatchBookmarks": "true",
        }.items()
    )
    assert 300 <= int(watches[0]["timeoutSeconds"]) <= 600


async def test_a_watch_that_the_server_ends_is_resumed_without_a_list(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        store.put(PODS, "default/a")
        await follower.until(lambda: len(follower.seen) == 1)
        servers[0].end_watches()
        store.put(PODS, "default/b")
        await follower.until(lambda: len(follower.seen) == 2)
    assert len(follower.lists) == 1
    assert servers[0].queries("watch")[1]["resourceVersion"] == "11"
    assert follower.states == [(True, servers[0].url)]


async def test_an_object_cut_in_the_middle_comes_whole_from_the_next_watch(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        store.put(PODS, "default/a")
        await follower.until(lambda: len(follower.seen) == 1)
        await servers[0].inject(b'{"type":"ADDED","object":{"metadata":{"name":"ha')
        servers[0].cut_watches()
        store.put(PODS, "default/b")
        await follower.until(lambda: len(follower.seen) == 2)
        assert follower.seen == truth(store)
    assert len(follower.lists) == 1
    assert follower.versions == [11, 12]


async def test_a_bookmark_moves_the_position_and_is_not_handed_on(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "500"}}}
        store.version = 500
        await servers[0].inject(json.dumps(mark).encode() + b"\n")
        servers[0].end_watches()
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
    assert servers[0].queries("watch")[1]["resourceVersion"] == "500"
    assert follower.versions == [501]
    assert len(follower.lists) == 1


async def test_a_forgotten_position_leads_to_a_new_list_that_is_not_older(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        store.version = 20
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
        servers[0].pause()
        store.put(PODS, "default/b")
        store.delete(PODS, "default/a")
        store.compact()
        servers[0].resume()
        servers[0].cut_watches()
        await follower.until(lambda: follower.seen == truth(store))
        store.put(PODS, "default/c")
        await follower.until(lambda: follower.seen == truth(store))


async def test_410_as_an_http_status_is_the_same_as_in_an_event(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    servers[0].fail("watch", Refused(410, "Expired", "too old"))
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
    assert len(follower.lists) == 2
    assert follower.states == [(True, servers[0].url)]


async def test_a_list_version_that_is_gone_is_asked_without(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    servers[0].fail("list", Refused(410, "Expired", "too old"))
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
    assert servers[0].queries("list")[:2] == [{"resourceVersion": "0"}, {}]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"<html>", "its watch sent what is no event"),
        (b"\xff\x00", "its watch sent what is no event"),
        (b"[" * 100_000, "its watch sent what is no event"),
        (b'{"type":"ADDED","object":{"spec":{}}}', "its watch sent what is no event"),
        (b'{"type":"ADDED","object":7}', "its watch sent what is no event"),
        (b'{"type":"BOOM","object":{"metadata":{}}}', "an event of type 'BOOM'"),
        (
            json.dumps({"type": "ERROR", "object": status_object(500, "", "etcd broke")}).encode(),
            "its watch ended with: etcd broke",
        ),
    ],
)
async def test_a_line_that_makes_no_sense_is_told_and_leads_to_a_new_list(
    client: KubeClient, store: Store, servers: list[FakeKube], line: bytes, sentence: str
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        await servers[0].inject(line + b"\n")
        await follower.until(lambda: len(follower.lists) == 2)
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen) and follower.connected)
    assert len(follower.troubles) == 1
    assert sentence in follower.troubles[0]
    assert servers[0].url in follower.troubles[0]
    assert len(follower.troubles[0]) < 500


@pytest.mark.parametrize(
    "fault", [Refused(200, text="<html>log in</html>"), Refused(200, text='{"items": 3}'), "cut"]
)
async def test_a_list_that_is_none_is_taken_from_another_server(
    client: KubeClient, servers: list[FakeKube], fault: Fault | Refused
) -> None:
    servers[0].fail("list", fault, times=2)
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        assert follower.states[-1] == (True, servers[1].url)


async def test_a_silent_server_is_left_and_nothing_is_lost(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client, probe_timeout=0.5) as follower:
        await follower.until(lambda: follower.connected)
        servers[0].pause()
        store.put(PODS, "default/a")
        await follower.until(lambda: follower.seen == truth(store))
        servers[0].resume()
    assert (True, servers[1].url) in follower.states
    assert len(follower.lists) == 1
    assert "no answer within 0.5 s" in follower.troubles[0]


async def test_a_quiet_server_that_answers_is_not_left(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        await eventually(lambda: len(servers[0].queries("version")) >= 3)
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
    assert len(servers[0].queries("watch")) == 1
    assert not follower.troubles


async def test_watches_of_one_server_share_their_probes(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    probes = servers[0].queries
    async with AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(following(client, probe_every=0.2)) for _ in range(20)
        ]
        for follower in followers:
            await follower.until(lambda one=follower: one.connected)  # type: ignore[misc]
        began, before = time.monotonic(), len(probes("version"))
        await eventually(lambda: len(probes("version")) >= before + 5)
        # One in each 0.2 s at most, for all of them.
        assert len(probes("version")) - before <= (time.monotonic() - began) / 0.2 + 2
    assert len(probes("watch")) == 20


async def test_a_server_that_answers_others_is_not_probed_for_a_quiet_watch(
    servers: list[FakeKube],
) -> None:
    now = 0.0
    config = KubeConfig((servers[0].url,))
    client = KubeClient(config, user_agent="test", clock=lambda: now)
    async with following(client, probe_every=0.01) as follower:
        await follower.until(lambda: follower.connected)
        for _ in range(50):
            await client.get(PODS)
        assert client.quiet_for(servers[0].url) == 0
        assert not servers[0].queries("version")
        now = 1.0
        await eventually(lambda: bool(servers[0].queries("version")))
    assert client.quiet_for(servers[1].url) == float("inf")
    await client.close()


async def test_an_event_does_not_wait_for_a_slow_probe(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    servers[0].fail("version", "hang")
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        await eventually(lambda: bool(servers[0].queries("version")))
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
    assert not follower.troubles


async def test_a_watch_that_outlives_its_time_is_left(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    now = 0.0
    async with following(client, clock=lambda: now) as follower:
        await follower.until(lambda: follower.connected)
        now = 631.0
        await follower.until(lambda: follower.states[-1] == (True, servers[1].url))
    assert "its watch outlived its time" in follower.troubles[0]


async def test_a_server_that_comes_back_with_older_data_is_followed(store: Store) -> None:
    async with FakeKube(store) as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test")
        store.put(PODS, "default/a")
        async with following(client) as follower:
            await follower.until(lambda: follower.connected)
            store.put(PODS, "default/b")
            await follower.until(lambda: len(follower.seen) == 2)
            await server.down()
            store.rewind(11)
            await server.up()
            await follower.until(lambda: list(follower.seen) == ["default/a"])
            store.put(PODS, "default/c")
            await follower.until(lambda: follower.seen == truth(store))
        assert any("its data went back from version 12 to 11" in it for it in follower.troubles)
        await client.close()


async def test_a_rebuilt_cluster_with_higher_versions_is_followed(store: Store) -> None:
    async with FakeKube(store) as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test")
        store.put(PODS, "default/a")
        async with following(client) as follower:
            await follower.until(lambda: follower.connected)
            await server.down()
            # As kube-apiserver does: it knows no history from before its own start.
            server.store = Store(version=1000)
            server.store.put(PODS, "default/new")
            server.store.compact()
            await server.up()
            await follower.until(lambda: list(follower.seen) == ["default/new"])
        await client.close()


async def test_data_never_go_back_when_the_next_server_lags_behind(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        for number in range(5):
            store.put(PODS, "default/a", x=number)
        await follower.until(lambda: len(follower.versions) == 5)
        servers[1].lag = 3
        await servers[0].inject(b"garbage\n")
        await servers[0].down()
        await follower.until(lambda: follower.states[-1] == (True, servers[1].url))
        store.put(PODS, "default/b")
        servers[1].lag = 0
        store.put(PODS, "default/c")
        await follower.until(lambda: follower.seen == truth(store))
    assert all(before < after for before, after in pairwise(follower.versions))
    assert [spec_of(raw) for raw in follower.lists[-1].items] == [{"x": 4}]
    assert {"resourceVersion": "15"} in servers[1].queries("list")
    assert {} in servers[1].queries("list")


async def test_while_no_server_answers_nothing_is_handed_on_and_it_is_told_once(
    client: KubeClient, store: Store, servers: list[FakeKube]
) -> None:
    store.put(PODS, "default/a")
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        for server in servers:
            await server.down()
        await follower.until(lambda: any("no API server" in it for it in follower.troubles))
        told = len(follower.states)
        refused = client.endpoint_errors
        assert set(refused) == {server.url for server in servers}
        store.put(PODS, "default/b")
        for server in servers:
            await server.up()
        await follower.until(lambda: follower.seen == truth(store))
        assert follower.connected
    assert len(follower.lists) == 1
    assert told <= 3


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_told_in_words_and_tried_again(
    client: KubeClient, servers: list[FakeKube], status: int
) -> None:
    servers[0].fail("list", Refused(status, "Why", "not for you"), times=3)
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
    assert len(follower.troubles) == 1
    assert "not for you" in follower.troubles[0]


class Naps:
    """A sleep that remembers how long it should have taken."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks_up_to_a_minute(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    naps = Naps()
    for asked in (45, 3600):
        servers[0].fail("list", Refused(429, "TooManyRequests", "busy", retry_after=asked))
    async with following(client, sleep=naps) as follower:
        await follower.until(lambda: follower.connected)
    assert naps.taken == [45, 60]
    assert ["busy" in text for text in follower.troubles] == [True]


async def test_watches_that_are_closed_at_once_are_tried_with_growing_pauses(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    now, naps = 0.0, Naps()
    for server in servers:
        server.fail("watch", "cut", times=1000)
    options: FollowOptions = {
        "sleep": naps,
        "clock": lambda: now,
        "backoff": Backoff(first=1, most=8, jitter=0),
    }
    async with following(client, **options):
        await eventually(lambda: len(naps.taken) >= 6)
    assert naps.taken[:6] == [1, 2, 4, 8, 8, 8]


async def test_positions_forgotten_again_and_again_are_tried_with_growing_pauses(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    now, naps = 0.0, Naps()
    servers[0].fail("watch", Refused(410), times=1000)
    options: FollowOptions = {
        "sleep": naps,
        "clock": lambda: now,
        "backoff": Backoff(first=1, most=8, jitter=0),
    }
    async with following(client, **options):
        await eventually(lambda: len(naps.taken) >= 4)
    assert naps.taken[:4] == [1, 2, 4, 8]


async def test_after_a_watch_that_lived_the_next_attempt_comes_at_once(
    client: KubeClient, servers: list[FakeKube]
) -> None:
    now, naps = 0.0, Naps()
    async with following(client, sleep=naps, clock=lambda: now) as follower:
        for _ in range(4):
            await eventually(lambda: servers[0].watches == 1)
            now += 10
            servers[0].end_watches()
        await eventually(lambda: servers[0].watches == 1)
        assert not follower.troubles
    assert not naps.taken


async def test_a_slow_consumer_loses_nothing(store: Store) -> None:
    async with FakeKube(store) as server:
        client = KubeClient(KubeConfig((server.url,)), user_agent="test")
        seen: list[int] = []
        async with aclosing(follow(client, PODS, probe_every=0.05)) as items:
            assert isinstance(await anext(items), Listed)
            waiting = asyncio.create_task(anext(items))
            await eventually(lambda: server.watches == 1)
            for number in range(300):
                store.put(PODS, f"default/a{number}", text="x" * 20_000)
                if number % 100 == 50:
                    await asyncio.sleep(0)
                    server.cut_watches()
            item = await waiting
            async with asyncio.timeout(60):
                while True:
                    assert isinstance(item, Changed)
                    seen.append(int(item.version))
                    if len(seen) == 300:
                        break
                    if len(seen) % 30 == 0:
                        await asyncio.sleep(0.01)
                    item = await anext(items)
        assert seen == list(range(11, 311))
        await client.close()


async def test_a_watch_goes_back_to_the_first_server_when_that_has_settled(
    store: Store, servers: list[FakeKube]
) -> None:
    client = KubeClient(
        KubeConfig(tuple(server.url for server in servers)),
        user_agent="test",
        probe_every=0.02,
        settle=0.1,
    )
    async with following(client) as follower:
        await follower.until(lambda: follower.connected)
        await servers[0].down()
        await follower.until(lambda: follower.states[-1] == (True, servers[1].url))
        await servers[0].up()
        await follower.until(lambda: follower.states[-1] == (True, servers[0].url))
        store.put(PODS, "default/a")
        await follower.until(lambda: bool(follower.seen))
    assert len(follower.lists) == 1
    await client.close()


_names = st.sampled_from(["default/a", "default/b", "default/c"])
_steps = st.one_of(
    st.tuples(st.just("put"), _names, st.integers(0, 9)),
    st.tuples(
        st.sampled_from(["cut", "end", "garbage", "half", "compact", "bounce", "lag", "settle"]),
        st.just(""),
        st.integers(0, 1),
    ),
)


async def _settle(store: Store, servers: list[FakeKube], follower: Follower) -> None:
    """Wait for the truth, which no change is needed to bring about."""
    for server in servers:
        server.lag = 0
    store.wake()
    await follower.until(lambda: follower.connected and follower.seen == truth(store))
    await eventually(lambda: sum(server.watches for server in servers) > 0)


async def _do(
    store: Store, servers: list[FakeKube], follower: Follower, step: tuple[str, str, int]
) -> None:
    what, name, number = step
    server = servers[number % 2]
    match what:
        case "put" if number == 0 and name in truth(store):
            store.delete(PODS, name)
        case "put":
            store.put(PODS, name, x=number)
        case "cut":
            server.cut_watches()
        case "end":
            server.end_watches()
        case "garbage":
            await server.inject(b"garbage\n")
        case "half":
            await server.inject(b'{"type":"ADDED","object":{"meta')
            server.cut_watches()
        case "compact":
            store.compact()
        case "bounce":
            await server.down()
            await server.up()
        case "lag":
            server.lag = 2
        case _:
            await _settle(store, servers, follower)


async def _survive(steps: list[tuple[str, str, int]]) -> None:
    store = Store()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FakeKube(store)) for _ in range(2)]
        config = KubeConfig(tuple(server.url for server in servers))
        client = KubeClient(config, user_agent="test", probe_every=0.01, settle=0.02)
        stack.push_async_callback(client.close)
        async with following(client, backoff=Backoff(first=0.001, most=0.01)) as follower:
            await _settle(store, servers, follower)
            for step in steps:
                await _do(store, servers, follower, step)
            await _settle(store, servers, follower)
        listed = [int(item.version) for item in follower.lists]
        assert listed == sorted(listed)


@settings(max_examples=40, deadline=None)
@given(st.lists(_steps, max_size=25))
def test_whatever_happens_the_follower_ends_with_the_truth_and_never_goes_back(
    steps: list[tuple[str, str, int]],
) -> None:
    asyncio.run(_survive(steps))
