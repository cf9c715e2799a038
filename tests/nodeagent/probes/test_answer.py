"""Reading HTTP answers."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.probes.answer import BODY, HEAD, read_answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200\r\ncontent-length:5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        CHUNKED,
    ],
)
def test_an_answer_is_complete_when_its_last_byte_came_and_not_before(data: bytes) -> None:
    answer = read_answer(data, ended=False)
    assert answer is not None
    assert answer.status == 200
    end = data.rindex(b"0\r\n\r\n") + 3 if data is CHUNKED else len(data)
    for cut in range(end):
        assert read_answer(data[:cut], ended=False) is None


def test_without_a_length_the_end_of_the_connection_ends_the_body() -> None:
    data = b"HTTP/1.1 503 Busy\r\n\r\nlater"
    assert read_answer(data, ended=False) is None
    answer = read_answer(data, ended=True)
    assert answer is not None
    assert (answer.status, answer.body) == (503, b"later")


def test_a_body_is_read_up_to_its_limit() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * (BODY + 5)
    answer = read_answer(data, ended=False)
    assert answer is not None
    assert len(answer.body) == BODY


def test_a_redirect_names_its_goal_and_204_has_no_body() -> None:
    answer = read_answer(
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", ended=False
    )
    assert answer is not None
    assert answer.location == "/x"
    assert read_answer(b"HTTP/1.1 204 No Content\r\n\r\n", ended=False) is not None


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "closed unanswered"),
        (b"HTTP/1.1 200 OK\r\nConte", "cut short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "body of the answer is cut short"),
        (CHUNKED[:-5], "body of the answer is cut short"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 99x\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 099 No\r\n\r\n", "status 099"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "another protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "many, which is no number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk without a size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "negative"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD, "larger than"),
    ],
)
def test_what_is_no_answer_is_said_to_be_none(data: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_answer(data, ended=True)


@settings(max_examples=200)
@given(tail=st.binary(max_size=60), ended=st.booleans())
def test_any_bytes_give_an_answer_a_wait_or_a_sentence(tail: bytes, ended: bool) -> None:
    for head in (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with contextlib.suppress(ValueError):
            answer = read_answer(head + tail, ended=ended)
            assert answer is not None or not ended
