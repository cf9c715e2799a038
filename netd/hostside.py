"""What the host needs beside the overlay: docker0, the files for Docker, the sysctls.

One loop: woken by a new subnet or MTU, by any change of links, addresses or forwarding, and
every ten seconds.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.config import Settings
from hostkit.files import remove, write_atomic
from hostkit.problems import Problems
from hostkit.reconcile import Reconciler
from netd.bridge.apply import bridges_with, ensure
from netd.bridge.options import (
    DROP_IN_MARK,
    Facts,
    docker_env,
    drop_in,
    is_enough,
    subnet_env,
)
from netd.bridge.plan import Bridge, Steps, Wanted
from netd.errors import BridgeError
from netd.netlink.messages import RTMGRP_IPV4_IFADDR, RTMGRP_LINK
from netd.netlink.notices import Notices
from netd.netlink.pyroute import AsyncIPRoute, NetlinkError
from netd.sysctls import Setting
from netd.sysctls import ensure as ensure_sysctls

log = logging.getLogger(__name__)

EVENT_SETTLE = 0.2
"""Seconds for which kernel events are gathered."""

# linux/rtnetlink.h; group 24, forwarding and other per-device settings, has no legacy name.
_RTNLGRP_IPV4_NETCONF = 24
_GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | 1 << (_RTNLGRP_IPV4_NETCONF - 1)

UNIT_PATHS = (
    Path("/etc/systemd/system/docker.service"),
    Path("/lib/systemd/system/docker.service"),
    Path("/usr/lib/systemd/system/docker.service"),
)

STATIC_DROP_INS = (
    Path("/etc/systemd/system/docker.service.d/50-netd.conf"),
    Path("/usr/lib/systemd/system/docker.service.d/50-netd.conf"),
    Path("/lib/systemd/system/docker.service.d/50-netd.conf"),
)
"""Drop-ins of the same name by others: systemd takes /etc's before /run's before those below
/usr (systemd.unit(5))."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """Where systemd has its files; *booted* is there where it runs the host, sd_booted(3)."""

    booted: Path = Path("/run/systemd/system")
    docker_units: tuple[Path, ...] = UNIT_PATHS
    static_drop_ins: tuple[Path, ...] = STATIC_DROP_INS


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things go; *drop_in* is None for none, *bridge* is empty for none."""

    bridge: str
    subnet_file: Path
    docker_env: Path
    drop_in: Path | None
    docker_socket: Path
    systemd: Systemd = Systemd()


class HostSide:
    """Keeps docker0, files and sysctls as they should be."""

    def __init__(
        self,
        runner: Runner,
        problems: Problems,
        paths: Paths,
        *,
        repaired: Callable[[str], None],
    ) -> None:
        self._runner = runner
        self._problems = problems
        self._paths = paths
        self._repaired = repaired
        self._facts: Facts | None = None
        self._done: Facts | None = None
        self._notices = Notices(_GROUPS, self._heard)
        self._pending: asyncio.TimerHandle | None = None
        self.sysctls: list[Setting] = []
        self.loop = Reconciler(
            "docker0", self.converge, resync=10.0, settle=0.01,
            tolerate=(BridgeError, CommandError, OSError),
        )  # fmt: skip

    @property
    def is_done(self) -> bool:
        """Whether files and bridge are right for the present subnet."""
        return self._done is not None and self._done == self._facts

    def set_facts(self, facts: Facts) -> None:
        """What files and bridge are about."""
        if facts != self._facts:
            self._facts = facts
            self.loop.trigger()

    async def in_use(self, subnet: IPv4Network) -> bool:
        """Whether *subnet* must not be given up: a bridge that carries it has ports, or a running
        dockerd was started with it."""
        try:
            async with AsyncIPRoute() as netlink:
                bridges = await bridges_with(netlink, subnet)
        except NetlinkError as error:
            log.warning("cannot look for bridges, taking %s as in use: %s", subnet, error)
            return True
        if any(bridge.ports for bridge in bridges.values()):
            return True
        return self._paths.bridge in bridges and await asyncio.to_thread(
            _answers, self._paths.docker_socket
        )

    async def run(self) -> None:
        """Converge for ever, at once after any change of a link or an address."""
        self._notices.open()
        await self.loop.run()

    def _heard(self) -> None:
        # Each container comes with a dozen events.
        if self._pending is None:
            delay = EVENT_SETTLE if self.is_done else 0.0
            self._pending = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._pending = None
        self.loop.trigger()

    def close(self) -> None:
        """Stop listening; everything stays as it is."""
        if self._pending is not None:
            self._pending.cancel()
        self._notices.close()

    async def converge(self) -> None:
        """One pass; raises OSError, CommandError or BridgeError."""
        facts = self._facts
        if facts is None:
            return
        self._set_sysctls()
        try:
            self._write_files(facts)
            await self._write_drop_in()
        except (BridgeError, OSError) as error:
            self._problems.set("files", str(error), blocking=True)
            raise
        self._problems.clear("files")
        await self._ensure_bridge(facts)
        self._done = facts

    def _set_sysctls(self) -> None:
        first = not self.sysctls
        self.sysctls = ensure_sysctls()
        for one in self.sysctls:
            if one.error:
                self._problems.set(
                    f"sysctl/{one.name}",
                    f"is {one.found}, must be {one.wanted}, and cannot be set ({one.error})",
                )
                continue
            self._problems.clear(f"sysctl/{one.name}")
            if one.found != one.wanted and first:
                log.info("sysctl %s set to %s (was %s)", one.name, one.wanted, one.found)
            elif one.found != one.wanted:
                log.warning("repaired sysctl %s: was %s", one.name, one.found)
                self._repaired("sysctl")

    def _write_files(self, facts: Facts) -> None:
        for path, content in (
            (self._paths.subnet_file, subnet_env(facts)),
            (self._paths.docker_env, docker_env(facts)),
        ):
            try:
                changed = write_atomic(path, content)
            except OSError as error:
                raise BridgeError(f"cannot write {path}: {error.strerror or error}") from error
            if changed and self._done == facts:
                log.warning("repaired file %s", path)
                self._repaired("file")
            elif changed:
                log.info("wrote %s", path)

    async def _write_drop_in(self) -> None:
        """Have dockerd read its options, by a drop-in of our own only where no other does it."""
        path = self._paths.drop_in
        if path is None:
            return
        text = await asyncio.to_thread(_wanted_drop_in, self._paths)
        if text is None:
            return
        if text:
            changed, did = write_atomic(path, text), "wrote"
        else:
            changed, did = _is_ours(path) and remove(path), "removed"
        if changed:
            log.info("%s %s", did, path)
            await self._runner.run(["systemctl", "daemon-reload"], check=False)

    async def _ensure_bridge(self, facts: Facts) -> None:
        name = self._paths.bridge
        if not name:
            return
        wanted = Wanted(IPv4Interface(facts.gateway), facts.mtu)
        try:
            steps, before = await ensure(name, wanted, self._paths.docker_socket)
        except BridgeError as error:
            self._problems.set("bridge", str(error), blocking=True)
            raise
        self._problems.clear("bridge")
        self._tell(name, wanted, steps, before, repair=self._done == facts)

    def _tell(
        self, name: str, wanted: Wanted, steps: Steps, before: Bridge | None, *, repair: bool
    ) -> None:
        if not steps:
            return
        if repair:
            log.warning("repaired %s: %s", name, steps.describe())
            self._repaired("bridge")
        elif steps.create:
            log.info("made %s with %s, MTU %d", name, wanted.address, wanted.mtu)
        elif steps.remove and before is not None:
            log.info(
                "moved %s from %s to %s; a running dockerd takes it over at its next start",
                name, ", ".join(map(str, before.addresses)), wanted.address,
            )  # fmt: skip


def paths_from(settings: Settings) -> Paths:
    """The paths that the settings name."""
    drop_in: str = settings["docker-drop-in"]
    bridge: str = settings["bridge"]
    return Paths(
        bridge="" if bridge == "none" else bridge,
        subnet_file=Path(settings["subnet-file"]),
        docker_env=Path(settings["docker-env-file"]),
        drop_in=Path(drop_in) if drop_in else None,
        docker_socket=Path(settings["docker-socket"]),
    )


def _answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket at *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _wanted_drop_in(paths: Paths) -> str | None:
    """Our own drop-in, "" where another is enough, None where systemd does not run the host."""
    systemd = paths.systemd
    if not systemd.booted.is_dir():
        return None
    unit = _first_of(systemd.docker_units)
    env_file = str(paths.docker_env)
    if is_enough(_first_of(systemd.static_drop_ins), env_file, unit):
        return ""
    return drop_in(env_file, unit)


def _is_ours(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(DROP_IN_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _first_of(paths: Iterable[Path]) -> str:
    """The content of the first of *paths* that can be read, "" for none."""
    for path in paths:
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return ""
