"""Problems are kept by key, logged once when they come and once when they go."""

import logging

import pytest

from hostkit.problems import Problem, Problems


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def problems(clock: Clock) -> Problems:
    return Problems(clock=clock)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged since the last look."""
    texts = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return texts


def test_a_problem_repeated_in_the_same_words_is_logged_once(
    problems: Problems, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        problems.set("lease", "taken")
    assert messages(caplog) == ["lease: taken"]
    problems.set("lease", "still taken")
    assert messages(caplog) == ["lease: still taken"]


def test_the_end_of_a_problem_is_logged_once_and_only_if_there_was_one(
    problems: Problems, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problems.clear("lease")
    assert messages(caplog) == []
    problems.set("lease", "taken")
    problems.clear("lease")
    problems.clear("lease")
    assert messages(caplog) == ["lease: taken", "lease: resolved"]
    assert "lease" not in problems


def test_a_problem_keeps_the_time_it_began_when_its_words_change(
    problems: Problems, clock: Clock
) -> None:
    problems.set("lease", "a")
    clock.now = 200.0
    problems.set("lease", "b", blocking=True)
    assert problems.all() == (Problem("lease", "b", True, 100.0),)
    problems.clear("lease")
    problems.set("lease", "b")
    assert problems.all()[0].since == 200.0


def test_only_blocking_problems_are_listed_as_blocking(problems: Problems) -> None:
    problems.set("z", "shown only")
    problems.set("b", "stops", blocking=True)
    assert [one.key for one in problems.all()] == ["b", "z"]
    assert [one.key for one in problems.blocking()] == ["b"]
    problems.set("b", "stops")
    assert problems.blocking() == ()


@pytest.mark.parametrize("nothing", [None, ""])
def test_update_sets_a_sentence_and_clears_on_nothing(
    problems: Problems, nothing: str | None
) -> None:
    problems.update("mtu", "too small", blocking=True)
    assert problems.blocking()[0].text == "too small"
    problems.update("mtu", nothing)
    assert "mtu" not in problems


def test_a_group_is_replaced_as_a_whole_and_other_keys_stay(
    problems: Problems, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problems.set("etcd", "away")
    problems.replace_group("record ", [("a", "bad"), ("b", "worse")])
    messages(caplog)
    problems.replace_group("record ", [("b", "worse"), ("c", "odd")])
    assert [(one.key, one.text) for one in problems.all()] == [
        ("etcd", "away"), ("record b", "worse"), ("record c", "odd"),
    ]  # fmt: skip
    assert messages(caplog) == ["record a: resolved", "record c: odd"]
    problems.replace_group("record ", [])
    assert [one.key for one in problems.all()] == ["etcd"]
