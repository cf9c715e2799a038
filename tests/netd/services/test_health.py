"""The answers at healthCheckNodePort, over real sockets on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from hostkit.problems import Problems
from netd.services.health import HealthServers
from tests.support.etcd import free_ports
from tests.support.poll import eventually

HOST = "127.0.0.1"


@contextmanager
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
async def servers(problems: Problems) -> AsyncIterator[HealthServers]:
    """Servers on loopback that try refused ports again at once."""
    made = HealthServers(problems, address=HOST, sleep=lambda _seconds: asyncio.sleep(0.01))
    yield made
    await made.close()
    assert made.ports == frozenset()


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def url(port: int, path: str = "/healthz") -> str:
    return f"http://{HOST}:{port}{path}"


async def test_a_node_with_endpoints_says_so(
    servers: HealthServers, web: aiohttp.ClientSession
) -> None:
    """Status, headers and document are kube-proxy's."""
    (port,) = free_ports(1)
    await servers.set({port: ("shop/web", 2)})
    async with web.get(url(port)) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
        assert await answer.json() == {
            "service": {"namespace": "shop", "name": "web"},
            "localEndpoints": 2,
            "serviceProxyHealthy": True,
        }


async def test_a_node_without_endpoints_is_unavailable_until_it_has_one(
    servers: HealthServers, web: aiohttp.ClientSession
) -> None:
    """On one connection, which is not interrupted by the change."""
    (port,) = free_ports(1)
    for count, status in ((0, 503), (1, 200), (0, 503)):
        await servers.set({port: ("shop/web", count)})
        async with web.get(url(port)) as answer:
            assert answer.status == status
            assert (await answer.json())["localEndpoints"] == count


@pytest.mark.parametrize("path", ["/", "/healthz", "/any/thing?at=all"])
async def test_any_path_and_method_gets_the_answer(
    servers: HealthServers, web: aiohttp.ClientSession, path: str
) -> None:
    (port,) = free_ports(1)
    await servers.set({port: ("shop/web", 1)})
    for method in ("GET", "HEAD", "POST"):
        async with web.request(method, url(port, path)) as answer:
            assert answer.status == 200


async def test_each_port_answers_for_its_own_service(
    servers: HealthServers, web: aiohttp.ClientSession
) -> None:
    first, second = free_ports(2)
    await servers.set({first: ("shop/web", 1), second: ("shop/db", 0)})
    for port, name, status in ((first, "web", 200), (second, "db", 503)):
        async with web.get(url(port)) as answer:
            assert (answer.status, (await answer.json())["service"]["name"]) == (status, name)


async def test_a_port_that_is_not_wanted_any_more_is_closed_and_the_others_stay(
    servers: HealthServers, web: aiohttp.ClientSession
) -> None:
    stays, goes = free_ports(2)
    await servers.set({stays: ("shop/web", 1), goes: ("shop/db", 1)})
    async with web.get(url(goes)) as answer:
        assert answer.status == 200
    await servers.set({stays: ("shop/web", 1)})
    assert servers.ports == {stays}
    # The connection that is still open is told so and ended; a new one is refused.
    async with web.get(url(goes)) as answer:
        assert answer.status == 404
    with pytest.raises(aiohttp.ClientConnectorError):
        await web.get(url(goes))
    async with web.get(url(stays)) as answer:
        assert answer.status == 200


async def test_a_port_in_use_is_a_named_problem_and_is_opened_once_it_is_free(
    servers: HealthServers, problems: Problems, web: aiohttp.ClientSession
) -> None:
    (other,) = free_ports(1)
    with taken() as port:
        await servers.set({port: ("shop/web", 1), other: ("shop/db", 1)})
        (problem,) = problems.all()
        assert problem.key == f"health-port/{port}"
        assert "shop/web" in problem.text
        assert "another program listens there" in problem.text
        assert servers.ports == {other}
    await eventually(lambda: servers.ports == {port, other})
    assert problems.all() == ()
    async with web.get(url(port)) as answer:
        assert answer.status == 200


async def test_a_refused_port_that_is_not_wanted_any_more_is_no_problem(
    servers: HealthServers, problems: Problems
) -> None:
    with taken() as port:
        await servers.set({port: ("shop/web", 1)})
        await servers.set({})
        assert problems.all() == ()


async def test_while_a_port_is_refused_the_answers_of_others_still_change(
    servers: HealthServers, web: aiohttp.ClientSession
) -> None:
    (other,) = free_ports(1)
    with taken() as port:
        for count, status in ((1, 200), (0, 503)):
            await servers.set({port: ("shop/web", 1), other: ("shop/db", count)})
            async with web.get(url(other)) as answer:
                assert answer.status == status
