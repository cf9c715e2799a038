"""How long a container waits before it is started again."""

from nodeagent.pods.backoff import Backoffs, Delays


def waits_of(backoffs: Backoffs, ends: int, now: float = 0.0) -> list[float]:
    found = []
    for number in range(ends):
        backoffs.began("app", f"i{number}", now)
        backoffs.ended("app", f"i{number}", now)
        found.append(backoffs.waits.get("app", 0.0) - now)
    return found


def test_the_first_restart_comes_at_once_then_waits_double_to_the_most() -> None:
    assert waits_of(Backoffs(Delays()), 8) == [0, 10, 20, 40, 80, 160, 300, 300]


def test_the_delays_can_be_set() -> None:
    assert waits_of(Backoffs(Delays(first=1, most=3)), 5) == [0, 1, 2, 3, 3]


def test_ten_minutes_of_success_begin_anew() -> None:
    backoffs = Backoffs(Delays())
    waits_of(backoffs, 5)
    backoffs.began("app", "good", 1000.0)
    backoffs.ended("app", "good", 1600.0)
    assert backoffs.waits["app"] == 1600.0
    backoffs.began("app", "short", 1600.0)
    backoffs.ended("app", "short", 1601.0)
    assert backoffs.waits["app"] == 1611.0


def test_an_end_that_is_told_again_counts_once() -> None:
    backoffs = Backoffs(Delays())
    assert backoffs.ended("app", "i0", 0.0)
    assert not backoffs.ended("app", "i0", 5.0)
    assert backoffs.failures("app") == 1


def test_a_start_that_fails_waits_from_the_first_time_on() -> None:
    backoffs = Backoffs(Delays())
    assert [backoffs.failed("app", 0.0) for _ in range(3)] == [10, 20, 40]
    backoffs.succeeded("app")
    assert backoffs.waits == {}
    assert backoffs.failed("app", 0.0) == 10


def test_hurrying_ends_the_wait_but_forgives_nothing() -> None:
    backoffs = Backoffs(Delays())
    backoffs.failed("app", 0.0)
    backoffs.hurry("app", 3.0)
    assert backoffs.waits["app"] == 3.0
    assert backoffs.failed("app", 3.0) == 20
