"""The etcd client against a real cluster: leaders killed, members stopped, TLS, users."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import (
    EtcdAuthError,
    EtcdError,
    EtcdTlsError,
    EtcdUnavailable,
    LeaseGone,
)
from hostkit.etcd.gateway import EtcdClient, absent, get, put
from hostkit.etcd.lease import LeaseKeeper
from hostkit.etcd.watch import Changes, Snapshot, watch_prefix
from tests.support.certs import Authority
from tests.support.etcd import EtcdCluster, ServerTls
from tests.support.poll import eventually

pytestmark = pytest.mark.kernel

PREFIX = "/coreos.com/network/subnets/"
WAIT = 60.0


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


@asynccontextmanager
async def client_of(cluster: EtcdCluster, **values: Any) -> AsyncIterator[EtcdClient]:
    """A client of all members."""
    config = EtcdConfig(cluster.endpoints, **{"total_timeout": 30.0, **values})
    client = EtcdClient(config)
    try:
        yield client
    finally:
        await client.close()


class Follower:
    """The state of the prefix as the watch tells it."""

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self.revisions: list[int] = []
        self.snapshots = 0
        self.connected_to = ""
        self.outages = 0

    def connected(self, endpoint: str) -> None:
        self.connected_to = endpoint

    def disconnected(self, error: EtcdError) -> None:
        assert str(error)
        self.connected_to = ""
        self.outages += 1

    def take(self, item: Snapshot | Changes) -> None:
        if isinstance(item, Snapshot):
            self.snapshots += 1
            self.seen = {kv.key: kv.value for kv in item.kvs}
            return
        for event in item.events:
            self.revisions.append(event.kv.mod_revision)
            if event.type == "put":
                self.seen[event.kv.key] = event.kv.value
            else:
                del self.seen[event.kv.key]


@asynccontextmanager
async def following(client: EtcdClient) -> AsyncIterator[Follower]:
    """A watch of PREFIX that has connected."""
    follower = Follower()

    async def run() -> None:
        watch = watch_prefix(
            client, PREFIX, probe_interval=0.5, probe_timeout=1.0, listener=follower
        )
        async with aclosing(watch) as items:
            async for item in items:
                follower.take(item)

    task = asyncio.create_task(run())
    try:
        await until(lambda: bool(follower.connected_to))
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for *holds*, as long as a busy machine may take."""
    await eventually(holds, timeout=WAIT)


async def create(client: EtcdClient, key: str, value: bytes) -> None:
    """Create *key* as a lease holder does: a doubtful write is decided by reading again."""
    while True:
        try:
            await client.txn([absent(key)], [put(key, value)], [get(key)])
        except EtcdUnavailable as error:
            assert error.maybe_applied
        kv = await client.get(key)
        if kv is not None:
            assert kv.value == value
            return


def member_of(cluster: EtcdCluster, endpoint: str) -> int:
    """The number of the member behind *endpoint*."""
    return cluster.endpoints.index(endpoint)


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
            assert follower.outages == 1


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
        assert follower.outages == 1


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
        lease_id, ttl = await client.lease_grant(3)
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


# TLS and users


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The CA of server and clients."""
    return Authority(tmp_path / "ca")


@asynccontextmanager
async def secured(
    directory: Path, authority: Authority, **server: Any
) -> AsyncIterator[EtcdCluster]:
    """One member with TLS that wants client certificates."""
    pair = authority.issue("server", cn="etcd", **server)
    tls = ServerTls(authority.cert, pair, authority.issue("operator", cn="operator"))
    with EtcdCluster(directory / "etcd", 1, tls=tls) as cluster:
        yield cluster


async def test_tls_with_a_client_certificate_carries_calls_and_watches(
    tmp_path: Path, authority: Authority
) -> None:
    pair = authority.issue("netd", cn="netd")
    files = {
        "cafile": str(authority.cert),
        "certfile": str(pair.cert),
        "keyfile": str(pair.key),
    }
    async with (
        secured(tmp_path, authority) as cluster,
        client_of(cluster, **files) as client,
        following(client) as follower,
    ):
        await client.put(f"{PREFIX}a", b"1")
        await until(lambda: follower.seen == {f"{PREFIX}a": b"1"})


async def test_each_certificate_trouble_is_told_in_its_own_words(
    tmp_path: Path, authority: Authority
) -> None:
    good = authority.issue("netd", cn="netd")
    stale = authority.issue("stale", cn="netd", days=-1)
    other = Authority(tmp_path / "other", "other-ca")
    foreign = other.issue("foreign", cn="netd")
    own = {"certfile": str(good.cert), "keyfile": str(good.key)}
    async with secured(tmp_path, authority) as cluster:
        cases: list[tuple[dict[str, str], str]] = [
            ({"cafile": str(other.cert), **own}, "signed by a CA that is not in .*other-ca.pem"),
            ({"cafile": str(authority.cert)}, "client certificate"),
            (
                {"certfile": str(stale.cert), "keyfile": str(stale.key)},
                "refuses the client certificate|has expired",
            ),
            (
                {"certfile": str(foreign.cert), "keyfile": str(foreign.key)},
                "client certificate",
            ),
        ]
        for files, meaning in cases:
            async with client_of(cluster, **{"cafile": str(authority.cert), **files}) as client:
                with pytest.raises(EtcdTlsError, match=meaning):
                    await client.get("/a")
        plain = EtcdClient(EtcdConfig((cluster.endpoints[0].replace("https", "http"),)))
        with pytest.raises(EtcdTlsError, match="use https://"):
            await plain.get("/a")
        await plain.close()


@pytest.mark.parametrize(
    ("server", "meaning"),
    [
        ({"sans": "DNS:elsewhere.example"}, "for another name or address"),
        ({"days": -1}, "has expired"),
    ],
)
async def test_a_server_certificate_that_does_not_fit_is_explained(
    tmp_path: Path, authority: Authority, server: dict[str, Any], meaning: str
) -> None:
    pair = authority.issue("server", cn="etcd", **server)
    good = authority.issue("netd", cn="netd")
    tls = ServerTls(authority.cert, pair, good)
    # The cluster's own etcdctl would not trust it either, so nothing waits for readiness.
    cluster = EtcdCluster(tmp_path / "etcd", 1, tls=tls)
    cluster.directory.mkdir()
    cluster.start_member(0)
    files = {"cafile": str(authority.cert), "certfile": str(good.cert), "keyfile": str(good.key)}
    try:
        async with client_of(cluster, **files) as client, asyncio.timeout(WAIT):
            with pytest.raises(EtcdTlsError, match=meaning):
                await client.get("/a")
    finally:
        cluster.stop()


async def test_a_server_certificate_without_client_usage_is_explained(
    tmp_path: Path, authority: Authority
) -> None:
    good = authority.issue("netd", cn="netd")
    files = {"cafile": str(authority.cert), "certfile": str(good.cert), "keyfile": str(good.key)}
    async with (
        secured(tmp_path, authority, usage="serverAuth") as cluster,
        client_of(cluster, total_timeout=2.0, **files) as client,
    ):
        with pytest.raises(EtcdTlsError, match="clientAuth"):
            await client.get("/a")


async def test_a_client_certificate_with_a_common_name_is_explained_where_users_log_in(
    tmp_path: Path, authority: Authority
) -> None:
    named, nameless = authority.issue("named", cn="netd"), authority.issue("nameless")
    async with secured(tmp_path, authority) as cluster:
        cluster.enable_auth("s3cret")
        user = {"cafile": str(authority.cert), "username": "root", "password": "s3cret"}
        cases = [(named, True), (nameless, False)]
        for pair, refused in cases:
            files = {**user, "certfile": str(pair.cert), "keyfile": str(pair.key)}
            async with client_of(cluster, **files) as client:
                if refused:
                    with pytest.raises(EtcdTlsError, match="without CN"):
                        await client.get("/a")
                else:
                    await client.put("/a", b"v")


async def test_a_user_reads_and_writes_what_the_role_allows_and_nothing_else(
    cluster: EtcdCluster,
) -> None:
    cluster.ctl("user", "add", "netd:s3cret")
    cluster.ctl("role", "add", "network")
    cluster.ctl("role", "grant-permission", "network", "--prefix=true", "readwrite", PREFIX)
    cluster.ctl("user", "grant-role", "netd", "network")
    cluster.enable_auth("root-s3cret")
    user = {"username": "netd", "password": "s3cret"}
    async with client_of(cluster, **user) as client, following(client) as follower:
        await client.put(f"{PREFIX}a", b"1")
        await until(lambda: follower.seen == {f"{PREFIX}a": b"1"})
        with pytest.raises(EtcdAuthError, match="permission denied"):
            await client.put("/elsewhere", b"1")
        # A change of users makes every token given before worthless.
        cluster.ctl("user", "add", "another:pw")
        await client.put(f"{PREFIX}a", b"2")
        # The watch has to log in again wherever it goes.
        cluster.kill(member_of(cluster, follower.connected_to))
        await create(client, f"{PREFIX}b", b"1")
        await until(lambda: set(follower.seen) == {f"{PREFIX}a", f"{PREFIX}b"})
        assert follower.snapshots == 1
    async with client_of(cluster, username="netd", password="wrong") as client:  # noqa: S106
        with pytest.raises(EtcdAuthError, match="authentication failed"):
            await client.get(f"{PREFIX}a")
    async with client_of(cluster) as client:
        with pytest.raises(EtcdAuthError, match="wants username and password"):
            await client.get(f"{PREFIX}a")
