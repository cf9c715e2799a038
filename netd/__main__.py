"""The netd command."""

import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hostkit import logs
from hostkit.config import ConfigError, Settings, nearest, usage
from hostkit.errors import HostkitError
from netd.config import OPTIONS, load_settings
from netd.control import NotRunningError, ask_status

COMMANDS = {
    "run": "keep this host in the overlay (what flanneld does; the default)",
    "status": "what the running netd says: lease, etcd, peers, repairs, problems",
    "cleanup": "remove link, routes, chains, bridge, files and lease of a stopped netd",
    "version": "print the version",
    "help": "print this",
}

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_NOT_READY = 0, 1, 2, 3, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the netd command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = load_settings(arguments, os.environ)
        command = _command(settings)
    except ConfigError as error:
        _say(f"netd: {error}")
        _say("netd: 'netd help' lists commands and flags")
        return EXIT_USAGE
    try:
        return _dispatch(command, settings)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (netd status | head): nothing is wrong. Python would complain
        # once more while closing standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except HostkitError as error:
        _say(f"netd: {error}")
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except OSError as error:
        _say(f"netd: {error}")
        return EXIT_FAILED


def _command(settings: Settings) -> str:
    words = settings.arguments
    command = words[0] if words else "run"
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command}{nearest(command, list(COMMANDS))}")
    if len(words) > 1:
        raise ConfigError(f"{command} takes no argument: {' '.join(words[1:])}")
    return command


def _dispatch(command: str, settings: Settings) -> int:
    if settings["help"] or settings["h"] or command == "help":
        _print(_help())
        return EXIT_OK
    if settings["version"] or command == "version":
        _print(f"netd {version('barenode')}")
        return EXIT_OK
    if settings["print-config"]:
        return _print_config(settings)
    if command == "status":
        return asyncio.run(_status(settings))
    if os.geteuid() != 0:
        _say(f"netd: {command} needs root: it programs links, routes and iptables")
        return EXIT_FAILED
    logs.setup(settings["v"])
    return _run(settings) if command == "run" else _cleanup(settings)


def _help() -> str:
    commands = "\n".join(f"  {name:8}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: netd [COMMAND] [FLAGS]\n\n"
        f"{commands}\n\n"
        "Settings come from, weak to strong: defaults, the file, the environment (FLANNELD_NAME,\n"
        "then NETD_NAME), flags. A flag is written -name or --name.\n\n"
        f"{usage(OPTIONS)}\n\n"
        "exit status: 0 done, 1 failed, 2 wrong usage or setting, 3 netd is not running,\n"
        "             4 netd runs but is not ready (status)"
    )


def _print_config(settings: Settings) -> int:
    rows = settings.table()
    if settings["json"]:
        document = {name: {"value": value, "from": origin} for name, value, origin in rows}
        _print(json.dumps(document, indent=2))
        return EXIT_OK
    width = max(len(name) for name, _, _ in rows)
    value_width = min(48, max(len(value) for _, value, _ in rows))
    for name, value, origin in rows:
        _print(f"{name:{width}}  {value or '(none)':{value_width}}  {origin}")
    return EXIT_OK


def _run(settings: Settings) -> int:
    # Heavy imports only where the daemon starts: status and help answer at once.
    from hostkit.command import SubprocessRunner  # noqa: PLC0415
    from netd.app import NetdApp  # noqa: PLC0415

    lock = _lock(settings)
    alone = _alone() if lock is not None else None
    if lock is None or alone is None:
        return EXIT_FAILED

    async def serve() -> int:
        return await NetdApp(settings, SubprocessRunner()).run()

    try:
        return asyncio.run(serve())
    finally:
        alone.close()
        os.close(lock)


def _lock(settings: Settings) -> int | None:
    """Hold the run directory; two daemons would undo each other's work."""
    folder = Path(settings["run-dir"])
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "netd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        _say(f"netd: another netd holds {folder}: stop it first")
        return None
    return descriptor


def _alone() -> socket.socket | None:
    """Hold this network namespace, whatever the run directory: abstract sockets are per
    network namespace and vanish with their process, unix(7)."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind("\0barenode-netd-overlay")
    except OSError:
        held.close()
        _say("netd: another netd keeps the overlay of this network namespace: stop it first")
        return None
    return held


def _cleanup(settings: Settings) -> int:
    from hostkit.command import SubprocessRunner  # noqa: PLC0415
    from netd.cleanup import Cleanup  # noqa: PLC0415

    lock = _lock(settings)
    if lock is None:
        return EXIT_FAILED
    try:
        steps = asyncio.run(Cleanup(settings, SubprocessRunner()).run())
    finally:
        os.close(lock)
    (Path(settings["run-dir"]) / "netd.lock").unlink(missing_ok=True)
    if settings["json"]:
        _print(json.dumps([{"what": s.what, "result": s.result, "ok": s.ok} for s in steps]))
    else:
        for step in steps:
            _print(f"{step.what:9} {'' if step.ok else 'FAILED: '}{step.result}")
    return EXIT_OK if all(step.ok for step in steps) else EXIT_FAILED


async def _status(settings: Settings) -> int:
    path = Path(settings["run-dir"]) / "netd.sock"
    try:
        document = await ask_status(path)
    except NotRunningError as error:
        if settings["json"]:
            _print(json.dumps({"running": False, "error": str(error)}))
        else:
            _say(f"netd: {error}; what it programmed stays in place")
        return EXIT_NOT_RUNNING
    if settings["json"]:
        _print(json.dumps({"running": True, **document}, indent=2))
    else:
        from rich.console import Console  # noqa: PLC0415

        from netd.view import show  # noqa: PLC0415

        show(document, Console(highlight=False))
    return EXIT_OK if document["ready"] else EXIT_NOT_READY


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a command's own words


def _print(text: str) -> None:
    print(text)  # noqa: T201 - a command's answer


if __name__ == "__main__":
    sys.exit(main())
