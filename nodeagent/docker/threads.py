"""Blocking calls in threads: lanes that bound how many run at once, and pumps for streams.

A lane's threads are made when they are needed, end when they have been idle for a while and are
daemons: a Docker that hangs may hold one back, but neither another lane nor the process's end.
"""

import asyncio
import collections
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from nodeagent.errors import EngineUnavailable

T = TypeVar("T")

IDLE = 20.0
"""Seconds after which a thread with nothing to do ends."""


class Lane:
    """At most *size* threads that carry out calls, first come, first served."""

    def __init__(self, name: str, size: int, *, idle: float = IDLE) -> None:
        self.name = name
        self.size = size
        self._idle_time = idle
        self._jobs: collections.deque[Callable[[], None]] = collections.deque()
        self._state = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        return self._threads

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Have *work* done; the future can be cancelled until a thread has taken it.

        Raises EngineUnavailable after ``close``.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._state:
            if self._closed:
                raise EngineUnavailable("nodeagent is ending: Docker is not asked any more")
            self._jobs.append(job)
            if self._idle < len(self._jobs) and self._threads < self.size:
                self._threads += 1
                spawn(self._work, f"docker-{self.name}")
            else:
                self._state.notify()
        return future

    def close(self) -> None:
        """Take no more calls; threads end after those that wait already."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        with self._state:
            while not self._jobs:
                if self._closed:
                    break
                self._idle += 1
                called = self._state.wait(self._idle_time)
                self._idle -= 1
                if not called and not self._jobs:
                    break
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None


def spawn(work: Callable[[], None], name: str) -> None:
    """Run *work* in a daemon thread of its own."""
    threading.Thread(target=work, name=name, daemon=True).start()


async def finished(future: "Future[T]", *, wait: bool, let_go: "asyncio.Event | None" = None) -> T:
    """The result of a lane's *future*.

    A cancellation takes back a call that no thread has taken. With *wait* it is otherwise held
    back until the call has ended, or *let_go* is set; without, the call is left alone.
    """
    waiter = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiter)
    except asyncio.CancelledError:
        waiter.add_done_callback(_heard)
        if not future.cancel() and wait:
            await _held_back(waiter, let_go or asyncio.Event())
        raise


async def _held_back(waiter: "asyncio.Future[T]", let_go: asyncio.Event) -> None:
    """Wait for one of both, whoever cancels."""
    gone = asyncio.ensure_future(let_go.wait())
    both: tuple[asyncio.Future[Any], ...] = (waiter, gone)
    while not waiter.done() and not let_go.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()


def _heard(waiter: "asyncio.Future[T]") -> None:
    """Take the error of a call nobody waits for, or asyncio complains that nobody did."""
    if not waiter.cancelled():
        waiter.exception()


class Abandoned(Exception):  # noqa: N818 - no fault: the reader has gone
    """Nobody reads the stream any more."""


class Grip:
    """A hold on the socket a thread waits for, so that the loop can end its waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    @property
    def cut(self) -> bool:
        """Whether ``loosen`` was called: what is read is of no use any more."""
        return self._cut

    def watch(self, number: int) -> None:
        """Take hold of a socket by its file descriptor; raises Abandoned after ``loosen``."""
        # A descriptor of our own: by the time it is shut the number may be another file's.
        one = socket.socket(fileno=os.dup(number))
        with self._lock:
            if not self._cut:
                self._socket = one
                return
        one.close()
        raise Abandoned

    def end(self) -> None:
        """The thread has read all it will."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def loosen(self) -> None:
        """Have the thread's reading end at once."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                # It may have been closed at the other end.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


class Pump(Generic[T]):
    """Carries what a thread reads to the loop, at most *depth* pieces ahead of its reader.

    The thread takes ``grip`` on its socket, calls ``put`` and ``end``; the loop iterates and
    calls ``close``, which wakes a thread that waits for its socket or for room. *limited* says
    that it counts against the number of streams.
    """

    def __init__(self, depth: int = 8, *, limited: bool = False) -> None:
        self.grip = Grip()
        self.limited = limited
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(depth)
        self._items: collections.deque[T] = collections.deque()
        self._error: BaseException | None = None
        self._ended = False
        self._wake = asyncio.Event()

    def put(self, item: T) -> None:
        """The thread hands a piece over; raises Abandoned when nobody reads any more."""
        self._room.acquire()
        if self.grip.cut:
            raise Abandoned
        self._tell(lambda: self._items.append(item))

    def end(self, error: BaseException | None = None) -> None:
        """The thread says that nothing more comes, because of *error* if there is one."""
        self.grip.end()
        with contextlib.suppress(Abandoned):
            self._tell(lambda: self._finish(error))

    def _tell(self, change: Callable[[], object]) -> None:
        def arrive() -> None:
            change()
            self._wake.set()

        try:
            self._loop.call_soon_threadsafe(arrive)
        except RuntimeError:  # the loop is closed
            raise Abandoned from None

    def _finish(self, error: BaseException | None) -> None:
        self._ended, self._error = True, error

    def __aiter__(self) -> "Pump[T]":
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        self._room.release()
        return self._items.popleft()

    def close(self) -> None:
        """The reader goes."""
        self.grip.loosen()
        self._room.release()
