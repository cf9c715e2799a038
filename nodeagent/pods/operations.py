"""The operations of one pod: tasks, one at a time for each container, that can be called off."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

Work = Callable[[], Awaitable[str | None]]
"""An operation; it gives the id of a container when its start was all that changed."""


class Operations:
    """What is under way; *carry_out* does the work of a name, *on_end* is called after each."""

    def __init__(
        self, carry_out: Callable[[str, Work], Awaitable[None]], on_end: Callable[[], None]
    ) -> None:
        self._carry_out = carry_out
        self._on_end = on_end
        self._tasks: dict[str, asyncio.Future[None]] = {}
        self._starting: set[str] = set()

    @property
    def busy(self) -> frozenset[str]:
        """The names with an operation under way."""
        return frozenset(self._tasks)

    @property
    def starting(self) -> frozenset[str]:
        """Those of them that are being started, and were not called off."""
        return frozenset(self._starting)

    def begin(self, name: str, work: Work, *, starting: bool = False) -> None:
        """Have *work* done for a *name* that is not busy."""

        def ended(_task: "asyncio.Future[None]") -> None:
            del self._tasks[name]
            self._starting.discard(name)
            self._on_end()

        # One that is cancelled before it has begun comes to no line of its own.
        task = asyncio.ensure_future(self._carry_out(name, work))
        task.add_done_callback(ended)
        self._tasks[name] = task
        if starting:
            self._starting.add(name)

    def call_off(self, names: Iterable[str]) -> None:
        """Cancel the starts among *names*."""
        for name in self._starting.intersection(names):
            # Once only: what follows in the operation reads what came of it.
            self._starting.discard(name)
            self._tasks[name].cancel()

    async def close(self) -> None:
        """Cancel all."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
