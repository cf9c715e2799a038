"""Asking a running nodeagent: what answers, and what does not."""

import asyncio
from pathlib import Path

import pytest

from nodeagent.control import NotRunningError, ask_status, control_socket


async def test_one_that_hangs_is_told_from_one_that_does_not_run(tmp_path: Path) -> None:
    path = control_socket(str(tmp_path))
    with pytest.raises(NotRunningError, match="is not running"):
        await ask_status(path)
    over = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_unix_server(silent, str(path)):
        with pytest.raises(NotRunningError, match="does not answer"):
            await ask_status(path, timeout=0.05)
        over.set()


async def test_the_document_is_decoded(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /status HTTP/1.0\r\n")
        writer.write(b'HTTP/1.0 200 OK\r\n\r\n{"ready": true}')
        await writer.drain()
        writer.close()

    path = control_socket(str(tmp_path))
    async with await asyncio.start_unix_server(answer, str(path)):
        assert await ask_status(path) == {"ready": True}
