"""A table that iptables cannot show: updates go on, the problem is told, nothing is doubled."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.errors import FirewallError
from netd.iptables.chain import Jump, Wish
from netd.iptables.errors import BadRule, HiddenTable, LockBusy
from tests.netd.iptables.test_owned import BUSY, FILTER, JUMPS, LEAVES, PREFIXES, RESTORE, World


@pytest.fixture
async def world() -> World:
    """One leaf, written; then nat cannot be shown any more, which the watch has noticed."""
    made = World()
    made.wish({"A": ("-j RETURN",)})
    await made.commit(full=True)
    made.fake.hidden = {"nat"}
    made.fake.disturb("nat")
    made.watch.poll()
    return made


async def hidden(world: World, *, full: bool = False) -> HiddenTable:
    """A commit that has to tell of the hidden table."""
    with pytest.raises(HiddenTable) as caught:
        await world.commit(full=full)
    return caught.value


@pytest.mark.parametrize("full", [False, True])
async def test_updates_are_written_and_the_table_is_named(world: World, full: bool) -> None:
    for number in range(3):
        world.wish({"A": (f"-d 10.0.0.{number}/32 -j DROP",), "B": ()})
        error = await hidden(world, full=full)
        assert (error.table, error.is_written) == ("nat", True)
        assert "move the foreign rules to a table of their own" in str(error)
        assert world.is_right()
    assert world.fake.table("nat").chains["PREROUTING"] == ["-j KUBE-PORTALS"]
    assert world.owner.partial_restore_failures == 0


async def test_every_commit_tells_though_nothing_more_changed(world: World) -> None:
    """What was noticed has been looked at, so the watch does not ask again and again."""
    for _ in range(3):
        await hidden(world)
        assert not world.subscription.is_pending
    assert world.fake.restored[2:] == []


async def test_once_it_can_be_shown_again_everything_is_compared(world: World) -> None:
    world.wish({"A": ("-j DROP",)})
    await hidden(world)
    world.fake.table("nat").chains["PREROUTING"].clear()
    world.fake.hidden = set()
    done = await world.commit()
    assert (done.full, done.foreign) == (
        True, ("nat: jump PREROUTING to KUBE-PORTALS missing",)
    )  # fmt: skip
    assert world.is_right()
    assert not (await world.commit()).full


async def test_of_a_table_never_written_nothing_is_written_unseen() -> None:
    world = World()
    world.fake.hidden = {"nat"}
    world.wish({"A": ()})
    assert not (await hidden(world)).is_written
    assert world.fake.restored == []


async def test_other_jumps_wait_until_they_can_be_compared(world: World) -> None:
    jumps = (*JUMPS, Jump("OUTPUT", "-j KUBE-PORTALS", "KUBE-PORTALS", first=True))
    wishes = [Wish("nat", world.chains, jumps, prefixes=PREFIXES), FILTER]
    with pytest.raises(HiddenTable) as caught:
        await world.owner.commit(wishes, {})
    assert not caught.value.is_written
    assert world.fake.table("nat").chains["OUTPUT"] == []


async def test_a_refused_rule_is_named_and_the_next_commit_writes_without_it(world: World) -> None:
    world.fake.refused = {"300.1.1.1"}
    world.wish({"A": ("-d 300.1.1.1/32 -j DROP",), "B": ()})
    with pytest.raises(BadRule) as caught:
        await world.commit()
    assert caught.value.rules == (("nat", "KUBE-VIP-A", "-d 300.1.1.1/32 -j DROP"),)
    world.wish({"A": ("-j DROP",), "B": ()})
    assert (await hidden(world)).is_written
    assert world.is_right()


async def test_a_busy_lock_is_told_and_the_next_commit_writes(world: World) -> None:
    world.wish({"A": ("-j DROP",)})
    world.fake.fail(RESTORE, BUSY)
    with pytest.raises(LockBusy):
        await world.commit()
    assert (await hidden(world)).is_written
    assert world.is_right()


async def test_after_another_failure_nothing_is_written_until_it_can_be_shown(
    world: World,
) -> None:
    """The kernel may not have what was last written: chains may be missing."""
    world.wish({"A": ("-j DROP",)})
    world.fake.fail(RESTORE, "Chain 'KUBE-VIP-A' does not exist", code=2)
    with pytest.raises(FirewallError, match="does not exist"):
        await world.commit()
    assert not (await hidden(world)).is_written
    world.fake.hidden = set()
    assert (await world.commit()).full
    assert world.is_right()


@settings(deadline=None)
@given(st.lists(st.tuples(LEAVES, st.booleans(), st.booleans()), max_size=8))
async def test_updates_never_stop_and_never_double_however_often_it_hides(
    steps: list[tuple[Any, bool, bool]],
) -> None:
    world = World()
    await world.commit(full=True)
    for leaves, is_hidden, full in steps:
        world.wish(leaves)
        world.fake.hidden = {"nat"} if is_hidden else set()
        world.fake.disturb("nat")
        world.watch.poll()
        if is_hidden:
            assert (await hidden(world, full=full)).is_written
        else:
            assert (await world.commit(full=full)).full
        assert world.is_right()
        assert world.fake.table("nat").chains["PREROUTING"] == ["-j KUBE-PORTALS"]
