"""The overlay against the real kernel, in hosts that are namespaces on a bridge.

What is asserted is read with iproute2, which shares no code with us.
"""

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from netd.netlink.messages import RTM_DELNEIGH, RTM_DELROUTE
from netd.netlink.requests import del_neighbour
from netd.netlink.socket import Monitor, NetlinkSocket
from netd.overlay.links import OverlayError, vtep_mac_in_kernel
from netd.overlay.manager import Overlay
from netd.overlay.model import HostGwOptions, LocalNode, Peer, VxlanOptions
from tests.support.netns import Fabric, Inside, Namespace, eventually

NETWORK = IPv4Network("10.1.0.0/16")


def mac(number: int) -> str:
    return f"0e:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def subnet(number: int) -> IPv4Network:
    return IPv4Network((int(NETWORK.network_address) + number * 256, 24))


def node(number: int, backend: VxlanOptions | HostGwOptions | None = None) -> LocalNode:
    backend = backend or VxlanOptions()
    vtep = mac(number) if isinstance(backend, VxlanOptions) else ""
    address = IPv4Address(f"198.18.77.{number}")
    return LocalNode(NETWORK, subnet(number), address, "eth0", backend, vtep)


def peer(number: int, *, ip: str = "", vtep: str = "") -> Peer:
    return Peer(subnet(number), IPv4Address(ip or f"198.18.77.{number}"), vtep or mac(number))


def peers(*given: Peer) -> dict[IPv4Network, Peer]:
    return {p.subnet: p for p in given}


class Host:
    """A namespace with an Overlay that runs in it."""

    def __init__(self, space: Namespace) -> None:
        self.space = space
        self.inside = Inside(space)
        self.mtus: list[int] = []
        self.repaired: list[str] = []
        self.overlay = Overlay(on_repair=self.repaired.append, on_mtu=self.mtus.append)
        self.inside.wait(self.overlay.start())

    def converge(self, local: LocalNode, *others: Peer) -> None:
        self.inside.call(self.overlay.set_local, local)
        self.inside.call(self.overlay.set_peers, peers(*others))
        self.inside.wait(self.overlay.converge())

    def run(self, local: LocalNode, *others: Peer) -> None:
        """Converge, then keep it so."""
        self.converge(local, *others)

        async def begin() -> asyncio.Task[None]:
            return asyncio.create_task(self.overlay.run())

        self.inside.wait(begin())

    def close(self) -> None:
        self.inside.wait(self.overlay.stop())
        self.inside.close()

    # --- what iproute2 sees ---

    def link(self, name: str = "flannel.1") -> dict[str, Any]:
        found = self.space.json(f"ip -d link show {name}")
        return found[0] if found else {}

    def routes(self) -> dict[str, dict[str, Any]]:
        shown = self.space.json("ip -d route show")
        return {r["dst"]: r for r in shown if r["dst"].startswith("10.1.")}

    def neighbours(self) -> dict[str, str]:
        shown = self.space.json("ip neigh show dev flannel.1 nud permanent")
        return {n["dst"]: n["lladdr"] for n in shown}

    def fdb(self) -> dict[str, str]:
        shown = self.space.json("bridge fdb show dev flannel.1")
        return {e["mac"]: e["dst"] for e in shown if e.get("state") == "permanent"}

    def addresses(self) -> list[str]:
        shown = self.space.json("ip -4 addr show dev flannel.1")
        return [f"{a['local']}/{a['prefixlen']}" for link in shown for a in link["addr_info"]]

    def entries(self) -> tuple[object, ...]:
        return self.routes(), self.neighbours(), self.fdb()


@pytest.fixture
def hosts(fabric: Fabric) -> Iterator[Callable[..., Host]]:
    """Makes hosts with a running event loop inside."""
    with ExitStack() as stack:

        def make(number: int, *, prefix: int = 24, mtu: int = 1500) -> Host:
            space = fabric.host(f"h{number}", f"198.18.77.{number}/{prefix}", mtu=mtu)
            host = Host(space)
            stack.callback(host.close)
            return host

        yield make


Hosts = Callable[..., Host]


def ping(space: Namespace, source: str, to: str) -> bool:
    command = f"busybox ping -c 1 -W 1 -I {source} {to}"
    return "1 packets received" in space.run(command, check=False)


# --- what is programmed ---


def test_device_and_entries_are_those_of_flannel(hosts: Hosts) -> None:
    """Link, address, neighbour, FDB entry and route look as flanneld makes them."""
    host = hosts(1)
    host.converge(node(1), peer(60))
    link = host.link()
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], link["address"], "UP" in link["flags"]) == (1450, mac(1), True)
    assert (data["id"], data["local"], data["link"]) == (1, "198.18.77.1", "eth0")
    assert (data["port"], data["learning"]) == (8472, False)
    assert host.addresses() == ["10.1.1.0/32"]
    assert host.neighbours() == {"10.1.60.0": mac(60)}
    assert host.fdb() == {mac(60): "198.18.77.60"}
    route = host.routes()["10.1.60.0/24"]
    assert (route["gateway"], route["dev"], route["flags"]) == (
        "10.1.60.0",
        "flannel.1",
        ["onlink"],
    )
    assert route["protocol"] == "85"
    assert host.mtus == [1450]
    assert host.overlay.entries == 3


def test_options_reach_the_device(hosts: Hosts) -> None:
    """VNI, port, MTU, GBP and learning are the configured ones."""
    host = hosts(1)
    host.converge(node(1, VxlanOptions(vni=7, port=4789, mtu=1400, gbp=True, learning=True)))
    data = host.link("flannel.7")["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["gbp"], data["learning"]) == (7, 4789, True, True)
    assert host.link("flannel.7")["mtu"] == 1400


def test_changes_in_place_keep_the_device(hosts: Hosts) -> None:
    """MTU, MAC and learning change without a new device; the entries survive or come back."""
    host = hosts(1)
    host.converge(node(1), peer(60))
    before = host.link()["ifindex"]
    changed = replace(node(1, VxlanOptions(mtu=1300, learning=True)), vtep_mac="0e:11:11:11:11:11")
    host.converge(changed, peer(60))
    link = host.link()
    assert (link["ifindex"], link["mtu"], link["address"]) == (before, 1300, "0e:11:11:11:11:11")
    assert link["linkinfo"]["info_data"]["learning"] is True
    assert host.neighbours() == {"10.1.60.0": mac(60)}
    assert host.fdb() == {mac(60): "198.18.77.60"}
    assert "10.1.60.0/24" in host.routes()
    assert sum(host.overlay.repairs.values()) == 0


def test_unchangeable_attribute_makes_a_new_device_with_all_peers(hosts: Hosts) -> None:
    """Another port needs another device; peers are replayed on it."""
    host = hosts(1)
    host.converge(node(1), peer(60), peer(61))
    before = host.link()["ifindex"]
    host.converge(node(1, VxlanOptions(port=4789)), peer(60), peer(61))
    assert host.link()["ifindex"] != before
    assert set(host.routes()) == {"10.1.60.0/24", "10.1.61.0/24"}
    assert set(host.neighbours()) == {"10.1.60.0", "10.1.61.0"}


def test_another_vni_retires_the_old_device(hosts: Hosts) -> None:
    """After a change of the VNI only the new device is there."""
    host = hosts(1)
    host.converge(node(1), peer(60))
    host.converge(node(1, VxlanOptions(vni=2)), peer(60))
    assert host.link("flannel.1") == {}
    assert host.routes()["10.1.60.0/24"]["dev"] == "flannel.2"


def test_takeover_of_flanneld_keeps_device_and_traffic_entries(hosts: Hosts) -> None:
    """A device made by flanneld stays the same one; departed peers' entries go."""
    host = hosts(1)
    for command in (
        f"ip link add flannel.1 address {mac(1)} mtu 1450 type vxlan id 1 dev eth0"
        " local 198.18.77.1 dstport 8472 nolearning",
        "ip addr add 10.1.1.0/32 dev flannel.1",
        "ip link set flannel.1 up",
        f"ip neigh add 10.1.60.0 lladdr {mac(60)} dev flannel.1 nud permanent",
        f"bridge fdb add {mac(60)} dev flannel.1 dst 198.18.77.60 self permanent",
        "ip route add 10.1.60.0/24 via 10.1.60.0 dev flannel.1 onlink",
        f"ip neigh add 10.1.99.0 lladdr {mac(99)} dev flannel.1 nud permanent",
        f"bridge fdb add {mac(99)} dev flannel.1 dst 198.18.77.99 self permanent",
        "ip route add 10.1.99.0/24 via 10.1.99.0 dev flannel.1 onlink",
        "ip route add 10.1.50.0/24 via 198.18.77.50 dev eth0",
        f"ip neigh add 10.1.1.77 lladdr {mac(99)} dev flannel.1 nud permanent",
        "ip route add 10.1.1.128/25 via 10.1.99.0 dev flannel.1 onlink",
    ):
        host.space.run(command)
    before = host.link()["ifindex"]
    host.converge(node(1), peer(60))
    assert host.link()["ifindex"] == before
    assert set(host.routes()) == {"10.1.60.0/24"}
    assert host.neighbours() == {"10.1.60.0": mac(60)}
    assert host.fdb() == {mac(60): "198.18.77.60"}


def test_restart_changes_nothing_in_the_kernel(hosts: Hosts) -> None:
    """A second daemon finds all in order: same device, and not one change announced."""
    host = hosts(1)
    host.converge(node(1), peer(60), peer(61))
    host.inside.wait(host.overlay.stop())
    host.overlay = Overlay()
    host.inside.wait(host.overlay.start())
    monitor = host.inside.call(Monitor)
    try:
        host.converge(node(1), peer(60), peer(61))
        assert monitor.drain().events == ()
        host.converge(node(1), peer(60))
        assert {event.type for event in monitor.drain().events} >= {RTM_DELROUTE, RTM_DELNEIGH}
    finally:
        monitor.close()


def test_mac_of_the_device_can_be_read_before_anything_else(hosts: Hosts) -> None:
    """The MAC of a device that flanneld left is found, and its absence too."""
    host = hosts(1)

    def read() -> str | None:
        from tests.support.netns import enter  # noqa: PLC0415  (this thread's namespace only)

        enter(host.space.path)
        return vtep_mac_in_kernel(1)

    async def in_a_thread() -> str | None:
        return await asyncio.to_thread(read)

    assert host.inside.wait(in_a_thread()) is None
    host.space.run(f"ip link add flannel.1 address {mac(9)} type vxlan id 1 dev eth0 dstport 8472")
    assert host.inside.wait(in_a_thread()) == mac(9)


def test_routes_of_the_administrator_stay(hosts: Hosts) -> None:
    """Routes marked static are left alone, and one in a peer's place is named."""
    host = hosts(1)
    host.space.run("ip route add 10.1.70.0/24 via 198.18.77.70 dev eth0 proto static")
    host.space.run("ip route add 10.1.60.0/24 via 198.18.77.70 dev eth0 proto static")
    with pytest.raises(OverlayError, match=r"peer 10\.1\.60\.0/24, route .* protocol 4"):
        host.converge(node(1), peer(60), peer(61))
    assert host.routes()["10.1.70.0/24"]["gateway"] == "198.18.77.70"
    assert host.routes()["10.1.60.0/24"]["gateway"] == "198.18.77.70"
    assert host.routes()["10.1.61.0/24"]["dev"] == "flannel.1"


def test_changed_mac_of_a_peer_leaves_nothing_behind(hosts: Hosts) -> None:
    """Neighbour and FDB entry follow; the old FDB entry goes."""
    host = hosts(1)
    host.converge(node(1), peer(60))
    host.converge(node(1), peer(60, vtep=mac(160)))
    assert host.neighbours() == {"10.1.60.0": mac(160)}
    assert host.fdb() == {mac(160): "198.18.77.60"}
    assert host.overlay.repairs["fdb"] == 0


def test_shared_fdb_entry_lives_while_one_of_its_peers_does(hosts: Hosts) -> None:
    """Two subnets behind one host use one FDB entry; it goes with the last of them."""
    host = hosts(1)
    first, second = peer(60), peer(61, ip="198.18.77.60", vtep=mac(60))
    host.converge(node(1), first, second)
    assert host.fdb() == {mac(60): "198.18.77.60"}
    host.converge(node(1), second)
    assert host.fdb() == {mac(60): "198.18.77.60"}
    assert set(host.neighbours()) == {"10.1.61.0"}
    host.converge(node(1))
    assert host.entries() == ({}, {}, {})


def test_one_mac_on_two_hosts_is_a_named_problem(hosts: Hosts) -> None:
    """The newer record wins, of equals the lowest subnet; the other peer is named, the rest is
    programmed."""
    host = hosts(1)
    host.converge(node(1), peer(61, vtep=mac(60)), peer(60), peer(62))
    assert set(host.routes()) == {"10.1.60.0/24", "10.1.62.0/24"}
    assert [p for p in host.overlay.problems if "peer 10.1.61.0/24" in p]
    newer = replace(peer(61, vtep=mac(60)), revision=9)
    host.converge(node(1), newer, peer(60), peer(62))
    assert set(host.routes()) == {"10.1.61.0/24", "10.1.62.0/24"}
    assert host.fdb()[mac(60)] == "198.18.77.61"
    assert [p for p in host.overlay.problems if "peer 10.1.60.0/24" in p]


def test_way_to_host_gw_and_back_counts_nothing(hosts: Hosts) -> None:
    """A device taken away and made anew on purpose is no repair, nor are its routes."""
    host = hosts(1)
    host.converge(node(1), peer(60))
    for backend, device in ((HostGwOptions(), "eth0"), (VxlanOptions(), "flannel.1")):
        host.converge(node(1, backend), peer(60))
        assert host.routes()["10.1.60.0/24"]["dev"] == device
        assert host.overlay.settled
    assert (host.repaired, host.mtus) == ([], [1450, 1500, 1450])


def test_foreign_device_with_our_vni_blocks_by_its_cause(hosts: Hosts) -> None:
    """The first error names what the kernel said; no MTU is told; removal heals."""
    host = hosts(1)
    host.space.run("ip link add vx type vxlan id 1 dev eth0 dstport 8472")
    with pytest.raises(OverlayError, match="File exists"):
        host.converge(node(1), peer(60))
    assert ["File exists" in text for text in host.overlay.blocking] == [True]
    assert (host.overlay.settled, host.overlay.mtu, host.mtus) == (False, 0, [])
    host.space.run("ip link del vx")
    host.converge(node(1), peer(60))
    assert (host.overlay.settled, host.overlay.blocking, host.mtus) == (True, (), [1450])


def test_mtu_that_the_kernel_would_not_give_is_cut(hosts: Hosts) -> None:
    """Device and listener have the same MTU, at creation and afterwards; the problem is named."""
    host = hosts(1)
    for wished in (8000, 9000):
        host.converge(node(1, VxlanOptions(mtu=wished)), peer(60))
        assert (host.link()["mtu"], host.mtus, host.overlay.mtu) == (1450, [1450], 1450)
        assert [p for p in host.overlay.problems if p.startswith(f"Backend.MTU: {wished}")]
        assert (host.overlay.settled, host.overlay.blocking) == (True, ())


def test_a_thousand_peers(hosts: Hosts) -> None:
    """A thousand peers are all there, and all gone when told so."""
    host = hosts(1)
    network = IPv4Network("10.0.0.0/8")
    many = [
        Peer(
            IPv4Network((int(network.network_address) + n * 256, 24)),
            IPv4Address(int(IPv4Address("198.19.0.0")) + n),
            mac(n),
        )
        for n in range(1000)
    ]
    local = replace(node(1), network=network, subnet=IPv4Network("10.255.0.0/24"))
    local = replace(local, vtep_mac="0e:ff:ff:ff:ff:ff")
    host.converge(local, *many)
    assert len(host.space.run("ip route show dev flannel.1").splitlines()) == 1000
    assert len(host.neighbours()) == 1000
    assert len(host.fdb()) == 1000
    host.converge(local)
    assert host.overlay.entries == 0
    assert (host.neighbours(), host.fdb()) == ({}, {})


# --- repair ---

DAMAGE = {
    "route": ("ip route del 10.1.60.0/24", "route"),
    "route altered": ("ip route replace 10.1.60.0/24 via 198.18.77.9 dev eth0", "route"),
    "route shadowed by options": (
        "ip route replace 10.1.60.0/24 via 10.1.60.0 dev flannel.1 onlink mtu 600",
        "route",
    ),
    "foreign route": ("ip route add 10.1.77.0/24 via 10.1.77.0 dev flannel.1 onlink", "route"),
    "all routes": ("ip route flush dev flannel.1", "route"),
    "neighbour": ("ip neigh del 10.1.60.0 dev flannel.1", "neighbour"),
    "neighbour altered": (
        f"ip neigh replace 10.1.60.0 lladdr {mac(9)} dev flannel.1 nud permanent",
        "neighbour",
    ),
    "neighbour not permanent": (
        f"ip neigh replace 10.1.60.0 lladdr {mac(60)} dev flannel.1 nud stale",
        "neighbour",
    ),
    "fdb": (f"bridge fdb del {mac(60)} dev flannel.1", "fdb"),
    "fdb altered": (
        f"bridge fdb replace {mac(60)} dev flannel.1 dst 198.18.77.9 self permanent",
        "fdb",
    ),
    "foreign fdb": (
        f"bridge fdb add {mac(9)} dev flannel.1 dst 198.18.77.9 self permanent",
        "fdb",
    ),
    "address": ("ip addr del 10.1.1.0/32 dev flannel.1", "address"),
    "foreign address": ("ip addr add 10.1.5.1/24 dev flannel.1", "address"),
    "device deleted": ("ip link del flannel.1", "link"),
    "device down": ("ip link set flannel.1 down", "link"),
    "device mac": ("ip link set flannel.1 address 0e:99:99:99:99:99", "link"),
    "device mtu": ("ip link set flannel.1 mtu 1200", "mtu"),
    "device without arp": ("ip link set flannel.1 arp off", "link"),
    "device in a bridge": (
        "ip link add name br7 type bridge && ip link set flannel.1 master br7",
        "link",
    ),
    "device learning": ("ip link set flannel.1 type vxlan id 1 learning", "link"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_repaired_and_counted_by_its_kind(hosts: Hosts, damage: str) -> None:
    """Whatever is deleted, altered or added comes right by itself and is one kind of repair."""
    command, kind = DAMAGE[damage]
    host = hosts(1)
    host.run(node(1), peer(60))
    sound = host.entries()
    assert host.overlay.repairs[kind] == 0
    host.space.run(["sh", "-c", command])
    eventually(lambda: host.overlay.repairs[kind], f"a repair of kind {kind}")
    eventually(
        lambda: (
            host.entries() == sound
            and host.addresses() == ["10.1.1.0/32"]
            and (host.link()["mtu"], host.link()["address"]) == (1450, mac(1))
            and "UP" in host.link()["flags"]
            and "NOARP" not in host.link()["flags"]
            and "master" not in host.link()
            and not host.link()["linkinfo"]["info_data"]["learning"]
        ),
        "everything as before",
    )
    assert dict.fromkeys(host.repaired) == {kind: None}
    eventually(lambda: host.overlay.problems == (), "no problem")


def test_wanted_changes_are_no_repairs(hosts: Hosts) -> None:
    """Peers that come, change and go at run time count nothing."""
    host = hosts(1)
    host.run(node(1))

    def tell(given: Peer | None, want: dict[str, str]) -> None:
        host.inside.call(host.overlay.update_peer, subnet(60), given)
        eventually(lambda: host.fdb() == want, f"FDB {want}")

    tell(peer(60), {mac(60): "198.18.77.60"})
    tell(peer(60, vtep=mac(160)), {mac(160): "198.18.77.60"})
    tell(None, {})
    assert sum(host.overlay.repairs.values()) == 0


def test_mtu_follows_the_interface(hosts: Hosts) -> None:
    """A changed MTU of the underlay reaches device and listener."""
    host = hosts(1)
    host.run(node(1), peer(60))
    host.space.run("ip link set eth0 mtu 1400")
    eventually(lambda: host.link()["mtu"] == 1350, "MTU 1350")
    eventually(lambda: host.mtus == [1450, 1350], "the listener was told")
    assert host.overlay.mtu == 1350
    assert host.overlay.repairs["mtu"] == 0


def test_underlay_that_vanishes_is_named_and_its_return_heals(fabric: Fabric, hosts: Hosts) -> None:
    """Without its interface the overlay says so and survives; afterwards all is there again."""
    host = hosts(1)
    host.run(node(1), peer(60))
    host.space.run("ip link del eth0")
    eventually(lambda: host.overlay.problems == ("interface eth0 is missing",), "the problem")
    assert host.link() == {}
    fabric.plug(host.space, "198.18.77.1/24")
    eventually(lambda: "10.1.60.0/24" in host.routes(), "the route")
    eventually(lambda: host.overlay.problems == (), "no problem")
    assert host.link()["address"] == mac(1)
    assert host.fdb() == {mac(60): "198.18.77.60"}


def test_downed_underlay_with_direct_routes_heals(hosts: Hosts) -> None:
    """The kernel drops routes of a downed interface silently; they come back with it."""
    host = hosts(1)
    host.run(node(1, HostGwOptions()), peer(60), peer(61))
    host.space.run("ip link set eth0 down")
    eventually(lambda: host.overlay.problems == ("interface eth0 is down",), "the problem")
    host.space.run("ip link set eth0 up")
    eventually(lambda: set(host.routes()) == {"10.1.60.0/24", "10.1.61.0/24"}, "both routes")
    eventually(lambda: host.overlay.problems == (), "no problem")


def test_storm_of_damage_and_changes_ends_in_order(hosts: Hosts) -> None:
    """Entries destroyed by the hundred while peers come and go are all right in the end."""
    host = hosts(1)
    host.run(node(1), *(peer(n) for n in range(20, 220)))
    for turn in range(3):
        for tool, lines in (
            ("ip", [f"route del 10.1.{n}.0/24" for n in range(20 + turn, 200, 3)]),
            ("ip", [f"neigh del 10.1.{n}.0 dev flannel.1" for n in range(20 + turn, 200, 3)]),
            ("bridge", [f"fdb del {mac(n)} dev flannel.1" for n in range(20 + turn, 200, 3)]),
        ):
            host.space.run(
                ["sh", "-c", f"{tool} -force -batch - 2>/dev/null <<'.'\n" + "\n".join(lines)],
                check=False,
            )
            host.inside.call(host.overlay.update_peer, subnet(200 + turn), None)
        host.space.run("ip link set flannel.1 down")
    wanted = {n for n in range(20, 220) if n not in (200, 201, 202)}
    eventually(lambda: host.fdb().keys() == {mac(n) for n in wanted}, "FDB")
    eventually(lambda: host.routes().keys() == {f"10.1.{n}.0/24" for n in wanted}, "routes")
    eventually(lambda: host.neighbours().keys() == {f"10.1.{n}.0" for n in wanted}, "neighbours")
    eventually(lambda: host.overlay.problems == (), "no problem")


def test_lost_acknowledgements_of_the_real_kernel_are_found_out(hosts: Hosts) -> None:
    """With far too small a receive buffer every refusal still finds its request."""
    host = hosts(1)
    socket = host.inside.call(lambda: NetlinkSocket(receive_buffer=1))
    try:
        absent = [del_neighbour(1, bytes((10, 1, n >> 8, n & 255))) for n in range(300)]
        results = host.inside.wait(socket.batch(absent))
    finally:
        socket.close()
    assert {failure.errno if failure else 0 for failure in results} == {errno.ENOENT}


# --- backends and traffic ---


def connect(hosts: Hosts, backend: VxlanOptions | HostGwOptions) -> tuple[Host, Host]:
    """Two hosts in one overlay, each with an address of its subnet on its loopback."""
    first, second = hosts(1), hosts(2)
    pair = ((first, 1, 2), (second, 2, 1))
    for host, own, other in pair:
        host.space.run(f"ip addr add 10.1.{own}.1/32 dev lo")
        host.space.run("sysctl -qw net.ipv4.ip_forward=1")
        host.run(node(own, backend), peer(other))
    return first, second


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        (VxlanOptions(), "flannel.1"),
        (VxlanOptions(direct_routing=True), "eth0"),
        (HostGwOptions(), "eth0"),
        (VxlanOptions(gbp=True, port=4789, vni=5), "flannel.5"),
    ],
    ids=["vxlan", "direct routing", "host-gw", "vxlan with other port and VNI"],
)
def test_two_hosts_reach_each_other(
    hosts: Hosts, backend: VxlanOptions | HostGwOptions, device: str
) -> None:
    """Addresses of both subnets talk, over the device that the backend means."""
    first, _second = connect(hosts, backend)
    assert first.routes()["10.1.2.0/24"]["dev"] == device
    eventually(lambda: ping(first.space, "10.1.1.1", "10.1.2.1"), "an answer")
    if device == "eth0":
        assert first.neighbours() == {}
        assert first.overlay.mtu == (1500 if isinstance(backend, HostGwOptions) else 1450)


def test_traffic_survives_the_deletion_of_the_device(hosts: Hosts) -> None:
    """After the device was deleted under traffic, traffic flows again, with the same MAC."""
    first, _second = connect(hosts, VxlanOptions())
    eventually(lambda: ping(first.space, "10.1.1.1", "10.1.2.1"), "an answer before")
    first.space.run("ip link del flannel.1")
    eventually(lambda: ping(first.space, "10.1.1.1", "10.1.2.1"), "an answer after")
    assert first.link()["address"] == mac(1)


def test_direct_routing_tunnels_only_to_distant_peers(hosts: Hosts) -> None:
    """A peer on our wire gets a plain route, one elsewhere the tunnel; either may change."""
    host = hosts(1)
    backend = VxlanOptions(direct_routing=True)
    host.converge(node(1, backend), peer(60), peer(61, ip="203.0.113.61"))
    assert host.routes()["10.1.60.0/24"]["gateway"] == "198.18.77.60"
    assert host.routes()["10.1.61.0/24"]["dev"] == "flannel.1"
    assert (host.neighbours(), host.fdb()) == (
        {"10.1.61.0": mac(61)},
        {mac(61): "203.0.113.61"},
    )
    host.converge(node(1, backend), peer(60, ip="203.0.113.60"), peer(61))
    assert host.routes()["10.1.60.0/24"]["dev"] == "flannel.1"
    assert host.routes()["10.1.61.0/24"]["gateway"] == "198.18.77.61"
    assert host.fdb() == {mac(60): "203.0.113.60"}


def test_host_gw_names_the_peer_it_cannot_reach(hosts: Hosts) -> None:
    """A peer behind a router is a problem; the others are routed."""
    host = hosts(1)
    host.converge(node(1, HostGwOptions()), peer(60), peer(61, ip="203.0.113.61"))
    assert set(host.routes()) == {"10.1.60.0/24"}
    assert ["10.1.61.0/24" in p for p in host.overlay.problems] == [True]


# --- the end ---


def test_remove_needs_no_state_and_takes_only_ours(hosts: Hosts) -> None:
    """Cleaning up by network and device name leaves routes of others."""
    first = hosts(1)
    first.converge(node(1, VxlanOptions(direct_routing=True)), peer(60), peer(61, ip="203.0.113.6"))
    first.space.run("ip route add 10.1.80.0/24 via 198.18.77.80 dev eth0 proto static")

    async def clean() -> None:
        overlay = Overlay()
        await overlay.start()
        try:
            assert await overlay.remove(NETWORK, "flannel.1") == ["flannel.1", "1 route"]
            assert await overlay.remove(NETWORK, "flannel.1") == []
        finally:
            await overlay.stop()

    first.inside.wait(clean())
    assert first.link() == {}
    assert set(first.routes()) == {"10.1.80.0/24"}
