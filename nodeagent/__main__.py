"""The nodeagent command."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hostkit import logs
from hostkit.cli import (
    EXIT_FAILED,
    EXIT_NOT_READY,
    EXIT_NOT_RUNNING,
    EXIT_OK,
    EXIT_USAGE,
    answer,
    guarded,
    hold_name,
    lock_file,
    print_config,
    print_steps,
    say,
    settings_for,
)
from hostkit.config import ConfigError, Settings, nearest, usage
from nodeagent.config import OPTIONS, docker_socket, load_settings, sources
from nodeagent.control import NotRunningError, ask_status, control_socket

COMMANDS = {
    "run": "run the pods of this host through Docker; the default",
    "status": "what the running nodeagent says: node, pods, back-offs, problems",
    "cleanup": "remove containers, volumes, cgroups and files of a stopped nodeagent",
    "version": "print the version",
    "help": "print this",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the nodeagent command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = settings_for("nodeagent", _load, OPTIONS, arguments, file_option="settings")
        command = _command(settings)
    except ConfigError as error:
        say(f"nodeagent: {error}")
        say("nodeagent: 'nodeagent help' lists commands and flags")
        return EXIT_USAGE
    return guarded("nodeagent", lambda: _dispatch(command, settings, arguments))


def _load(argv: Sequence[str]) -> Settings:
    return load_settings(argv, os.environ)


def _command(settings: Settings) -> str:
    command, *rest = settings.arguments or ("run",)
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command}{nearest(command, list(COMMANDS))}")
    if rest:
        raise ConfigError(f"{command} takes no argument: {' '.join(rest)}")
    return command


def _dispatch(command: str, settings: Settings, argv: Sequence[str]) -> int:
    if settings["help"] or settings["h"] or command == "help":
        answer(_help())
        return EXIT_OK
    if settings["version"] or command == "version":
        answer(f"nodeagent {version('barenode')}")
        return EXIT_OK
    if settings["print-config"]:
        return print_config(settings)
    if command == "status":
        return asyncio.run(_status(settings))
    if command == "run":
        sources(settings)
    if os.geteuid() != 0:
        say(f"nodeagent: {command} needs root: it mounts volumes and makes cgroups")
        return EXIT_FAILED
    logs.setup(settings["v"])
    return _run(settings, argv) if command == "run" else _cleanup(settings)


def _help() -> str:
    commands = "\n".join(f"  {name:8}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: nodeagent [COMMAND] [FLAGS]\n\n"
        f"{commands}\n\n"
        "Settings come from, weak to strong: defaults, conf.d/*.toml beside the file, the file,\n"
        "the environment (KUBELET_PORT, then NODEAGENT_PORT), flags. A flag is written -name or\n"
        "--name. Other flags of the kubelet are taken where they ask for nothing that is not\n"
        "done.\n\n"
        f"{usage(OPTIONS)}\n\n"
        "exit status: 0 done, 1 failed, 2 wrong usage or setting,\n"
        "             3 nodeagent is not running, 4 nodeagent runs but is not ready (status)"
    )


def _run(settings: Settings, argv: Sequence[str]) -> int:
    with ExitStack() as held:
        if not _hold(settings, held):
            return EXIT_FAILED
        # Heavy imports only where the daemon starts: status and help answer at once.
        from hostkit.command import SubprocessRunner  # noqa: PLC0415
        from hostkit.reload import Reload, begin_anew  # noqa: PLC0415
        from hostkit.service import AGAIN  # noqa: PLC0415
        from nodeagent.app import NodeAgentApp  # noqa: PLC0415
        from nodeagent.namedfiles import named_files  # noqa: PLC0415

        async def serve() -> int:
            app = NodeAgentApp(settings, SubprocessRunner())
            reload = Reload(
                settings,
                partial(_load, argv),
                app.problems,
                files=named_files,
                file=settings["settings"],
            )
            app.service.on_hang_up(reload)
            return await app.run()

        status = asyncio.run(serve())
        return begin_anew() if status == AGAIN else status


def _hold(settings: Settings, held: ExitStack) -> bool:
    """Keep a second nodeagent out of the run directory and of Docker, until *held* is closed."""
    lock = _lock(settings)
    if lock is None:
        return False
    held.callback(os.close, lock)
    alone = _alone(docker_socket(settings))
    if alone is None:
        return False
    held.callback(alone.close)
    return True


def _lock(settings: Settings) -> int | None:
    """Hold the run directory; two daemons would undo each other's work."""
    folder = Path(settings["run-dir"])
    descriptor = lock_file(folder / "nodeagent.lock")
    if descriptor is None:
        say(f"nodeagent: another nodeagent holds {folder}: stop it first")
    return descriptor


def _alone(docker: Path) -> socket.socket | None:
    """Hold one Docker, whatever the run directory: abstract sockets are per network namespace
    and vanish with their process, unix(7)."""
    # Such a name has at most 107 bytes, a path may have more.
    digest = sha256(os.fsencode(docker.resolve())).hexdigest()[:32]
    held = hold_name(f"nodeagent-{digest}")
    if held is None:
        say(f"nodeagent: another nodeagent runs pods through {docker}: stop it first")
    return held


def _cleanup(settings: Settings) -> int:
    with ExitStack() as held:
        if not _hold(settings, held):
            return EXIT_FAILED
        from hostkit.command import SubprocessRunner  # noqa: PLC0415 - as above
        from nodeagent.cleanup import cleanup_for  # noqa: PLC0415

        steps = asyncio.run(cleanup_for(settings, SubprocessRunner()))
    return print_steps(steps, as_json=settings["json"])


async def _status(settings: Settings) -> int:
    """Ask the running nodeagent and show what it says; the exit status."""
    try:
        document = await ask_status(control_socket(settings["run-dir"]))
    except NotRunningError as error:
        if settings["json"]:
            answer(json.dumps({"running": False, "error": str(error)}))
        else:
            say(f"nodeagent: {error}; containers go on running, but nothing heals them")
        return EXIT_NOT_RUNNING
    try:
        return _show_status(document, settings["json"])
    except (KeyError, TypeError):
        say("nodeagent: the running nodeagent is of another release than this command: restart it")
        return EXIT_FAILED


def _show_status(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        answer(json.dumps({"running": True, **document}, indent=2))
    else:
        from rich.console import Console  # noqa: PLC0415 - not for --json

        from nodeagent.view import show  # noqa: PLC0415

        show(document, Console(highlight=False))
    return EXIT_OK if document["ready"] else EXIT_NOT_READY


if __name__ == "__main__":
    sys.exit(main())
