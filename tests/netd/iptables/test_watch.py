"""Foreign changes are noticed, our own commits are not, and looking has its price."""

import asyncio
from dataclasses import dataclass, field

import pytest

from netd.iptables.watch import FREE_LOOKS, FREE_REPAIRS, RuleWatch, Subscription
from tests.fakes.iptables import FakeGeneration, FakeIptables


@dataclass
class World:
    """A watch with a subscriber, over tables and a clock that the test moves."""

    variant: str = "nft"
    now: float = 1000.0
    called: int = 0
    fake: FakeIptables = field(default_factory=FakeIptables)

    def __post_init__(self) -> None:
        self.source = FakeGeneration(self.fake, self.variant)
        self.watch = RuleWatch(resync=5, clock=lambda: self.now)
        self.one = self.subscribe()

    def subscribe(self) -> Subscription:
        def call() -> None:
            self.called += 1

        return self.watch.subscribe(call)

    def start(self) -> None:
        self.watch.start(self.source, None)
        self.look()

    def look(self, *, took: float = 0.0, found: bool = False) -> None:
        with self.one.looking() as look:
            self.now += took
            look.found = found

    def calls(self) -> int:
        """How often the subscriber is called by one poll."""
        before = self.called
        self.watch.step()
        return self.called - before


@pytest.fixture
def world() -> World:
    made = World()
    made.start()
    return made


async def test_a_quiet_host_causes_no_look(world: World) -> None:
    for _ in range(100):
        world.now += 100
        assert world.calls() == 0


async def test_a_foreign_commit_asks_for_a_look_until_one_ended_well(world: World) -> None:
    world.fake.disturb("nat")
    assert world.calls() == 1
    with pytest.raises(OSError, match="broken"), world.one.looking():
        raise OSError("broken")
    assert world.calls() == 1
    world.look()
    assert world.calls() == 0


async def test_before_its_first_look_a_subscriber_is_not_called() -> None:
    world = World()
    world.watch.start(world.source, None)
    world.fake.disturb("nat")
    assert world.calls() == 0
    world.look()
    assert world.calls() == 0


async def test_a_watch_that_was_not_started_calls_nobody() -> None:
    world = World()
    world.fake.disturb("nat")
    assert world.calls() == 0
    world.watch.close()


async def test_a_change_during_a_look_causes_another(world: World) -> None:
    world.fake.disturb("nat")
    world.watch.poll()
    with world.one.looking():
        world.fake.disturb("nat")
    assert world.calls() == 1


async def commit(world: World, tables: int, *, foreign: int = 0) -> None:
    """One run of ours that commits *tables* tables, with *foreign* commits meanwhile."""
    async with world.watch.own_commit(tables):
        for _ in range(tables + foreign):
            world.fake.disturb("nat")
        # A poll in the middle must not take our steps for foreign ones.
        world.watch.poll()


@pytest.mark.parametrize("tables", [1, 2])
async def test_our_own_commit_is_no_foreign_change(world: World, tables: int) -> None:
    await commit(world, tables)
    assert world.calls() == 0
    world.fake.disturb("nat")
    assert world.calls() == 1


async def test_a_foreign_commit_between_ours_is_noticed(world: World) -> None:
    await commit(world, 2, foreign=1)
    assert world.calls() == 1


async def test_a_foreign_commit_just_before_ours_is_noticed(world: World) -> None:
    world.fake.disturb("nat")
    await commit(world, 1)
    assert world.calls() == 1


async def test_after_a_failed_run_that_changed_something_a_look_follows(world: World) -> None:
    with pytest.raises(OSError, match="refused"):
        async with world.watch.own_commit(2):
            world.fake.disturb("nat")
            raise OSError("refused")
    assert world.calls() == 1
    world.look()
    with pytest.raises(OSError, match="refused"):
        async with world.watch.own_commit(1):
            raise OSError("refused")
    assert world.calls() == 0


async def test_commits_of_this_process_come_one_after_the_other(world: World) -> None:
    inside: list[str] = []

    async def run(name: str) -> None:
        async with world.watch.own_commit(1):
            inside.append(f"{name} in")
            await asyncio.sleep(0)
            world.fake.disturb("nat")
            inside.append(f"{name} out")

    await asyncio.gather(run("a"), run("b"))
    assert inside == ["a in", "a out", "b in", "b out"]
    assert world.calls() == 0


async def test_looks_in_vain_take_at_most_a_tenth_of_the_time(world: World) -> None:
    """With others committing all the time, once what is free has been used up."""
    began, spent = world.now, 0.0
    while world.now < began + 1000:
        world.fake.disturb("nat")
        if world.calls():
            world.look(took=0.3)
            spent += 0.3
        world.now += 0.25
    assert 95 < spent < 100 + FREE_LOOKS + 1


async def test_repairs_come_at_once_until_they_are_a_fight(world: World) -> None:
    for number in range(int(FREE_REPAIRS)):
        world.fake.disturb("nat")
        assert world.calls() == 1, number
        world.look(took=1.0, found=True)
    repaired = 0
    world.fake.disturb("nat")
    while world.calls() and repaired < FREE_REPAIRS:
        world.look(took=1.0, found=True)
        repaired += 1
        world.fake.disturb("nat")
    assert repaired < FREE_REPAIRS
    world.now += 100
    assert world.calls() == 1


async def test_a_look_that_nobody_caused_is_free(world: World) -> None:
    world.look(took=100.0)
    world.fake.disturb("nat")
    assert world.calls() == 1


async def test_where_the_number_is_unknown_a_look_is_due_after_the_resync_time(
    world: World,
) -> None:
    world.source.is_unknown = True
    world.watch.poll()
    world.look()
    assert world.calls() == 0
    world.now += 5
    assert world.calls() == 1
    world.look()
    assert world.calls() == 0
    world.source.is_unknown = False
    world.watch.poll()
    world.look()
    world.now += 500
    assert world.calls() == 0


async def test_legacy_tables_are_looked_at_by_their_figures_and_by_the_timer() -> None:
    world = World(variant="legacy")
    world.start()
    world.fake.table("nat", "legacy").chains["OUTPUT"].append("-j DROP")
    assert world.calls() == 1
    world.look()
    assert world.calls() == 0
    # One of equal size in its place.
    world.fake.table("nat", "legacy").chains["OUTPUT"] = ["-j RETURN"]
    assert world.calls() == 0
    world.now += 5
    assert world.calls() == 1


async def test_each_subscriber_has_seen_what_it_has_seen(world: World) -> None:
    other = world.subscribe()
    with other.looking():
        pass
    world.fake.disturb("nat")
    assert world.calls() == 2
    world.look()
    assert other.is_pending
    assert world.calls() == 1
