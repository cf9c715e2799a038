"""What the daemons' own ``cleanup`` commands do, as steps of ``barenode reset``.

Settings come from the daemons' files and from the environment of their services, as when they
run; settings that cannot be read are named, and the defaults take their place.
"""

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from hostkit.command import CommandError, Runner
from hostkit.config import ConfigError, Settings
from hostkit.errors import HostkitError
from lab.join.dockerbridge import subnet_of_netd
from lab.join.hostservices import Outcome
from netd import config as netdconfig
from netd.cleanup import Cleanup
from nodeagent import config as agentconfig
from nodeagent.cleanup import cleanup_for

SERVICE_ENVIRONMENT = Path("/etc/default/barenode")
"""The environment of both services."""

_IMAGES = "barenode/*"
_REMOVAL = 120.0
_TRIES = 4
_PAUSE = 1.0
_Step = TypeVar("_Step")
Load = Callable[[list[str], Mapping[str, str]], Settings]


def environment(text: str) -> dict[str, str]:
    """The variables in a systemd EnvironmentFile; lines that are none are passed over."""
    found = {}
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        name, separator, value = (words[0] if words else "").partition("=")
        if separator and name.isidentifier():
            found[name] = value
    return found


def _environ() -> dict[str, str]:
    try:
        text = SERVICE_ENVIRONMENT.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return {**environment(text), **os.environ}


def _settings(load: Load, what: str, done: list[Outcome]) -> Settings:
    try:
        return load([], _environ())
    except ConfigError as error:
        done.append(Outcome(what, f"{error}: cleaned up by the defaults", ok=False))
        # A file of no settings stands for one that cannot be read.
        flag = "--settings" if what == "nodeagent" else "--config"
        return load([f"{flag}=/dev/null"], {})


async def clean_pods(runner: Runner) -> list[Outcome]:
    """Remove containers, volumes, cgroups and files of nodeagent, which is stopped."""
    done: list[Outcome] = []
    settings = _settings(agentconfig.load_settings, "nodeagent", done)
    steps: dict[str, Outcome] = {}
    for left in reversed(range(_TRIES)):
        failed: list[Outcome] = []
        for one in await _guarded("nodeagent", lambda: cleanup_for(settings, runner), failed) or ():
            # The Node object is reset's own business.
            if one.what != "node" and not (one.what in steps and steps[one.what].ok):
                steps[one.what] = Outcome(one.what, one.result, one.ok)
        if all(one.ok for one in steps.values()) or not left:
            return [*done, *failed, *steps.values()]
        # The kernel empties a control group some time after its last process has ended.
        await asyncio.sleep(_PAUSE)
    return done


def last_subnet() -> IPv4Network | None:
    """The subnet that netd had last; to be asked before ``clean_network`` forgets it."""
    return subnet_of_netd(_settings(netdconfig.load_settings, "netd", []))


async def clean_network(runner: Runner) -> list[Outcome]:
    """Remove lease, overlay, chains, bridge and files of netd, which is stopped.

    A lease that cannot be given back is no failure: it runs out by itself.
    """
    done: list[Outcome] = []
    settings = _settings(netdconfig.load_settings, "netd", done)
    steps = await _guarded("netd", lambda: Cleanup(settings, runner).run(), done)
    for step in steps or ():
        if step.what == "lease" and not step.ok:
            text = f"not given back, it runs out within a day: {step.result}"
            done.append(Outcome("lease", text))
        else:
            done.append(Outcome(step.what, step.result, step.ok))
    return done


async def clean_images(runner: Runner) -> list[Outcome]:
    """Remove the images that barenode made and loaded into Docker; those of others stay."""
    argv = ["docker", "image", "ls", "--filter", f"reference={_IMAGES}"]
    try:
        listed = await runner.run([*argv, "--format", "{{.Repository}}:{{.Tag}}"])
        names = sorted(set(listed.stdout.split()))
        for name in names:
            await runner.run(["docker", "image", "rm", name], timeout=_REMOVAL)
    except CommandError as error:
        # Docker may be gone, or a container of somebody else use one of them.
        return [Outcome("images", f"stay: {error}")]
    return [Outcome("images", f"{', '.join(names)} removed" if names else "none of ours")]


async def _guarded(
    what: str, work: Callable[[], Awaitable[list[_Step]]], done: list[Outcome]
) -> list[_Step] | None:
    try:
        return await work()
    except (HostkitError, OSError) as error:
        done.append(Outcome(what, str(error), ok=False))
        return None
