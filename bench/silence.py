"""How soon a client of the API goes on at the next server when the host of the first falls silent.

Its packets vanish, and nobody is told. Two API servers stand at addresses of one namespace, the
client on a host of its own. Baseline: the same client with the sockets that a program gets when
it asks for nothing, which has to wait for its own deadlines.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import aiohttp

from bench.result import Aim, BenchError, Result, Samples
from bench.world import World
from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import KubeUnavailable
from hostkit.kube.listwatch import Changed, Listed, follow
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube, Store
from tests.support.netns import Inside
from tests.support.silence import silenced

AIM = Aim("<", 5.0)
"""Seconds, for the slowest of the samples."""
AGAINST = "the same client with plain sockets, once"

_FIRST, _SECOND = "172.29.0.251", "172.29.0.252"
_PODS = "/api/v1/pods"
_DEADLINE = 60.0

Make = Callable[[KubeConfig], KubeClient]
Act = Callable[[], Awaitable[object]]
# Makes the client ready in its loop; what it returns ends when the client has gone on.
Ready = Callable[[KubeClient], Awaitable[Act]]


def _as_it_is(config: KubeConfig) -> KubeClient:
    return KubeClient(config, user_agent="bench")


def _plain(config: KubeConfig) -> KubeClient:
    return KubeClient(config, user_agent="bench", connector=lambda: aiohttp.TCPConnector(limit=0))


@dataclass(frozen=True)
class Scene:
    """Two servers in the loop *there*, one *store*, and the loop *here* of the client's host."""

    world: World
    store: Store
    servers: tuple[FakeKube, FakeKube]
    there: Inside
    here: Inside

    def change(self) -> None:
        """Have the store change, so that a watch tells."""
        self.there.call(lambda: self.store.put(_PODS, f"default/{self.store.version}"))

    def took(self, ready: Ready, make: Make) -> float:
        """Seconds from the silence until the client of *make* has what *ready* wants."""
        urls = tuple(server.url for server in self.servers)

        async def made() -> tuple[KubeClient, Act]:
            client = make(KubeConfig(urls))
            return client, await ready(client)

        async def ask(act: Act) -> None:
            await act()

        client, act = self.here.wait(made(), deadline=_DEADLINE)
        try:
            with silenced(self.world.fabric.bridge, _FIRST):
                begin = time.monotonic()
                self.change()
                self.here.wait(ask(act), deadline=_DEADLINE)
                took = time.monotonic() - begin
            if client.endpoint != urls[1]:
                raise BenchError(f"the client is at {client.endpoint}, not at the living server")
            return took
        finally:
            self.here.wait(client.close(), deadline=_DEADLINE)


async def _watch(client: KubeClient) -> Act:
    """An idle watch, until it has the change that is made after the silence began."""
    opened = asyncio.Event()

    def state(connected: bool, _text: str) -> None:
        if connected:
            opened.set()

    async def first(items: AsyncGenerator[Listed | Changed, None]) -> None:
        async with aclosing(items):
            async for item in items:
                if isinstance(item, Changed):
                    return

    task = asyncio.create_task(first(follow(client, _PODS, on_state=state)))
    await opened.wait()
    return lambda: task


async def _kept_read(client: KubeClient) -> Act:
    await client.get(_PODS)
    return lambda: client.get(_PODS)


async def _new_read(client: KubeClient) -> Act:
    return lambda: client.get(_PODS)


async def _write(client: KubeClient) -> Act:
    """A write on a kept connection, which nobody knows to have arrived, and its repetition."""
    await client.get(_PODS)

    async def act() -> None:
        body = b'{"metadata": {"name": "a"}}'
        with contextlib.suppress(KubeUnavailable):
            await client.request("PUT", _PODS, body=body)
        await client.request("PUT", _PODS, body=body)

    return act


_CASES: dict[str, Ready] = {
    "an idle watch has the next change": _watch,
    "a read on a kept connection": _kept_read,
    "a read on a new connection": _new_read,
    "a write and its repetition": _write,
}


def measure(world: World, rounds: int) -> Iterator[Result]:
    """Yield the slowest of *rounds* samples of each kind of request."""
    with _scene(world) as scene:
        for name, ready in _CASES.items():
            samples = Samples.of(scene.took(ready, _as_it_is) for _ in range(rounds))
            yield Result(
                f"silent host, {name}, slowest", samples.values[-1], "s",
                scene.took(ready, _plain), AGAINST, AIM, note=samples.spread(),
            )  # fmt: skip


@contextlib.contextmanager
def _scene(world: World) -> Iterator[Scene]:
    for address in (_FIRST, _SECOND):
        world.fabric.bridge.run(f"ip addr add {address}/24 dev br0")
    store = Store()
    servers = (FakeKube(store, address=_FIRST), FakeKube(store, address=_SECOND))
    with world.host() as host, contextlib.ExitStack() as stack:
        there, here = Inside(world.fabric.bridge), Inside(host.space)
        stack.callback(here.close)
        stack.callback(there.close)
        for server in servers:
            there.wait(server.up())
            stack.callback(partial(_down, there, server))
        yield Scene(world, store, servers, there, here)


def _down(there: Inside, server: FakeKube) -> None:
    there.wait(server.down())
