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
from netd.overlay.model import HostGwOptions, LocalNode, Peer, VxlanOptions
from netd.overlay.plan import LinkPlan, LinkWish
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
            sleep=lambda _seconds: asyncio.sleep(0),
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
        async with asyncio.timeout(60):
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


# --- ready or not ---


async def test_nothing_is_settled_before_device_and_entries_are_there(host: Host) -> None:
    """MTU and readiness appear with the device and the peers, not with the wish for them."""
    overlay = host.overlay
    overlay.set_local(NODE)
    assert (overlay.mtu, overlay.settled) == (0, False)
    await overlay.start()
    await overlay.converge()
    assert (overlay.mtu, overlay.settled) == (1450, False)
    overlay.set_peers({subnet(10): peer(10)})
    await overlay.converge()
    assert (overlay.settled, host.counts()) == (True, (1, 1, 1))


async def test_until_peers_were_told_the_entries_of_an_earlier_daemon_stay(host: Host) -> None:
    """A daemon that knows its subnet before its peers does not cut them off."""
    await host.begin(10, 11)
    await host.overlay.stop()
    host.overlay = host.daemon()
    await host.overlay.start()
    host.overlay.set_local(NODE)
    await host.overlay.converge()
    assert host.counts() == (2, 2, 2)
    host.overlay.set_peers({})
    await host.overlay.converge()
    assert host.counts() == (0, 0, 0)


async def test_device_that_cannot_be_made_blocks_with_the_kernels_reason(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """The first thing said is the cause; no MTU is published; it heals by itself."""
    host.kernel.refuse_link = "File exists (another VXLAN device may have this VNI and port)"
    await host.overlay.start()
    host.overlay.set_local(NODE)
    host.overlay.set_peers({subnet(10): peer(10)})
    task = await running(host)
    await until(lambda: bool(host.overlay.blocking), "the problem")
    await until(lambda: "overlay failed" in caplog.text, "the log line")
    first = next(r.getMessage() for r in caplog.records if "overlay failed" in r.getMessage())
    assert "File exists" in first
    assert host.overlay.blocking == (f"device flannel.1: {host.kernel.refuse_link}",)
    assert (host.overlay.settled, host.overlay.mtu, host.mtus) == (False, 0, [])
    host.kernel.refuse_link = ""
    await until(lambda: host.overlay.settled, "settled")
    assert not host.overlay.problems
    assert (host.mtus, host.repaired) == ([1450], [])
    await ended(task)


async def test_device_that_cannot_be_remade_raises_its_cause_and_is_not_settled(
    host: Host,
) -> None:
    """A change that needs a new device fails with the reason, the old entries stay."""
    await host.begin(10)
    host.kernel.refuse_link = "Device or resource busy"
    host.overlay.set_local(replace(NODE, backend=VxlanOptions(port=4789, mtu=1300)))
    host.overlay.update_peer(subnet(11), peer(11))
    with pytest.raises(OverlayError, match="resource busy"):
        await host.overlay.converge()
    assert (host.overlay.settled, host.mtus) == (False, [1450])
    assert host.counts() == (2, 2, 2)


async def test_refused_entry_does_not_unsettle(host: Host) -> None:
    """What is wrong with one peer is its own problem, not the host's."""
    host.kernel.refuse = lambda message: errno.ENOMEM if isinstance(message.value, nl.Route) else 0
    with pytest.raises(OverlayError, match="ENOMEM"):
        await host.begin(10)
    assert (host.overlay.settled, host.overlay.blocking) == (True, ())
    assert host.overlay.problems != ()


async def test_underlay_without_our_address_blocks(host: Host) -> None:
    """A PublicIP that is not on the interface is named as blocking."""
    await host.begin(10)
    host.overlay.set_local(replace(NODE, public_ip=IPv4Address("198.18.77.8")))
    with pytest.raises(OverlayError, match="no address of interface eth0"):
        await host.overlay.converge()
    assert host.overlay.blocking == ("198.18.77.8 is no address of interface eth0",)


async def test_mtu_that_does_not_fit_is_cut_and_named_without_blocking(host: Host) -> None:
    """Containers get what the device really has."""
    await host.overlay.start()
    host.overlay.set_local(replace(NODE, backend=VxlanOptions(mtu=9000)))
    host.overlay.set_peers({})
    await host.overlay.converge()
    assert (host.mtus, host.kernel.links[host.device].mtu) == ([1450], 1450)
    assert (host.overlay.settled, host.overlay.blocking) == (True, ())
    assert [p.partition(":")[0] for p in host.overlay.problems] == ["Backend.MTU"]


async def test_host_gw_is_settled_with_its_routes_and_takes_the_underlays_mtu(host: Host) -> None:
    """There is no device to wait for."""
    await host.overlay.start()
    host.overlay.set_local(replace(NODE, backend=HostGwOptions(), vtep_mac=""))
    host.overlay.set_peers({subnet(10): peer(10)})
    await host.overlay.converge()
    assert (host.mtus, host.overlay.settled, host.counts()) == ([1500], True, (1, 0, 0))


async def test_way_to_host_gw_and_back_is_no_repair(host: Host) -> None:
    """A device that was taken away on purpose is made anew on purpose."""
    await host.begin(10)
    for node in (replace(NODE, backend=HostGwOptions(), vtep_mac=""), NODE):
        host.overlay.set_local(node)
        assert not host.overlay.settled
        await host.overlay.converge()
        assert host.overlay.settled
    assert (host.repaired, host.mtus) == ([], [1450, 1500, 1450])


async def test_newer_claim_on_a_mac_takes_over_and_the_same_record_anew_costs_nothing(
    host: Host,
) -> None:
    """A host that came back with another address is reached there at once."""
    await host.begin(10)
    moved = replace(peer(11), vtep_mac=peer(10).vtep_mac, revision=7)
    host.overlay.update_peer(subnet(11), moved)
    await host.overlay.converge()
    (entry,) = host.kernel.fdb.values()
    assert entry.dst == moved.public_ip.packed
    assert [p for p in host.overlay.problems if p.startswith("peer 10.1.10.0/24")]
    host.kernel.log.clear()
    host.now = 5.0
    host.overlay.update_peer(subnet(11), replace(moved, revision=8))
    await host.overlay.converge()
    assert host.kernel.log == []
    assert host.overlay.peer_changed[subnet(11)] == 1000.0


# --- what is logged ---


async def test_flood_of_damage_is_counted_exactly_and_logged_once_a_period(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at once, one with the count when ten seconds are over."""
    caplog.set_level("INFO")
    await host.begin(10)

    async def damage(times: int) -> None:
        for _ in range(times):
            link = host.kernel.links[host.device]
            host.kernel.put_link(link._replace(mtu=1200))
            await host.overlay.converge()

    def lines(word: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if word in r.getMessage()]

    await damage(50)
    assert lines("repaired") == ["repaired: 1 mtu"]
    assert lines("device flannel.1") == ["device flannel.1: created", "device flannel.1: changed"]
    host.now = 10.0
    await damage(1)
    assert lines("repaired") == ["repaired: 1 mtu", "repaired: 50 mtu in the last 10 s"]
    assert lines("device")[2:] == ["device flannel.1: changed 50 times in the last 10 s"]
    assert host.repaired == ["mtu"] * 51


async def test_rival_that_never_rests_is_one_line_and_ends_in_order(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who alters the device as fast as it is repaired does not flood the log."""
    await host.begin(10)
    passes = 0
    apply = host.kernel.apply

    async def rival(plan: LinkPlan, wish: LinkWish, index: int) -> None:
        nonlocal passes
        passes += 1
        await apply(plan, wish, index)
        if passes < 40:
            host.kernel.put_link(host.kernel.links[index]._replace(mtu=1200))

    host.kernel.apply = rival  # type: ignore[method-assign]  # the rival acts right after us
    host.kernel.put_link(host.kernel.links[host.device]._replace(mtu=1200))
    task = await running(host)
    await until(lambda: passes == 40, "the rival gave up")
    await until(lambda: host.repaired == ["mtu"] * 40, "every repair counted")
    assert host.kernel.links[host.device].mtu == 1450
    assert caplog.text.count("does not stay as it was set") == 1
    await ended(task)


async def test_problems_are_left_to_the_listener(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads ``problems`` logs them; they are not logged twice."""
    await host.begin(10)
    host.overlay.set_peers({subnet(10): peer(10), subnet(1): replace(peer(12), subnet=subnet(1))})
    await host.overlay.converge()
    assert len(host.overlay.problems) == 1
    assert host.overlay.problems[0] not in caplog.text


@pytest.mark.parametrize("change", [{"flags": nl.IFF_UP | nl.IFF_NOARP}, {"master": 77}])
async def test_device_that_resolves_nothing_or_has_a_master_is_one_repair(
    host: Host, change: dict[str, int]
) -> None:
    """It is put right in place, with all that went with it."""
    await host.begin(10, 11)
    task = await running(host)
    before = host.device
    host.kernel.put_link(host.kernel.links[before]._replace(**change))  # type: ignore[arg-type]  # fields by name
    await until(lambda: host.repaired == ["link"], "one repair")
    await until(lambda: host.counts() == (2, 2, 2), "all entries")
    link = host.kernel.links[before]
    assert (link.arp, link.master) == (True, 0)
    await ended(task)
