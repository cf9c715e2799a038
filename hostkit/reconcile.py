"""The one loop that everything which converges uses.

trigger -> coalesce -> observe -> plan -> apply -> back off

Invariants:

* nothing is touched before every named source has been marked as listed;
* the dirty flag is cleared only when a pass has succeeded, and a trigger that arrives
  during a pass causes another pass;
* a failed pass is never resumed: the next one observes and plans again.

``Reconciler.step`` is one pass and is what tests drive; ``Reconciler.run`` only waits and steps.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays in seconds: *first*, doubling to *most*, each spread by +-*jitter*."""

    first: float = 0.1
    most: float = 10.0
    jitter: float = 0.2

    def delay(self, failures: int) -> float:
        """Seconds to wait after *failures* failures in a row (1 or more)."""
        base: float = min(self.most, self.first * 2.0 ** min(failures - 1, 30))
        return base * (1 + random.uniform(-self.jitter, self.jitter))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step did: ``ran`` is False while a source has not listed or nothing was dirty."""

    ran: bool
    error: Exception | None = None


class Reconciler:
    """Runs *work* whenever it was triggered and all *sources* have listed.

    *settle* is the time in seconds for which further triggers are gathered before a pass;
    *resync* triggers a pass by itself after that many quiet seconds (0: never). *tolerate*
    names the errors that are logged and retried; any other one is a bug and ends the loop.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        sources: Iterable[str] = (),
        settle: float = 0.0,
        resync: float = 0.0,
        tolerate: tuple[type[Exception], ...] = (OSError,),
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._work = work
        self._waiting_for = set(sources)
        self._settle = settle
        self._resync = resync
        self._tolerate = tolerate
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._clock = clock
        self._wake = asyncio.Event()
        self._dirty = False
        self.failures = 0
        self.last_error: Exception | None = None
        self.last_success: float | None = None

    @property
    def waiting_for(self) -> frozenset[str]:
        """The sources that have not listed yet."""
        return frozenset(self._waiting_for)

    @property
    def dirty(self) -> bool:
        """Whether something is pending."""
        return self._dirty

    def listed(self, source: str) -> None:
        """Say that *source* has delivered its first complete list."""
        if source in self._waiting_for:
            self._waiting_for.discard(source)
            self.trigger()

    def trigger(self) -> None:
        """Ask for a pass."""
        self._dirty = True
        self._wake.set()

    async def step(self) -> Outcome:
        """Make one pass if one is due; errors in *tolerate* are returned, others raised."""
        if self._waiting_for or not self._dirty:
            return Outcome(ran=False)
        self._dirty = False
        try:
            await self._work()
        except self._tolerate as error:
            self._dirty = True
            self.failures += 1
            # The same failure again and again is one event.
            again = str(self.last_error) == str(error)
            level = logging.DEBUG if again else logging.WARNING
            self.last_error = error
            log.log(level, "%s failed, will retry: %s", self.name, error)
            return Outcome(ran=True, error=error)
        except BaseException:
            self._dirty = True
            raise
        self.failures = 0
        self.last_error = None
        self.last_success = self._clock()
        return Outcome(ran=True)

    async def run(self) -> None:
        """Step for ever."""
        while True:
            try:
                async with asyncio.timeout(self._resync or None):
                    await self._wake.wait()
            except TimeoutError:
                self._dirty = True
            self._wake.clear()
            if self._settle:
                await self._sleep(self._settle)
            outcome = await self.step()
            if outcome.error is not None:
                await self._sleep(self._backoff.delay(self.failures))
                self._wake.set()
