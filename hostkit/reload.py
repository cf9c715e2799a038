"""SIGHUP: settings are read again, and changed ones are taken into force by beginning anew.

A daemon that gets other settings ends its workers as for SIGTERM, which leaves in place what it
programmed, and replaces itself by exec(3) with the same command line and environment. So every
setting can change, by the one path that each start tests. The process id stays, which is how
systemd knows its services. Settings that cannot be used change nothing: the daemon goes on with
those in force and shows a problem.

Across the exec, signal(7) and fcntl(2): descriptors are closed (Python opens all with
close-on-exec), and with them locks and names given up; ignored and blocked signals stay so. SIGHUP
is blocked from the end of the workers to the start of the next (``Service.run``): one that comes
meanwhile is pending and not lost, where its default action would end the process.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from hostkit.cli import EXIT_FAILED
from hostkit.config import ConfigError, Option, Settings, show
from hostkit.errors import HostkitError
from hostkit.problems import Problems

log = logging.getLogger(__name__)

PROBLEM = "settings"
"""The key of the problem that settings on disk cannot be used."""

COMM_LENGTH = 15
"""Bytes of a process's name, TASK_COMM_LEN of linux/sched.h without its zero."""

ReadFiles = Callable[[Settings], Mapping[str, object]]
"""What files that settings name say, by setting, as values that can be compared; raises
HostkitError for settings or files that cannot be used."""


class Reload:
    """Compares *settings*, which are in force, with what *read* gives now.

    *files* checks settings beyond what *read* does, *file* is where they are read from. Raises
    HostkitError when those in force cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        problems: Problems,
        *,
        files: ReadFiles = lambda _: {},
        file: str = "",
    ) -> None:
        self._settings = settings
        self._read = read
        self._problems = problems
        self._files = files
        self._said = files(settings)
        self._file = file

    def __call__(self) -> bool:
        """Whether the daemon has to begin anew; logs why, or why not."""
        try:
            _refuse_pipe(self._file)
            settings = self._read()
            said = self._files(settings)
        except HostkitError as error:
            self._problems.set(PROBLEM, f"{error}; those read before stay in force")
            return False
        self._problems.clear(PROBLEM)
        found = changes(self._settings, settings)
        found += [
            f"the file that {name} names has changed"
            for name in sorted(self._said.keys() & said.keys())
            if self._settings[name] == settings[name] and self._said[name] != said[name]
        ]
        for change in found:
            log.info("settings: %s", change)
        if not found:
            log.info("settings: nothing changed")
        return bool(found)


def _refuse_pipe(file: str) -> None:
    """A shell's ``<(...)`` can be read once: the next time it would say that all is default."""
    if file and Path(file).is_fifo():
        raise ConfigError(f"{file}: a pipe cannot be read again: write the settings into a file")


def changes(old: Settings, new: Settings) -> list[str]:
    """A sentence for each setting whose value differs; secrets are not shown."""
    return [
        f"{option.name} is now {_shown(option, new)}, was {_shown(option, old)} "
        f"({new.origins[option.name]})"
        for option in new.options
        if new[option.name] != old[option.name]
    ]


def _shown(option: Option, settings: Settings) -> str:
    value = show(settings[option.name])
    return "(hidden)" if option.secret and value else value or "(none)"


def begin_anew() -> int:
    """Replace this process by a new one of the same command line; returns only if that fails, with
    the exit status for its supervisor to start it again."""
    program, argv = command_line()
    try:
        os.execv(program, argv)  # noqa: S606 - the very command line of this process
    except OSError as error:
        log.error("cannot begin anew: %s: %s", program, error.strerror or error)
        return EXIT_FAILED


def command_line() -> tuple[str, list[str]]:
    """Program and arguments by which this process was started.

    A script that the kernel started by its ``#!`` line is named by its own path: so the process
    keeps its name, which ps(1) and pgrep(1) show.
    """
    script = sys.argv[0]
    name = os.fsencode(Path(script).name)[:COMM_LENGTH]
    if Path("/proc/self/comm").read_bytes().rstrip(b"\n") == name and os.access(script, os.X_OK):
        return script, sys.argv
    return sys.executable, [sys.executable, *sys.orig_argv[1:]]
