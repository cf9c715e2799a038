"""Random histories of services, endpoints and mishaps; at the end the kernel's own rules are read
back and must do to any packet what the objects promise.

Each history begins with what the one before has left, as after a restart with other services.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostkit.command import CommandError, Completed, SubprocessRunner
from netd.errors import FirewallError
from netd.iptables.chain import Wish
from netd.iptables.generation import Generation
from netd.iptables.owned import ServiceTables
from netd.iptables.table import Iptables
from netd.iptables.watch import TABLES
from netd.services import names
from netd.services.book import Book
from netd.services.planner import RulePlanner
from netd.services.rules import Policy, filter_chains, filter_jumps, nat_jumps
from netd.services.values import EndpointSlice, Service
from tests.netd.services import strategies as some
from tests.netd.services.test_planner import check, policies
from tests.support.answers import World
from tests.support.netns import Inside, Namespace
from tests.support.walk import Packet, Walker

FOREIGN = (
    "-t nat -F", "-t nat -F; iptables-{v} -t nat -X", "-F; iptables-{v} -X",
    "-t nat -F KUBE-PORTALS", "-F KUBE-PORTALS-FILTER", "-t nat -F KUBE-NODEPORT-TREE",
    "-t nat -I KUBE-PORTALS 1 -j RETURN", "-t nat -I PREROUTING 1 -j ACCEPT",
    "-t nat -D OUTPUT 1", "-D FORWARD 1", "-t nat -P PREROUTING ACCEPT",
    "-t nat -N KUBE-VIP-9.9.9.0-24", "-t nat -A POSTROUTING -s 10.66.0.0/16 -j MASQUERADE",
)  # fmt: skip
"""What other programs do; {v} is the variant."""

_write = st.tuples(st.just("write"), st.none(), st.none())
changes = st.one_of(
    st.tuples(st.just("service"), st.sampled_from(some.KEYS), st.none() | some.services),
    st.tuples(
        st.just("slice"), st.sampled_from(["default/a", "default/b"]), st.none() | some.slices
    ),
    _write,
    _write,
)
failures = st.tuples(st.just("fail"), st.sampled_from(["before", "between", "after"]), st.none())
mishaps = st.one_of(
    st.tuples(st.just("foreign"), st.sampled_from(FOREIGN), st.none()),
    st.tuples(st.just("delete"), st.none(), st.integers(0, 10_000)),
    st.tuples(st.just("restart"), st.none(), st.none()),
    failures,
)
histories = st.one_of(
    st.lists(changes | mishaps, min_size=3, max_size=20),
    # After any other mishap everything is read again, which hides what a failure has left.
    st.lists(changes | failures, min_size=3, max_size=20),
)
Step = tuple[str, str | None, object]


class FailingRunner:
    """Runs commands; the next restore fails where ``fail`` says.

    "before": nothing is written. "between": the first table is written. "after": all is
    written, and the outcome is lost, as at a deadline.
    """

    def __init__(self) -> None:
        self.fail = ""
        self._real = SubprocessRunner()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:
        """See Runner.run."""
        if stdin is None or not self.fail:
            return await self._real.run(argv, stdin=stdin, timeout=timeout, check=check)
        fail, self.fail = self.fail, ""
        if fail == "between":
            first = stdin.partition("COMMIT\n")
            await self._real.run(argv, stdin=first[0] + first[1], timeout=timeout)
        elif fail == "after":
            await self._real.run(argv, stdin=stdin, timeout=timeout)
        raise CommandError(argv, None, f"made to fail {fail}", stdin)


class Kernel:
    """A namespace, and the way to its tables."""

    def __init__(self, space: Namespace, variant: str, lock_file: Path) -> None:
        self.space = space
        self.variant = variant
        self.runner = FailingRunner()
        self.inside = Inside(space)
        self.iptables = Iptables(self.runner, variant, resync=600, lock_file=lock_file)
        self._tables = self.inside.wait(self.iptables.open())
        self._generation = Generation(variant)

    def generation(self) -> object:
        """What a commit changes: a number, or with legacy the tables' figures."""
        return self.inside.call(self._generation.read, TABLES)

    def owner(self) -> ServiceTables:
        """One that knows nothing of what is there."""
        watch = self.iptables.watch
        return ServiceTables(self._tables, watch.subscribe(lambda: None))

    def do(self, words: str) -> None:
        """What another program does; it may be refused."""
        command = f"iptables-{self.variant} {words.format(v=self.variant)}"
        self.space.run(["sh", "-c", f"{command} 2>/dev/null || true"])

    def read_back(self, table: str) -> dict[str, list[str]]:
        """Chains with their rules, as iptables-save prints them."""
        found: dict[str, list[str]] = {}
        for line in self.space.run(f"iptables-{self.variant}-save -t {table}").splitlines():
            if line.startswith(":"):
                found[line[1:].split()[0]] = []
            elif line.startswith("-A"):
                _, name, rule = line.split(" ", 2)
                found[name].append(rule)
        return found

    def close(self) -> None:
        """Close what was opened."""
        self._generation.close()
        self.inside.close()
        self.iptables.close()


class History:
    """One netd's life with *kernel*."""

    def __init__(self, kernel: Kernel, policy: Policy) -> None:
        self.kernel = kernel
        self.policy = policy
        self.services: dict[str, Service] = {}
        self.slices: dict[str, EndpointSlice] = {}
        self._begin()

    def _begin(self) -> None:
        self.planner = RulePlanner(Book(some.NODE), self.policy)
        for key, one in self.slices.items():
            self.planner.book.put_slices(key, (one,))
        for key, service in self.services.items():
            self.planner.book.put_service(key, service)
        self._owner = self.kernel.owner()

    def play(self, step: Step) -> None:
        """Do one step."""
        what, key, value = step
        if what == "service":
            assert key is not None
            self.services.pop(key, None)
            if isinstance(value, Service):
                self.services[key] = replace(value, key=key)
            self.planner.book.put_service(key, self.services.get(key))
        elif what == "slice":
            assert key is not None
            self.slices.pop(key, None)
            if isinstance(value, EndpointSlice):
                self.slices[key] = value
            held = self.slices.get(key)
            self.planner.book.put_slices(key, () if held is None else (held,))
        elif what == "foreign":
            self.kernel.do(str(key))
        elif what == "delete":
            assert isinstance(value, int)
            self._delete(value)
        elif what == "fail":
            self.kernel.runner.fail = str(key)
        elif what == "restart":
            self._begin()
        else:
            with contextlib.suppress(FirewallError):
                self.write()

    def _delete(self, number: int) -> None:
        rules = [
            (name, at)
            for name, held in self.kernel.read_back("nat").items()
            for at in range(1, len(held) + 1)
        ]
        if rules:
            name, at = rules[number % len(rules)]
            self.kernel.do(f"-t nat -D {name} {at}")

    def write(self) -> None:
        """One pass, as RuleSync does it after the watch has looked. Raises FirewallError."""
        self.planner.update()
        pending = self.planner.pending()
        wishes = (
            Wish("nat", self.planner.chains, nat_jumps(), prefixes=names.PREFIXES),
            Wish("filter", filter_chains(self.policy), filter_jumps(), prefixes=names.PREFIXES),
        )

        async def commit() -> None:
            self.kernel.iptables.watch.poll()
            touched = {"nat": pending, "filter": names.FILTER_CHAINS}
            await self._owner.commit(wishes, touched)

        self.kernel.inside.wait(commit())
        self.planner.written(pending)


@pytest.fixture(scope="module", params=["nft", "legacy"])
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """With a lock file of its own (iptables(8), XTABLES_LOCKFILE)."""
    lock_file = tmp_path_factory.mktemp("random") / "xtables.lock"
    space = Namespace("random")
    space.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTABLES_LOCKFILE", str(lock_file))
        made = Kernel(space, request.param, lock_file)
        try:
            yield made
        finally:
            made.close()
            space.remove()


@given(
    histories,
    policies,
    st.lists(some.packets, min_size=1, max_size=25),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_kernel_does_what_the_objects_promise_whatever_happened_before(
    kernel: Kernel, script: list[Step], policy: Policy, packets: list[Packet]
) -> None:
    kernel.runner.fail = ""
    history = History(kernel, policy)
    for step in script:
        history.play(step)
    kernel.runner.fail = ""
    history.write()
    nat, filters = kernel.read_back("nat"), kernel.read_back("filter")
    ours = {name: tuple(held) for name, held in nat.items() if name.startswith(names.PREFIXES)}
    assert ours == history.planner.chains
    kept = {name: tuple(held) for name, held in filters.items() if name.startswith(names.PREFIXES)}
    assert kept == filter_chains(policy)
    for jump in (*nat_jumps(), *filter_jumps()):
        parent = (nat if jump in nat_jumps() else filters)[jump.parent]
        assert parent.count(jump.rule) == 1
        assert parent.index(jump.rule) < 2, "before all else"
    walker = Walker(nat, some.LOCAL)
    world = World(
        list(history.services.values()), list(history.slices.values()), some.NODE, some.LOCAL,
        policy.cluster_cidr, policy.masquerade_all, policy.node_port_ranges,
    )  # fmt: skip
    for packet in packets:
        check(walker.fates(packet), world, packet)


@given(st.lists(changes, max_size=10))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_pass_over_what_is_right_already_writes_nothing(
    kernel: Kernel, script: list[Step]
) -> None:
    """Neither the same netd's nor one's that begins anew and reads everything."""
    kernel.runner.fail = ""
    history = History(kernel, Policy(cluster_cidr=some.CLUSTER_CIDR))
    for step in script:
        history.play(step)
    history.write()
    before = kernel.generation()
    history.write()
    history.play(("restart", None, None))
    history.write()
    assert kernel.generation() == before
