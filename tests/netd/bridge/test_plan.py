"""docker0: made, moved or left alone, and never moved under containers."""

from dataclasses import replace
from ipaddress import IPv4Interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.bridge.plan import Bridge, Refusal, Steps, Wanted, decide

OURS, OLD = IPv4Interface("10.1.33.1/24"), IPv4Interface("172.17.0.1/16")
WANTED = Wanted(OURS, 1450)
RIGHT = Bridge(7, "bridge", True, 1450, WANTED.mac, (OURS,))
PORTS = ("veth1", "veth2")


def test_a_missing_bridge_is_made_whole() -> None:
    assert decide(None, WANTED) == Steps(create=True, set_mtu=1450, add=(OURS,), set_up=True)


@pytest.mark.parametrize("ports", [(), PORTS])
def test_a_bridge_that_is_right_is_left_alone(ports: tuple[str, ...]) -> None:
    decision = decide(replace(RIGHT, ports=ports), WANTED)
    assert decision == Steps()
    assert not decision


@pytest.mark.parametrize(
    ("bridge", "steps"),
    [
        (replace(RIGHT, mtu=1500), Steps(set_mtu=1450)),
        (replace(RIGHT, mtu=1500, ports=PORTS), Steps(set_mtu=1450)),
        (replace(RIGHT, up=False), Steps(set_up=True)),
        (replace(RIGHT, addresses=()), Steps(add=(OURS,))),
        (replace(RIGHT, addresses=(), ports=PORTS), Steps(add=(OURS,))),
        (replace(RIGHT, addresses=(OLD,)), Steps(add=(OURS,), remove=(OLD,))),
        (replace(RIGHT, addresses=(OLD, OURS)), Steps()),
        (replace(RIGHT, addresses=(OLD, OURS), ports=PORTS), Steps()),
        (
            replace(RIGHT, addresses=(IPv4Interface("10.1.33.1/16"),)),
            Steps(add=(OURS,), remove=(IPv4Interface("10.1.33.1/16"),)),
        ),
        (replace(RIGHT, mac="02:42:00:00:00:01"), Steps()),
        (
            replace(RIGHT, up=False, mtu=9000, addresses=(OLD,)),
            Steps(set_mtu=1450, add=(OURS,), remove=(OLD,), set_up=True),
        ),
    ],
)
def test_what_differs_is_put_right_and_nothing_else(bridge: Bridge, steps: Steps) -> None:
    decision = decide(bridge, WANTED)
    assert decision == steps
    assert bool(decision) is (steps != Steps())


def test_another_address_under_containers_is_refused_with_both_addresses() -> None:
    decision = decide(replace(RIGHT, addresses=(OLD,), ports=PORTS), WANTED)
    assert isinstance(decision, Refusal)
    assert decision.in_use
    assert "172.17.0.1/16 instead of 10.1.33.1/24" in decision.why


@pytest.mark.parametrize(("kind", "word"), [("dummy", "dummy link"), ("", "plain link")])
def test_a_device_of_that_name_that_is_no_bridge_is_refused(kind: str, word: str) -> None:
    decision = decide(replace(RIGHT, kind=kind), WANTED)
    assert isinstance(decision, Refusal)
    assert not decision.in_use
    assert word in decision.why


def test_the_mac_follows_from_the_address_in_docker_s_scheme() -> None:
    assert WANTED.mac == "02:42:0a:01:21:01"


def carried_out(bridge: Bridge | None, steps: Steps) -> Bridge:
    """The bridge after *steps*."""
    if steps.create:
        bridge = Bridge(9, "bridge", False, 1500, WANTED.mac, ())
    assert bridge is not None
    kept = tuple(one for one in bridge.addresses if one not in steps.remove)
    return replace(
        bridge,
        mtu=steps.set_mtu or bridge.mtu,
        addresses=kept + steps.add,
        up=bridge.up or steps.set_up,
    )


BRIDGES = st.builds(
    Bridge,
    index=st.just(7),
    kind=st.sampled_from(["bridge", "dummy", ""]),
    up=st.booleans(),
    mtu=st.sampled_from([1450, 1500, 9000]),
    mac=st.just("02:42:00:00:00:01"),
    addresses=st.lists(
        st.sampled_from([OURS, OLD, IPv4Interface("10.1.44.1/24")]), unique=True
    ).map(tuple),
    ports=st.sampled_from([(), PORTS]),
)


@settings(deadline=None)
@given(st.one_of(st.none(), BRIDGES))
def test_after_its_steps_nothing_is_left_to_do(bridge: Bridge | None) -> None:
    decision = decide(bridge, WANTED)
    if isinstance(decision, Steps):
        after = carried_out(bridge, decision)
        assert (after.mtu, after.up) == (1450, True)
        # Beside ours, an administrator's own address stays.
        kept = bridge.addresses if bridge is not None and OURS in bridge.addresses else (OURS,)
        assert after.addresses == kept
        assert decide(after, WANTED) == Steps()


@settings(deadline=None)
@given(BRIDGES.filter(lambda bridge: bool(bridge.ports)))
def test_under_containers_no_address_is_ever_taken_away(bridge: Bridge) -> None:
    decision = decide(bridge, WANTED)
    assert isinstance(decision, Refusal) or decision.remove == ()


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (Steps(), "nothing"),
        (
            Steps(create=True, set_mtu=1450, add=(OURS,), set_up=True),
            "created, MTU set to 1450, address 10.1.33.1/24 added, set up",
        ),
        (
            Steps(add=(OURS,), remove=(OLD,)),
            "address 10.1.33.1/24 added, address 172.17.0.1/16 removed",
        ),
        (Steps(remove=(OLD, OURS)), "address 172.17.0.1/16, 10.1.33.1/24 removed"),
        (Steps(set_up=True), "set up"),
    ],
)
def test_steps_are_told_in_words_in_their_order(steps: Steps, words: str) -> None:
    assert steps.describe() == words
    assert bool(steps) is (words != "nothing")
