"""Waiting for a condition instead of for a time."""

import asyncio
import time
from collections.abc import Callable


async def eventually(holds: Callable[[], bool], timeout: float = 60.0, step: float = 0.01) -> None:
    """Return when *holds* does; raises AssertionError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout:g} s: {holds}")
        await asyncio.sleep(step)
