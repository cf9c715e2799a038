"""What the commands of all daemons share: exit codes, words on the terminal, locks."""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hostkit.config import ConfigError, Option, Settings, parse_flags
from hostkit.errors import HostkitError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_NOT_READY = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class Step(Protocol):
    """One step of a clean-up; *ok* is False when something of ours stays."""

    @property
    def what(self) -> str: ...
    @property
    def result(self) -> str: ...
    @property
    def ok(self) -> bool: ...


def say(text: str) -> None:
    """A command's own words, on standard error."""
    print(text, file=sys.stderr)  # noqa: T201 - what this is for


def answer(text: str) -> None:
    """A command's answer, on standard output."""
    print(text)  # noqa: T201 - what this is for


def guarded(name: str, work: Callable[[], int]) -> int:
    """Do *work* for the command *name*; errors become a sentence and an exit status."""
    try:
        return work()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (status | head): nothing is wrong. Python would complain once more
        # while closing standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except HostkitError as error:
        say(f"{name}: {error}")
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except OSError as error:
        say(f"{name}: {error}")
        return EXIT_FAILED


def settings_for(
    name: str,
    load: Callable[[Sequence[str]], Settings],
    options: Sequence[Option],
    argv: Sequence[str],
    *,
    file_option: str,
) -> Settings:
    """The settings of the command *name*, by *load*; raises ConfigError.

    What is wrong with files on disk, which a running daemon may not have taken, must not keep it
    from telling: ``status`` does without them. *file_option* names the file.
    """
    try:
        return load(argv)
    except ConfigError as error:
        if parse_flags(options, argv)[1] != ["status"]:
            raise
        settings = load([*argv, f"--{file_option}="])
        say(f"{name}: {error}; asking without any file")
        return settings


def print_config(settings: Settings) -> int:
    """Each setting with its value and origin, as a table or JSON."""
    rows = settings.table()
    if settings["json"]:
        document = {name: {"value": value, "from": origin} for name, value, origin in rows}
        answer(json.dumps(document, indent=2))
        return EXIT_OK
    width = max(len(name) for name, _, _ in rows)
    value_width = min(48, max(len(value) for _, value, _ in rows))
    for name, value, origin in rows:
        answer(f"{name:{width}}  {value or '(none)':{value_width}}  {origin}")
    return EXIT_OK


def print_steps(steps: Sequence[Step], *, as_json: bool) -> int:
    """What a clean-up did; its exit status."""
    if as_json:
        answer(json.dumps([{"what": s.what, "result": s.result, "ok": s.ok} for s in steps]))
    else:
        width = max((len(step.what) for step in steps), default=0)
        for step in steps:
            answer(f"{step.what:{width}} {'' if step.ok else 'FAILED: '}{step.result}")
    return EXIT_OK if all(step.ok for step in steps) else EXIT_FAILED


def lock_file(path: Path) -> int | None:
    """Hold the file *path* until the descriptor is closed; None when another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def hold_name(name: str) -> socket.socket | None:
    """Hold ``barenode-NAME`` in this network namespace; None when another process does.

    Abstract sockets are per network namespace and vanish with their process, unix(7).
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(f"\0barenode-{name}")
    except OSError:
        held.close()
        return None
    return held
