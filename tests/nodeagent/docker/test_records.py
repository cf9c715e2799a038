"""Answers that cross one another leave the newest in the records."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker.records import MOST_GONE, Records
from nodeagent.pods.observed import Seen, State

A = Seen("a", "u", "p", "n", "c", 0, "created")


def test_an_equal_answer_changes_nothing() -> None:
    records = Records()
    records.put(A, records.mark())
    assert records.changed == {"u"}
    records.changed.clear()
    assert records.put(replace(A), records.mark())
    assert records.changed == set()


def test_an_answer_to_an_older_question_comes_too_late() -> None:
    records = Records()
    old, new = records.mark(), records.mark()
    assert records.put(replace(A, state="running"), new)
    assert not records.put(A, old)
    assert records.pods["u"].containers["c"][0].state == "running"


def test_an_older_list_drops_nothing_that_was_seen_later() -> None:
    records = Records()
    listing, looking = records.mark(), records.mark()
    records.put(A, looking)
    records.retain(listing, set())
    assert set(records.ids) == {"a"}
    records.retain(records.mark(), set())
    assert set(records.ids) == set()
    assert records.pods == {}


def test_an_answer_from_before_its_removal_does_not_bring_it_back() -> None:
    records = Records()
    looking = records.mark()
    records.drop("a")
    assert not records.put(A, looking)
    assert records.put(A, records.mark())


def test_a_list_of_one_pod_says_nothing_of_others() -> None:
    records = Records()
    records.put(A, records.mark())
    records.put(replace(A, id="b", uid="v"), records.mark())
    records.retain(records.mark(), set(), "v")
    assert records.ids == ("a",)


def test_what_is_remembered_of_removed_ones_is_bounded() -> None:
    records = Records()
    for number in range(MOST_GONE + 10):
        records.drop(str(number))
    assert len(records._gone) == MOST_GONE


ANSWERS: list[State | None] = ["created", "running", "exited", None]


@settings(max_examples=200)
@given(st.permutations(range(6)), st.lists(st.sampled_from(ANSWERS), min_size=6, max_size=6))
def test_in_whatever_order_answers_come_the_latest_question_wins(
    order: list[int], answers: list[State | None]
) -> None:
    records = Records()
    marks = [records.mark() for _ in answers]
    for number in order:
        state = answers[number]
        if state is None:
            records.drop("a", marks[number])
        else:
            records.put(replace(A, state=state), marks[number])
    seen = records.get("a")
    assert (seen.state if seen else None) == answers[-1]
