"""Trees that split and join and heavy addresses: the kernel can follow every step, and no step
leaves a trace."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netd.iptables.diff import target
from netd.services.book import Book
from netd.services.planner import HEAVY, RulePlanner
from netd.services.rules import Policy
from netd.services.values import Service, ServicePort
from tests.netd.services.made import backed, web

# Near each other and far apart, so that some stay in one leaf when the tree has split.
PLACES = [f"10.96.{n % 3}.{n}" for n in range(1, 25)] + [f"10.{n}.0.1" for n in range(100, 116)]
OUTSIDE = {"PREROUTING", "MARK", "DNAT", "MASQUERADE", "RETURN", "ACCEPT"}

States = list[tuple[set[int], set[int]]]
"""Which of PLACES are served, and which of them by very many endpoints."""

states = st.lists(
    st.tuples(
        st.sets(st.sampled_from(range(len(PLACES))), max_size=len(PLACES)),
        st.sets(st.sampled_from(range(len(PLACES))), max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def numbered(number: int) -> Service:
    """The service at one of PLACES, with a node port."""
    ports = (ServicePort("http", "tcp", 80, 30000 + number * 13),)
    return web(key=f"default/s{number}", cluster_ips=(PLACES[number],), ports=ports)


def become(book: Book, present: set[int], heavy: set[int]) -> None:
    """Tell *book* that exactly these are there."""
    for number in range(len(PLACES)):
        service = numbered(number)
        book.put_service(service.key, service if number in present else None)
        count = HEAVY + 1 if number in heavy else 2
        addresses = [f"10.1.{n}.2" for n in range(count)]
        book.put_slices(service.key, (backed(service.key, *addresses),))


class Kernel:
    """Chains as the kernel holds them; like it, refuses what leads nowhere or is still entered."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}

    def write(self, planner: RulePlanner) -> None:
        """One commit of what was touched."""
        for name in planner.touched:
            rules = planner.chains.get(name)
            if rules is None:
                self.chains.pop(name, None)
            else:
                self.chains[name] = rules
        entered = {target(rule) for rules in self.chains.values() for rule in rules} - OUTSIDE
        assert entered <= self.chains.keys(), "a jump to a chain that is not there"
        planner.written(planner.pending())


@given(states, st.lists(st.booleans(), min_size=5, max_size=5))
@settings(max_examples=40, deadline=None)
def test_what_is_touched_brings_the_kernel_from_any_shape_to_any_other(
    script: States, writes: list[bool]
) -> None:
    planner, kernel = RulePlanner(Book("node1"), Policy()), Kernel()
    for (present, heavy), does_write in zip(script, writes, strict=False):
        become(planner.book, present, heavy)
        planner.update()
        # A write that failed leaves everything to the next one.
        if does_write:
            kernel.write(planner)
            assert kernel.chains == planner.chains
    kernel.write(planner)
    assert kernel.chains == planner.chains
    fresh = RulePlanner(Book("node1"), Policy())
    become(fresh.book, *script[-1])
    fresh.update()
    assert planner.chains == fresh.chains


def settled(count: int) -> RulePlanner:
    """A planner with the first *count* places, all written."""
    planner = RulePlanner(Book("node1"), Policy())
    become(planner.book, set(range(count)), set())
    planner.update()
    planner.written(planner.pending())
    return planner


def test_as_many_rules_as_a_leaf_may_share_stay_in_it_and_one_more_does_not() -> None:
    planner = settled(1)
    for count in (HEAVY, HEAVY + 1):
        addresses = [f"10.1.{n}.2" for n in range(count)]
        planner.book.put_slices("default/s0", (backed("default/s0", *addresses),))
        planner.update()
        assert (f"KUBE-VIP-{PLACES[0]}-32" in planner.chains) == (count > HEAVY)


def test_a_heavy_chain_that_goes_is_touched_and_one_that_stays_is_not() -> None:
    planner = settled(3)
    become(planner.book, {0, 1, 2}, {0, 1})
    planner.update()
    planner.written(planner.pending())
    become(planner.book, {0, 1, 2}, {0})
    planner.update()
    assert f"KUBE-VIP-{PLACES[1]}-32" in planner.touched
    assert f"KUBE-VIP-{PLACES[0]}-32" not in planner.touched


def test_looking_at_everything_again_touches_nothing_that_is_right() -> None:
    planner = settled(len(PLACES))
    planner.book.touch_all()
    planner.update()
    assert planner.touched == set()


def test_another_policy_is_rendered_everywhere_and_the_same_one_nowhere() -> None:
    planner = settled(len(PLACES))
    planner.set_policy(Policy())
    assert planner.update().addresses == frozenset()
    assert planner.touched == set()
    planner.set_policy(Policy(masquerade_bit=10))
    planner.update()
    fresh = RulePlanner(Book("node1"), Policy(masquerade_bit=10))
    become(fresh.book, set(range(len(PLACES))), set())
    fresh.update()
    assert planner.chains == fresh.chains
    assert {"KUBE-PORTALS-HOST", "KUBE-PORTALS-MASQ"} <= planner.touched
    assert "0x4000/" not in str(planner.chains)


def test_a_heavy_chain_outlives_the_node_whose_leaf_it_once_hung_from() -> None:
    """The node is split, then left out, while the leaf below it that has the chain stays."""
    near = [f"10.96.{n % 3}.{n}" for n in range(24)]
    far = [f"10.200.{n}.1" for n in range(16)]
    planner, kernel = RulePlanner(Book("node1"), Policy()), Kernel()
    many = [f"10.1.{n}.2" for n in range(HEAVY + 1)]
    planner.book.put_slices("default/heavy", (backed(f"default/{near[0]}", *many),))
    for present in ([*near[:5], *far], [*near, *far], near):
        for address in (*near, *far):
            key = f"default/{address}"
            service = web(key=key, cluster_ips=(address,)) if address in present else None
            planner.book.put_service(key, service)
        planner.update()
        kernel.write(planner)
        assert kernel.chains == planner.chains
        assert f"KUBE-VIP-{near[0]}-32" in kernel.chains
