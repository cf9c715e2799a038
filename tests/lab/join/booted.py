"""A systemd with units that take a while to start, for tests without one."""

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from hostkit.command import Completed
from lab.join.hostservices import DOCKER, NETD, NODEAGENT, Systemd
from tests.lab.fakes import FakeRunner

BRIDGE = {
    "IPAM": {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]},
    "Options": {"com.docker.network.driver.mtu": "1500"},
}


@dataclass
class FakeUnit:
    """A unit. *course* are the states that it goes through when it is started, one per look."""

    load: str = "loaded"
    enabled: bool = False
    active: str = "inactive"
    status: str = ""
    invocation: int = 0
    restarts: int = 0
    stale: bool = False
    course: list[tuple[str, str]] = field(default_factory=lambda: [("active", "")])
    ahead: list[tuple[str, str]] = field(default_factory=list)
    journal: str = ""
    of_systemd: str = ""


class Machine(FakeRunner):
    """A booted host: its units, its journal, and dockerd's bridge, read when Docker starts."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.units = {name: FakeUnit() for name in (NETD, NODEAGENT, DOCKER)}
        self.units[DOCKER].active = "active"
        self.bridge: object = BRIDGE
        self.options = root / "run/docker_opts.env"
        self.refused: set[tuple[str, str]] = set()
        self.time = 0.0
        self.said: list[tuple[str, str]] = []
        (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)

    @property
    def systemd(self) -> Systemd:
        """What is tested, with this host's clock."""
        return Systemd(
            self,
            booted_at=self.root / "run/systemd/system",
            clock=lambda: self.time,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        """Time goes on."""
        self.time += seconds

    def report(self, subject: str, text: str) -> None:
        """A line of progress."""
        self.said.append((subject, text))

    def write_options(self, bip: str, mtu: int = 1450) -> None:
        """What netd writes for dockerd."""
        self.options.write_text(
            f'DOCKER_OPT_BIP="--bip={bip}"\nDOCKER_OPT_IPMASQ="--ip-masq=false"\n'
            f'DOCKER_OPT_MTU="--mtu={mtu}"\nDOCKER_OPTS=" --bip={bip} --mtu={mtu}"\n'
        )

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What each command does."""
        if argv[0] == "docker":
            return self.ok(argv, json.dumps([self.bridge]))
        if argv[0] == "ip":
            return self.ok(argv, json.dumps([{"dst": "default"}, {"dst": "10.1.7.0/24"}]))
        if argv[:2] == ["systemctl", "cat"]:
            return self.ok(argv, "[Service]\nExecStart=/usr/sbin/dockerd $DOCKER_OPTS\n")
        if argv[0] == "journalctl":
            field, _, name = argv[1].partition("=")
            unit = self.units[name]
            return self.ok(argv, unit.journal if field == "_SYSTEMD_UNIT" else unit.of_systemd)
        assert argv[0] == "systemctl", argv
        verb, names = argv[1], [word for word in argv[2:] if not word.startswith("--")]
        if any((verb, name) in self.refused for name in names):
            return self.fails(argv, f"Failed to {verb} {names[0]}")
        for name in names:
            self._do(verb, name)
        return self.ok(argv, self._show(names[0]) if verb == "show" else "")

    def _do(self, verb: str, name: str) -> None:
        unit = self.units.setdefault(name, FakeUnit(load="not-found"))
        if verb in {"enable", "disable"}:
            unit.enabled = verb == "enable"
        elif verb == "restart":
            unit.invocation += 1
            unit.ahead = list(unit.course)
            unit.active, unit.status = "activating", ""
            if name == DOCKER:
                self._follow()
        elif verb == "stop":
            unit.active, unit.ahead = "inactive", []
        elif verb == "show" and unit.ahead:
            unit.active, unit.status = unit.ahead.pop(0)
            if unit.active == "auto-restart":
                unit.active, unit.restarts = "activating", unit.restarts + 1
                unit.invocation += 1

    def _follow(self) -> None:
        """dockerd reads its options; without any it makes the bridge again that it remembers."""
        once = self.root / "run/barenode-reset.env"
        options = once if once.exists() else self.options
        if not options.exists():
            return
        bip = IPv4Interface(options.read_text().split("--bip=")[1].split('"')[0])
        self.bridge = {
            "IPAM": {"Config": [{"Subnet": str(bip.network), "Gateway": str(bip.ip)}]},
            "Options": {"com.docker.network.driver.mtu": "1450"},
        }

    def _show(self, name: str) -> str:
        unit = self.units[name]
        return (
            f"LoadState={unit.load}\nActiveState={unit.active}\nStatusText={unit.status}\n"
            f"InvocationID={unit.invocation}\nNRestarts={unit.restarts}\n"
            f"NeedDaemonReload={'yes' if unit.stale else 'no'}\n"
        )
