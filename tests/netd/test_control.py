"""Asking a running netd: what answers, what does not, and what is something else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from netd.control import NotRunningError, ask, ask_explain, ask_status


@asynccontextmanager
async def answering(path: Path, reply: bytes | None) -> AsyncIterator[list[bytes]]:
    """A server at *path* that answers *reply*, or stays silent; gives what it was asked."""
    asked: list[bytes] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if reply is None:
            await over.wait()
        else:
            writer.write(reply)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield asked
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nok\n", (200, "ok\n")),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nlease: taken\n", (503, "lease: taken\n")),
        (b"HTTP/1.0 200 OK\r\n\r\n", (200, "")),
        (b"HTTP/1.0 200 OK\r\n\r\na\r\n\r\nb", (200, "a\r\n\r\nb")),
    ],
)
async def test_status_and_body_are_handed_back(
    tmp_path: Path, reply: bytes, expected: tuple[int, str]
) -> None:
    async with answering(tmp_path / "s", reply) as asked:
        assert await ask(tmp_path / "s", "/readyz") == expected
    assert asked[0].startswith(b"GET /readyz HTTP/1.0\r\n")


async def test_a_large_answer_arrives_whole(tmp_path: Path) -> None:
    body = b"x" * 3_000_000
    async with answering(tmp_path / "s", b"HTTP/1.0 200 OK\r\n\r\n" + body):
        assert len((await ask(tmp_path / "s", "/metrics"))[1]) == len(body)


async def test_the_status_document_is_decoded(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", b'HTTP/1.0 200 OK\r\n\r\n{"ready": true}'):
        assert await ask_status(tmp_path / "s") == {"ready": True}


async def test_a_target_reaches_netd_whatever_characters_it_holds(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", b'HTTP/1.0 200 OK\r\n\r\n{"found": true}') as asked:
        assert await ask_explain(tmp_path / "s", "a/b c&d\r\n") == {"found": True}
    assert asked[0].startswith(b"GET /explain?target=a%2Fb%20c%26d%0D%0A HTTP/1.0\r\n")


async def test_a_netd_that_cannot_explain_yet_is_told_from_one_that_does_not_run(
    tmp_path: Path,
) -> None:
    async with answering(tmp_path / "s", b"HTTP/1.0 404 Not Found\r\n\r\n404: Not Found"):
        with pytest.raises(NotRunningError, match="older than this command: restart it"):
            await ask_explain(tmp_path / "s", "web")


def nothing_there(path: Path) -> None:
    """No socket at all."""


def a_plain_file(path: Path) -> None:
    """A file where the socket should be."""
    path.write_text("x")


@pytest.mark.parametrize("prepare", [nothing_there, a_plain_file])
async def test_without_a_listener_netd_is_said_not_to_run(
    tmp_path: Path, prepare: Callable[[Path], None]
) -> None:
    prepare(tmp_path / "s")
    with pytest.raises(NotRunningError, match="netd is not running") as caught:
        await ask(tmp_path / "s", "/status")
    assert str(tmp_path / "s") in str(caught.value)


async def test_silence_is_told_from_absence(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", None):
        with pytest.raises(NotRunningError, match="netd does not answer"):
            await ask(tmp_path / "s", "/status", timeout=0.05)


@pytest.mark.parametrize(
    "reply",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.0 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello",
     b"HTTP/1.0 200 OK\r\n\r\n[1]"],
)  # fmt: skip
async def test_another_program_on_the_socket_is_recognised(tmp_path: Path, reply: bytes) -> None:
    async with answering(tmp_path / "s", reply):
        with pytest.raises(NotRunningError, match="something else than netd"):
            await ask_status(tmp_path / "s")
