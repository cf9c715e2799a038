"""One question at a time: only its own answer counts, and every way to get none is told."""

import errno
import socket

import pytest

from netd.netlink import messages as nl
from netd.netlink.exchange import Exchange, open_exchange
from netd.netlink.requests import Request, dump_links
from netd.netlink.socket import NetlinkError

ASK = Request(nl.RTM_GETLINK, nl.NLM_F_DUMP, b"")


class Scripted:
    """A transport whose answers are written down."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.closed = False

    def send(self, data: bytes, /) -> int:
        return len(data)

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True


def part(text: bytes, *, seq: int = 1) -> bytes:
    padded = text + b"\0" * (-len(text) % 4)
    return nl.HEADER.pack(16 + len(text), nl.RTM_NEWLINK, 0, seq, 0) + padded


def end(*, seq: int = 1, status: int = 0) -> bytes:
    return nl.HEADER.pack(20, nl.NLMSG_DONE, 0, seq, 0) + nl.ERRNO.pack(-status)


def error(code: int, *, seq: int = 1) -> bytes:
    return nl.HEADER.pack(36, nl.NLMSG_ERROR, 0, seq, 0) + nl.ERRNO.pack(-code) + bytes(16)


def read(*answers: bytes | OSError) -> list[bytes]:
    """What a dump over *answers* gives."""
    found: list[bytes] = []
    with Exchange(Scripted(*answers)) as kernel:
        kernel.dump(ASK, lambda data, at, stop: found.append(data[at:stop]))
    return found


def test_all_messages_up_to_the_end_are_given_from_however_many_datagrams() -> None:
    assert read(part(b"one") + part(b"two"), part(b"three") + end()) == [b"one", b"two", b"three"]


def test_what_answers_an_earlier_question_is_passed_over() -> None:
    assert read(part(b"old", seq=9) + end(seq=9), part(b"one"), end()) == [b"one"]


def test_a_message_that_is_cut_is_dropped() -> None:
    assert read(part(b"one") + part(b"two")[:-4], b"\1\2", end()) == [b"one"]
    assert read(nl.HEADER.pack(3, 0, 0, 1, 0), end()) == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(errno.EPERM), errno.EPERM),
        (end(status=errno.ENOMEM), errno.ENOMEM),
        (OSError(errno.ENOBUFS, "No buffer space available"), errno.ENOBUFS),
        (BlockingIOError(errno.EAGAIN, "nothing"), 0),
    ],
)
def test_a_dump_that_fails_says_why(answer: bytes | OSError, code: int) -> None:
    with pytest.raises(NetlinkError) as caught:
        read(part(b"one"), answer)
    assert caught.value.errno == code


def test_a_change_is_done_or_refused_in_words() -> None:
    for answer, code, text in ((error(0), 0, ""), (error(errno.EBUSY), errno.EBUSY, "busy")):
        with Exchange(Scripted(answer)) as kernel:
            failure = kernel.change(ASK)
        assert (failure.errno if failure else 0) == code
        assert text in (failure.text if failure else "")


def test_the_socket_is_closed_in_the_end() -> None:
    transport = Scripted(end())
    with Exchange(transport):
        assert not transport.closed
    assert transport.closed


def test_the_kernels_own_devices_are_listed() -> None:
    """No root is needed to ask."""
    count = 0

    def take(_data: bytes, _at: int, _end: int) -> None:
        nonlocal count
        count += 1

    with Exchange(open_exchange(0)) as kernel:
        kernel.dump(dump_links(), take)
    assert count == len(socket.if_nameindex())


def test_a_family_that_the_kernel_does_not_have_is_told() -> None:
    with pytest.raises(NetlinkError, match="no netlink socket"):
        open_exchange(31)
