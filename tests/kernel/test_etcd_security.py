"""TLS, client certificates and users on a real etcd."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdAuthError, EtcdError, EtcdTlsError, EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.watch import Changes, Snapshot, watch_key, watch_prefix
from tests.support.certs import Authority
from tests.support.etcd import EtcdCluster, ServerTls
from tests.support.watching import PREFIX, WAIT, client_of, create, following, member_of, until

pytestmark = pytest.mark.kernel


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members."""
    with EtcdCluster(tmp_path / "etcd", 3) as made:
        yield made


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
        plain = EtcdConfig((cluster.endpoints[0].replace("https", "http"),), total_timeout=5.0)
        client = EtcdClient(plain)
        with pytest.raises(EtcdUnavailable, match="try https://"):
            await client.get("/a")
        await client.close()


async def test_a_certificate_renewed_on_disk_is_taken_without_a_restart(
    tmp_path: Path, authority: Authority
) -> None:
    stale = authority.issue("stale", cn="netd", days=-1)
    fresh = authority.issue("fresh", cn="netd")
    files = {"cafile": str(authority.cert), "certfile": str(stale.cert), "keyfile": str(stale.key)}
    async with secured(tmp_path, authority) as cluster, client_of(cluster, **files) as client:
        with pytest.raises(EtcdTlsError):
            await client.get("/a")
        fresh.key.replace(stale.key)
        fresh.cert.replace(stale.cert)
        await client.put("/a", b"v")


async def test_a_certificate_renewed_before_its_end_is_used_by_the_next_request(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """No failure has to come first, and half of the new pair breaks nothing."""
    old = authority.issue("old", cn="netd")
    new = authority.issue("new", cn="netd")
    files = {"cafile": str(authority.cert), "certfile": str(old.cert), "keyfile": str(old.key)}
    async with secured(tmp_path, authority) as cluster, client_of(cluster, **files) as client:
        await client.put("/a", b"1")
        context = client._transport._context
        assert context is not None
        before = context.value
        new.cert.replace(old.cert)
        for value in (b"2", b"3"):
            await client.put("/a", value)
        assert context.value is before
        warnings = [one for one in caplog.messages if "keeping the certificates" in one]
        assert len(warnings) == 1
        assert str(old.cert) in warnings[0]
        new.key.replace(old.key)
        await client.put("/a", b"4")
        assert context.value is not before


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
        client_of(cluster, total_timeout=10.0, **files) as client,
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


class Causes:
    """What a watch tells of its connection."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []
        self.errors: list[EtcdError] = []

    def connected(self, endpoint: str) -> None:
        self.endpoints.append(endpoint)

    def disconnected(self, error: EtcdError) -> None:
        self.errors.append(error)


async def test_a_role_for_exactly_one_key_can_follow_that_key_but_no_prefix(
    cluster: EtcdCluster,
) -> None:
    key = "/coreos.com/network/config"
    cluster.ctl("put", key, "1")
    cluster.ctl("put", f"{key}2", "x")
    cluster.ctl("user", "add", "netd:s3cret")
    cluster.ctl("role", "add", "network")
    cluster.ctl("role", "grant-permission", "network", "readwrite", key)
    cluster.ctl("user", "grant-role", "netd", "network")
    cluster.enable_auth("root-s3cret")
    told = Causes()
    async with client_of(cluster, username="netd", password="s3cret") as client:  # noqa: S106
        watch = watch_key(client, key, probe_interval=0.2, probe_timeout=30.0, listener=told)
        async with aclosing(watch) as items, asyncio.timeout(WAIT):
            first = await anext(items)
            assert isinstance(first, Snapshot)
            assert [(kv.key, kv.value) for kv in first.kvs] == [(key, b"1")]
            # Waiting is what lets the stream open, and be probed while it is quiet.
            waiting = asyncio.ensure_future(anext(items))
            await until(lambda: bool(told.endpoints))
            revision = await client.put(key, b"2")
            item = await waiting
            assert isinstance(item, Changes)
            assert item.revision == revision
            assert [(event.kv.key, event.kv.value) for event in item.events] == [(key, b"2")]
            assert not told.errors
        async with aclosing(watch_prefix(client, key, listener=told)) as items:
            refused = asyncio.ensure_future(anext(items))
            await until(lambda: bool(told.errors))
            refused.cancel()
            await asyncio.gather(refused, return_exceptions=True)
        assert "permission denied" in str(told.errors[0])
