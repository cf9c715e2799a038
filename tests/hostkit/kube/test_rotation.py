"""Which server is used: sticky, and back to the first without flapping."""

from hypothesis import given
from hypothesis import strategies as st

from hostkit.kube.rotation import Rotation

A, B, C = "http://a", "http://b", "http://c"


def test_a_server_is_kept_until_it_fails_and_then_the_next_one_is_used() -> None:
    rotation = Rotation([A, B, C])
    assert rotation.order() == (A, B, C)
    rotation.failed(B, 0)
    assert rotation.current == A
    rotation.failed(A, 0)
    assert rotation.order() == (B, C, A)
    rotation.failed(A, 0)
    assert rotation.current == B


def test_the_first_server_is_used_again_once_it_has_answered_for_the_whole_time() -> None:
    rotation = Rotation([A, B], settle=30)
    rotation.failed(A, 0)
    assert [rotation.probed(True, now) for now in (5, 20, 34)] == [False] * 3
    assert rotation.probed(True, 35)
    assert rotation.current == A
    assert not rotation.away


def test_one_missed_probe_begins_the_time_anew() -> None:
    rotation = Rotation([A, B], settle=30)
    rotation.failed(A, 0)
    rotation.probed(True, 5)
    rotation.probed(False, 30)
    assert not rotation.probed(True, 40)
    assert not rotation.probed(True, 69)
    assert rotation.probed(True, 70)


def returned_after(rotation: Rotation, now: float) -> float:
    """The seconds of good probes until the first server is used again."""
    start = now
    while not rotation.probed(True, now):
        now += 1
    return now - start


def test_a_server_that_fails_soon_after_each_return_has_to_answer_longer_up_to_a_limit() -> None:
    rotation = Rotation([A, B], settle=30, most=200)
    now, times = 0.0, []
    for _ in range(5):
        rotation.failed(A, now)
        times.append(returned_after(rotation, now))
        now += times[-1] + 1
    assert times == [30, 60, 120, 200, 200]
    now += 10_000
    rotation.failed(A, now)
    assert returned_after(rotation, now) == 30


@given(st.lists(st.tuples(st.sampled_from([A, B, C, "good", "bad"]), st.integers(0, 100))))
def test_whatever_happens_one_known_server_is_in_use_and_returns_are_earned(
    steps: list[tuple[str, int]],
) -> None:
    rotation = Rotation([A, B, C], settle=30)
    now, good_for = 0.0, 0.0
    for what, passed in steps:
        now += passed
        good_for += passed
        was_away = rotation.away
        if what in {"good", "bad"}:
            if what == "bad":
                good_for = 0.0
            if rotation.probed(what == "good", now):
                assert was_away
                assert good_for >= 30
        else:
            rotation.failed(what, now)
            if what == A:
                good_for = 0.0
        assert sorted(rotation.order()) == [A, B, C]
        assert rotation.order()[0] == rotation.current
        assert rotation.away == (rotation.current != A)
