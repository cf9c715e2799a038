"""Rules that the kernel refuses without a word about which are found by trial."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.errors import FirewallError
from netd.iptables.chain import Jump, Wish
from netd.iptables.diff import Change, Observed, plan
from netd.iptables.errors import BadRule, LockBusy, RestoreError
from netd.iptables.owned import ServiceTables
from netd.iptables.table import Tables
from netd.iptables.trial import MOST, SCRATCH, refused_rules
from netd.iptables.watch import RuleWatch
from tests.fakes.iptables import FakeGeneration, FakeIptables

PREFIXES = ("KUBE-PORTALS", "KUBE-VIP-")
JUMPS = (Jump("OUTPUT", "-j KUBE-PORTALS", "KUBE-PORTALS", first=True),)
RESTORE = "iptables-legacy-restore"
BUSY = "Another app is currently holding the xtables lock"


def rule(number: int, extension: str = "") -> str:
    """One service's rule."""
    return f"-d 10.0.0.{number}/32 {extension}-j DNAT --to-destination 10.1.1.1:80"


def tree(leaves: Mapping[str, tuple[str, ...]]) -> Wish:
    """Leaves under one root."""
    root = tuple(f"-s 10.9.9.{n}/32 -j KUBE-VIP-{name}" for n, name in enumerate(sorted(leaves)))
    chains = {"KUBE-PORTALS": root} | {f"KUBE-VIP-{name}": rules for name, rules in leaves.items()}
    return Wish("nat", chains, JUMPS, prefixes=PREFIXES)


def planned(wish: Wish) -> list[Change]:
    """What writes *wish* to an empty table."""
    change = plan(wish, Observed({}))
    assert change is not None
    return [change]


@pytest.fixture
def fake() -> FakeIptables:
    return FakeIptables(variant="legacy")


@pytest.fixture
def tables(fake: FakeIptables) -> Tables:
    return Tables(fake, "legacy")


@pytest.fixture
def owner(fake: FakeIptables, tables: Tables) -> ServiceTables:
    watch = RuleWatch(resync=5, clock=lambda: 0.0)
    watch.start(FakeGeneration(fake, "legacy"), None)
    return ServiceTables(tables, watch.subscribe(lambda: None))


def restores(fake: FakeIptables) -> int:
    """How many restores were run."""
    return sum(argv[0] == RESTORE for argv in fake.calls)


async def test_the_service_whose_rule_the_kernel_refuses_is_named_and_the_rest_is_written(
    fake: FakeIptables, owner: ServiceTables
) -> None:
    fake.refused_at_commit = {"-m recent"}
    bad = rule(2, "-m recent --set ")
    wish = tree({"A": (rule(1), rule(3)), "B": (rule(4), bad)})
    with pytest.raises(BadRule) as caught:
        await owner.commit([wish], None)
    assert caught.value.rules == (("nat", "KUBE-VIP-B", bad),)
    assert "line 12 failed" in str(caught.value)
    assert fake.table("nat", "legacy").chains.keys() == fake.table("nat", "legacy").policies.keys()
    done = await owner.commit([tree({"A": (rule(1), rule(3)), "B": (rule(4),)})], None)
    assert done.foreign == ()
    assert fake.table("nat", "legacy").chains["KUBE-VIP-B"] == [rule(4)]
    assert owner.restore_failures == 1


async def test_trials_are_not_counted_as_failed_writes(fake: FakeIptables, tables: Tables) -> None:
    fake.refused_at_commit = {"10.0.0.7"}
    assert await refused_rules(tables, planned(tree({"A": (rule(7),)})))
    assert tables.restore_failures == 0


async def test_the_same_rule_in_two_chains_is_named_twice(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.refused_at_commit = {"10.0.0.7/32"}
    changes = planned(tree({"A": (rule(7), rule(1)), "B": (rule(7),)}))
    assert await refused_rules(tables, changes) == (
        ("nat", "KUBE-VIP-A", rule(7)), ("nat", "KUBE-VIP-B", rule(7)),
    )  # fmt: skip


async def test_what_fails_even_without_rules_is_no_rule_s_fault(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.fail(RESTORE, "line 4 failed", code=1)
    assert await refused_rules(tables, planned(tree({"A": (rule(1),)}))) == ()
    assert restores(fake) == 2


async def test_what_is_refused_for_another_reason_blames_no_rule(
    fake: FakeIptables, owner: ServiceTables
) -> None:
    fake.fail(RESTORE, "iptables-restore: line 9 failed", code=1)
    with pytest.raises(RestoreError, match="line 9 failed"):
        await owner.commit([tree({"A": (rule(1),)})], None)
    assert SCRATCH not in fake.table("nat", "legacy").chains
    await owner.commit([tree({"A": (rule(1),)})], None)
    assert fake.table("nat", "legacy").chains["KUBE-VIP-A"] == [rule(1)]


@pytest.mark.parametrize(
    ("code", "message"), [(None, "no end after 120 s, stopped"), (4, BUSY), (2, "no rule: x")]
)
async def test_nothing_is_tried_after_a_deadline_or_a_busy_lock(
    fake: FakeIptables, owner: ServiceTables, code: int | None, message: str
) -> None:
    fake.fail(RESTORE, message, code=code)
    with pytest.raises(FirewallError):
        await owner.commit([tree({"A": (rule(1),)})], None)
    tried = restores(fake) - 1
    assert tried == (3 if code == 2 else 0)


async def test_a_lock_that_becomes_busy_during_the_search_is_told(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.refused_at_commit = {"10.0.0.7"}
    fake.fail(RESTORE, BUSY)
    with pytest.raises(LockBusy):
        await refused_rules(tables, planned(tree({"A": (rule(7),)})))


async def test_rules_that_enter_chains_and_those_of_filter_are_not_tried(
    fake: FakeIptables, tables: Tables
) -> None:
    fake.refused_at_commit = {"10.9.9.0", "mark"}
    wish = Wish("filter", {"KUBE-PORTALS-FILTER": ("-m mark --mark 0x1 -j DROP",)})
    assert await refused_rules(tables, planned(wish)) == ()
    assert restores(fake) == 0
    assert await refused_rules(tables, planned(tree({"A": (rule(1),)}))) == ()


async def test_many_refused_rules_are_found_in_several_bounded_rounds(
    fake: FakeIptables, tables: Tables
) -> None:
    """As with a kernel that lacks one extension: each round names some, and no good rule."""
    fake.refused_at_commit = {"-m recent"}
    bad = {rule(n, "-m recent --set ") for n in range(0, 200, 2)}
    left = {"A": tuple(rule(n) for n in range(200)), "B": tuple(sorted(bad))}
    rounds = 0
    while left["B"]:
        fake.calls.clear()
        found = {text for _, _, text in await refused_rules(tables, planned(tree(left)))}
        assert found
        assert found <= bad
        assert restores(fake) <= MOST + 1
        left["B"] = tuple(one for one in left["B"] if one not in found)
        rounds += 1
    assert rounds < 10


@settings(deadline=None)
@given(st.sets(st.integers(0, 19), max_size=4), st.integers(1, 20))
async def test_exactly_the_refused_rules_are_found(bad: set[int], chains: int) -> None:
    fake = FakeIptables(variant="legacy", refused_at_commit={f"10.0.0.{n}/32" for n in bad})
    leaves = {str(c): tuple(rule(n) for n in range(20) if n % chains == c) for c in range(chains)}
    found = await refused_rules(Tables(fake, "legacy"), planned(tree(leaves)))
    assert {text for _, _, text in found} == {rule(n) for n in bad}
    assert SCRATCH not in fake.table("nat", "legacy").chains
