"""The hairpin flag over a kernel in memory: only containers' ports, whoever switches it off."""

import asyncio
import collections
import contextlib
import errno
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from hostkit.problems import Problems
from netd.netlink import messages as nl
from netd.netlink.requests import Request, encode
from netd.services.hairpin import (
    RTM_SETLINK,
    HairpinError,
    HairpinKeeper,
    Port,
    container_ports,
    read_port,
)
from tests.fakes.conntrack import attr
from tests.support.poll import eventually

BRIDGE = 3


def message(port: Port) -> bytes:
    """The body of a dump's message about *port*, with attributes that nobody asked about."""
    info = attr(1, port.kind.encode() + b"\0") if port.kind else b""
    if port.hairpin is not None:
        data = attr(1, b"\3") + attr(2, struct.pack("=H", 32)) + attr(4, bytes([port.hairpin]))
        info += attr(4, b"bridge\0") + attr(5, data)
    made = nl.IFINFO.pack(0, 1, port.ifindex, 0, 0) + attr(3, port.name.encode() + b"\0")
    made += attr(4, nl.U32.pack(1500)) + attr(18, info)
    return made + (attr(10, nl.U32.pack(port.master)) if port.master else b"")


@dataclass
class Kernel:
    """Devices behind rtnetlink; ``refuse`` maps a name to an errno; a change is announced."""

    ports: dict[int, Port] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    refuse_dump: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.put(Port(BRIDGE, "docker0", "bridge", 0, None))

    def put(self, port: Port) -> None:
        self.ports[port.ifindex] = port
        os.write(self._write, b"x")

    def hairpin(self, ifindex: int) -> bool | None:
        return self.ports[ifindex].hairpin

    def connect(self) -> "Asker":
        return Asker(self)

    def answer(self, data: bytes) -> list[bytes]:
        _size, kind, _flags, seq, _pid = nl.HEADER.unpack_from(data)
        if kind == nl.RTM_GETLINK and not self.refuse_dump:
            parts = [
                encode(Request(nl.RTM_NEWLINK, 0, message(port)), seq)
                for port in self.ports.values()
            ]
            return [b"".join(parts), nl.HEADER.pack(20, nl.NLMSG_DONE, 0, seq, 0) + bytes(4)]
        code = self.refuse_dump or self._set(data)
        return [nl.HEADER.pack(36, nl.NLMSG_ERROR, 0, seq, 0) + nl.ERRNO.pack(-code) + bytes(16)]

    def _set(self, data: bytes) -> int:
        _size, kind, _flags, _seq, _pid = nl.HEADER.unpack_from(data)
        family, _type, index, _flags, _change = nl.IFINFO.unpack_from(data, nl.HEADER_SIZE)
        wish = attr(12 | 0x8000, attr(4, b"\1"))
        assert (kind, family) == (RTM_SETLINK, nl.AF_BRIDGE)
        assert data[nl.HEADER_SIZE + nl.IFINFO.size :] == wish
        port = self.ports[index]
        if port.name not in self.refuse:
            self.changes += 1
            self.put(port._replace(hairpin=True))
        return self.refuse.get(port.name, 0)

    # The side that a monitor listens to.

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        os.read(self._read, 1)
        return nl.HEADER.pack(16, nl.NLMSG_DONE, 0, 0, 0)

    def send(self, _data: bytes, /) -> int:
        raise AssertionError("listeners send nothing")

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Asker:
    """One socket to the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._answers: collections.deque[bytes] = collections.deque()

    def send(self, data: bytes, /) -> int:
        self._answers.extend(self._kernel.answer(data))
        return len(data)

    def recv(self, _size: int, _flags: int = 0, /) -> bytes:
        return self._answers.popleft()

    def fileno(self) -> int:
        raise AssertionError("nobody waits for this socket")

    def close(self) -> None:
        self._answers.clear()


def veth(index: int, *, hairpin: bool | None = False, master: int = BRIDGE) -> Port:
    return Port(index, f"veth{index}", "veth", master, hairpin)


def test_a_device_is_read_as_it_was_written() -> None:
    for port in (
        veth(7, hairpin=True),
        veth(8),
        veth(9, hairpin=None, master=0),
        Port(2, "eth0", "", BRIDGE, hairpin=False),
    ):
        body = message(port)
        assert read_port(b"some" + body, 4, 4 + len(body)) == port


def test_only_veth_ports_of_the_one_bridge_are_containers() -> None:
    devices = [
        Port(BRIDGE, "docker0", "bridge", 0, None),
        Port(4, "br-other", "bridge", 0, None),
        veth(7),
        veth(8, master=4),
        veth(9, hairpin=None, master=0),
        Port(10, "eth0", "", BRIDGE, hairpin=False),
        Port(11, "flannel.1", "vxlan", BRIDGE, hairpin=False),
    ]
    assert container_ports(devices, "docker0") == [veth(7)]
    assert container_ports(reversed(devices), "docker0") == [veth(7)]
    assert container_ports(devices, "cbr0") == []


def test_a_device_that_merely_has_the_bridges_name_is_no_bridge() -> None:
    assert container_ports([Port(BRIDGE, "docker0", "bond", 0, None), veth(7)], "docker0") == []


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def keeper(kernel: Kernel, problems: Problems, repairs: list[str]) -> HairpinKeeper:
    return HairpinKeeper("docker0", problems, repairs.append, connect=kernel.connect)


async def test_a_pass_sets_what_is_off_and_leaves_what_is_on(
    kernel: Kernel, problems: Problems
) -> None:
    repairs: list[str] = []
    kernel.put(veth(7))
    kernel.put(veth(8, hairpin=True))
    one = keeper(kernel, problems, repairs)
    await one.converge()
    await one.converge()
    assert (kernel.hairpin(7), kernel.changes) == (True, 1)
    assert one.ports == {7, 8}
    assert repairs == []


async def test_a_flag_that_somebody_switched_off_is_a_repair(
    kernel: Kernel, problems: Problems
) -> None:
    repairs: list[str] = []
    kernel.put(veth(7))
    one = keeper(kernel, problems, repairs)
    await one.converge()
    kernel.put(veth(7))
    await one.converge()
    assert (kernel.hairpin(7), repairs) == (True, ["bridge"])


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EOPNOTSUPP])
async def test_a_port_that_goes_meanwhile_is_no_problem(
    kernel: Kernel, problems: Problems, code: int
) -> None:
    kernel.put(veth(7))
    kernel.put(veth(8))
    kernel.refuse["veth7"] = code
    await keeper(kernel, problems, []).converge()
    assert kernel.hairpin(8)
    assert problems.all() == ()


async def test_a_refused_port_is_named_and_the_others_are_set(
    kernel: Kernel, problems: Problems
) -> None:
    kernel.put(veth(7))
    kernel.put(veth(8))
    kernel.refuse["veth7"] = errno.EPERM
    one = keeper(kernel, problems, [])
    with pytest.raises(HairpinError, match="veth7: Operation not permitted"):
        await one.converge()
    assert kernel.hairpin(8)
    assert "hairpin" in problems
    kernel.refuse.clear()
    await one.converge()
    assert problems.all() == ()
    assert kernel.hairpin(7)


async def test_ports_that_cannot_be_listed_are_a_problem(
    kernel: Kernel, problems: Problems
) -> None:
    kernel.refuse_dump = errno.EPERM
    with pytest.raises(HairpinError, match="cannot read the ports of docker0"):
        await keeper(kernel, problems, []).converge()
    assert "hairpin" in problems


async def test_ports_that_come_later_are_set_and_the_bridge_may_come_last(
    kernel: Kernel, problems: Problems
) -> None:
    del kernel.ports[BRIDGE]
    listener = Kernel()
    listener.ports = kernel.ports
    one = HairpinKeeper(
        "docker0", problems, lambda _what: None, connect=kernel.connect, listener=listener
    )
    task = asyncio.create_task(one.run())
    try:
        listener.put(veth(7))
        await eventually(lambda: one.loop.last_success is not None)
        assert kernel.hairpin(7) is False
        listener.put(Port(BRIDGE, "docker0", "bridge", 0, None))
        await eventually(lambda: kernel.hairpin(7) is True)
        listener.put(veth(8))
        await eventually(lambda: kernel.hairpin(8) is True)
        del kernel.ports[7]
        listener.put(veth(9))
        await eventually(lambda: one.ports == {8, 9})
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        one.close()
