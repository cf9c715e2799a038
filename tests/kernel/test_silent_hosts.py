"""Servers whose hosts die without a word: the clients of both APIs go on at the next server.

The kernel tells a dead host, whose packets vanish, from a server that is only slow, whose host
goes on acknowledging what it gets. No deadline of a client ends within these tests, so it can
only be the kernel that told; how soon it does is what ``python -m bench silence`` measures.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient
from hostkit.etcd.watch import Changes, watch_prefix
from hostkit.kube import connections
from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import KubeUnavailable
from hostkit.kube.listwatch import Changed, follow
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube, Store
from tests.support.etcd import EtcdCluster
from tests.support.netns import Fabric, Inside, Namespace
from tests.support.poll import eventually
from tests.support.silence import BY_THE_KERNEL, silenced

T = TypeVar("T")

NEVER = 3600.0
"""Seconds for every deadline of a client."""
SLOW = 4.0
"""Seconds that a server takes for an answer: more than the kernel gives a host that is silent."""
PATIENCE = 60.0

PODS = "/api/v1/pods"
FIRST, SECOND = "172.29.0.251", "172.29.0.252"
AGENT = "172.29.0.1"


@dataclass
class Scene:
    """Two API servers at addresses of the fabric's own, and a host with a client of both."""

    fabric: Fabric
    store: Store
    servers: list[FakeKube]
    there: Inside
    here: Inside
    client: KubeClient

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work* on the client's host."""
        return self.here.wait(work, deadline=PATIENCE)

    async def on_servers(self, act: Callable[[], None]) -> None:
        """Do *act* in the servers' loop."""

        async def work() -> None:
            act()

        await asyncio.to_thread(self.there.wait, work())

    async def die(self, stack: AsyncExitStack) -> None:
        """Silence the first server's host until *stack* ends."""
        context = silenced(self.fabric.bridge, FIRST)
        await asyncio.to_thread(context.__enter__)
        stack.push(context)

    def given_up(self) -> str:
        """What the client says of the first server."""
        return self.client.endpoint_errors.get(self.servers[0].url, "")


@contextmanager
def inside(fabric: Fabric, label: str) -> Iterator[Inside]:
    """A loop in the fabric's namespace, or on a new host."""
    made = Inside(fabric.host(label, f"{AGENT}/24") if label else fabric.bridge)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def scene(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(connections, "CONNECT_WITHIN", NEVER)
    for address in (FIRST, SECOND):
        fabric.bridge.run(f"ip addr add {address}/24 dev br0")
    store = Store()
    with inside(fabric, "") as there, inside(fabric, "agent") as here:
        servers = [FakeKube(store, address=address) for address in (FIRST, SECOND)]
        for server in servers:
            there.wait(server.up())
        config = KubeConfig(tuple(server.url for server in servers))

        async def connect() -> KubeClient:
            return KubeClient(config, user_agent="test", deadline=NEVER)

        made = Scene(fabric, store, servers, there, here, here.wait(connect()))
        yield made
        here.wait(made.client.close())
        for server in servers:
            there.wait(server.down())


@pytest.mark.parametrize("watches", [1, 5])
def test_idle_watches_go_on_at_the_next_server(scene: Scene, watches: int) -> None:
    async def watch(opened: asyncio.Semaphore) -> str:
        def state(connected: bool, _text: str) -> None:
            if connected:
                opened.release()

        following = follow(scene.client, PODS, probe_every=NEVER, on_state=state)
        async with aclosing(following) as items:
            async for item in items:
                if isinstance(item, Changed):
                    return item.version
        raise AssertionError("a watch has no end")

    async def story() -> None:
        opened = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(watch(opened)) for _ in range(watches)]
        for _ in tasks:
            await opened.acquire()
        async with AsyncExitStack() as stack:
            await scene.die(stack)
            await scene.on_servers(lambda: scene.store.put(PODS, "default/a"))
            await asyncio.gather(*tasks)
            assert scene.client.endpoint == scene.servers[1].url
            assert scene.given_up() == "its host has fallen silent"

    scene.run(story())


def test_a_read_that_has_arrived_is_answered_by_the_next_server(scene: Scene) -> None:
    async def story() -> None:
        scene.servers[0].fail("list", "hang", times=2)
        reading = asyncio.create_task(scene.client.get(PODS))
        await eventually(lambda: bool(scene.servers[0].queries("list")))
        async with AsyncExitStack() as stack:
            await scene.die(stack)
            await reading
            assert scene.given_up() == "its host has fallen silent"

    scene.run(story())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "new"])
def test_a_read_into_the_silence_is_answered_by_the_next_server(scene: Scene, kept: bool) -> None:
    """On a connection that was kept, and on a new one; the next read does not pay again."""

    async def story() -> None:
        if kept:
            await scene.client.get(PODS)
        async with AsyncExitStack() as stack:
            await scene.die(stack)
            await scene.client.get(PODS)
            assert scene.given_up() in BY_THE_KERNEL
            asked = len(scene.servers[1].queries("list"))
            await asyncio.gather(*(scene.client.get(PODS) for _ in range(10)))
            assert len(scene.servers[1].queries("list")) == asked + 10

    scene.run(story())


def test_a_write_into_the_silence_is_told_as_uncertain_and_its_repetition_goes_elsewhere(
    scene: Scene,
) -> None:
    async def write() -> None:
        await scene.client.request("PUT", PODS, body=b'{"metadata": {"name": "a"}}')

    async def story() -> None:
        await scene.client.get(PODS)
        async with AsyncExitStack() as stack:
            await scene.die(stack)
            with pytest.raises(KubeUnavailable) as caught:
                await write()
            assert caught.value.maybe_applied
            assert scene.given_up() == "its host has fallen silent"
            await write()
            assert len(scene.servers[1].requests) == 1

    scene.run(story())


def test_a_write_on_a_new_connection_goes_to_the_next_server_at_once(scene: Scene) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            await scene.die(stack)
            await scene.client.request("PUT", PODS, body=b'{"metadata": {"name": "a"}}')
            assert scene.given_up() in BY_THE_KERNEL
            assert len(scene.servers[1].requests) == 1

    scene.run(story())


def test_a_server_that_is_only_slow_is_not_left(scene: Scene) -> None:
    """Neither by a request nor by a watch whose probe it answers late."""
    slow = scene.servers[0]

    async def story() -> None:
        connected = asyncio.Event()
        troubles: list[str] = []

        def state(good: bool, text: str) -> None:
            if good:
                connected.set()
            else:
                troubles.append(text)

        async def watch() -> None:
            following = follow(
                scene.client, PODS, probe_every=0.1, probe_timeout=NEVER, on_state=state
            )
            async with aclosing(following) as items:
                async for _ in items:
                    pass

        watching = asyncio.create_task(watch())
        await connected.wait()

        resumed = threading.Event()

        def resume() -> None:
            resumed.set()
            slow.resume()

        def stall() -> None:
            slow.pause()
            asyncio.get_running_loop().call_later(SLOW, resume)

        await scene.on_servers(stall)
        probes = len(slow.queries("version"))
        await eventually(lambda: len(slow.queries("version")) > probes)
        await scene.client.get(PODS)
        assert resumed.is_set()
        assert scene.client.endpoint == slow.url
        # Only an answer lets it ask again.
        probes = len(slow.queries("version"))
        await eventually(lambda: len(slow.queries("version")) > probes)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert not troubles
        assert not scene.servers[1].requests

    scene.run(story())


@dataclass
class Members:
    """A cluster of three, each on a host of its own."""

    cluster: EtcdCluster
    hosts: list[Namespace]


@pytest.fixture
def members(fabric: Fabric, tmp_path: Path) -> Iterator[Members]:
    addresses = [f"172.29.0.{number}" for number in (11, 12, 13)]
    hosts = [fabric.host(f"m{number}", f"{one}/24") for number, one in enumerate(addresses)]
    with EtcdCluster(
        tmp_path / "etcd", 3, addresses=addresses, namespaces=[host.name for host in hosts],
        extra_args=["--unsafe-no-fsync"],
    ) as cluster:  # fmt: skip
        yield Members(cluster, hosts)


@pytest.mark.parametrize(
    ("leads", "place"), [(True, 0), (False, 0), (True, 1)],
    ids=["leader", "follower", "leader, not in use"],
)  # fmt: skip
def test_etcd_is_followed_and_leases_renewed_at_the_next_member(
    fabric: Fabric, members: Members, leads: bool, place: int
) -> None:
    """The member's link goes down, so that nobody answers for its address either.

    *place* is that of the member in the client's order. A renewal by a member whose leader dies
    waits for that leader first.
    """
    leader = members.cluster.leader()
    dying = leader if leads else (leader + 1) % 3
    order = [members.cluster.endpoints[(dying + step - place) % 3] for step in range(3)]
    alive = members.cluster.endpoints[(dying + 2) % 3]

    async def change(client: EtcdClient) -> None:
        while True:
            try:
                await client.put("/test/a", b"x")
            except EtcdUnavailable:
                continue
            return

    async def story() -> None:
        config = EtcdConfig(tuple(order), call_timeout=NEVER, total_timeout=NEVER)
        client, writer = EtcdClient(config), EtcdClient(EtcdConfig((alive,)))
        lease, _ = await client.lease_grant(600)
        opened = asyncio.Event()

        class Listener:
            def connected(self, _endpoint: str) -> None:
                opened.set()

            def disconnected(self, _error: object) -> None:
                pass

        async def watch() -> None:
            following = watch_prefix(
                client, "/test/", listener=Listener(), probe_interval=NEVER, probe_timeout=NEVER
            )
            async with aclosing(following) as items:
                async for item in items:
                    if isinstance(item, Changes):
                        return

        watching = asyncio.create_task(watch())
        await opened.wait()
        assert client.endpoint == order[0]
        await asyncio.to_thread(members.hosts[dying].run, "ip link set eth0 down")
        writing = asyncio.create_task(change(writer))
        renewing = asyncio.create_task(client.lease_keepalive(lease))
        await watching
        assert await renewing > 0
        assert client.endpoint != members.cluster.endpoints[dying]
        await writing
        await client.close()
        await writer.close()

    with inside(fabric, "agent") as here:
        here.wait(story(), deadline=PATIENCE)
