"""kube-proxy's layout of the same services, loaded by a script: how long each step takes.

kube-proxy itself also watches, decides and waits between two loads, so its own figures are
larger than these. A step that takes longer than the limit is stopped and has no figure.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import kubeproxy_layout as layout
from bench.result import BenchError, Samples
from bench.services_made import Book, Made
from tests.support.netns import Namespace

_WHOLE_SAMPLES, _PARTIAL_SAMPLES = 5, 20
_SAMPLING = 30.0
"""Seconds after which no further sample of a step is taken."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The figures; None where a step was stopped after *limit* seconds, or not come to.

    *change_* is a restore of the whole table, as kube-proxy did up to 1.25; *partial_* one of
    the chains of the service that changed. *storm_s* is one whole restore after many changes.
    """

    limit: float
    cold_start_s: float | None = None
    change_median_ms: float | None = None
    change_p99_ms: float | None = None
    partial_change_median_ms: float | None = None
    storm_s: float | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the layout is in the kernel."""
        return self.cold_start_s is not None


class _StoppedError(Exception):
    """A restore took longer than the limit."""


class Loader:
    """Loads services in *space* through a file in *directory*; a step may take *limit* seconds."""

    def __init__(self, space: Namespace, variant: str, directory: Path, limit: float) -> None:
        self.space = space
        self._variant = variant
        self._file = directory / "restore"
        self.limit = limit

    def restore(self, text: str) -> float:
        """Commit *text*; returns the seconds. Raises BenchError, and _StoppedError at the limit."""
        self._file.write_text(text)
        argv = self.space.argv([f"iptables-{self._variant}-restore", "--noflush", "-w", "5"])
        begin = time.monotonic()
        with self._file.open() as file:
            try:
                done = subprocess.run(
                    argv, stdin=file, capture_output=True, text=True, check=False,
                    timeout=self.limit,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise _StoppedError from None
        if done.returncode != 0:
            raise BenchError(f"kube-proxy's layout: {done.stderr[-300:]}")
        return time.monotonic() - begin

    def load(self, made: Sequence[Made]) -> float:
        """Load all of *made*; returns the seconds of the load itself."""
        self.restore("\n".join(layout.JUMPS))
        return self.restore(layout.whole(*_in_order(made, [one.endpoints for one in made])))


def measure(loader: Loader, made: Sequence[Made], storm: int) -> Baseline:
    """Load *made* and time changes of it; the layout stays. *storm* is the number of changes in
    a storm."""
    limit = loader.limit
    try:
        cold = loader.load(made)
    except _StoppedError:
        return Baseline(limit)
    book = Book(made)
    partial = wholes = None
    storm_s = None
    with contextlib.suppress(_StoppedError):
        partial = _sample(_PARTIAL_SAMPLES, lambda: _partial(loader, book))
        wholes = _sample(_WHOLE_SAMPLES, lambda: _whole(loader, book))
        storm_s = _storm(loader, book, storm)
    return Baseline(
        limit,
        cold,
        wholes.median * 1e3 if wholes else None,
        wholes.quantile(0.99) * 1e3 if wholes else None,
        partial.median * 1e3 if partial else None,
        storm_s,
    )


def _sample(count: int, take: Callable[[], float]) -> Samples:
    """Up to *count* samples in seconds, fewer when they take long."""
    end = time.monotonic() + _SAMPLING
    values = [take()]
    while len(values) < count and time.monotonic() < end:
        values.append(take())
    return Samples.of(values)


def _partial(loader: Loader, book: Book) -> float:
    number = book.pick()
    book.add(number)
    gone = book.remove(number).address
    return loader.restore(layout.partial(book.made[number], book.endpoints(number), [gone]))


def _whole(loader: Loader, book: Book) -> float:
    number = book.pick()
    book.add(number)
    gone = (book.made[number], book.remove(number).address)
    return loader.restore(_all_of(book, [gone]))


def _storm(loader: Loader, book: Book, count: int) -> float:
    gone = []
    for _ in range(count):
        number = book.pick()
        book.add(number)
        gone.append((book.made[number], book.remove(number).address))
    return loader.restore(_all_of(book, gone))


def _all_of(book: Book, gone: Sequence[tuple[Made, str]]) -> str:
    endpoints = [book.endpoints(one.number) for one in book.made]
    return layout.whole(*_in_order(book.made, endpoints), gone)


def _in_order(
    made: Sequence[Made], endpoints: Sequence[Sequence[str]]
) -> tuple[list[Made], list[Sequence[str]]]:
    """Both with service 0 in the middle.

    kube-proxy's order is that of a Go map, random; connections go to service 0 and have to pass
    as many services as they do on average.
    """
    half = len(made) // 2 + 1
    return (
        [*made[1:half], made[0], *made[half:]],
        [*endpoints[1:half], endpoints[0], *endpoints[half:]],
    )
