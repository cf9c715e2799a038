"""Cleaning the table: exactly the stale flows go, and what fails is said and can be done again."""

import errno

import pytest

from netd.errors import NetdError
from netd.netlink.socket import NetlinkError, Transport
from netd.services.conntrack import UdpView
from netd.services.flows import FlowCleaner, FlowError
from tests.fakes.conntrack import TCP, Entry, FakeTable

VIP = "10.96.0.10:53"
A, GONE = "10.1.1.1:5353", "10.1.3.1:5353"
VIEW = UdpView({("10.96.0.10", 53): frozenset({A})})


def client(number: int) -> str:
    return f"10.1.1.9:{number}"


@pytest.fixture
def table() -> FakeTable:
    """Flows 1 to 3 are stale, 4 is right, 5 is foreign, 6 is TCP."""
    return FakeTable(
        Entry(client(1), VIP, GONE),
        Entry(client(2), VIP, GONE),
        Entry(client(3), VIP),
        Entry(client(4), VIP, A),
        Entry(client(5), "10.96.0.99:53", GONE),
        Entry(client(6), VIP, GONE, protocol=TCP),
    )


async def test_exactly_the_stale_flows_are_removed(table: FakeTable) -> None:
    cleaner = FlowCleaner(connect=table.open)
    assert await cleaner.clean(VIEW) == 3
    assert table.sources() == {client(4), client(5), client(6)}
    assert await cleaner.clean(VIEW) == 0
    assert cleaner.removed == 3


async def test_without_udp_frontends_the_table_is_not_even_read(table: FakeTable) -> None:
    assert await FlowCleaner(connect=table.open).clean(UdpView()) == 0
    assert table.opened == 0


async def test_a_flow_that_took_the_place_of_a_stale_one_stays(table: FakeTable) -> None:
    """Between listing and deletion the entry expires and the client's next packet makes another."""
    table.before_delete = lambda: table.replace(client(2), A)
    assert await FlowCleaner(connect=table.open).clean(VIEW) == 2
    assert client(2) in table.sources()


async def test_a_refused_deletion_is_told_after_all_others_were_done(table: FakeTable) -> None:
    table.refuse[client(1)] = errno.EBUSY
    cleaner = FlowCleaner(connect=table.open)
    with pytest.raises(FlowError, match=r"1 UDP flows cannot be removed: 10\.1\.1\.9:1 to .*busy"):
        await cleaner.clean(VIEW)
    assert table.sources() == {client(1), client(4), client(5), client(6)}
    table.refuse.clear()
    assert await cleaner.clean(VIEW) == 1


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EPERM, "CAP_NET_ADMIN"),
        (errno.EOPNOTSUPP, "nf_conntrack_netlink"),
        (errno.EIO, "Input/output error"),
    ],
)
async def test_a_refused_list_is_told_with_what_to_do(
    table: FakeTable, code: int, hint: str
) -> None:
    table.refuse_dump = code
    with pytest.raises(NetdError, match=f"cannot list UDP flows: .*{hint}"):
        await FlowCleaner(connect=table.open).clean(VIEW)


async def test_a_kernel_that_does_not_answer_is_told(table: FakeTable) -> None:
    table.silent = True
    with pytest.raises(FlowError, match="did not finish"):
        await FlowCleaner(connect=table.open).clean(VIEW)
    table.silent = False

    def fall_silent() -> None:
        table.silent = True

    table.before_delete = fall_silent
    with pytest.raises(FlowError, match=r"cannot remove UDP flows: .*did not finish"):
        await FlowCleaner(connect=table.open).clean(VIEW)


async def test_the_socket_is_closed_whatever_happens(table: FakeTable) -> None:
    cleaner = FlowCleaner(connect=table.open)
    await cleaner.clean(VIEW)
    table.refuse_dump = errno.EPERM
    with pytest.raises(FlowError):
        await cleaner.clean(VIEW)
    assert (table.opened, table.closed) == (2, 2)


async def test_a_kernel_without_netfilter_sockets_is_told() -> None:
    def connect() -> Transport:
        raise NetlinkError("no netlink socket: Protocol not supported", errno.EPROTONOSUPPORT)

    with pytest.raises(FlowError, match="nf_conntrack_netlink"):
        await FlowCleaner(connect=connect).clean(VIEW)
