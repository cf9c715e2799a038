"""Which records are peers: each judged alone, whatever garbage lies beside it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.leases.model import Lease, parse_network_config
from netd.leases.peers import Judge, Malformed, Record, Roster, interpret
from tests.netd.leases.strategies import (
    CONFIG,
    JUDGE,
    OWN,
    OWN_IP,
    PREFIX,
    garbage,
    good_records,
    mac,
    record,
    value,
)


def roster(*records: Record) -> Roster:
    """A roster of *records*."""
    made = Roster()
    made.replace(records, 7)
    return made


def peers(made: Roster, judge: Judge = JUDGE) -> dict[str, str]:
    """Subnet and address of every peer."""
    view = made.view(judge)
    return {str(subnet): str(lease.public_ip) for subnet, lease in view.peers.items()}


@settings(deadline=None)
@given(st.lists(good_records(), max_size=8), st.lists(garbage(), max_size=8), st.randoms())
def test_any_garbage_in_any_order_leaves_the_good_ones_as_they_are(
    good: list[Record], bad: list[Record], rng: object
) -> None:
    alone = {one.key: one for one in good}
    mixed = [*alone.values(), *{one.key: one for one in bad}.values()]
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    made = roster(*mixed)
    view = made.view(JUDGE)
    assert view.peers == roster(*alone.values()).view(JUDGE).peers
    assert {lease.key for lease in view.peers.values()} == set(alone)
    assert set(view.skipped) == {one.key for one in bad}
    assert all(view.skipped.values())


@settings(deadline=None)
@given(st.lists(st.one_of(good_records(), garbage()), max_size=12))
def test_what_any_readable_key_names_counts_as_occupied(records: list[Record]) -> None:
    occupied = roster(*records).occupied()
    for one in records:
        entry = interpret(one)
        if entry.subnet is not None:
            assert entry.subnet in occupied


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (record("10.2.3.0/24", 2), "subnet 10.2.3.0/24 lies outside Network 10.1.0.0/16"),
        (record("10.1.3.0/24", 2, BackendType="host-gw"), "backend is host-gw, this network"),
        (record("10.1.3.0/24", 2, BackendType=""), "backend is missing, this network uses vxlan"),
        (
            record("10.1.3.0/24", 2, BackendData={"VNI": 2, "VtepMAC": mac(2)}),
            "VNI is 2, this network uses 1",
        ),
        (record("10.1.1.0/24", 2), "subnet 10.1.1.0/24 overlaps ours, 10.1.1.0/24"),
        (record("10.1.0.0/20", 2), "subnet 10.1.0.0/20 overlaps ours, 10.1.1.0/24"),
        (record("10.1.3.0/24", 1), "PublicIP 198.18.0.1 is this host's own"),
        (record("10.1.3.0/24", 2, PublicIP="x"), "PublicIP is 'x': must be an IPv4 address"),
        (
            record("10.1.3.0/24", 2, BackendData={"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}),
            "must be six hex bytes, not multicast",
        ),
        (Record(PREFIX + "10.1.3.0-24&fd00:10:0:b::-64", value(2), 1, 1, 1), "dual-stack"),
        (Record(PREFIX + "10.1.3.0-24", b"garbage", 1, 1, 1), "is no lease"),
        (Record(PREFIX + "leases", value(2), 1, 1, 1), "must look like 10.1.33.0-24"),
        (
            Record(PREFIX + "x/subnets/10.1.4.0-24", value(2), 1, 1, 1, "x/subnets/10.1.4.0-24"),
            "must look like 10.1.33.0-24",
        ),
    ],
)
def test_a_record_that_is_no_peer_is_skipped_with_the_reason(one: Record, reason: str) -> None:
    view = roster(one, record("10.1.4.0/24", 4)).view(JUDGE)
    assert reason in view.skipped[one.key]
    assert [str(subnet) for subnet in view.peers] == ["10.1.4.0/24"]


def test_our_own_record_is_neither_peer_nor_skipped() -> None:
    view = roster(record("10.1.1.0/24", 1)).view(JUDGE)
    assert (view.peers, view.skipped) == ({}, {})


def test_while_no_subnet_is_chosen_no_record_with_our_address_is_a_peer_or_skipped() -> None:
    judge = Judge(CONFIG, OWN_IP, None)
    view = roster(record("10.1.3.0/24", 1), record("10.1.4.0/24", 1)).view(judge)
    assert (view.peers, view.skipped) == ({}, {})


def test_records_without_vni_are_peers_as_old_flannel_wrote_them() -> None:
    old = record("10.1.3.0/24", 2, BackendData={"VtepMAC": mac(2)})
    assert peers(roster(old)) == {"10.1.3.0/24": "198.18.0.2"}


def test_with_host_gw_the_peers_are_the_host_gw_records() -> None:
    config = parse_network_config('{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}')
    made = roster(record("10.1.3.0/24", 2), record("10.1.4.0/24", 3, BackendType="host-gw"))
    view = made.view(Judge(config, OWN_IP, OWN))
    assert [str(subnet) for subnet in view.peers] == ["10.1.4.0/24"]
    assert "backend is vxlan" in view.skipped[PREFIX + "10.1.3.0-24"]


def test_of_two_overlapping_records_the_older_one_is_the_peer() -> None:
    wide, narrow = record("10.1.16.0/20", 2, rev=3), record("10.1.17.0/24", 3, rev=9)
    view = roster(narrow, wide).view(JUDGE)
    assert [str(one) for one in view.peers] == ["10.1.16.0/20"]
    assert view.skipped == {
        narrow.key: "subnet 10.1.17.0/24 overlaps 10.1.16.0/20, an older lease held by 198.18.0.2"
    }
    view = roster(narrow, replace(wide, create_revision=10)).view(JUDGE)
    assert [str(one) for one in view.peers] == ["10.1.17.0/24"]


def test_a_refused_record_refuses_no_other_one() -> None:
    """The /20 gives way to the older /24 and so does not stand in the way of the younger."""
    made = roster(
        record("10.1.16.0/24", 2, rev=1),
        record("10.1.16.0/20", 3, rev=5),
        record("10.1.17.0/24", 4, rev=9),
        record("10.1.0.0/17", 5, rev=1),
    )
    assert set(peers(made)) == {"10.1.16.0/24", "10.1.17.0/24"}


@st.composite
def odd_records(draw: st.DrawFn) -> Record:
    """A record of any length around 10.1.128.0, of any age."""
    length = draw(st.integers(17, 26))
    size = 1 << (32 - length)
    low, high = int(IPv4Address("10.1.128.0")), int(IPv4Address("10.1.131.0"))
    start = draw(st.integers(low, high)) // size * size
    number, age = draw(st.integers(2, 200)), draw(st.integers(1, 20))
    return record(str(IPv4Network((start, length))), number, rev=age)


@settings(deadline=None)
@given(st.lists(odd_records(), max_size=10), st.randoms())
def test_no_two_peers_overlap_and_the_order_of_records_does_not_matter(
    records: list[Record], rng: object
) -> None:
    unique = list({one.key: one for one in records}.values())
    view = roster(*unique).view(JUDGE)
    subnets = list(view.peers)
    for number, subnet in enumerate(subnets):
        assert not any(subnet.overlaps(other) for other in subnets[number + 1 :])
    assert len(view.peers) + len(view.skipped) == len(unique)
    rng.shuffle(unique)  # type: ignore[attr-defined]
    again = roster(*unique).view(JUDGE)
    assert (again.peers, again.skipped) == (view.peers, view.skipped)


@settings(deadline=None)
@given(st.lists(st.one_of(good_records(), garbage(), odd_records()), max_size=20))
def test_put_one_by_one_is_the_same_as_put_at_once(records: list[Record]) -> None:
    step = Roster()
    for one in records:
        step.put(one)
        step.put(one)
    whole = roster(*records)
    assert step.entries == whole.entries
    assert step.view(JUDGE) == whole.view(JUDGE)
    assert step.revision == max((one.mod_revision for one in records), default=0)


def test_deleting_tells_what_was_there_and_is_harmless_twice() -> None:
    made = roster(record("10.1.3.0/24", 2))
    key = PREFIX + "10.1.3.0-24"
    gone = made.delete(key, 9)
    assert isinstance(gone, Lease)
    assert made.delete(key, 9) is None
    assert (made.entries, made.revision) == ({}, 9)
    assert made.delete("never seen", 3) is None
    assert made.revision == 9


def test_a_record_keeps_lease_and_revisions_and_a_malformed_one_its_subnet_and_lease() -> None:
    lease = interpret(Record(PREFIX + "10.1.3.0-24", value(2), 5, 8, 7))
    assert isinstance(lease, Lease)
    assert (lease.lease_id, lease.mod_revision, lease.create_revision) == (5, 8, 7)
    bad = interpret(Record(PREFIX + "10.1.3.0-24", b"x", 5, 8, 7))
    assert isinstance(bad, Malformed)
    assert (bad.subnet, bad.lease_id) == (IPv4Network("10.1.3.0/24"), 5)
    assert interpret(Record(PREFIX + "x", b"x", 0, 1, 1)).subnet is None
