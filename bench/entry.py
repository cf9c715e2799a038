"""What both commands of the benchmarks begin with."""

import os
import shutil
import signal
from collections.abc import Iterable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """Let the first signal end the measurement; further ones are ignored while it cleans up."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def unfit(tools: Iterable[str]) -> str:
    """Why nothing can be measured here with *tools*; empty when it can."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}; 'make setup' installs it" if missing else ""
