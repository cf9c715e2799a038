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
from netd.overlay.plan import LinkWish, Plan, plan_entries, plan_link, wish_link
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
# Few subnets, hosts and MACs, so that they are shared, stolen and moved all the time.
peers = st.dictionaries(
    st.integers(0, 6).map(subnet),
    st.tuples(
        st.sampled_from(["198.18.77.1", "198.18.77.2", "198.18.77.3", "203.0.113.4"]),
        st.sampled_from([None, "nonsense", "0e:00:00:00:00:01", "0e:00:00:00:00:02", "0e:0:3"]),
    ),
    max_size=6,
).map(lambda d: {s: Peer(s, IPv4Address(ip), vtep) for s, (ip, vtep) in d.items()})


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
    ],
)
def test_what_can_change_changes_in_place(
    difference: dict[str, object], kinds: tuple[str, ...]
) -> None:
    """MTU, MAC, learning and the up flag never cost the device."""
    plan = plan_link(wish(), device(**difference), [ADDRESS])
    assert (plan.delete, plan.create, plan.repairs) == (0, False, kinds)


def test_foreign_addresses_go_and_ours_comes() -> None:
    """The device ends with exactly its /32."""
    foreign = ADDRESS._replace(prefixlen=24)
    plan = plan_link(wish(), device(), [foreign, ADDRESS._replace(ifindex=UNDERLAY)])
    assert (plan.drop, plan.add_address, plan.repairs) == ((foreign,), True, ("address",))
