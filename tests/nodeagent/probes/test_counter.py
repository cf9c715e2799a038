"""Thresholds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.container import Probe
from nodeagent.probes.counter import Counter


def verdict(counter: Counter) -> bool | None:
    """Asked anew: the type checker believes that an attribute stays as it was compared."""
    return counter.verdict


def test_liveness_is_good_until_as_many_failures_in_a_row_as_the_threshold() -> None:
    counter = Counter(Probe(failure_threshold=3), "liveness")
    assert verdict(counter) is True
    fed = [counter.feed(one) for one in (False, False, True, False, False, False)]
    assert fed == [False, False, False, False, False, True]
    assert verdict(counter) is False


def test_readiness_begins_bad_and_follows_both_thresholds() -> None:
    counter = Counter(Probe(success_threshold=2, failure_threshold=1), "readiness")
    assert verdict(counter) is False
    assert [counter.feed(one) for one in (True, False, True, True)] == [False, False, False, True]
    assert verdict(counter) is True
    assert counter.feed(False)
    assert not counter.feed(False)


def test_readiness_that_was_good_before_stays_so_until_it_fails() -> None:
    counter = Counter(Probe(failure_threshold=2), "readiness", True)
    assert not counter.feed(True)
    assert not counter.feed(False)
    assert verdict(counter) is True
    assert counter.feed(False)


def test_startup_has_no_verdict_before_the_first() -> None:
    good, bad = (Counter(Probe(failure_threshold=2), "startup") for _ in range(2))
    assert verdict(good) is None
    assert good.feed(True)
    assert verdict(good) is True
    assert not bad.feed(False)
    assert verdict(bad) is None
    assert bad.feed(False)
    assert verdict(bad) is False


def test_thresholds_below_one_count_as_one() -> None:
    assert Counter(Probe(failure_threshold=0), "liveness").feed(False)
    assert Counter(Probe(success_threshold=-1), "readiness").feed(True)


@settings(max_examples=150)
@given(
    results=st.lists(st.booleans(), max_size=30),
    success=st.integers(1, 4),
    failure=st.integers(1, 4),
)
def test_the_verdict_is_that_of_the_last_long_enough_run(
    results: list[bool], success: int, failure: int
) -> None:
    counter = Counter(Probe(success_threshold=success, failure_threshold=failure), "readiness")
    for one in results:
        counter.feed(one)
    expected = False
    for end in range(1, len(results) + 1):
        if end >= success and all(results[end - success : end]):
            expected = True
        if end >= failure and not any(results[end - failure : end]):
            expected = False
    assert verdict(counter) is expected
