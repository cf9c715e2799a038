"""A host in memory for the services half."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostkit.metrics import Metrics
from hostkit.problems import Problems
from netd.config import load_settings
from netd.iptables.table import Iptables
from netd.netlink import messages as nl
from netd.services.flows import FlowCleaner
from netd.services.half import Host, ServicesHalf
from netd.services.limits import Files
from tests.fakes.conntrack import FakeTable
from tests.fakes.iptables import FakeGeneration, FakeIptables
from tests.fakes.netlink import FakeKernel
from tests.support.poll import eventually

RESTORE = "iptables-nft-restore"
FORWARD = "net/ipv4/ip_forward"
LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"


@dataclass
class Machine:
    """The host beside the half: tables, flows, addresses, sysctls."""

    root: Path
    fake: FakeIptables = field(default_factory=FakeIptables)
    flows: FakeTable = field(default_factory=FakeTable)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    problems: Problems = field(default_factory=Problems)
    repairs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kernel.addresses = {nl.Address(2, bytes([192, 0, 2, 7]), 24, 0)}
        for name, text in (
            (FORWARD, "1"), (LIBERAL, "0"), ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ):  # fmt: skip
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Set a sysctl from outside."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def make(self, *argv: str) -> ServicesHalf:
        """The half with the flags *argv*; it does not run yet."""
        given = ["--bridge=none", "--iptables-variant=nft", "--hostname-override=node1", *argv]
        settings = load_settings(given, {"NETD_CONFIG": "/dev/null"})
        self.iptables = Iptables(
            self.fake, "nft", resync=5, source=lambda name: FakeGeneration(self.fake, name)
        )
        return ServicesHalf(
            settings,
            self.fake,
            self.problems,
            Metrics("netd"),
            repaired=self.repairs.append,
            iptables=self.iptables,
            host=Host(
                files=Files(self.root, self.root / "hashsize"),
                addresses=self.kernel.asker(),
                notices=self.kernel.listener(),
                cleaner=FlowCleaner(connect=self.flows.open),
            ),
        )

    def rules(self) -> str:
        """All rules, as text."""
        return "".join(self.fake.table(name).text(name) for name in ("nat", "filter"))

    def problem(self, key: str) -> str:
        return next((one.text for one in self.problems.all() if one.key == key), "")


@asynccontextmanager
async def running(half: ServicesHalf) -> AsyncIterator[ServicesHalf]:
    """The half while it runs, and closed."""
    task = asyncio.create_task(half.run())
    try:
        yield half
        assert not task.done(), "the half never ends"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await half.close()


async def settled(half: ServicesHalf) -> None:
    """Everything that is known has been written."""
    await eventually(lambda: half.missing() is None and half.status()["api"]["connected"])
    await eventually(lambda: not half.loop.dirty and not half.planner.touched)
