"""What the planned rules do to packets, and that the way to them leaves no trace."""

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from netd.services import names
from netd.services.book import Book
from netd.services.planner import HEAVY, RulePlanner
from netd.services.rules import Policy, nat_jumps
from netd.services.values import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
)
from tests.netd.services import strategies as some
from tests.support.answers import World
from tests.support.walk import Fate, Packet, Walker

Objects = tuple[dict[str, Service], dict[str, EndpointSlice]]

policies = st.builds(
    Policy,
    masquerade_all=st.booleans(),
    cluster_cidr=st.sampled_from(["", some.CLUSTER_CIDR]),
    node_port_ranges=st.sampled_from([(), ("198.18.0.0/24",)]),
)

steps = st.one_of(
    st.tuples(st.just("service"), st.sampled_from(some.KEYS), st.none() | some.services),
    st.tuples(
        st.just("slice"), st.sampled_from(["default/a", "default/b"]), st.none() | some.slices
    ),
    st.tuples(st.just("update"), st.none(), st.none()),
    st.tuples(st.just("written"), st.none(), st.none()),
)


def with_jumps(planner: RulePlanner) -> dict[str, tuple[str, ...]]:
    """The nat table: our chains and the kernel's with nothing but our jumps."""
    parents: dict[str, list[str]] = {}
    for jump in nat_jumps():
        parents.setdefault(jump.parent, []).append(jump.rule)
    return {**planner.chains, **{name: tuple(rules) for name, rules in parents.items()}}


def fresh(
    services: dict[str, Service], slices: dict[str, EndpointSlice], policy: Policy
) -> RulePlanner:
    """A planner that was told everything once, in another order."""
    book = Book(some.NODE)
    for key, one in reversed(list(slices.items())):
        book.put_slices(key, (one,))
    for service in reversed(list(services.values())):
        book.put_service(service.key, service)
    planner = RulePlanner(book, policy)
    planner.update()
    return planner


def play(planner: RulePlanner, script: list[tuple[str, str | None, object]]) -> Objects:
    """Tell *planner* every step; returns the objects that are there at the end."""
    services: dict[str, Service] = {}
    slices: dict[str, EndpointSlice] = {}
    kernel: dict[str, tuple[str, ...]] = {}
    for what, key, value in [*script, ("update", None, None), ("written", None, None)]:
        if what == "service":
            assert key is not None
            services.pop(key, None)
            if isinstance(value, Service):
                services[key] = replace(value, key=key)
            planner.book.put_service(key, services.get(key))
        elif what == "slice":
            assert key is not None
            slices.pop(key, None)
            if isinstance(value, EndpointSlice):
                slices[key] = value
            planner.book.put_slices(key, (slices[key],) if key in slices else ())
        elif what == "update":
            planner.update()
        else:
            write(planner, kernel)
            assert kernel == planner.chains, "what was not touched is as it was written"
    return services, slices


def write(planner: RulePlanner, kernel: dict[str, tuple[str, ...]]) -> None:
    """Write what was touched, as a commit does."""
    for name in planner.touched:
        kernel.pop(name, None)
        if name in planner.chains:
            kernel[name] = planner.chains[name]
    planner.written(planner.pending())


@given(st.lists(steps, max_size=25), policies)
@settings(max_examples=150)
def test_the_chains_are_a_function_of_the_objects_and_not_of_their_history(
    script: list[tuple[str, str | None, object]], policy: Policy
) -> None:
    planner = RulePlanner(Book(some.NODE), policy)
    services, slices = play(planner, script)
    assert planner.chains == fresh(services, slices, policy).chains


@given(
    st.lists(some.services, max_size=5, unique_by=lambda one: one.key),
    st.lists(some.slices, max_size=3),
    policies,
    st.lists(some.packets, min_size=1, max_size=12),
)
@settings(max_examples=300)
def test_a_packet_goes_exactly_where_the_services_promise(
    services: list[Service], slices: list[EndpointSlice], policy: Policy, packets: list[Packet]
) -> None:
    planner = fresh(
        {one.key: one for one in services},
        {f"default/x{i}": one for i, one in enumerate(slices)},
        policy,
    )
    walker = Walker(with_jumps(planner), some.LOCAL)
    world = World(
        services,
        slices,
        some.NODE,
        some.LOCAL,
        policy.cluster_cidr,
        policy.masquerade_all,
        policy.node_port_ranges,
    )
    for packet in packets:
        check(walker.fates(packet), world, packet)


def check(fates: dict[Fate, float], world: World, packet: Packet) -> None:
    """What happens to *packet* is what must."""
    answer = world.answer(packet)
    assert abs(sum(fates.values()) - 1.0) < 1e-6
    reached = {fate.endpoint: chance for fate, chance in fates.items()}
    if answer.endpoints:
        assert set(reached) == answer.endpoints, packet
        for chance in reached.values():
            assert abs(chance - 1 / len(answer.endpoints)) < 1e-6
        if answer.masqueraded is not None:
            assert {fate.masqueraded for fate in fates} == {answer.masqueraded}, packet
    else:
        assert set(reached) == {""}, packet
        assert {fate.refused for fate in fates} == {answer.refused}, packet
        assert {fate.dropped for fate in fates} == {answer.dropped}, packet
        if not answer.refused and not answer.dropped:
            assert {fate.mark for fate in fates} == {0}, "what is no service leaves unmarked"


def simple(number: int, address: str, **more: object) -> Service:
    """A service with one TCP port."""
    fields: dict[str, object] = {
        "key": f"default/s{number}",
        "created": float(number),
        "ports": (ServicePort("http", "tcp", 80),),
        "cluster_ips": (address,),
    }
    return Service(**{**fields, **more})  # type: ignore[arg-type]


def backed(service: str, *addresses: str) -> EndpointSlice:
    """A slice with ready endpoints on another node."""
    return EndpointSlice(
        service,
        (EndpointPort("http", "tcp", 8080),),
        tuple(Endpoint(address, "node2") for address in addresses),
    )


def big(count: int) -> RulePlanner:
    """A planner with *count* services strewn over a /16."""
    rng = random.Random(count)
    book = Book(some.NODE)
    for number, low in enumerate(rng.sample(range(65_536), count)):
        book.put_service(f"default/s{number}", simple(number, f"10.96.{low >> 8}.{low & 255}"))
        book.put_slices(f"default/s{number}-x", (backed(f"default/s{number}", "10.1.1.2"),))
    planner = RulePlanner(book, Policy())
    planner.update()
    planner.written(planner.pending())
    return planner


def test_a_changed_endpoint_touches_one_chain_among_thousands() -> None:
    planner = big(3000)
    planner.book.put_slices("default/s7-x", (backed("default/s7", "10.1.1.2", "10.1.2.2"),))
    planner.update()
    assert len(planner.touched) == 1


def test_a_new_service_touches_its_own_path_only() -> None:
    planner = big(3000)
    chains = len(planner.chains)
    planner.book.put_service("default/new", simple(1, "10.97.0.1", key="default/new"))
    planner.update()
    assert len(planner.touched) <= 12
    assert abs(len(planner.chains) - chains) <= 5


def test_an_update_that_changes_nothing_touches_nothing() -> None:
    planner = big(50)
    planner.book.put_service("default/s7", planner.book.services["default/s7"])
    planner.book.put_slices("default/s7-x", (backed("default/s7", "10.1.1.2"),))
    planner.update()
    assert planner.touched == set()


def test_a_service_with_many_endpoints_has_a_chain_of_its_own_and_gives_it_back() -> None:
    planner = big(3)
    many = tuple(f"10.1.{i}.2" for i in range(HEAVY + 1))
    before = dict(planner.chains)
    planner.book.put_slices("default/s1-x", (backed("default/s1", *many),))
    planner.update()
    (made,) = planner.chains.keys() - before.keys()
    assert made.endswith("-32")
    assert len(planner.chains[made]) == HEAVY + 1
    planner.book.put_slices("default/s1-x", (backed("default/s1", "10.1.1.2"),))
    planner.update()
    assert planner.chains == before
    assert made in planner.touched


def test_heavy_chains_survive_a_split_of_their_leaf() -> None:
    book = Book(some.NODE)
    many = tuple(f"10.1.{i}.2" for i in range(HEAVY + 1))
    book.put_service("default/s0", simple(0, "10.0.0.1"))
    book.put_slices("default/s0-x", (backed("default/s0", *many),))
    planner = RulePlanner(book, Policy())
    planner.update()
    for number in range(1, 40):
        book.put_service(f"default/s{number}", simple(number, f"10.0.{number}.1"))
    planner.update()
    walker = Walker(with_jumps(planner), some.LOCAL)
    reached = walker.fates(Packet("10.1.1.9", "10.0.0.1", "tcp", 80))
    assert {fate.endpoint for fate in reached} == {f"{one}:8080" for one in many}


def test_no_chain_has_a_name_that_the_kernel_refuses() -> None:
    planner = big(3000)
    for number in range(2768):
        planner.book.put_service(
            f"default/n{number}",
            simple(
                number,
                f"10.98.{number >> 8}.{number & 255}",
                key=f"default/n{number}",
                ports=(ServicePort("http", "sctp", 80, 30_000 + number),),
            ),
        )
    planner.update()
    assert max(len(name) for name in planner.chains) <= 28
    assert all(name.startswith(names.PREFIXES) for name in planner.chains)


def test_a_quarantined_service_is_left_out_until_it_changes() -> None:
    planner = big(3)
    packet = Packet("10.1.1.9", planner.book.services["default/s1"].cluster_ips[0], "tcp", 80)
    fates: Callable[[], set[str]] = lambda: {  # noqa: E731
        fate.endpoint for fate in Walker(with_jumps(planner), some.LOCAL).fates(packet)
    }
    planner.book.quarantine("default/s1", "its rule is refused")
    planner.update()
    assert fates() == {""}
    assert [one.key for one in planner.book.troubles()] == ["service default/s1"]
    changed = simple(1, packet.target, affinity=60)
    planner.book.put_service("default/s1", changed)
    planner.update()
    assert fates() == {"10.1.1.2:8080"}
    assert planner.book.troubles() == []


def test_what_changes_during_a_write_is_not_taken_for_written() -> None:
    planner = RulePlanner(Book(some.NODE), Policy())
    planner.update()
    pending = planner.pending()
    planner.set_policy(Policy(masquerade_all=True))
    planner.written(pending)
    assert planner.touched == {"KUBE-PORTALS-CONTAINER"}


def test_a_chain_that_goes_is_pending_as_absent() -> None:
    planner = big(20)
    planner.book.put_service("default/s1", None)
    planner.update()
    for number in range(2, 10):
        planner.book.put_service(f"default/s{number}", None)
    planner.update()
    gone = {name for name, rules in planner.pending().items() if rules is None}
    assert gone
    assert gone.isdisjoint(planner.chains)
    planner.written(planner.pending())
    assert planner.touched == set()
