"""What goes on for longer than an answer: the log of a container, and a command in one."""

import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from nodeagent.docker.api import Engine
from nodeagent.errors import EngineError, EngineUnavailable
from nodeagent.pods.observed import Seen
from nodeagent.server.logs import LogQuery

FIRST = 0.5
"""Seconds to wait for the beginning of a followed log before the answer is begun without it."""
COMMAND_TIME = 60.0
"""Seconds that a command has."""
COMMAND_OUTPUT = 1 << 20
"""Bytes of its output that are kept."""
ARGUMENTS = 64 * 1024
"""Bytes of a command line."""

_LOG_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}


async def send_log(
    request: web.Request, engine: Engine, container: Seen, query: LogQuery
) -> web.StreamResponse:
    """Answer with the log of *container*; Docker's stream ends with the client's.

    Raises EngineError as long as nothing was sent.
    """
    async with aclosing(engine.logs(container.id, query.options)) as pieces:
        # An error at the beginning still gets a status of its own.
        first = asyncio.ensure_future(_next(pieces))
        try:
            # A followed log may say nothing for long.
            await asyncio.wait({first}, timeout=FIRST if query.options.follow else None)
            if first.done():
                first.result()
            response = web.StreamResponse(headers=_LOG_HEADERS)
            await response.prepare(request)
            await _pour(response, first, pieces, query.limit)
        finally:
            if not first.done():
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
    await response.write_eof()
    return response


async def _next(pieces: AsyncGenerator[tuple[int, bytes], None]) -> bytes | None:
    """The next piece, None at the end."""
    async for _, data in pieces:
        return data
    return None


async def _pour(
    response: web.StreamResponse,
    first: "asyncio.Future[bytes | None]",
    pieces: AsyncGenerator[tuple[int, bytes], None],
    limit: int | None,
) -> None:
    try:
        data = await first
        while data is not None:
            if limit is not None:
                data = data[:limit]
                limit -= len(data)
            await response.write(data)
            if limit == 0:
                return
            data = await _next(pieces)
    except EngineError as error:
        # The status is sent; the reader of a log is a person.
        await response.write(f"\nthe log ends here: {error}\n".encode())


def command(request: web.Request) -> tuple[str, ...]:
    """The command of ``/run``: each ``cmd`` is one argument, a single one is split as by a shell.

    Raises ValueError.
    """
    words = request.query.getall("cmd", [])
    if sum(len(word) for word in words) > ARGUMENTS:
        raise ValueError(f"cmd is longer than {ARGUMENTS} bytes")
    if len(words) == 1:
        try:
            words = shlex.split(words[0])
        except ValueError as error:
            raise ValueError(f"cmd cannot be split into words: {error}") from error
    if not words or not words[0]:
        raise ValueError("cmd is missing: use ?cmd=COMMAND")
    if any("\0" in word for word in words):
        raise ValueError("cmd holds a zero byte")
    return tuple(words)


async def run_command(engine: Engine, container: Seen, argv: tuple[str, ...]) -> web.Response:
    """Run *argv* in *container* and answer with its output; raises EngineError."""
    try:
        done = await engine.exec(container.id, argv, timeout=COMMAND_TIME, limit=COMMAND_OUTPUT)
    except TimeoutError:
        return web.Response(status=504, text=f"{argv[0]}: no end after {COMMAND_TIME:g} s\n")
    if done.code == 0:
        return web.Response(body=done.output, headers=_LOG_HEADERS)
    text = f"\ncommand terminated with exit code {done.code}\n".encode()
    return web.Response(status=500, body=done.output + text, headers=_LOG_HEADERS)


def engine_status(error: EngineError) -> int:
    """The HTTP status for a fault of Docker."""
    if isinstance(error, EngineUnavailable):
        return 503
    return error.status if error.status in {400, 404, 409, 429} else 500
