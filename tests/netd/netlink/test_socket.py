"""The sockets over a kernel in memory: errors find their request, lost replies are asked again."""

import errno

import pytest

from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.netlink.socket import Monitor, NetlinkError, NetlinkSocket
from tests.fakes.netlink import FakeKernel

MAC = b"\x0e\0\0\0\0\1"


def neighbours(index: int, count: int) -> list[rq.Request]:
    return [rq.new_neighbour(index, bytes((10, 1, n >> 8, n & 255)), MAC) for n in range(count)]


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.add_link("eth0")
    return made


async def test_each_refusal_is_mapped_back_to_its_request(kernel: FakeKernel) -> None:
    """In a batch of several pieces exactly the refused ones fail; the others are carried out."""
    bad = {b"\n\1\0\3", b"\n\1\0\7", b"\n\1\0\x13"}

    def refuse(message: nl.Message) -> int:
        value = message.value
        return errno.EINVAL if isinstance(value, nl.Neighbour) and value.ip in bad else 0

    kernel.refuse = refuse
    results = await NetlinkSocket(piece=5, transport=kernel.asker()).batch(neighbours(1, 20))
    assert [n for n, failure in enumerate(results) if failure is not None] == [3, 7, 19]
    assert len(kernel.neighbours) == 17


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_lost_replies_are_asked_for_again(kernel: FakeKernel, lost: int) -> None:
    """After ENOBUFS a piece is sent again in halves, and every answer is known in the end."""
    kernel.lose_replies = lost
    kernel.refuse = lambda m: errno.EINVAL if isinstance(m.value, nl.FdbEntry) else 0
    requests = [*neighbours(1, 7), rq.new_fdb(1, MAC, b"\n\0\0\1")]
    results = await NetlinkSocket(transport=kernel.asker()).batch(requests)
    assert [failure.errno if failure else 0 for failure in results] == [0] * 7 + [errno.EINVAL]


async def test_reply_that_never_arrives_is_named(kernel: FakeKernel) -> None:
    """When even a single request's answer is lost, it counts as failed with ENOBUFS."""
    kernel.lose_replies = 1000
    results = await NetlinkSocket(transport=kernel.asker()).batch(neighbours(1, 2))
    assert [failure and failure.errno for failure in results] == [errno.ENOBUFS] * 2


async def test_dump_holds_every_value(kernel: FakeKernel) -> None:
    """What was put is what a dump returns."""
    socket = NetlinkSocket(transport=kernel.asker())
    await socket.batch(neighbours(1, 600))
    assert len(await socket.dump(rq.dump_neighbours(1))) == 600


class Scripted:
    """A transport whose answers are written down."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.sent = 0

    def send(self, data: bytes, /) -> int:
        self.sent += 1
        return len(data)

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.answers.clear()


def done(seq: int, *, flags: int = 0, status: int = 0) -> bytes:
    return nl.HEADER.pack(20, nl.NLMSG_DONE, flags, seq, 0) + nl.ERRNO.pack(-status)


async def test_interrupted_dump_is_read_again() -> None:
    """A dump that changed under the reader is not believed."""
    transport = Scripted(done(1, flags=nl.NLM_F_DUMP_INTR), done(1), done(2))
    assert await NetlinkSocket(transport=transport).dump(rq.dump_links()) == []
    assert transport.sent == 2


async def test_refused_dump_is_an_error_unless_it_means_absence() -> None:
    """A missing table or device may be named as an empty answer."""
    refused = done(1, status=errno.ENOENT)
    with pytest.raises(NetlinkError) as caught:
        await NetlinkSocket(transport=Scripted(refused)).dump(rq.dump_routes())
    assert caught.value.errno == errno.ENOENT
    socket = NetlinkSocket(transport=Scripted(refused))
    assert await socket.dump(rq.dump_routes(), absent=(errno.ENOENT,)) == []


async def test_silent_kernel_is_an_error() -> None:
    """Nothing waits for ever."""
    socket = NetlinkSocket(transport=Scripted(BlockingIOError(errno.EAGAIN, "nothing")))
    with pytest.raises(NetlinkError, match="did not acknowledge"):
        await socket.batch([rq.del_neighbour(1, b"\n\1\0\0")])


def test_monitor_tells_when_it_missed_something(kernel: FakeKernel) -> None:
    """Lost notifications are reported beside those that arrived."""
    listener = kernel.listener()
    monitor = Monitor(transport=listener)
    kernel.request(rq.new_neighbour(1, b"\n\1\0\0", MAC))
    kernel.lose_events = True
    kernel.request(rq.new_neighbour(1, b"\n\1\1\0", MAC))
    heard = monitor.drain()
    assert (len(heard.events), heard.lost) == (1, True)
    assert monitor.drain().events == ()
    monitor.close()
