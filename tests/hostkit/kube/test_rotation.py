"""Which server is used: sticky, and back to the first without flapping."""

from hypothesis import given
from hypothesis import strategies as st

from hostkit.kube.rotation import Rotation

A, B, C = "http://a", "http://b", "http://c"


def test_a_server_is_kept_until_it_fails_and_then_the_next_one_is_used() -> None:
    rotation = Rotation([A, B, C])
    assert rotation.order(0) == (A, B, C)
    rotation.failed(B, 0)
    assert rotation.current == A
    rotation.failed(A, 0)
    assert rotation.order(0) == (B, C, A)
    rotation.failed(A, 0)
    assert rotation.current == B


def test_a_server_that_was_silent_is_tried_last_for_a_while() -> None:
    rotation = Rotation([A, B, C], remember=30)
    rotation.failed(B, 0, silent=True)
    assert rotation.order(1) == (A, C, B)
    rotation.failed(A, 1)
    assert rotation.order(1) == (C, A, B)
    assert rotation.order(29) == (C, A, B)
    rotation.failed(C, 40)
    assert rotation.order(40) == (A, B, C)


def test_a_server_that_answers_or_refuses_is_not_silent_any_more() -> None:
    rotation = Rotation([A, B, C])
    for heard in (lambda: rotation.answered(B), lambda: rotation.failed(B, 1)):
        rotation.failed(B, 0, silent=True)
        assert rotation.order(1) == (A, C, B)
        heard()
        assert rotation.order(1) == (A, B, C)


def test_trouble_at_the_only_server_that_is_not_silent_leaves_it_in_use() -> None:
    rotation = Rotation([A, B])
    rotation.failed(A, 0, silent=True)
    rotation.failed(B, 1)
    assert rotation.order(1) == (B, A)
    rotation.failed(B, 2, silent=True)
    assert rotation.order(2) == (A, B)


def test_a_first_server_that_answers_a_probe_is_not_silent_any_more() -> None:
    rotation = Rotation([A, B, C])
    rotation.failed(A, 0, silent=True)
    assert rotation.order(1) == (B, C, A)
    rotation.failed(C, 1, silent=True)
    rotation.probed(True, 2)
    assert rotation.order(2) == (B, A, C)


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


_happenings = st.sampled_from([A, B, C, "good", "bad"])


@given(st.lists(st.tuples(_happenings, st.integers(0, 100), st.booleans())))
def test_whatever_happens_one_known_server_is_in_use_and_returns_are_earned(
    steps: list[tuple[str, int, bool]],
) -> None:
    rotation = Rotation([A, B, C], settle=30)
    now, good_for = 0.0, 0.0
    for what, passed, silent in steps:
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
            rotation.failed(what, now, silent=silent)
            if silent:
                assert rotation.current != what
            if what == A:
                good_for = 0.0
        assert sorted(rotation.order(now)) == [A, B, C]
        assert rotation.order(now)[0] == rotation.current
        assert rotation.away == (rotation.current != A)
