"""Looking at a node from the host: what its daemons say is wrong."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab import kubernetes, probe
from lab.model import ProcessRef

NODE = ProcessRef(pid=os.getpid(), started=1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root directory of NODE."""
    monkeypatch.setattr(probe, "root_of", lambda _: tmp_path)
    return tmp_path


@asynccontextmanager
async def saying(socket: Path, body: str, status: int = 200) -> AsyncIterator[None]:
    """A daemon that answers every question by *status* and *body*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.0 {status} x\r\n\r\n{body}".encode())
        writer.close()

    socket.parent.mkdir(parents=True, exist_ok=True)
    async with await asyncio.start_unix_server(answer, str(socket)):
        yield


async def test_a_node_that_does_not_come_up_is_asked_why(root: Path) -> None:
    """The last line of a log is not always the cause: a problem that stands is logged once."""
    lacking = "services: the API server has not listed services yet"
    problem = '{"key": "api", "text": "services is forbidden", "blocking": false}'
    netd = f'{{"not_ready": ["{lacking}"], "problems": [{problem}]}}'
    blocked = '{"not_ready": ["docker: away"], "problems": [{"key": "docker", "text": "away"}]}'
    async with (
        saying(root / probe.NETD_SOCKET, netd),
        saying(root / probe.NODEAGENT_SOCKET, blocked),
    ):
        said = await probe.complaints(NODE)
    assert said == f"netd: {lacking}; netd: api: services is forbidden; nodeagent: docker: away; "


async def test_a_daemon_that_has_not_begun_says_nothing_and_one_that_hangs_is_named(
    root: Path,
) -> None:
    """A lab without a control plane has no nodeagent at all."""
    assert await probe.complaints(NODE) == ""
    async with saying(root / probe.NETD_SOCKET, "no JSON"):
        assert await probe.complaints(NODE) == "netd does not answer; "
    (root / probe.NETD_SOCKET).unlink(missing_ok=True)
    (root / probe.NETD_SOCKET).touch()
    async with saying(root / probe.NODEAGENT_SOCKET, '{"ready": true}'):
        assert await probe.complaints(NODE) == "netd does not answer; "


async def test_what_is_waited_for_is_what_the_daemons_lack(root: Path) -> None:
    """In their own words, without the cure that an error at the end has."""
    netd, agent = root / probe.NETD_SOCKET, root / probe.NODEAGENT_SOCKET
    assert await kubernetes.settled(NODE) == "waiting for nodeagent"
    lacking = "lease: our subnet is held by host 198.18.0.11; stop the containers\napi: away\n"
    async with saying(agent, "ok"):
        assert await kubernetes.settled(NODE) == "waiting for netd"
        async with saying(netd, lacking, status=503):
            said = await kubernetes.settled(NODE)
        assert said == "waiting for netd: lease: our subnet is held by host 198.18.0.11"
        async with saying(netd, "ok"):
            assert await kubernetes.settled(NODE) is None
    async with saying(agent, "", status=503), saying(netd, "ok"):
        assert await kubernetes.settled(NODE) == "waiting for nodeagent: "
