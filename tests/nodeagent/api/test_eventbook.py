"""Which events are sent: repeats are counted, similar ones combined, floods held back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.api.eventbook import Bucket, Event, EventBook, document

STAMP = "2024-05-01T10:00:00Z"


def subject(uid: str = "u1", **more: str) -> dict[str, str]:
    return {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid} | more


def a_book(burst: int = 25, remembered: int = 1000) -> EventBook:
    numbers = iter(range(10**6))
    return EventBook(burst=burst, remembered=remembered, suffix=lambda: f"{next(numbers):016x}")


def record(
    book: EventBook, message: str = "m", now: float = 0.0, about: dict[str, str] | None = None,
    kind: str = "Normal", reason: str = "Started", stamp: str = STAMP,
) -> Event | None:  # fmt: skip
    return book.record(about or subject(), kind, reason, message, now=now, stamp=stamp)


def test_the_same_again_is_counted() -> None:
    book = a_book()
    first = record(book)
    assert first is not None
    again = record(book, stamp="2024-05-01T11:00:00Z")
    assert again is first
    assert (first.count, first.first, first.last) == (2, STAMP, "2024-05-01T11:00:00Z")


def test_what_differs_in_anything_else_is_another_event() -> None:
    book = a_book()
    events = [
        record(book), record(book, "other"), record(book, kind="Warning"),
        record(book, reason="Killing"), record(book, about=subject("u2")),
        record(book, about=subject(fieldPath="spec.containers{app}")),
    ]  # fmt: skip
    assert len({id(event) for event in events}) == 6
    assert len({event.name for event in events if event}) == 6


def test_many_different_messages_of_one_reason_become_one_event() -> None:
    book = a_book()
    alone = [record(book, f"m{n}") for n in range(10)]
    together = [record(book, f"m{n}") for n in range(10, 14)]
    assert len({id(event) for event in alone}) == 10
    assert len({id(event) for event in together}) == 1
    assert together[0] is not None
    assert together[0].count == 4
    assert together[0].message.endswith("m13")
    assert together[0].message.startswith("(one of several similar events)")
    # One of the first ten is told apart as before.
    assert record(book, "m3") is alone[3]


def test_after_ten_quiet_minutes_messages_are_told_apart_again() -> None:
    book = a_book()
    for number in range(11):
        record(book, f"m{number}", now=float(number))
    event = record(book, "later", now=611.0)
    assert event is not None
    assert event.message == "later"


def test_an_object_has_a_burst_and_then_one_event_in_five_minutes() -> None:
    book = a_book()
    sent = [record(book, now=0.0) for _ in range(30)]
    assert len([event for event in sent if event]) == 25
    assert record(book, about=subject("u2")) is not None
    assert record(book, now=299.0) is None
    assert record(book, now=301.0) is not None
    assert record(book, now=301.0) is None


def test_a_long_name_is_cut_to_what_an_event_may_be_called() -> None:
    event = record(a_book(), about=subject(name="a" * 235 + "." + "b" * 17))
    assert event is not None
    assert event.name == "a" * 235 + ".0000000000000000"


def test_a_long_message_is_cut() -> None:
    event = record(a_book(), "x" * 5000)
    assert event is not None
    assert len(event.message) <= 1024


def test_an_event_is_told_in_the_form_of_the_api() -> None:
    event = record(a_book())
    assert event is not None
    assert document(event, "kubelet", "node1") == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.0000000000000000", "namespace": "default"},
        "involvedObject": subject(),
        "reason": "Started",
        "message": "m",
        "type": "Normal",
        "source": {"component": "kubelet", "host": "node1"},
        "reportingComponent": "kubelet",
        "reportingInstance": "node1",
        "firstTimestamp": STAMP,
        "lastTimestamp": STAMP,
        "count": 1,
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.floats(0, 700))))
@settings(max_examples=150, deadline=None)
def test_in_any_history_the_memory_is_bounded_and_objects_have_their_share(
    history: list[tuple[str, int, float]],
) -> None:
    book, now = a_book(burst=5, remembered=4), 0.0
    sent: dict[str, int] = {}
    for uid, message, later in history:
        now += later
        if record(book, f"m{message}", now, subject(uid)):
            sent[uid] = sent.get(uid, 0) + 1
    for kept in (book._events, book._groups, book._buckets):
        assert len(kept._values) <= 4
    assert all(count <= 5 + now / 300.0 for count in sent.values())


@given(st.lists(st.floats(0, 100), max_size=50))
@settings(max_examples=100, deadline=None)
def test_a_bucket_gives_its_burst_and_then_its_rate(steps: list[float]) -> None:
    bucket, now, taken = Bucket(3, 10.0, 3.0), 0.0, 0
    for step in steps:
        now += step
        free = bucket.wait(now) == 0.0
        assert bucket.take(now) == free
        taken += free
    assert taken <= 3 + now / 10.0 + 0.001
