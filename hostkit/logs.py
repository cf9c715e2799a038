"""Logging for a daemon: one line per event, journald priorities, no tracebacks for operators.

Under systemd (JOURNAL_STREAM is set) each line starts with ``<N>``, sd-daemon(3)'s priority
prefix, and carries no time of its own. Elsewhere it starts with a UTC time and the level.
A traceback is only shown at verbosity 2 and above.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping

# sd-daemon(3): SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def printable(text: str) -> str:
    """*text* with every control character and unpaired surrogate escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool, traces: bool) -> None:
        form = "%(message)s" if journal else "%(asctime)sZ %(levelname)-7s %(message)s"
        super().__init__(form, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._journal = journal
        self._traces = traces

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # What others wrote must not look like lines of ours, nor steer a terminal.
        record.message = printable(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        if not self._traces and record.exc_info:
            record.exc_info = None
            record.exc_text = None
        text = super().format(record)
        if self._journal:
            prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
            return "\n".join(prefix + line for line in text.splitlines() or [""])
        return text


def setup(verbosity: int = 0, environ: Mapping[str, str] = os.environ) -> None:
    """Send the log to standard error; *verbosity* 0 is INFO, 1 DEBUG, 2 adds tracebacks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal="JOURNAL_STREAM" in environ, traces=verbosity >= 2))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= 1 else logging.INFO)
    # Third-party chatter is of use to nobody but at the highest verbosity.
    for name in ("asyncio", "aiohttp", "pyroute2", "urllib3", "docker"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbosity >= 3 else logging.WARNING)
