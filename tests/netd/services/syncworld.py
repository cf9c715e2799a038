"""A sync with everything around it in memory, for tests of passes."""

from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.reconcile import Outcome, Reconciler
from netd.errors import FirewallError, NetdError
from netd.iptables.owned import ServiceTables
from netd.iptables.table import Iptables
from netd.services.book import Book
from netd.services.figures import ProxyFigures
from netd.services.flows import FlowCleaner
from netd.services.health import HealthServers
from netd.services.planner import RulePlanner
from netd.services.rules import Policy, filter_chains
from netd.services.sync import RuleSync
from netd.services.values import Endpoint, Service
from tests.fakes.conntrack import Entry, FakeTable
from tests.fakes.iptables import FakeGeneration, FakeIptables
from tests.netd.services.made import backed

RESTORE = "iptables-nft-restore"
BUSY = "Another app is currently holding the xtables lock; waiting for it to exit..."
CLIENT = "10.1.1.9:40000"
DNS_AT = "10.0.0.10:53"
A, B = "10.1.1.1", "10.1.2.1"
LOCAL = frozenset({"192.0.2.7", "127.0.0.1"})


class World:
    """A sync between a book and an iptables and a table of flows in memory."""

    def __init__(self) -> None:
        self.fake = FakeIptables()
        self.iptables = Iptables(
            self.fake, "nft", resync=5, source=lambda name: FakeGeneration(self.fake, name)
        )
        self.problems = Problems()
        self.metrics = Metrics("netd")
        self.figures = ProxyFigures(
            self.metrics,
            {
                "iptables_restore_failures": lambda: 0.0,
                "iptables_partial_restore_failures": lambda: 0.0,
            },
        )
        self.book = Book("node1")
        self.planner = RulePlanner(self.book, Policy())
        self.flows = FakeTable()
        self.health = HealthServers(self.problems, address="127.0.0.1")
        self.repairs: list[str] = []
        self.cannot_open: FirewallError | None = None
        self._tables: ServiceTables | None = None
        self.sync = RuleSync(
            self.planner,
            self._open,
            FlowCleaner(connect=self.flows.open),
            self.health,
            self.problems,
            figures=self.figures,
            local_addresses=lambda: LOCAL,
            repaired=self.repairs.append,
        )
        self.loop = Reconciler(
            "services",
            self.sync.converge,
            sources=("services", "endpoints"),
            tolerate=(NetdError, OSError),
        )

    async def _open(self) -> ServiceTables:
        if self.cannot_open is not None:
            raise self.cannot_open
        if self._tables is None:
            tables = await self.iptables.open()
            self._tables = ServiceTables(tables, self.iptables.watch.subscribe(self.loop.trigger))
        return self._tables

    def listed(self) -> None:
        """Both lists have come."""
        self.loop.listed("services")
        self.loop.listed("endpoints")

    def put(self, service: Service, *addresses: str | Endpoint) -> None:
        """*service* is now so, with *addresses* behind its first port."""
        port = service.ports[0]
        behind = backed(service.key, *addresses, name=port.name, protocol=port.protocol)
        self.book.put_service(service.key, service)
        self.book.put_slices(service.key, (behind,) if addresses else ())

    def away(self, key: str) -> None:
        """The service *key* and its endpoints are gone."""
        self.book.put_service(key, None)
        self.book.put_slices(key, ())

    async def step(self) -> Outcome:
        """A pass, as after a change."""
        self.loop.trigger()
        return await self.loop.step()

    async def good(self) -> None:
        """A pass that succeeds."""
        outcome = await self.step()
        assert outcome == Outcome(ran=True), outcome.error

    async def bad(self, kind: type[Exception]) -> str:
        """A pass that fails with *kind*; returns what it said."""
        outcome = await self.step()
        assert isinstance(outcome.error, kind)
        return str(outcome.error)

    def kernel(self, table: str = "nat") -> dict[str, tuple[str, ...]]:
        """Our chains as the kernel has them."""
        chains = self.fake.table(table).chains
        return {name: tuple(r) for name, r in chains.items() if name.startswith("KUBE-")}

    def assert_whole(self) -> None:
        """The kernel has what is planned, all of it."""
        assert self.kernel() == self.planner.chains
        assert self.kernel("filter") == filter_chains(self.planner.policy)
        jumps = [rule.rpartition(" ")[2] for rule in self.fake.table("nat").chains["PREROUTING"]]
        assert jumps == ["KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-CONTAINER"]

    def serves(self, text: str) -> bool:
        """Whether a rule of ours holds *text*."""
        return any(text in rule for rules in self.kernel().values() for rule in rules)

    def value(self, name: str) -> float:
        found = self.metrics.registry.get_sample_value(f"kubeproxy_{name}")
        assert found is not None
        return found

    def texts(self) -> dict[str, str]:
        return {one.key: one.text for one in self.problems.all()}


def dns_flow(target: str) -> Entry:
    """A client that talks to DNS and was sent to *target*."""
    return Entry(CLIENT, DNS_AT, f"{target}:8080")
