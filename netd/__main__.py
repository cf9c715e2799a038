"""The netd command."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
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
from netd.config import OPTIONS, Halves, halves_to_clean, halves_to_run, load_settings
from netd.control import NotRunningError, ask_explain, ask_status

COMMANDS = {
    "run": "keep this host in the overlay and balance services; the default",
    "status": "what the running netd says: lease, peers, services, repairs, problems",
    "explain": "the path of a packet to SERVICE or IP:PORT, chain by chain",
    "cleanup": "remove link, routes, chains, bridge, files and lease of a stopped netd",
    "version": "print the version",
    "help": "print this",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the netd command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = settings_for("netd", _load, OPTIONS, arguments, file_option="config")
        command = _command(settings)
    except ConfigError as error:
        say(f"netd: {error}")
        say("netd: 'netd help' lists commands and flags")
        return EXIT_USAGE
    return guarded("netd", lambda: _dispatch(command, settings, arguments))


def _load(argv: Sequence[str]) -> Settings:
    return load_settings(argv, os.environ)


def _command(settings: Settings) -> str:
    command, *rest = settings.arguments or ("run",)
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command}{nearest(command, list(COMMANDS))}")
    most = 1 if command == "explain" else 0
    if len(rest) > most:
        takes = "one target" if most else "no argument"
        raise ConfigError(f"{command} takes {takes}: {' '.join(rest)}")
    if not (settings["cleanup"] or settings["cleanup-iptables"]):
        return command
    if command not in {"run", "cleanup"}:
        raise ConfigError(f"--cleanup does not go with {command}")
    return "cleanup"


def _dispatch(command: str, settings: Settings, argv: Sequence[str]) -> int:
    if settings["help"] or settings["h"] or command == "help":
        answer(_help())
        return EXIT_OK
    if settings["version"] or command == "version":
        answer(f"netd {version('barenode')}")
        return EXIT_OK
    if settings["print-config"]:
        return print_config(settings)
    if command == "status":
        return asyncio.run(_ask(settings, ask_status, _show_status))
    if command == "explain":
        target = _target(settings)
        return asyncio.run(
            _ask(settings, lambda path: ask_explain(path, target), _show_explanation)
        )
    if os.geteuid() != 0:
        say(f"netd: {command} needs root: it programs links, routes and iptables")
        return EXIT_FAILED
    logs.setup(settings["v"])
    return _run(settings, argv) if command == "run" else _cleanup(settings)


def _help() -> str:
    commands = "\n".join(f"  {name:8}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: netd [COMMAND] [FLAGS]\n\n"
        f"{commands}\n\n"
        "Settings come from, weak to strong: defaults, conf.d/*.toml beside the file, the file,\n"
        "the environment (FLANNELD_NAME, then NETD_NAME), flags. A flag is written -name or\n"
        "--name.\n\n"
        f"{usage(OPTIONS)}\n\n"
        "exit status: 0 done, 1 failed, or nothing would answer (explain),\n"
        "             2 wrong usage or setting, 3 netd is not running,\n"
        "             4 netd runs but is not ready (status)"
    )


def _run(settings: Settings, argv: Sequence[str]) -> int:
    # Heavy imports only where the daemon starts: status and help answer at once.
    from hostkit.command import SubprocessRunner  # noqa: PLC0415
    from hostkit.reload import Reload, begin_anew  # noqa: PLC0415
    from hostkit.service import AGAIN  # noqa: PLC0415
    from netd.app import NetdApp  # noqa: PLC0415
    from netd.namedfiles import named_files  # noqa: PLC0415

    with ExitStack() as held:
        if not _hold(settings, halves_to_run(settings), held):
            return EXIT_FAILED

        async def serve() -> int:
            app = NetdApp(settings, SubprocessRunner())
            reload = Reload(
                settings,
                partial(_load, argv),
                app.problems,
                files=named_files,
                file=settings["config"],
            )
            app.service.on_hang_up(reload)
            return await app.run()

        status = asyncio.run(serve())
        return begin_anew() if status == AGAIN else status


def _hold(settings: Settings, halves: Halves, held: ExitStack) -> bool:
    """Keep a second netd out of the run directory and of *halves*, until *held* is closed."""
    lock = _lock(settings)
    if lock is None:
        return False
    held.callback(os.close, lock)
    for name, wanted in (("overlay", halves.overlay), ("services", halves.services)):
        if wanted:
            alone = _alone(name)
            if alone is None:
                return False
            held.callback(alone.close)
    return True


def _lock(settings: Settings) -> int | None:
    """Hold the run directory; two daemons would undo each other's work."""
    folder = Path(settings["run-dir"])
    descriptor = lock_file(folder / "netd.lock")
    if descriptor is None:
        say(
            f"netd: another netd holds {folder}: stop it first, or use another --run-dir for a "
            "netd of the other half"
        )
    return descriptor


def _alone(half: str) -> socket.socket | None:
    """Hold one half of this network namespace, whatever the run directory: abstract sockets are
    per network namespace and vanish with their process, unix(7)."""
    held = hold_name(f"netd-{half}")
    if held is None:
        keeps = "keeps the overlay" if half == "overlay" else "balances the services"
        say(
            f"netd: another netd {keeps} of this network namespace: stop it first, or use "
            f"--{half}=off"
        )
    return held


def _cleanup(settings: Settings) -> int:
    from hostkit.command import SubprocessRunner  # noqa: PLC0415
    from netd.cleanup import Cleanup  # noqa: PLC0415

    with ExitStack() as held:
        if not _hold(settings, halves_to_clean(settings), held):
            return EXIT_FAILED
        steps = asyncio.run(Cleanup(settings, SubprocessRunner()).run())
    return print_steps(steps, as_json=settings["json"])


async def _ask(
    settings: Settings,
    ask: Callable[[Path], Awaitable[dict[str, Any]]],
    show: Callable[[dict[str, Any], bool], int],
) -> int:
    """Ask the running netd and show what it says; the exit status."""
    try:
        document = await ask(Path(settings["run-dir"]) / "netd.sock")
    except NotRunningError as error:
        if settings["json"]:
            answer(json.dumps({"running": False, "error": str(error)}))
        else:
            say(f"netd: {error}; what it programmed stays in place")
        return EXIT_NOT_RUNNING
    return show(document, settings["json"])


def _show_status(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        answer(json.dumps({"running": True, **document}, indent=2))
    else:
        from rich.console import Console  # noqa: PLC0415

        from netd.view import show  # noqa: PLC0415

        show(document, Console(highlight=False))
    return EXIT_OK if document["ready"] else EXIT_NOT_READY


def _target(settings: Settings) -> str:
    if settings.arguments[1:] and settings.arguments[1]:
        return settings.arguments[1]
    from netd.services.explain import HOW  # noqa: PLC0415 - only to say how

    raise ConfigError(f"explain what? {HOW}")


def _show_explanation(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        answer(json.dumps(document, indent=2))
    else:
        from rich.console import Console  # noqa: PLC0415

        from netd.explainview import show  # noqa: PLC0415

        show(document, Console(highlight=False))
    answered = any(one["endpoints"] for one in document["answers"])
    return EXIT_OK if document["found"] and answered else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
