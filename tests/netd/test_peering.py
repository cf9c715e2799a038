"""Following changed records one by one ends where judging them all anew ends."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.problems import Problems
from netd.leases.model import parse_network_config
from netd.leases.peers import Entry, Judge, Record, Roster
from netd.overlay.manager import Overlay
from netd.overlay.model import Peer
from netd.peering import MANY, SKIPPED_SHOWN, Peering
from tests.netd.leases.strategies import (
    CONFIG,
    JUDGE,
    OWN_IP,
    PREFIX,
    garbage,
    good_records,
    mac,
    record,
    value,
)
from tests.netd.leases.test_peers import odd_records

Change = tuple[Entry | None, Entry | None]


class FakeOverlay:
    """An overlay that only remembers its peers; ``replaced`` counts wholesale replacements."""

    def __init__(self) -> None:
        self.peers: dict[IPv4Network, Peer] = {}
        self.replaced = 0

    def set_peers(self, peers: Mapping[IPv4Network, Peer]) -> None:
        """Replace all peers."""
        self.replaced += 1
        self.peers = dict(peers)

    def update_peer(self, subnet: IPv4Network, peer: Peer | None) -> None:
        """Enter, change or drop one peer."""
        if peer is None:
            self.peers.pop(subnet, None)
        else:
            assert peer.subnet == subnet
            self.peers[subnet] = peer


class World:
    """A roster that changes, and a peering that follows it or not."""

    def __init__(self, judge: Judge | None = JUDGE) -> None:
        self.judge = judge
        self.roster = Roster()
        self.overlay = FakeOverlay()
        self.problems = Problems()
        self.peering = Peering(
            self.roster, cast("Overlay", self.overlay), self.problems, lambda: self.judge
        )
        self.peering.listed = True

    def put(self, one: Record) -> Change:
        """Change the roster without telling."""
        return self.roster.entries.get(one.key), self.roster.put(one)

    def delete(self, key: str) -> Change:
        """Delete from the roster without telling."""
        return self.roster.delete(key, 0), None

    def event(self, one: Record | str) -> Change:
        """A put or, for a key, a deletion."""
        return self.delete(one) if isinstance(one, str) else self.put(one)

    def state(self) -> tuple[dict[IPv4Network, Peer], dict[str, str], list[str]]:
        """What the followers of this world see."""
        problems = [f"{one.key}: {one.text}" for one in self.problems.all()]
        return dict(self.overlay.peers), dict(self.peering.skipped), problems


RECORDS = st.one_of(good_records(), good_records(), garbage())


@st.composite
def histories(draw: st.DrawFn, records: st.SearchStrategy[Record]) -> list[Record | str]:
    """Puts and deletions over a few keys, so that they meet."""
    pool = draw(st.lists(records, min_size=1, max_size=8))
    keys = st.sampled_from([one.key for one in pool])
    return draw(st.lists(st.one_of(st.sampled_from(pool), records, keys), max_size=25))


def anew(roster: Roster, judge: Judge = JUDGE) -> World:
    """A world that learns of *roster* all at once."""
    world = World(judge)
    world.roster.entries = dict(roster.entries)
    world.peering.refresh()
    return world


@settings(deadline=None)
@given(histories(st.one_of(RECORDS, odd_records())), st.integers(1, 6))
def test_folding_changes_one_by_one_equals_judging_the_result_anew(
    history: list[Record | str], batch: int
) -> None:
    world = World()
    world.peering.refresh()
    for start in range(0, len(history), batch):
        changes = [world.event(one) for one in history[start : start + batch]]
        world.peering.apply(changes)
    assert world.state() == anew(world.roster).state()


@settings(deadline=None)
@given(histories(RECORDS))
def test_changes_delivered_twice_make_no_difference(history: list[Record | str]) -> None:
    world = World()
    world.peering.refresh()
    for one in history:
        world.peering.apply([world.event(one)])
        world.peering.apply([world.event(one)])
    assert world.state() == anew(world.roster).state()


@settings(deadline=None)
@given(histories(RECORDS), st.integers(0, 25), st.integers(0, 10))
def test_changes_missed_during_an_interruption_are_made_up_by_a_refresh(
    history: list[Record | str], cut: int, missed: int
) -> None:
    world = World()
    world.peering.refresh()
    for number, one in enumerate(history):
        change = world.event(one)
        if not cut <= number < cut + missed:
            world.peering.apply([change])
        if number == cut + missed:
            world.peering.refresh()
    world.peering.refresh()
    assert world.state() == anew(world.roster).state()


@settings(max_examples=20, deadline=None)
@given(st.lists(good_records(), min_size=MANY, max_size=MANY + 20))
def test_many_changes_at_once_are_judged_together_with_the_same_result(
    records: list[Record],
) -> None:
    world = World()
    world.peering.refresh()
    world.peering.apply([world.put(one) for one in records])
    assert world.overlay.replaced == 2
    assert world.state() == anew(world.roster).state()


def test_one_changed_record_does_not_replace_all_peers() -> None:
    world = World()
    world.peering.refresh()
    world.peering.apply([world.put(record("10.1.3.0/24", 2))])
    world.peering.apply([world.put(record("10.1.3.0/24", 3))])
    assert world.overlay.replaced == 1
    assert world.overlay.peers == {
        IPv4Network("10.1.3.0/24"): Peer(
            IPv4Network("10.1.3.0/24"), IPv4Address("198.18.0.3"), mac(3), world.roster.revision
        )
    }
    world.peering.apply([world.delete(PREFIX + "10.1.3.0-24")])
    assert world.overlay.peers == {}


def test_a_peer_whose_record_turns_bad_leaves_and_comes_back_when_it_is_mended() -> None:
    world = World()
    world.peering.refresh()
    good = record("10.1.3.0/24", 2)
    world.peering.apply([world.put(good), world.put(record("10.1.4.0/24", 4))])
    world.peering.apply([world.put(Record(good.key, b"garbage", 2, 9, 5))])
    assert [str(one) for one in world.overlay.peers] == ["10.1.4.0/24"]
    assert "is no lease" in world.peering.skipped[good.key]
    assert f"record {good.key}" in world.problems
    world.peering.apply([world.put(good)])
    assert len(world.overlay.peers) == 2
    assert world.peering.skipped == {}
    assert world.problems.all() == ()


def test_a_dual_stack_key_that_comes_and_goes_leaves_the_other_record_of_its_subnet() -> None:
    world = World()
    world.peering.refresh()
    world.peering.apply([world.put(record("10.1.3.0/24", 2))])
    dual = PREFIX + "10.1.3.0-24&fd00:10:0:b::-64"
    world.peering.apply([world.put(Record(dual, value(9), 9, 9, 9))])
    assert [str(one) for one in world.overlay.peers] == ["10.1.3.0/24"]
    world.peering.apply([world.delete(dual)])
    assert [str(one) for one in world.overlay.peers] == ["10.1.3.0/24"]


def test_nothing_is_touched_before_the_records_were_listed_and_the_host_is_known() -> None:
    for listed, judge in ((False, JUDGE), (True, None)):
        world = World(judge)
        world.peering.listed = listed
        change = world.put(record("10.1.3.0/24", 2))
        world.peering.refresh()
        world.peering.apply([change])
        assert world.overlay.replaced == 0
        assert world.overlay.peers == {}
        world.judge, world.peering.listed = JUDGE, True
        world.peering.refresh()
        assert len(world.overlay.peers) == 1


def test_a_changed_network_or_own_subnet_changes_the_verdicts_at_the_next_refresh() -> None:
    world = World()
    world.put(record("10.1.3.0/24", 2))
    world.put(record("10.2.3.0/24", 3))
    world.peering.refresh()
    assert [str(one) for one in world.overlay.peers] == ["10.1.3.0/24"]
    other = parse_network_config('{"Network":"10.2.0.0/16","Backend":{"Type":"vxlan"}}')
    world.judge = Judge(other, OWN_IP, IPv4Network("10.2.1.0/24"))
    world.peering.refresh()
    assert [str(one) for one in world.overlay.peers] == ["10.2.3.0/24"]
    world.judge = Judge(CONFIG, OWN_IP, IPv4Network("10.1.3.0/24"))
    world.peering.refresh()
    assert world.overlay.peers == {}
    assert "overlaps ours" in world.peering.skipped[PREFIX + "10.1.3.0-24"]


def test_of_very_many_bad_records_some_are_reported_and_the_rest_counted() -> None:
    world = World()
    for number in range(SKIPPED_SHOWN + 7):
        world.put(Record(f"{PREFIX}bad-{number:03}", b"x", 0, 1, 1))
    world.peering.refresh()
    keys = [one.key for one in world.problems.all()]
    assert len(keys) == SKIPPED_SHOWN + 1
    assert "record more" in keys
    assert any("7 more lease records" in one.text for one in world.problems.all())
    assert len(world.peering.skipped) == SKIPPED_SHOWN + 7
    assert not world.problems.blocking()


def test_a_peer_that_turns_out_to_be_ourselves_leaves_before_our_subnet_is_chosen() -> None:
    world = World(Judge(CONFIG, OWN_IP, None))
    world.peering.refresh()
    world.peering.apply([world.put(record("10.1.20.0/24", 2))])
    assert len(world.overlay.peers) == 1
    world.peering.apply([world.put(record("10.1.20.0/24", 1))])
    assert world.overlay.peers == {}
    assert world.state() == anew(world.roster, Judge(CONFIG, OWN_IP, None)).state()


def test_a_key_that_names_no_subnet_does_not_make_each_change_replace_all_peers() -> None:
    world = World()
    world.put(Record(PREFIX + "garbage", b"x", 0, 1, 1))
    world.peering.refresh()
    world.peering.apply([world.put(record("10.1.20.0/24", 2))])
    assert world.overlay.replaced == 1
    assert len(world.overlay.peers) == 1
    assert list(world.peering.skipped) == [PREFIX + "garbage"]
