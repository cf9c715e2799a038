"""The host's services through systemd: netd, then Docker on the bridge it made, then nodeagent.

netd's start has no time limit, since it waits for a subnet: it is begun without blocking and what
it waits for is shown. Docker reads its bridge's address when it starts; one that runs with another
is restarted.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.errors import cut
from lab.errors import LabError, PrerequisiteError

NETD = "netd.service"
NODEAGENT = "nodeagent.service"
RENEWAL = "barenode-renew.timer"
DOCKER = "docker.service"
DOCKER_ENV = "/run/docker_opts.env"
"""Where netd writes dockerd's options: the default of its setting docker-env-file."""

Report = Callable[[str, str], None]
"""Takes a subject and a text: a line of progress."""

# sd_booted(3).
_BOOTED = Path("/run/systemd/system")
_POLL = 0.3
_COMMAND = 60.0
DOCKER_START = 180.0
"""Seconds: dockerd gives containers 10 s to end, and starts those that have a restart policy."""
# A unit with Restart= that fails this often does not come up by waiting.
_RESTARTS = 3
_LINES = 5
_OPTIONS = {
    "mtu": "com.docker.network.driver.mtu",
    "ip-masq": "com.docker.network.bridge.enable_ip_masquerade",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as ``systemctl show`` tells; words are systemd's own, "" for what it left out."""

    name: str
    load: str = ""
    active: str = ""
    sub: str = ""
    status: str = ""
    enabled: str = ""
    invocation: str = ""
    restarts: int = 0
    stale: bool = False

    @property
    def there(self) -> bool:
        """Whether there is such a unit and it may be started."""
        return self.load == "loaded"

    @property
    def is_active(self) -> bool:
        """Whether it is up; a service that notifies only after it said so."""
        return self.active in {"active", "reloading"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step; *ok* is False when something stays."""

    what: str
    result: str
    ok: bool = True


def parse_show(name: str, text: str) -> Unit:
    """The unit *name* by the ``KEY=VALUE`` lines of ``systemctl show``."""
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    restarts = found.get("NRestarts", "")
    return Unit(
        name,
        load=found.get("LoadState", ""),
        active=found.get("ActiveState", ""),
        sub=found.get("SubState", ""),
        status=found.get("StatusText", ""),
        enabled=found.get("UnitFileState", ""),
        invocation=found.get("InvocationID", ""),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        stale=found.get("NeedDaemonReload") == "yes",
    )


_PROPERTIES = (
    "LoadState,ActiveState,SubState,StatusText,UnitFileState,InvocationID,NRestarts"
    ",NeedDaemonReload"
)


def docker_differs(options: str, network: str) -> str:
    """In what a running dockerd differs from the file *options*; "" when in nothing.

    *network* is what ``docker network inspect bridge`` prints. Text that cannot be understood
    counts as a difference: a restart puts it right.
    """
    wanted = dict(re.findall(r'^DOCKER_OPT_\w+="--([a-z-]+)=([^"]*)"$', options, re.MULTILINE))
    if "bip" not in wanted:
        return ""
    try:
        bridge = json.loads(network)[0]
        there = {(entry.get("Gateway") or "") for entry in bridge["IPAM"]["Config"] or ()}
        subnets = {entry.get("Subnet") or "" for entry in bridge["IPAM"]["Config"] or ()}
        given = bridge.get("Options") or {}
        bip = IPv4Interface(wanted["bip"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return "its bridge cannot be read"
    # Docker leaves the gateway out while no container has used it.
    if str(bip.network) not in subnets or not there <= {str(bip.ip), ""}:
        return f"its bridge is {', '.join(sorted(subnets)) or 'without addresses'}, not {bip}"
    for name, key in _OPTIONS.items():
        if name in wanted and key in given and given[key] != wanted[name]:
            return f"its {name} is {given[key]}, not {wanted[name]}"
    return ""


class Systemd:
    """The host's services. *clock* and *sleep* count seconds; raises LabError.

    *booted_at* is the folder by which a running systemd is known.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        booted_at: Path = _BOOTED,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._runner = runner
        self._booted_at = booted_at
        self._clock = clock
        self._sleep = sleep

    def booted(self) -> bool:
        """Whether this host was booted by systemd."""
        return self._booted_at.is_dir()

    def require(self) -> None:
        """Raise PrerequisiteError on a host without systemd."""
        if not self.booted():
            raise PrerequisiteError(
                "this host was not booted by systemd, which starts netd, Docker and nodeagent:"
                " use a host that was, or write the settings and start the daemons by hand"
            )

    async def unit(self, name: str) -> Unit:
        """The unit *name*, there or not."""
        argv = ["systemctl", "show", name, f"--property={_PROPERTIES}"]
        return parse_show(name, await self._do(*argv))

    async def is_active(self, name: str) -> bool:
        """Whether the unit *name* is up."""
        return (await self.unit(name)).is_active

    async def enable(self, name: str) -> None:
        """Have the unit started at every boot."""
        await self._do("systemctl", "enable", "--quiet", name)

    async def enable_now(self, name: str) -> None:
        """Have the unit, whose start takes no time, started at every boot and at once."""
        await self._do("systemctl", "enable", "--now", "--quiet", name)

    async def disable(self, name: str) -> None:
        """Have the unit no longer started at boot."""
        await self._do("systemctl", "disable", "--quiet", name)

    async def stop(self, name: str, *, within: float = _COMMAND) -> None:
        """Stop the unit, and wait until it is down, at most *within* seconds."""
        await self._do("systemctl", "stop", name, within=within)

    async def reload_units(self) -> None:
        """Let systemd read the units' files again."""
        await self._do("systemctl", "daemon-reload")

    async def begin(self, name: str, *, again: bool) -> str:
        """Start the unit without waiting for it, *again* also when it is up.

        Returns the invocation that is over then, "" when it was up and is left alone.
        """
        before = await self.unit(name)
        if before.load == "masked":
            raise PrerequisiteError(f"{name} is masked: 'systemctl unmask {name}'")
        if not before.there:
            raise PrerequisiteError(f"{name} is not installed: install its package")
        if before.stale:
            await self.reload_units()
        if before.is_active and not again:
            return ""
        # A unit that failed too often is not started again before this.
        await self._runner.run(["systemctl", "reset-failed", name], check=False)
        await self._do("systemctl", "restart", "--no-block", name)
        return before.invocation

    async def until_active(
        self, name: str, report: Report, *, timeout: float, not_invocation: str = ""
    ) -> Unit:
        """The unit once it is up, in another invocation than *not_invocation*, if that is given.

        What it says of itself is reported while it changes.
        """
        subject, deadline, said = name.removesuffix(".service"), self._clock() + timeout, ""
        restarts: int | None = None
        while True:
            unit = await self.unit(name)
            fresh = not not_invocation or unit.invocation != not_invocation
            if fresh and unit.is_active:
                return unit
            if fresh and unit.status and unit.status != said:
                said = unit.status
                report(subject, said)
            restarts = unit.restarts if restarts is None else min(restarts, unit.restarts)
            if (fresh and unit.active == "failed") or unit.restarts - restarts >= _RESTARTS:
                raise LabError(f"{name} does not start: {await self.last_words(name)}")
            if self._clock() >= deadline:
                why = f": {said}" if said else f" ({unit.active}, {unit.sub})"
                raise LabError(
                    f"{name} is not up after {timeout:.0f} s{why}; see 'journalctl -u {subject}',"
                    " and repeat the command when the cause is mended"
                )
            await self._sleep(_POLL)

    async def last_words(self, name: str) -> str:
        """What the unit's processes said last, or if nothing, what systemd says of it; one line."""
        for match in (f"_SYSTEMD_UNIT={name}", f"--unit={name}"):
            argv = ["journalctl", match, f"--lines={_LINES}", "--no-pager", "--output=cat"]
            try:
                done = await self._runner.run(argv)
            except CommandError as error:
                return f"its journal cannot be read: {error}"
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            if lines:
                return cut(" | ".join(lines), 800)
        return f"its journal is empty: 'systemctl status {name}'"

    async def up(self, name: str, report: Report, *, timeout: float, again: bool = False) -> Unit:
        """Start the unit, *again* also when it is up, and wait until it is."""
        over = await self.begin(name, again=again)
        return await self.until_active(name, report, timeout=timeout, not_invocation=over)

    async def _do(self, *argv: str, within: float = _COMMAND) -> str:
        try:
            return (await self._runner.run(argv, timeout=within)).stdout
        except CommandError as error:
            raise LabError(str(error)) from error


async def bring_up(
    runner: Runner,
    report: Report,
    *,
    timeout: float,
    restart: bool = True,
    systemd: Systemd | None = None,
    docker_env: Path = Path(DOCKER_ENV),
) -> None:
    """Enable and start netd, then Docker on netd's bridge, then nodeagent; all are up at the end.

    *timeout* in seconds is for netd, and for each of the others. With *restart* netd and nodeagent
    are restarted when they are up, so that they read their settings again. Raises LabError with
    the last lines of the journal of a unit that does not come up, PrerequisiteError when systemd or
    a unit is missing.
    """
    services = systemd or Systemd(runner)
    services.require()
    await services.enable(NETD)
    report("netd", "starting: it leases a subnet and makes docker0")
    unit = await services.up(NETD, report, timeout=timeout, again=restart)
    report("netd", unit.status or "is up")
    await _follow(services, runner, report, docker_env)
    await services.enable(NODEAGENT)
    report("nodeagent", "starting")
    unit = await services.up(NODEAGENT, report, timeout=timeout, again=restart)
    report("nodeagent", unit.status or "is up")


async def _follow(services: Systemd, runner: Runner, report: Report, options: Path) -> None:
    """Have Docker run on the bridge that netd made."""
    if not await services.is_active(DOCKER):
        report("docker", "starting")
        await services.up(DOCKER, report, timeout=DOCKER_START)
        return
    try:
        wanted = options.read_text(encoding="utf-8")  # noqa: ASYNC240 - a few bytes in memory
    except OSError as error:
        raise LabError(
            f"{options} cannot be read ({error.strerror}): netd writes it for Docker; if"
            " /etc/netd/netd.toml sets docker-env-file, take that out"
        ) from error
    differs = docker_differs(wanted, await bridge_of(runner))
    if differs:
        report("docker", f"restarting, so that it follows netd: {differs}")
        await services.up(DOCKER, report, timeout=DOCKER_START, again=True)


async def bridge_of(runner: Runner) -> str:
    """What Docker says of its bridge, "" when it has none or does not answer."""
    argv = ["docker", "network", "inspect", "bridge"]
    try:
        return (await runner.run(argv, check=False)).stdout
    except CommandError as error:
        raise PrerequisiteError(f"Docker's command does not run: {error}") from error


async def stop_unit(services: Systemd, name: str) -> Outcome:
    """Stop and disable a unit. Pods and data plane stay: they are cleaned up after.

    A unit that is not installed, or a host without systemd, is no failure.
    """
    subject = name.removesuffix(".service")
    if not services.booted():
        return Outcome(subject, "not stopped: this host was not booted by systemd")
    try:
        if not (await services.unit(name)).there:
            return Outcome(subject, "is not installed")
        await services.stop(name)
        await services.disable(name)
    except LabError as error:
        return Outcome(subject, str(error), ok=False)
    return Outcome(subject, "stopped and disabled")
