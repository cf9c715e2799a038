"""Choosing a subnet: the order of the choices, and that nothing occupied is ever given away."""

import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.leases.allocate import Contested, Decision, Exhausted, Identity, Keep, Take, decide
from netd.leases.model import Lease, NetworkConfig, parse_network_config
from netd.leases.peers import Record, Roster
from tests.netd.leases.strategies import CONFIG, OWN_IP, garbage, good_records, mac, record
from tests.netd.leases.test_peers import odd_records, roster

SMALL = parse_network_config(
    '{"Network":"10.1.0.0/16","SubnetMin":"10.1.10.0","SubnetMax":"10.1.13.0",'
    '"Backend":{"Type":"vxlan"}}'
)
"""Four subnets: 10.1.10.0/24 to 10.1.13.0/24."""


def net(text: str) -> IPv4Network:
    """Short for a subnet."""
    return IPv4Network(text)


ME = Identity(OWN_IP, frozenset({mac(1)}), net("10.1.11.0/24"))
NOBODY = Identity(OWN_IP)


def choose(
    made: Roster,
    identity: Identity = NOBODY,
    *,
    config: NetworkConfig = SMALL,
    history: dict[str, int] | None = None,
    excluded: tuple[str, ...] = (),
    seed: int = 1,
) -> Decision:
    """The decision with seed *seed*."""
    return decide(
        config, made, identity, {net(one): at for one, at in (history or {}).items()},
        excluded=map(net, excluded), rng=random.Random(seed),
    )  # fmt: skip


def test_our_own_lease_goes_before_the_remembered_subnet() -> None:
    decision = choose(roster(record("10.1.12.0/24", 1)), ME)
    assert isinstance(decision, Keep)
    assert decision.lease.subnet == net("10.1.12.0/24")


def test_the_remembered_subnet_goes_before_one_that_nobody_had() -> None:
    for seed in range(20):
        decision = choose(roster(), ME, history={"10.1.11.0/24": 5}, seed=seed)
        assert decision == Take(net("10.1.11.0/24"), "the subnet remembered on this host")


@pytest.mark.parametrize(
    "occupant",
    [
        record("10.1.11.0/24", 7),
        record("10.1.11.0/24", 7, lease=0),
        record("10.1.11.128/25", 7),
        record("10.1.8.0/21", 7, BackendType="wireguard"),
        Record("/p/subnets/10.1.11.0-24", b"garbage", 0, 1, 1),
        Record("/p/subnets/10.1.11.0-24&fd00:10:0:b::-64", b"{}", 0, 1, 1),
    ],
)
def test_the_remembered_subnet_is_not_taken_while_any_record_occupies_it(occupant: Record) -> None:
    decision = choose(roster(occupant), ME)
    assert not isinstance(decision, Keep)
    if isinstance(decision, Take):
        assert decision.subnet != net("10.1.11.0/24")
    else:
        assert isinstance(decision, Exhausted)


@pytest.mark.parametrize("remembered", ["10.1.14.0/24", "10.1.11.0/25", "192.0.2.0/24"])
def test_a_remembered_subnet_that_the_configuration_does_not_admit_is_forgotten(
    remembered: str,
) -> None:
    decision = choose(roster(), Identity(OWN_IP, remembered=net(remembered)))
    assert isinstance(decision, Take)
    assert SMALL.admits(decision.subnet)


def test_a_subnet_that_nobody_had_goes_before_any_that_somebody_had() -> None:
    history = {"10.1.10.0/24": 1, "10.1.11.0/24": 2, "10.1.13.0/24": 3}
    for seed in range(20):
        decision = choose(roster(), history=history, seed=seed)
        assert decision == Take(net("10.1.12.0/24"), "a subnet that no host had before")


def test_else_the_one_whose_holder_left_longest_ago() -> None:
    history = {"10.1.10.0/24": 9, "10.1.11.0/24": 4, "10.1.12.0/24": 2, "10.1.13.0/24": 7}
    for seed in range(20):
        decision = choose(roster(record("10.1.12.0/24", 7)), history=history, seed=seed)
        assert decision == Take(
            net("10.1.11.0/24"), "the free subnet whose holder left longest ago"
        )


def test_a_full_network_is_said_to_be_full_with_its_size() -> None:
    made = roster(*(record(f"10.1.{third}.0/24", third) for third in range(10, 14)))
    assert choose(made) == Exhausted(4)
    assert choose(roster(record("10.1.0.0/20", 7)), ME) == Exhausted(4)


def test_subnets_lost_in_a_race_count_as_taken() -> None:
    lost = ("10.1.10.0/24", "10.1.11.0/24", "10.1.12.0/24")
    decision = choose(roster(), ME, excluded=lost)
    assert isinstance(decision, Take)
    assert decision.subnet == net("10.1.13.0/24")
    assert choose(roster(), ME, excluded=(*lost, "10.1.13.0/24")) == Exhausted(4)


def test_a_reservation_for_us_is_kept_and_goes_before_a_lease_of_ours() -> None:
    made = roster(record("10.1.12.0/24", 1, rev=1), record("10.1.13.0/24", 1, lease=0, rev=9))
    decision = choose(made, ME)
    assert isinstance(decision, Keep)
    assert decision.lease.subnet == net("10.1.13.0/24")
    assert decision.lease.is_reservation


def test_a_bare_reservation_with_nothing_but_our_address_is_ours() -> None:
    bare = Record("/p/subnets/10.1.12.0-24", b'{"PublicIP":"198.18.0.1"}', 0, 3, 3)
    decision = choose(roster(bare))
    assert isinstance(decision, Keep)
    assert decision.lease.is_reservation


def test_a_lease_with_our_address_and_a_foreign_mac_is_contested() -> None:
    foreign = record("10.1.12.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)})
    assert isinstance(choose(roster(foreign), ME), Contested)


def test_a_lease_with_our_address_on_our_remembered_subnet_is_ours_whatever_its_mac() -> None:
    foreign = record("10.1.11.0/24", 1, BackendData={"VNI": 1, "VtepMAC": mac(99)})
    assert isinstance(choose(roster(foreign), ME), Keep)


def test_of_several_leases_with_our_address_the_certain_one_is_kept_then_the_oldest() -> None:
    foreign = record("10.1.10.0/24", 1, rev=1, BackendData={"VNI": 1, "VtepMAC": mac(99)})
    young, old = record("10.1.12.0/24", 1, rev=9), record("10.1.13.0/24", 1, rev=5)
    decision = choose(roster(foreign, young, old), ME)
    assert isinstance(decision, Keep)
    assert decision.lease.subnet == net("10.1.13.0/24")


def test_a_lease_of_ours_that_the_configuration_no_longer_admits_is_not_kept() -> None:
    decision = choose(roster(record("10.1.99.0/24", 1)), Identity(OWN_IP, frozenset({mac(1)})))
    assert isinstance(decision, Take)


@settings(deadline=None)
@given(
    st.lists(st.one_of(good_records(), garbage(), odd_records()), max_size=30),
    st.dictionaries(st.integers(8, 40), st.integers(1, 99), max_size=30),
    st.integers(0, 255),
    st.integers(),
)
def test_what_any_record_occupies_is_never_given_away(
    records: list[Record], history: dict[int, int], remembered: int, seed: int
) -> None:
    config = parse_network_config(
        '{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.35.0"}'
    )
    made = roster(*records)
    identity = Identity(
        IPv4Address("198.51.100.1"), frozenset({mac(9)}), net(f"10.1.{remembered}.0/24")
    )
    past = {net(f"10.1.{third}.0/24"): at for third, at in history.items()}
    decision = decide(config, made, identity, past, rng=random.Random(seed))
    occupied = made.occupied()
    free = [
        config.subnet_at(index)
        for index in range(config.capacity)
        if not any(config.subnet_at(index).overlaps(one) for one in occupied)
    ]
    if isinstance(decision, Take):
        assert decision.subnet in free
        if decision.subnet != identity.remembered and decision.subnet in past:
            assert all(one in past for one in free)
            assert past[decision.subnet] == min(past[one] for one in free)
    else:
        assert decision == Exhausted(27)
        assert not free


@settings(deadline=None)
@given(st.integers(), st.integers(), st.lists(good_records(), max_size=5))
def test_a_host_that_sees_another_s_record_never_chooses_the_same_subnet(
    seed: int, other_seed: int, records: list[Record]
) -> None:
    made = roster(*records)
    first = decide(SMALL, made, NOBODY, {}, rng=random.Random(seed))
    if not isinstance(first, Take):
        return
    made.put(record(str(first.subnet), 1))
    other = Identity(IPv4Address("198.18.3.3"), remembered=first.subnet)
    second = decide(SMALL, made, other, {}, rng=random.Random(other_seed))
    assert not isinstance(second, Keep)
    if isinstance(second, Take):
        assert second.subnet != first.subnet


def test_hosts_that_start_together_rarely_choose_the_same_subnet() -> None:
    chosen = set()
    for seed in range(50):
        decision = choose(roster(), config=CONFIG, seed=seed)
        assert isinstance(decision, Take)
        chosen.add(decision.subnet)
    assert len(chosen) > 35


def test_a_lease_is_certainly_ours_by_mac_or_by_remembered_subnet_and_never_by_address() -> None:
    def lease(third: int, vtep: str, address: str = str(OWN_IP)) -> Lease:
        return Lease("k", net(f"10.1.{third}.0/24"), IPv4Address(address), "vxlan", 1, vtep)

    assert ME.owns(lease(50, mac(1)))
    assert ME.owns(lease(11, mac(2)))
    assert not ME.owns(lease(50, mac(2)))
    assert not ME.owns(lease(11, mac(1), "198.18.0.2"))


def test_of_two_records_of_ours_the_remembered_one_is_kept() -> None:
    """The other one is older, left by a creation whose answer was lost."""
    made = roster(record("10.1.10.0/24", 1, rev=3), record("10.1.11.0/24", 1, rev=9))
    decision = choose(made, ME)
    assert isinstance(decision, Keep)
    assert decision.lease.subnet == net("10.1.11.0/24")


def test_our_record_under_a_former_address_has_to_be_asked_about() -> None:
    """Our subnet and our MAC: ours before the address changed, or a cloned machine's."""
    former = record("10.1.11.0/24", 1, PublicIP="198.18.0.200")
    decision = choose(roster(former), ME)
    assert isinstance(decision, Contested)
    assert decision.lease.subnet == net("10.1.11.0/24")
    elsewhere = record("10.1.12.0/24", 1, PublicIP="198.18.0.200")
    assert isinstance(choose(roster(elsewhere), ME), Take), "not our subnet: somebody else's"
