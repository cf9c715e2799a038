"""Planning: any order, any repetition and any interruption end in the same kernel state."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.netlink import messages as nl
from netd.overlay.intent import Intent, Underlay, parse_mac, peer_changes
from netd.overlay.mirror import Mirror
from netd.overlay.model import HostGwOptions, LocalNode, Peer, VxlanOptions
from netd.overlay.plan import (
    LinkWish,
    Plan,
    mtu_problems,
    overlay_mtu,
    plan_entries,
    plan_link,
    wish_link,
)
from tests.fakes.netlink import FakeKernel

NETWORK = IPv4Network("10.1.0.0/16")
DEVICE, UNDERLAY = 2, 1
WIRE = (int(IPv4Address("198.18.77.0")), 0xFFFFFF00)
GROUND = Underlay(UNDERLAY, True, 1500, frozenset({WIRE}))


def subnet(number: int) -> IPv4Network:
    return IPv4Network((int(NETWORK.network_address) + number * 256, 24))


def node(backend: VxlanOptions | HostGwOptions) -> LocalNode:
    vtep = "0e:00:00:00:00:01"
    return LocalNode(NETWORK, subnet(1), IPv4Address("198.18.77.1"), "eth0", backend, vtep)


backends = st.sampled_from([VxlanOptions(), VxlanOptions(direct_routing=True), HostGwOptions()])
# Few subnets, hosts, MACs and ages, so that they are shared, stolen and moved all the time.
peers = st.dictionaries(
    st.integers(0, 6).map(subnet),
    st.tuples(
        st.sampled_from(["198.18.77.1", "198.18.77.2", "198.18.77.3", "203.0.113.4"]),
        st.sampled_from([None, "nonsense", "0e:00:00:00:00:01", "0e:00:00:00:00:02", "0e:0:3"]),
        st.integers(0, 2),
    ),
    max_size=6,
).map(lambda d: {s: Peer(s, IPv4Address(ip), mac, age) for s, (ip, mac, age) in d.items()})


def kernel_with_device() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add_link("eth0")
    kernel.add_link("flannel.1", kind="vxlan")
    return kernel


def observe(kernel: FakeKernel, backend: VxlanOptions | HostGwOptions) -> Mirror:
    mirror = Mirror()
    mirror.watch(NETWORK)
    mirror.point(0 if isinstance(backend, HostGwOptions) else DEVICE, UNDERLAY)
    mirror.load_links(kernel.links.values())
    mirror.load_entries([*kernel.neighbours.values(), *kernel.fdb.values(), *kernel.routes])
    return mirror


def intend(local: LocalNode, given_peers: dict[IPv4Network, Peer]) -> Intent:
    intent = Intent()
    intent.set_place(local, GROUND, 0 if isinstance(local.backend, HostGwOptions) else DEVICE)
    for at, one in given_peers.items():
        intent.set_peer(at, one)
    return intent


def full_plan(intent: Intent, mirror: Mirror) -> Plan:
    return plan_entries(intent, mirror, {*intent.keys(), *mirror.entries()})


def state(kernel: FakeKernel) -> object:
    return kernel.neighbours, kernel.fdb, sorted(kernel.routes)


def goal(local: LocalNode, wanted: dict[IPv4Network, Peer]) -> object:
    kernel = kernel_with_device()
    for step in full_plan(intend(local, wanted), observe(kernel, local.backend)).steps:
        assert kernel.request(step.request) == 0
    return state(kernel)


@given(backends, peers, peers, st.integers(0, 40))
@settings(max_examples=200)
def test_interrupted_plan_is_completed_by_the_next(
    backend: VxlanOptions | HostGwOptions,
    old: dict[IPv4Network, Peer],
    new: dict[IPv4Network, Peer],
    stop: int,
) -> None:
    """From wherever a plan was left, observing and planning again reaches the same state."""
    local, kernel = node(backend), kernel_with_device()
    for wanted, limit in ((old, None), (new, stop), (new, None)):
        plan = full_plan(intend(local, wanted), observe(kernel, backend))
        for step in plan.steps[:limit]:
            kernel.request(step.request)
    assert state(kernel) == goal(local, new)
    assert full_plan(intend(local, new), observe(kernel, backend)) == Plan()


@given(backends, peers, peers)
def test_plan_carried_out_twice_changes_nothing_more(
    backend: VxlanOptions | HostGwOptions,
    old: dict[IPv4Network, Peer],
    new: dict[IPv4Network, Peer],
) -> None:
    """Requests are idempotent: sending a whole plan again leaves the same state."""
    local, kernel = node(backend), kernel_with_device()
    for step in full_plan(intend(local, old), observe(kernel, backend)).steps:
        kernel.request(step.request)
    plan = full_plan(intend(local, new), observe(kernel, backend))
    for step in (*plan.steps, *plan.steps):
        kernel.request(step.request)
    assert state(kernel) == goal(local, new)


@given(backends, peers, peers, st.randoms(use_true_random=False))
def test_order_of_peer_changes_does_not_matter_and_touched_keys_suffice(
    backend: VxlanOptions | HostGwOptions,
    old: dict[IPv4Network, Peer],
    new: dict[IPv4Network, Peer],
    random: object,
) -> None:
    """One change at a time in any order, planned at the named keys only, reaches the goal."""
    local, kernel = node(backend), kernel_with_device()
    intent = intend(local, old)
    for step in full_plan(intent, observe(kernel, backend)).steps:
        kernel.request(step.request)
    changes = list(peer_changes(old, new).items())
    random.shuffle(changes)  # type: ignore[attr-defined]  # hypothesis' random.Random
    for at, one in changes:
        keys = intent.set_peer(at, one)
        for step in plan_entries(intent, observe(kernel, backend), keys).steps:
            assert kernel.request(step.request) == 0
    assert state(kernel) == goal(local, new)


@given(backends, peers, peers)
def test_no_route_ever_leads_to_an_unknown_neighbour(
    backend: VxlanOptions | HostGwOptions,
    old: dict[IPv4Network, Peer],
    new: dict[IPv4Network, Peer],
) -> None:
    """After every single request each tunnel route has its neighbour, and that its FDB entry;
    peers that stay as they are never miss anything."""
    local, kernel = node(backend), kernel_with_device()
    for step in full_plan(intend(local, old), observe(kernel, backend)).steps:
        kernel.request(step.request)
    before = {*kernel.neighbours.items()}, {*kernel.fdb.items()}, {*kernel.routes}
    plan = full_plan(intend(local, new), observe(kernel, backend))
    goal_kernel = kernel_with_device()
    for step in full_plan(intend(local, new), observe(goal_kernel, backend)).steps:
        goal_kernel.request(step.request)
    for step in plan.steps:
        kernel.request(step.request)
        for route in kernel.routes:
            if route.oif == DEVICE:
                neighbour = kernel.neighbours[DEVICE, route.gateway]
                assert (DEVICE, neighbour.mac) in kernel.fdb
        assert before[0] & {*goal_kernel.neighbours.items()} <= {*kernel.neighbours.items()}
        assert before[1] & {*goal_kernel.fdb.items()} <= {*kernel.fdb.items()}
        assert before[2] & {*goal_kernel.routes} <= {*kernel.routes}


@given(backends, peers)
def test_own_subnet_and_foreign_networks_are_never_routed(
    backend: VxlanOptions | HostGwOptions, given_peers: dict[IPv4Network, Peer]
) -> None:
    """A peer that claims our subnet is refused by name."""
    stranger = Peer(IPv4Network("10.9.0.0/24"), IPv4Address("198.18.77.9"), "0e:00:00:00:00:09")
    thief = replace(stranger, subnet=subnet(1))
    intent = intend(node(backend), {**given_peers, stranger.subnet: stranger, subnet(1): thief})
    plan = full_plan(intent, observe(kernel_with_device(), backend))
    routed = {step.key.data for step in plan.puts if step.key.kind == "route"}
    assert not routed & {subnet(1).network_address.packed, b"\n\x09\0\0"}
    assert {stranger.subnet, subnet(1)} <= intent.refused.keys()


MAC = "0e:00:00:00:00:07"


@pytest.mark.parametrize(
    ("revisions", "winner"),
    [((10, 20), 6), ((20, 10), 5), ((10, 10), 5), ((0, 0), 5), ((0, 1), 6)],
)
def test_of_two_hosts_with_one_mac_the_newer_record_is_believed(
    revisions: tuple[int, int], winner: int
) -> None:
    """The higher revision wins, of equal ones the lowest subnet; the loser is named."""
    first = Peer(subnet(5), IPv4Address("198.18.77.2"), MAC, revisions[0])
    second = Peer(subnet(6), IPv4Address("198.18.77.3"), MAC, revisions[1])
    won, lost = (first, second) if winner == 5 else (second, first)
    for order in ([first, second], [second, first]):
        intent = intend(node(VxlanOptions()), {p.subnet: p for p in order})
        assert intent.fdb(parse_mac(MAC) or b"") == won.public_ip.packed
        assert intent.refused.keys() == {lost.subnet}
        assert str(won.subnet) in intent.refused[lost.subnet]


def test_older_record_of_the_winners_host_is_used_too() -> None:
    """A second subnet behind the believed host shares its MAC rightly."""
    intent = intend(
        node(VxlanOptions()),
        {
            s: Peer(s, IPv4Address(ip), MAC, revision)
            for s, ip, revision in (
                (subnet(5), "198.18.77.2", 1),
                (subnet(6), "198.18.77.3", 2),
                (subnet(7), "198.18.77.2", 3),
            )
        },
    )
    assert intent.refused.keys() == {subnet(6)}


@given(backends, peers, st.data())
def test_other_revision_alone_changes_nothing_in_the_kernel(
    backend: VxlanOptions | HostGwOptions, wanted: dict[IPv4Network, Peer], data: st.DataObject
) -> None:
    """A record that was written anew, all else equal and nobody rivalling, costs no message."""
    wanted = {
        s: replace(p, vtep_mac=f"0e:00:00:00:01:{n:02x}") for n, (s, p) in enumerate(wanted.items())
    }
    local, kernel = node(backend), kernel_with_device()
    intent = intend(local, wanted)
    for step in full_plan(intent, observe(kernel, backend)).steps:
        kernel.request(step.request)
    for at, one in wanted.items():
        keys = intent.set_peer(at, replace(one, revision=data.draw(st.integers(0, 9))))
        assert plan_entries(intent, observe(kernel, backend), keys) == Plan()


def route(dst: str, oif: int, protocol: int, *, gateway: str = "") -> nl.Route:
    net = IPv4Network(dst)
    via = IPv4Address(gateway).packed if gateway else b""
    packed = net.network_address.packed
    return nl.Route(packed, net.prefixlen, via, oif, protocol, 0, 1, 0, 0, 254, False)


@pytest.mark.parametrize(
    ("stale", "deleted"),
    [
        (route("10.1.9.0/24", DEVICE, nl.RTPROT_BOOT, gateway="10.1.9.0"), True),
        (route("10.1.1.128/25", DEVICE, nl.RTPROT_BOOT, gateway="10.1.9.0"), True),
        (route("172.16.0.0/24", DEVICE, nl.RTPROT_BOOT), True),
        (route("10.1.9.0/24", UNDERLAY, nl.RTPROT_BOOT, gateway="198.18.77.9"), True),
        (route("10.1.9.0/24", 7, 85, gateway="198.18.77.9"), True),
        (route("10.1.9.0/24", UNDERLAY, nl.RTPROT_STATIC, gateway="198.18.77.9"), False),
        (route("10.1.9.0/24", DEVICE, nl.RTPROT_STATIC), False),
        (route("10.1.9.0/24", DEVICE, nl.RTPROT_KERNEL), False),
        (route("10.1.8.0/23", UNDERLAY, nl.RTPROT_BOOT, gateway="198.18.77.9"), False),
        (route("10.1.9.0/24", UNDERLAY, nl.RTPROT_BOOT), False),
        (route("10.1.9.0/24", 7, nl.RTPROT_BOOT, gateway="198.18.77.9"), False),
        (route("10.2.9.0/24", UNDERLAY, nl.RTPROT_BOOT, gateway="198.18.77.9"), False),
    ],
)
def test_only_our_stale_routes_are_deleted(stale: nl.Route, deleted: bool) -> None:
    """Ours by number, by device or by the look of a lease; never what somebody else marked."""
    kernel = kernel_with_device()
    kernel.routes.append(stale)
    plan = full_plan(intend(node(VxlanOptions()), {}), observe(kernel, VxlanOptions()))
    assert (len(plan.deletes) == 1) is deleted
    assert plan.puts == ()


def wish(**changes: object) -> LinkWish:
    made = wish_link(node(VxlanOptions()), GROUND)
    assert made is not None
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def device(**changes: object) -> nl.Link:
    vxlan = nl.Vxlan(1, IPv4Address("198.18.77.1").packed, UNDERLAY, 8472, False, False, False)
    mac = parse_mac("0e:00:00:00:00:01") or b""
    link = nl.Link(DEVICE, "flannel.1", nl.IFF_UP, 1450, mac, "vxlan", vxlan)
    inner = {k: v for k, v in changes.items() if k in vxlan._fields}
    outer = {k: v for k, v in changes.items() if k in link._fields}
    return link._replace(vxlan=vxlan._replace(**inner))._replace(**outer)  # type: ignore[arg-type]


ADDRESS = nl.Address(DEVICE, subnet(1).network_address.packed, 32, 0)


def test_device_that_fits_is_left_alone() -> None:
    """Nothing to do is an empty plan."""
    assert not plan_link(wish(), device(), [ADDRESS])


@pytest.mark.parametrize(
    "difference",
    [
        {"vni": 2},
        {"local": b"\n\0\0\1"},
        {"lower": 9},
        {"port": 4789},
        {"gbp": True},
        {"group": True},
        {"vxlan": None},
        {"vxlan": None, "master": 3, "flags": nl.IFF_NOARP},
    ],
)
def test_what_cannot_change_needs_a_new_device(difference: dict[str, object]) -> None:
    """VNI, source, interface, port, GBP, a default group, or another kind of device."""
    plan = plan_link(wish(), device(**difference), [ADDRESS])
    assert (plan.delete, plan.create, plan.repairs) == (DEVICE, True, ("link",))


@pytest.mark.parametrize(
    ("difference", "kinds"),
    [
        ({"mtu": 1400}, ("mtu",)),
        ({"mac": b"\x0e\0\0\0\0\x09"}, ("link",)),
        ({"learning": True}, ("link",)),
        ({"flags": 0}, ("link",)),
        ({"flags": 0, "mtu": 9}, ("link", "mtu")),
        ({"flags": nl.IFF_UP | nl.IFF_NOARP}, ("link",)),
        ({"master": 3}, ("link",)),
    ],
)
def test_what_can_change_changes_in_place(
    difference: dict[str, object], kinds: tuple[str, ...]
) -> None:
    """MTU, MAC, learning, master and the flags never cost the device."""
    plan = plan_link(wish(), device(**difference), [ADDRESS])
    assert (plan.delete, plan.create, plan.repairs) == (0, False, kinds)


def test_foreign_addresses_go_and_ours_comes() -> None:
    """The device ends with exactly its /32."""
    foreign = ADDRESS._replace(prefixlen=24)
    plan = plan_link(wish(), device(), [foreign, ADDRESS._replace(ifindex=UNDERLAY)])
    assert (plan.drop, plan.add_address, plan.repairs) == ((foreign,), True, ("address",))


@pytest.mark.parametrize(
    ("backend", "mtu", "named"),
    [
        (VxlanOptions(), 1450, False),
        (VxlanOptions(mtu=1400), 1400, False),
        (VxlanOptions(mtu=1450), 1450, False),
        (VxlanOptions(mtu=1451), 1450, True),
        (HostGwOptions(), 1500, False),
        (HostGwOptions(mtu=9000), 1500, True),
    ],
)
def test_mtu_is_never_more_than_the_underlay_carries(
    backend: VxlanOptions | HostGwOptions, mtu: int, named: bool
) -> None:
    """What is configured counts up to what fits; more is a problem that names both numbers."""
    assert overlay_mtu(node(backend), GROUND) == mtu
    problems = mtu_problems(node(backend), GROUND)
    assert [p.partition(":")[0] for p in problems] == ["Backend.MTU"] * named
    assert all(str(backend.mtu) in p and str(mtu) in p for p in problems)
