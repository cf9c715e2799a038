"""The manager over a kernel in memory: what it counts, names, retries and leaves alone."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from hostkit.reconcile import Backoff
from netd.netlink import messages as nl
from netd.netlink import requests as rq
from netd.netlink.socket import Monitor, NetlinkSocket
from netd.overlay.links import OverlayError
from netd.overlay.manager import Overlay
from netd.overlay.model import LocalNode, Peer, VxlanOptions
from tests.fakes.netlink import FakeKernel

NETWORK = IPv4Network("10.1.0.0/16")


def subnet(number: int) -> IPv4Network:
    return IPv4Network((int(NETWORK.network_address) + number * 256, 24))


def peer(number: int) -> Peer:
    return Peer(subnet(number), IPv4Address(f"198.18.77.{number}"), f"0e:00:00:00:00:{number:02x}")


NODE = LocalNode(
    NETWORK, subnet(1), IPv4Address("198.18.77.1"), "eth0", VxlanOptions(), "0e:00:00:00:00:01"
)


class Host:
    """A kernel with eth0, and an overlay over it with a clock that stands still."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.eth0 = self.kernel.add_link("eth0")
        self.kernel.add_address(nl.Address(self.eth0, NODE.public_ip.packed, 24, 0))
        self.now = 0.0
        self.repaired: list[str] = []
        self.mtus: list[int] = []
        self.overlay = self.daemon()

    def daemon(self) -> Overlay:
        kernel = self.kernel
        return Overlay(
            on_repair=self.repaired.append,
            on_mtu=self.mtus.append,
            clock=lambda: self.now,
            wall=lambda: 1000.0 + self.now,
            retry=Backoff(first=0.001, most=0.01),
            links=kernel,
            connect=lambda: (
                NetlinkSocket(transport=kernel.asker()),
                Monitor(transport=kernel.listener()),
            ),
        )

    async def begin(self, *numbers: int) -> None:
        await self.overlay.start()
        self.overlay.set_local(NODE)
        self.overlay.set_peers({subnet(n): peer(n) for n in numbers})
        await self.overlay.converge()

    @property
    def device(self) -> int:
        return next(link.ifindex for link in self.kernel.links.values() if link.vxlan)

    def counts(self) -> tuple[int, int, int]:
        return len(self.kernel.routes), len(self.kernel.neighbours), len(self.kernel.fdb)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host()
    yield made
    await made.overlay.stop()


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  (the kernel in memory sets no event)
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not in time: {what}") from None


async def running(host: Host) -> "asyncio.Task[None]":
    task = asyncio.create_task(host.overlay.run())
    await asyncio.sleep(0)
    return task


async def ended(task: "asyncio.Task[None]") -> None:
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_peer_change_costs_one_peers_messages(host: Host) -> None:
    """With many peers, a new one is three messages and a leaving one three."""
    await host.begin(*range(10, 60))
    task = await running(host)
    host.kernel.log.clear()
    host.overlay.update_peer(subnet(99), peer(99))
    await until(lambda: host.counts() == (51, 51, 51), "the peer is there")
    host.overlay.update_peer(subnet(99), None)
    await until(lambda: host.counts() == (50, 50, 50), "the peer is gone")
    kinds = [(m.type, type(m.value).__name__) for m in host.kernel.log]
    assert kinds == [
        (nl.RTM_NEWNEIGH, "Neighbour"),
        (nl.RTM_NEWNEIGH, "FdbEntry"),
        (nl.RTM_NEWROUTE, "Route"),
        (nl.RTM_DELROUTE, "Route"),
        (nl.RTM_DELNEIGH, "FdbEntry"),
        (nl.RTM_DELNEIGH, "Neighbour"),
    ]
    assert host.repaired == []
    await ended(task)


async def test_second_pass_sends_nothing(host: Host) -> None:
    """A converged overlay has nothing to say to the kernel."""
    await host.begin(10, 11)
    host.kernel.log.clear()
    await host.overlay.converge()
    assert host.kernel.log == []


async def test_refused_entry_is_named_the_others_are_programmed_and_it_is_retried(
    host: Host,
) -> None:
    """One failing peer is a problem with its name, not an obstacle; it heals by itself."""

    def refuse(message: nl.Message) -> int:
        value = message.value
        return errno.ENOMEM if isinstance(value, nl.Route) and value.dst == b"\n\1\n\0" else 0

    host.kernel.refuse = refuse
    with pytest.raises(OverlayError, match=r"peer 10\.1\.10\.0/24, route 10\.1\.10\.0/24: ENOMEM"):
        await host.begin(10, 11, 12)
    assert host.counts() == (2, 3, 3)
    task = await running(host)
    host.overlay.update_peer(subnet(13), peer(13))
    await until(lambda: host.counts() == (3, 4, 4), "others go on meanwhile")
    assert [p for p in host.overlay.problems if "ENOMEM" in p]
    host.kernel.refuse = lambda _message: 0
    await until(lambda: host.counts() == (4, 4, 4), "the retry")
    await until(lambda: host.overlay.problems == (), "no problem left")
    assert host.repaired == []
    await ended(task)


async def test_lost_notifications_lead_to_a_new_look(host: Host) -> None:
    """What happened while the monitor overflowed is found all the same."""
    await host.begin(10, 11)
    task = await running(host)
    host.kernel.lose_events = True
    host.kernel.request(rq.del_neighbour(host.device, b"\n\1\n\0"))
    host.kernel.lose_events = False
    await until(lambda: host.counts() == (2, 2, 2), "the neighbour is back")
    await until(lambda: host.repaired == ["neighbour"], "it was counted")
    await ended(task)


async def test_silent_loss_is_found_by_the_slow_look(host: Host) -> None:
    """Even what nobody announced is repaired once the minute is over."""
    await host.begin(10, 11)
    host.kernel.routes.clear()
    host.overlay.update_peer(subnet(12), peer(12))
    task = await running(host)
    await until(lambda: len(host.kernel.routes) == 1, "only the new one so far")
    host.now += 61
    host.overlay.update_peer(subnet(12), None)
    await until(lambda: host.counts() == (2, 2, 2), "all found")
    assert host.repaired == ["route", "route"]
    await ended(task)


async def test_downed_device_is_one_repair_though_its_routes_went_silently(host: Host) -> None:
    """The kernel drops routes of a downed link without a word; they are replayed, not counted."""
    await host.begin(10, 11)
    task = await running(host)
    link = host.kernel.links[host.device]
    host.kernel.put_link(link._replace(flags=0))
    await until(lambda: host.counts() == (2, 2, 2), "all entries")
    await until(lambda: host.repaired == ["link"], "one repair")
    assert host.overlay.repairs == {
        "link": 1,
        "address": 0,
        "mtu": 0,
        "route": 0,
        "neighbour": 0,
        "fdb": 0,
    }
    await ended(task)


async def test_deleted_device_comes_back_with_its_mac_and_all_peers(host: Host) -> None:
    """The same MAC as published, and every peer replayed."""
    await host.begin(10, 11)
    task = await running(host)
    host.kernel.del_link(host.device)
    await until(lambda: host.counts() == (2, 2, 2), "all entries")
    assert host.kernel.links[host.device].mac == b"\x0e\0\0\0\0\1"
    await until(lambda: host.repaired == ["link"], "one repair")
    await ended(task)


async def test_missing_underlay_is_a_problem_and_its_return_is_noticed(host: Host) -> None:
    """No error, no crash: a name; and no repair is counted for what went with it."""
    await host.begin(10)
    task = await running(host)
    host.kernel.del_link(host.eth0)
    await until(lambda: host.overlay.problems == ("interface eth0 is missing",), "the problem")
    index = host.kernel.add_link("eth0", mtu=1400)
    host.kernel.add_address(nl.Address(index, NODE.public_ip.packed, 24, 0))
    await until(lambda: host.counts() == (1, 1, 1), "all entries")
    await until(lambda: host.overlay.problems == (), "no problem")
    assert host.mtus == [1450, 1350]
    assert host.repaired == []
    await ended(task)


async def test_stale_entries_of_an_earlier_daemon_are_removed(host: Host) -> None:
    """Peers that left while nobody watched go at the next start, without counting as repairs."""
    await host.begin(10, 11, 12)
    await host.overlay.stop()
    host.overlay = host.daemon()
    await host.begin(11)
    assert host.counts() == (1, 1, 1)
    assert host.repaired == []


async def test_without_a_subnet_the_kernel_is_left_as_it_is(host: Host) -> None:
    """A host that lost its lease keeps its data plane."""
    await host.begin(10)
    host.overlay.set_local(None)
    host.overlay.set_peers({})
    await host.overlay.converge()
    assert host.counts() == (1, 1, 1)


async def test_a_new_subnet_moves_the_address(host: Host) -> None:
    """After renumbering the device has the new address only, and the peers stay."""
    await host.begin(10)
    host.overlay.set_local(replace(NODE, subnet=subnet(2)))
    await host.overlay.converge()
    held = {(a.ip, a.prefixlen) for a in host.kernel.addresses if a.ifindex == host.device}
    assert held == {(b"\n\1\2\0", 32)}
    assert host.counts() == (1, 1, 1)


async def test_times_of_changes_are_kept_per_peer(host: Host) -> None:
    """Only a real change counts as one, and a peer that left is forgotten."""
    await host.begin(10, 11)
    host.now = 5.0
    host.overlay.update_peer(subnet(10), peer(10))
    host.overlay.update_peer(subnet(11), replace(peer(11), public_ip=IPv4Address("198.18.77.9")))
    host.overlay.update_peer(subnet(12), peer(12))
    host.overlay.update_peer(subnet(12), None)
    assert host.overlay.peer_changed == {subnet(10): 1000.0, subnet(11): 1005.0}


async def test_unstarted_overlay_says_so() -> None:
    """Using it before start is an error in words."""
    with pytest.raises(OverlayError, match="not started"):
        await Overlay().converge()
