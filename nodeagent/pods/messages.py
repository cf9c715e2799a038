"""Termination messages: a container's last words (``core/v1`` terminationMessagePath).

The file is written by the container, so nothing that is found there is trusted: not its kind, its
size or its bytes.
"""

import asyncio
import logging
import os
import stat
from contextlib import aclosing
from pathlib import Path

from nodeagent.docker.api import Engine, LogOptions
from nodeagent.errors import EngineError
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import Seen

log = logging.getLogger(__name__)

WITHIN = 5.0
"""Seconds that a pod waits for a message at most."""
LIMIT = 4096
"""Bytes of one container's message (Kubernetes' documented limit)."""
POD_LIMIT = 12 * 1024
"""Bytes of all messages of a pod, shared evenly among its containers (likewise)."""
LOG_BYTES = 2048
LOG_LINES = 80
"""How much of the log stands in for an empty file: the smaller of the two (likewise)."""


async def last_words(engine: Engine, host: Host, pod: Pod, container: Container, seen: Seen) -> str:
    """``termination_message``, or "" when it cannot be had soon."""
    try:
        async with asyncio.timeout(WITHIN):
            return await termination_message(engine, host, pod, container, seen)
    except (TimeoutError, EngineError, OSError) as error:
        log.debug("pod %s: no termination message: %s", pod.key, error)
        return ""


async def termination_message(
    engine: Engine, host: Host, pod: Pod, container: Container, seen: Seen
) -> str:
    """What the ended instance *seen* left to say, "" for nothing; of what is too long, the end.

    Raises EngineError when the log is needed and Docker does not give it.
    """
    count = len(pod.spec.containers) + len(pod.spec.init_containers)
    limit = min(LIMIT, POD_LIMIT // max(count, 1))
    path = host.termination_log(seen.uid, seen.name, seen.attempt)
    found = await asyncio.to_thread(_read, path, limit)
    fallback = container.termination_message_policy == "FallbackToLogsOnError"
    if not found and fallback and seen.exit_code != 0:
        found = await _log_end(engine, seen.id, min(limit, LOG_BYTES))
    return _text(found, limit)


def _read(path: Path, limit: int) -> bytes:
    """The last *limit* bytes of the file, or a sentence about why there are none."""
    try:
        # A pipe would block an open for reading.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        number = os.open(path, flags)
    except FileNotFoundError:
        return b""
    except OSError as error:
        return f"the termination message cannot be read: {error.strerror}".encode()
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            return b"the termination message cannot be read: it is no regular file"
        return os.pread(number, limit, max(status.st_size - limit, 0))
    except OSError as error:
        return f"the termination message cannot be read: {error.strerror}".encode()
    finally:
        os.close(number)


async def _log_end(engine: Engine, container: str, limit: int) -> bytes:
    found = b""
    async with aclosing(engine.logs(container, LogOptions(tail=LOG_LINES))) as pieces:
        async for _, piece in pieces:
            found = (found + piece)[-limit:]
    return found


def _text(found: bytes, limit: int) -> str:
    # What stands for a byte that is no UTF-8 takes three: the limit is one of the result.
    data = found.decode("utf-8", "replace").encode()[-limit:]
    return data.decode("utf-8", "ignore")
