"""Partial commits lead to the same tables as full ones, whatever fails and whoever interferes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.errors import FirewallError
from netd.iptables.chain import Jump, Wish
from netd.iptables.errors import BadRule, LockBusy
from netd.iptables.owned import Committed, ServiceTables
from netd.iptables.table import Tables
from netd.iptables.watch import RuleWatch
from tests.fakes.iptables import FakeGeneration, FakeIptables

PREFIXES = ("KUBE-PORTALS", "KUBE-NODEPORT", "KUBE-VIP-", "KUBE-NP-")
RESTORE = "iptables-nft-restore"
BUSY = "Another app is currently holding the xtables lock; waiting for it to exit..."
FILTER = Wish(
    "filter",
    {"KUBE-PORTALS-FILTER": ("-m mark --mark 0x8000/0x8000 -j DROP",)},
    (Jump("OUTPUT", "-j KUBE-PORTALS-FILTER", "KUBE-PORTALS-FILTER", first=True),),
    prefixes=PREFIXES,
)
JUMPS = (Jump("PREROUTING", "-j KUBE-PORTALS", "KUBE-PORTALS", first=True),)

Leaves = Mapping[str, tuple[str, ...]]


def tree(leaves: Leaves) -> dict[str, tuple[str, ...]]:
    """A root that enters each of *leaves*."""
    root = tuple(f"-d 10.0.0.{n}/32 -j KUBE-VIP-{name}" for n, name in enumerate(sorted(leaves)))
    return {"KUBE-PORTALS": root} | {f"KUBE-VIP-{name}": rules for name, rules in leaves.items()}


@dataclass
class World:
    """A planner's chains, the owner that writes them, and the fake that keeps them."""

    fake: FakeIptables = field(default_factory=FakeIptables)
    chains: dict[str, tuple[str, ...]] = field(default_factory=lambda: tree({}))
    touched: set[str] = field(default_factory=set)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.watch = RuleWatch(resync=5, clock=lambda: self.now)
        self.watch.start(FakeGeneration(self.fake, "nft"), None)
        self.tables = Tables(self.fake, "nft", self.watch)
        self.subscription = self.watch.subscribe(lambda: None)
        self.owner = ServiceTables(self.tables, self.subscription, clock=lambda: self.now)

    def wish(self, leaves: Leaves) -> None:
        """What the planner wants from now on."""
        new = tree(leaves)
        names = self.chains.keys() | new.keys()
        self.touched |= {name for name in names if self.chains.get(name) != new.get(name)}
        for name in self.chains.keys() - new.keys():
            del self.chains[name]
        self.chains |= new

    def wishes(self) -> list[Wish]:
        return [Wish("nat", self.chains, JUMPS, prefixes=PREFIXES), FILTER]

    async def commit(self, *, full: bool = False) -> Committed:
        touched = None if full else {"nat": frozenset(self.touched)}
        done = await self.owner.commit(self.wishes(), touched)
        self.touched.clear()
        return done

    def ours(self) -> dict[str, tuple[str, ...]]:
        """Our chains of nat as the fake has them."""
        chains = self.fake.table("nat").chains
        return {name: tuple(r) for name, r in chains.items() if name.startswith(PREFIXES)}

    def is_right(self) -> bool:
        first = self.fake.table("nat").chains["PREROUTING"][:1]
        return self.ours() == self.chains and first == ["-j KUBE-PORTALS"]

    def commands(self) -> list[str]:
        """The programs run since the last call."""
        names = [argv[0].removeprefix("iptables-nft-") for argv in self.fake.calls]
        self.fake.calls.clear()
        return names


@pytest.fixture
async def world() -> World:
    """Two leaves, written."""
    made = World()
    made.wish({"A": ("-j RETURN",), "B": ("-j ACCEPT",)})
    done = await made.commit(full=True)
    assert (done.full, done.foreign) == (True, ())
    assert set(done.changed) == {"KUBE-PORTALS", "KUBE-VIP-A", "KUBE-VIP-B", "KUBE-PORTALS-FILTER"}
    assert made.commands() == ["save", "restore"]
    return made


async def test_a_touched_chain_is_sent_alone_and_nothing_is_read(world: World) -> None:
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    done = await world.commit()
    assert (done.changed, done.full) == (("KUBE-VIP-A",), False)
    assert done.what == ("nat: chain KUBE-VIP-A altered",)
    assert world.commands() == ["restore"]
    assert world.fake.restored[-1] == ("*nat\n:KUBE-VIP-A - [0:0]\n-A KUBE-VIP-A -j DROP\nCOMMIT\n")
    assert world.is_right()


async def test_what_was_touched_but_is_as_it_was_is_not_sent(world: World) -> None:
    world.touched = {"KUBE-VIP-A", "KUBE-PORTALS", "KUBE-VIP-NEVER"}
    assert (await world.commit()).changed == ()
    assert world.commands() == []


async def test_a_full_commit_of_what_is_there_writes_nothing(world: World) -> None:
    done = await world.commit(full=True)
    assert (done.changed, done.what, done.full) == ((), (), True)
    assert world.commands() == ["save"]


async def test_two_tables_that_changed_go_in_one_restore(world: World) -> None:
    world.wish({"A": ("-j DROP",)})
    filter_wish = Wish("filter", {"KUBE-PORTALS-FILTER": ()}, FILTER.jumps, prefixes=PREFIXES)
    touched = {"nat": world.touched, "filter": {"KUBE-PORTALS-FILTER"}}
    done = await world.owner.commit([world.wishes()[0], filter_wish], touched)
    assert not done.full
    assert world.commands() == ["restore"]
    assert world.fake.restored[-1].count("COMMIT") == 2
    assert world.is_right()
    assert not world.subscription.is_pending


async def test_changed_jumps_need_a_full_commit(world: World) -> None:
    jumps = (*JUMPS, Jump("OUTPUT", "-j KUBE-PORTALS", "KUBE-PORTALS", first=True))
    done = await world.owner.commit([Wish("nat", world.chains, jumps, prefixes=PREFIXES)], {})
    assert done.full
    assert world.fake.table("nat").chains["OUTPUT"] == ["-j KUBE-PORTALS"]


async def test_a_partial_commit_that_fails_is_followed_by_a_full_one(world: World) -> None:
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    world.fake.fail(RESTORE, "line 2: CHAIN_USER_FLUSH failed (No such file or directory)")
    done = await world.commit()
    assert done.full
    assert world.commands() == ["restore", "save", "restore"]
    assert (world.owner.partial_restore_failures, world.owner.restore_failures) == (1, 0)
    assert world.is_right()


async def test_a_busy_lock_is_told_at_once_and_the_next_try_is_partial_again(world: World) -> None:
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    world.fake.fail(RESTORE, BUSY)
    with pytest.raises(LockBusy):
        await world.commit()
    assert world.commands() == ["restore"]
    assert not (await world.commit()).full
    assert world.is_right()


async def test_a_rule_that_is_refused_is_named_and_the_rest_works_without_it(world: World) -> None:
    world.fake.refused = {"300.1.1.1"}
    world.wish({"A": ("-j RETURN", "-d 300.1.1.1/32 -j DROP"), "B": ("-j DROP",)})
    with pytest.raises(BadRule) as caught:
        await world.commit()
    assert caught.value.rules == (("nat", "KUBE-VIP-A", "-d 300.1.1.1/32 -j DROP"),)
    assert (world.owner.partial_restore_failures, world.owner.restore_failures) == (1, 1)
    world.wish({"A": ("-j RETURN",), "B": ("-j DROP",)})
    assert (await world.commit()).foreign == ()
    assert world.is_right()


async def test_what_others_did_is_told_apart_from_what_we_want_anew(world: World) -> None:
    world.fake.disturb("nat").chains["KUBE-VIP-B"] = []
    world.fake.disturb("nat").chains["PREROUTING"].insert(0, "-j DOCKER")
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    world.watch.poll()
    done = await world.commit()
    assert done.full
    assert set(done.foreign) == {
        "nat: chain KUBE-VIP-B altered", "nat: jump PREROUTING to KUBE-PORTALS misplaced",
    }  # fmt: skip
    assert set(done.changed) == {"KUBE-VIP-A", "KUBE-VIP-B"}
    assert world.is_right()
    assert not world.subscription.is_pending


async def test_what_a_failed_partial_commit_finds_is_told_as_foreign_too(world: World) -> None:
    nat = world.fake.table("nat")
    nat.chains = {name: [] for name in nat.policies}
    world.wish({"A": ("-j RETURN",), "B": ("-j ACCEPT",), "C": ()})
    world.fake.fail(RESTORE, "Chain 'KUBE-VIP-A' does not exist", code=2)
    done = await world.commit()
    assert "nat: chain KUBE-VIP-A missing" in done.foreign
    assert "nat: chain KUBE-VIP-C missing" not in done.foreign
    assert world.is_right()


async def test_foreign_commits_elsewhere_do_not_make_our_changes_slow_for_long(
    world: World,
) -> None:
    """Once looks in vain have used up what is free, our commits are partial again."""
    full = 0
    for number in range(100):
        world.fake.disturb("filter")
        world.watch.poll()
        world.wish({"A": (f"-d 10.1.1.{number}/32 -j DROP",)})

        def read(argv: tuple[str, ...]) -> None:
            world.now += 0.3 if argv[0].endswith("save") else 0.02

        world.fake.before = read
        full += (await world.commit()).full
    assert 0 < full < 30
    assert world.is_right()


async def test_chains_of_an_earlier_life_are_removed_at_the_first_commit() -> None:
    world = World()
    nat = world.fake.table("nat")
    nat.chains |= {"KUBE-VIP-OLD": ["-j RETURN"], "KUBE-PORTALS": ["-j KUBE-VIP-OLD"]}
    nat.chains |= {"KUBE-SVC-FOREIGN": ["-j RETURN"]}
    nat.chains["PREROUTING"] = ["-j KUBE-PORTALS", "-j KUBE-SVC-FOREIGN"]
    world.wish({"A": ()})
    done = await world.commit()
    assert (done.full, done.foreign) == (True, ())
    assert "KUBE-VIP-OLD" in done.changed
    assert world.is_right()
    assert nat.policies.keys() <= world.fake.table("nat").chains.keys()
    assert world.fake.table("nat").chains["PREROUTING"][1:] == ["-j KUBE-SVC-FOREIGN"]


async def test_what_is_remembered_is_the_planner_s_own_text(world: World) -> None:
    rules = ("-d 10.9.9.9/32 -j DROP",)
    world.wish({"A": rules})
    await world.commit()
    assert world.owner._written["nat"].chains["KUBE-VIP-A"] is rules
    assert world.owner._written["nat"].chains.keys() == world.chains.keys()


async def test_what_the_planner_changes_during_a_commit_is_not_taken_for_written(
    world: World,
) -> None:
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})

    def change_again(argv: tuple[str, ...]) -> None:
        world.fake.before = lambda _argv: None
        world.wish({"A": ("-j ACCEPT",), "B": ("-j ACCEPT",)})

    world.fake.before = change_again
    await world.owner.commit(world.wishes(), {"nat": {"KUBE-VIP-A"}})
    assert world.ours()["KUBE-VIP-A"] == ("-j DROP",)
    assert (await world.commit()).changed == ("KUBE-VIP-A",)
    assert world.is_right()


async def test_what_the_planner_changes_during_a_full_commit_is_not_taken_for_written(
    world: World,
) -> None:
    def change_again(argv: tuple[str, ...]) -> None:
        world.fake.before = lambda _argv: None
        world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})

    world.fake.before = change_again
    assert (await world.owner.commit(world.wishes(), None)).what == ()
    assert (await world.commit()).changed == ("KUBE-VIP-A",)
    assert world.is_right()


async def test_the_half_of_a_failed_commit_that_was_done_is_not_taken_for_foreign(
    world: World,
) -> None:
    """The first of two tables is committed before the second is refused."""
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    refused = "-m mark --mark 0x99999999999 -j DROP"
    world.fake.refused = {refused}
    bad = Wish("filter", {"KUBE-PORTALS-FILTER": (refused,)}, FILTER.jumps, prefixes=PREFIXES)
    touched = {"nat": world.touched, "filter": {"KUBE-PORTALS-FILTER"}}
    with pytest.raises(BadRule):
        await world.owner.commit([world.wishes()[0], bad], touched)
    assert world.is_right()
    other = Wish("filter", {"KUBE-PORTALS-FILTER": ()}, FILTER.jumps, prefixes=PREFIXES)
    done = await world.owner.commit([world.wishes()[0], other], touched)
    assert (done.full, done.changed) == (True, ("KUBE-PORTALS-FILTER",))
    assert done.foreign == ()


async def test_after_a_failed_repair_the_half_that_was_done_is_not_taken_for_foreign(
    world: World,
) -> None:
    """A look at both tables: nat is committed, then the kernel refuses filter."""
    world.wish({"A": ("-j DROP",), "B": ("-j ACCEPT",)})
    refused = "-m mark --mark 0x99999999999 -j DROP"
    world.fake.refused = {refused}
    bad = Wish("filter", {"KUBE-PORTALS-FILTER": (refused,)}, FILTER.jumps, prefixes=PREFIXES)
    with pytest.raises(BadRule):
        await world.owner.commit([world.wishes()[0], bad], None)
    assert world.is_right()
    world.wish({"A": ("-j DROP",), "B": ("-j DROP",)})
    done = await world.commit(full=True)
    assert done.changed == ("KUBE-VIP-B",)
    assert done.foreign == ()


async def test_repairs_are_not_held_up_by_the_limit_for_looks_in_vain(world: World) -> None:
    def read(argv: tuple[str, ...]) -> None:
        world.now += 0.3

    world.fake.before = read
    for number in range(40):
        world.fake.disturb("nat").chains["KUBE-VIP-A"] = []
        world.watch.poll()
        assert world.subscription.is_due, number
        assert (await world.commit()).foreign == ("nat: chain KUBE-VIP-A altered",)


LEAVES = st.dictionaries(
    st.sampled_from("ABCDE"),
    st.lists(st.sampled_from(["-j RETURN", "-j ACCEPT", "-d 10.0.0.9/32 -j DROP"]), max_size=3).map(
        tuple
    ),
    max_size=5,
)
FAULTS = st.sampled_from(
    [(RESTORE, BUSY), (RESTORE, "no memory"), ("iptables-nft-save", "no memory")]
)
DAMAGE = st.sampled_from(["flush", "delete", "alter", "old dump", "elsewhere", "first"])


@settings(deadline=None)
@given(st.lists(st.tuples(LEAVES, st.booleans()), max_size=8))
async def test_partial_commits_end_as_a_full_one_would(steps: list[tuple[Any, bool]]) -> None:
    partial, full = World(), World()
    for leaves, now in steps:
        partial.wish(leaves)
        full.wish(leaves)
        if now:
            await partial.commit()
            assert partial.is_right()
    await partial.commit()
    await full.commit(full=True)
    assert partial.ours() == full.ours() == full.chains
    assert partial.fake.table("nat").chains["PREROUTING"] == ["-j KUBE-PORTALS"]


async def damage(world: World, how: str, dump: dict[str, list[str]]) -> None:
    """What another program does to the table."""
    nat = world.fake.disturb("nat")
    match how:
        case "flush":
            nat.chains = {name: [] for name in nat.chains}
        case "delete":
            nat.chains = {name: [] for name in nat.policies}
        case "alter":
            for name in sorted(name for name in nat.chains if "VIP" in name)[:1]:
                nat.chains[name] = ["-j DROP", *nat.chains[name]]
        case "old dump":
            nat.chains = {name: list(rules) for name, rules in dump.items()}
        case "first":
            nat.chains["PREROUTING"].insert(0, "-j ACCEPT")
        case _:
            nat.chains["POSTROUTING"].append("-j MASQUERADE")


@settings(deadline=None, max_examples=100)
@given(st.data())
async def test_after_faults_and_interference_one_quiet_pass_makes_all_right(
    data: st.DataObject,
) -> None:
    """Random wishes, commits, failures and foreign changes between; then one poll and a commit."""
    world = World()
    dump = {name: list(rules) for name, rules in world.fake.table("nat").chains.items()}
    for _ in range(data.draw(st.integers(0, 8))):
        match data.draw(st.sampled_from(["wish", "commit", "fault", "damage", "dump"])):
            case "wish":
                world.wish(data.draw(LEAVES))
            case "commit":
                touched = set(world.touched)
                try:
                    await world.commit()
                except FirewallError:
                    world.touched |= touched
                world.watch.poll()
            case "fault":
                program, why = data.draw(FAULTS)
                world.fake.fail(program, why, times=data.draw(st.integers(1, 2)))
            case "damage":
                await damage(world, data.draw(DAMAGE), dump)
            case _:
                chains = world.fake.table("nat").chains
                dump = {name: list(rules) for name, rules in chains.items()}
    world.fake.faults.clear()
    world.now += 1000
    world.watch.poll()
    await world.commit()
    assert world.is_right()
    assert not world.subscription.is_pending
    assert (await world.commit(full=True)).what == ()
