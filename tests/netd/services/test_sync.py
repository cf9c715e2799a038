"""One pass from the book to the kernel: in order, whole, and again after every kind of failure."""

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.reconcile import Outcome
from netd.errors import FirewallError
from netd.iptables.errors import BadRule, LockBusy
from netd.services.values import Endpoint, Service
from tests.netd.services import strategies as some
from tests.netd.services.made import DNS, web
from tests.netd.services.syncworld import BUSY, RESTORE, A, B, World, dns_flow
from tests.support.etcd import free_ports


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Everything listed, nothing served."""
    made = World()
    made.listed()
    yield made
    await made.health.close()
    made.iptables.close()


# --- what is written, and when ---


async def test_nothing_is_read_or_written_before_services_and_endpoints_have_been_listed() -> None:
    world = World()
    world.put(web(), A)
    assert await world.step() == Outcome(ran=False)
    world.loop.listed("services")
    assert await world.step() == Outcome(ran=False)
    assert world.fake.calls == []
    world.loop.listed("endpoints")
    await world.good()
    world.assert_whole()


async def test_a_first_pass_without_any_service_makes_the_chains_and_the_ways_into_them(
    world: World,
) -> None:
    await world.good()
    world.assert_whole()
    assert world.sync.last is not None
    assert world.sync.last.full


async def test_a_change_writes_its_chain_alone_and_an_update_without_a_change_writes_nothing(
    world: World,
) -> None:
    world.put(web(), A)
    await world.good()
    written = len(world.fake.restored)
    world.put(web(), A, B)
    await world.good()
    (text,) = world.fake.restored[written:]
    assert [line for line in text.splitlines() if line.startswith(":")] == [":KUBE-PORTALS - [0:0]"]
    world.assert_whole()
    last, written = world.sync.last, len(world.fake.calls)
    world.put(web(), A, B)
    await world.good()
    assert len(world.fake.calls) == written, "no program ran"
    assert world.sync.last == last


async def test_the_last_sync_tells_when_how_long_and_how(world: World) -> None:
    before = time.time()
    await world.good()
    first = world.sync.last
    assert first is not None
    assert before <= first.at <= time.time()
    assert 0 <= first.seconds <= time.time() - before + 1
    assert first.full
    world.put(web(), A)
    await world.good()
    second = world.sync.last
    assert second is not None
    assert not second.full
    assert second.at >= first.at


async def test_rules_are_counted_by_table(world: World) -> None:
    world.put(web(), A, B)
    await world.good()
    counted = world.sync.rule_counts()
    for table in ("nat", "filter"):
        assert counted[table] == sum(map(len, world.kernel(table).values()))
        found = world.metrics.registry.get_sample_value(
            "kubeproxy_sync_proxy_rules_iptables_total", {"table": table}
        )
        assert found == counted[table]


# --- failures ---


async def test_what_a_failed_write_was_to_change_is_written_with_what_came_meanwhile(
    world: World,
) -> None:
    world.put(web(), A)
    await world.good()
    world.put(web(), B)
    world.figures.arrived("endpoint")
    # The changed chains alone, and then all that differs, are refused.
    world.fake.fail(RESTORE, "Killed", code=137, times=2)
    await world.bad(FirewallError)
    assert world.serves(A)
    assert world.figures.pending["endpoint"] == 1
    world.put(web(key="default/more", cluster_ips=("10.0.0.8",)), B)
    assert world.loop.dirty
    await world.good()
    world.assert_whole()
    assert not world.serves(A)
    assert world.figures.pending["endpoint"] == 0


async def test_a_partial_write_that_fails_is_made_good_in_the_same_pass(world: World) -> None:
    world.put(web(), A)
    await world.good()
    world.put(web(), B)
    world.fake.fail(RESTORE, "Killed", code=137)
    await world.good()
    world.assert_whole()
    assert world.sync.last is not None
    assert world.sync.last.full


async def test_rules_that_cannot_be_written_are_a_problem_until_they_are(world: World) -> None:
    world.fake.fail(RESTORE, "Permission denied (you must be root)", times=1)
    text = await world.bad(FirewallError)
    (problem,) = world.problems.all()
    assert (problem.key, problem.text, problem.blocking) == ("services", text, False)
    assert "must be root" in text
    await world.good()
    assert world.problems.all() == ()
    world.put(web(), A)
    world.fake.fail(RESTORE, "Permission denied (you must be root)", times=2)
    await world.bad(FirewallError)
    assert [one.key for one in world.problems.all()] == ["services"]


async def test_a_host_without_iptables_is_told_so_by_the_pass(world: World) -> None:
    world.cannot_open = FirewallError("iptables cannot be used: install the iptables package")
    assert "install" in await world.bad(FirewallError)
    assert world.sync.last is None
    world.cannot_open = None
    await world.good()
    world.assert_whole()


async def test_a_busy_lock_is_waited_for(world: World) -> None:
    world.put(web(), A)
    await world.good()
    world.put(web(), B)
    world.fake.fail(RESTORE, BUSY)
    assert "xtables lock" in await world.bad(LockBusy)
    assert world.serves(A)
    await world.good()
    world.assert_whole()


# --- a service whose rule the kernel refuses ---

REFUSED = web(key="default/odd", cluster_ips=("10.0.0.66",))


async def test_a_service_whose_rule_is_refused_is_left_out_and_the_others_are_written(
    world: World,
) -> None:
    world.fake.refused.add("10.0.0.66/32")
    world.put(web(), A)
    world.put(REFUSED, A)
    world.figures.arrived("service")
    await world.good()
    world.assert_whole()
    assert world.figures.pending["service"] == 0
    assert world.serves("default/web:http")
    assert not world.serves("default/odd")
    (trouble,) = world.book.troubles()
    assert trouble.key == "service default/odd"
    assert "iptables refuses its rule: -d 10.0.0.66/32" in trouble.text
    assert world.problems.all() == ()


async def test_it_comes_back_when_it_changes_or_when_it_was_made_anew(world: World) -> None:
    world.fake.refused.add("10.0.0.66/32")
    world.put(REFUSED, A)
    await world.good()
    world.put(REFUSED, A, B)
    await world.good()
    assert not world.serves("default/odd"), "its endpoints are not what was wrong"
    world.fake.refused.clear()
    world.put(replace(REFUSED, affinity=60), A)
    await world.good()
    assert world.serves("default/odd:http")
    assert world.book.troubles() == []


async def test_all_of_them_are_left_out_in_one_pass(world: World) -> None:
    """On a kernel without a match that many services need, the others do not wait."""
    world.fake.refused = {"10.0.0.66/32", "10.0.0.67/32"}
    world.put(web(), A)
    world.put(REFUSED, A)
    world.put(web(key="default/odder", cluster_ips=("10.0.0.67",)), A)
    await world.good()
    world.assert_whole()
    assert {one.key for one in world.book.troubles()} == {
        "service default/odd", "service default/odder",
    }  # fmt: skip


async def test_flows_of_a_service_that_is_left_out_go_too(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(A))
    world.fake.refused.add("10.1.2.1:8080")
    world.put(DNS, B)
    await world.good()
    assert not world.serves(DNS.key)
    assert world.flows.sources() == set()


async def test_a_refused_rule_of_a_service_that_is_gone_meanwhile_fails_the_pass_once(
    world: World,
) -> None:
    world.put(REFUSED, A)
    world.fake.refused.add("10.0.0.66/32")

    def remove(argv: tuple[str, ...]) -> None:
        if argv[0] == RESTORE:
            world.away(REFUSED.key)

    world.fake.before = remove
    await world.bad(BadRule)
    await world.good()
    world.assert_whole()
    assert world.book.troubles() == []
    assert world.texts() == {}


async def test_a_refused_rule_of_no_service_is_a_problem_and_leaves_no_service_out(
    world: World,
) -> None:
    world.put(web(), A)
    world.fake.refused.add("MASQUERADE")
    text = await world.bad(BadRule)
    assert world.texts() == {"services": text}
    assert world.book.troubles() == []
    world.fake.refused.clear()
    await world.good()
    assert world.texts() == {}
    assert world.serves("default/web:http")


# --- health ports ---


async def test_health_ports_are_those_of_the_services(world: World) -> None:
    one, other = free_ports(2)
    world.put(web(health_port=one), Endpoint(A, "node1"))
    await world.good()
    assert world.health.ports == {one}
    world.put(web(health_port=other), Endpoint(A, "node1"))
    await world.good()
    assert world.health.ports == {other}
    world.away("default/web")
    await world.good()
    assert world.health.ports == frozenset()


# --- what others did ---


def empty(world: World, table: str) -> None:
    """Another program's ``iptables -t TABLE -F; iptables -t TABLE -X``, which is noticed."""
    found = world.fake.disturb(table)
    found.chains = {name: [] for name in found.policies}
    world.iptables.watch.step()


async def test_a_flush_by_others_is_put_right_and_told_briefly(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put(web(), A)
    await world.good()
    empty(world, "nat")
    assert world.loop.dirty
    caplog.set_level(logging.WARNING)
    await world.good()
    world.assert_whole()
    assert world.repairs == ["iptables"]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "another program emptied the tables, chains and all"
    assert told[1].startswith("repaired iptables: nat: chain ")
    # Eight chains and five jumps.
    assert told[1].count("; nat: ") == 4
    assert told[1].endswith("; and 8 more")
    assert world.sync.last is not None
    assert world.sync.last.full


async def test_a_small_repair_is_told_whole_and_not_as_an_emptied_table(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.good()
    world.fake.disturb("nat").chains["KUBE-PORTALS-CONTAINER"].clear()
    world.iptables.watch.step()
    caplog.set_level(logging.WARNING)
    await world.good()
    world.assert_whole()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["repaired iptables: nat: chain KUBE-PORTALS-CONTAINER altered"]


async def test_what_others_do_elsewhere_is_no_repair(world: World) -> None:
    await world.good()
    world.fake.disturb("nat").chains["OUTPUT"].append("-p tcp -j ACCEPT")
    world.iptables.watch.step()
    written = len(world.fake.restored)
    await world.good()
    assert world.repairs == []
    assert len(world.fake.restored) == written


async def test_our_own_first_write_is_no_repair(world: World) -> None:
    await world.good()
    assert world.repairs == []


# --- any history ---

steps = st.one_of(
    st.tuples(st.just("service"), some.services),
    st.tuples(st.just("gone"), st.sampled_from(some.KEYS)),
    st.tuples(st.just("slice"), some.slices),
    st.tuples(st.just("pass"), st.just("")),
    st.tuples(st.just("fails"), st.sampled_from(["Killed", BUSY])),
    st.tuples(st.just("flush"), st.sampled_from(["nat", "filter"])),
)


@given(st.lists(steps, max_size=12))
@settings(max_examples=60, deadline=None)
async def test_whatever_happens_the_next_good_pass_leaves_the_kernel_as_planned(
    script: list[tuple[str, object]],
) -> None:
    world = World()
    world.listed()
    for what, value in script:
        if isinstance(value, Service):
            world.book.put_service(value.key, value)
        elif what == "gone":
            world.book.put_service(str(value), None)
        elif what == "slice":
            world.book.put_slices("default/a", (value,))  # type: ignore[arg-type]
        elif what == "flush":
            empty(world, str(value))
        else:
            if what == "fails":
                world.fake.fail(RESTORE, str(value), code=4)
            await world.step()
    world.fake.faults.clear()
    await world.good()
    world.assert_whole()
    assert world.planner.touched == set()
    world.iptables.close()
