"""The host's addresses over a kernel in memory, and what follows from them."""

import asyncio
import contextlib
import errno
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hostkit.problems import Problems
from netd.netlink import messages as nl
from netd.netlink.socket import NetlinkError, Transport
from netd.services.addresses import LocalAddresses, ephemeral_range
from tests.fakes.netlink import FakeKernel
from tests.support.poll import eventually


def address(text: str, index: int = 1) -> nl.Address:
    return nl.Address(index, bytes(map(int, text.split("."))), 24, 0)


class Deafenable:
    """A transport through which nothing is heard while it is *deaf*."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.deaf = False

    def send(self, data: bytes, /) -> int:
        return self._inner.send(data)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if self.deaf:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        return self._inner.recv(size, flags)

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.addresses = {address("127.0.0.1"), address("192.0.2.7", 2), address("10.1.5.1", 3)}
    return made


async def test_every_address_is_listed(kernel: FakeKernel) -> None:
    local = LocalAddresses(Problems(), transport=kernel.asker())
    await local.look()
    assert local.current == frozenset({"127.0.0.1", "192.0.2.7", "10.1.5.1"})
    local.close()


async def test_node_ports_answer_everywhere_but_on_loopback(kernel: FakeKernel) -> None:
    local = LocalAddresses(Problems(), transport=kernel.asker())
    assert local.in_ranges([]) == frozenset()
    await local.look()
    assert local.in_ranges([]) == {"192.0.2.7", "10.1.5.1"}
    assert local.in_ranges([IPv4Network("192.0.2.0/24")]) == {"192.0.2.7"}
    assert local.in_ranges([IPv4Network("127.0.0.0/8")]) == frozenset()
    ranges = [IPv4Network("192.0.2.7/32"), IPv4Network("10.0.0.0/8")]
    assert local.in_ranges(iter(ranges)) == {"192.0.2.7", "10.1.5.1"}
    local.close()


async def test_changes_are_told_once_each_and_the_first_list_is_none(kernel: FakeKernel) -> None:
    told: list[frozenset[str]] = []
    local = LocalAddresses(Problems(), on_change=told.append, transport=kernel.asker())
    await local.look()
    await local.look()
    kernel.addresses.add(address("192.0.2.8", 2))
    await local.look()
    # The same address on a second interface changes nothing.
    kernel.addresses.add(address("192.0.2.8", 3))
    await local.look()
    kernel.addresses = {address("192.0.2.7", 2)}
    await local.look()
    assert told == [{"127.0.0.1", "192.0.2.7", "192.0.2.8", "10.1.5.1"}, {"192.0.2.7"}]
    local.close()


async def test_the_kernels_notice_leads_to_a_look(kernel: FakeKernel) -> None:
    told: list[frozenset[str]] = []
    local = LocalAddresses(
        Problems(), on_change=told.append, transport=kernel.asker(), listener=kernel.listener()
    )
    task = asyncio.create_task(local.run())
    try:
        await eventually(lambda: local.current is not None)
        kernel.add_address(address("198.51.100.4", 2))
        await eventually(lambda: "198.51.100.4" in (local.current or ()))
        kernel.del_address(address("198.51.100.4", 2))
        await eventually(lambda: "198.51.100.4" not in (local.current or ()))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        local.close()
    assert len(told) == 2


async def test_addresses_that_cannot_be_listed_are_a_problem_and_the_old_ones_count(
    kernel: FakeKernel,
) -> None:
    problems, transport = Problems(), Deafenable(kernel.asker())
    local = LocalAddresses(problems, transport=transport)
    await local.look()
    before = local.current
    transport.deaf = True
    with pytest.raises(NetlinkError, match="did not finish"):
        await local.look()
    assert (local.current, "addresses" in problems) == (before, True)
    transport.deaf = False
    await local.look()
    assert problems.all() == ()
    local.close()


def test_the_ephemeral_range_is_the_kernels(tmp_path: Path) -> None:
    path = tmp_path / "ip_local_port_range"
    path.write_text("32768\t60999\n")
    assert ephemeral_range(path) == (32768, 60999)


@pytest.mark.parametrize("text", ["", "many", "1 2 3"])
def test_an_ephemeral_range_that_cannot_be_read_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ip_local_port_range"
    path.write_text(text)
    for one in (path, tmp_path / "absent"):
        first, last = ephemeral_range(one)
        assert not any(first <= port <= last for port in (0, 1, 30000, 65535))
