"""An event loop whose clock jumps to the next timer: hours of a daemon's life in milliseconds.

For code that does not wait for sockets; what is meant for a thread is done in place. ``run`` fails
when nothing is left to happen, or when more turns were needed than *turns*.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(AssertionError):
    """Nothing more can happen, or too much did."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time`` is virtual seconds since the loop was made."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self._virtual = 0.0
        self._turns = turns

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual

    def run_in_executor(self, _executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Run *func* at once: the clock must not jump while a thread works."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - handed on
            done.set_exception(error)
        return done

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            live = [handle for handle in scheduled if not handle.cancelled()]
            if not live:
                raise StuckError("nothing is left to happen")
            self._virtual = max(self._virtual, min(handle.when() for handle in live))
        self._turns -= 1
        if self._turns < 0:
            raise StuckError("it does not come to rest")
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T], *, turns: int = 30_000) -> T:
    """Run *main* on a virtual loop, then cancel what it left."""
    loop = VirtualLoop(turns)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
