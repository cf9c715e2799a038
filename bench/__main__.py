"""``python -m bench``: measure, print, clean up."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rich.console import Console

from bench import startup
from bench.result import BenchError, Result, show
from bench.world import World, sweep, world

EXIT_OK, EXIT_MISSED, EXIT_FAILED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    with world() as made:
        results = list(startup.measure(made, [100,1000], 2))
    show(results, Console(width=180))
    return 0

sys.exit(main())
