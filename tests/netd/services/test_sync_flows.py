"""Stale flows of UDP: removed after the rules that made them so, whatever failed before."""

import errno
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from netd.errors import FirewallError, NetdError
from netd.services.values import Endpoint, ServicePort
from tests.fakes.conntrack import Entry
from tests.netd.services.made import DNS, web
from tests.netd.services.syncworld import (
    CLIENT,
    RESTORE,
    A,
    B,
    World,
    dns_flow,
)
from tests.support.etcd import free_ports


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Everything listed, nothing served."""
    made = World()
    made.listed()
    yield made
    await made.health.close()
    made.iptables.close()


async def test_flows_are_cleaned_after_the_rules_are_written(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(A))
    world.put(DNS, B)
    opened = world.flows.opened

    def look(argv: tuple[str, ...]) -> None:
        if argv[0] == RESTORE:
            assert world.flows.opened == opened
            seen.append(world.flows.sources())

    seen: list[set[str]] = []
    world.fake.before = look
    await world.good()
    assert seen == [{CLIENT}]
    assert world.flows.sources() == set()


async def test_a_failed_write_cleans_no_flow(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(A))
    world.put(DNS, B)
    world.fake.fail(RESTORE, "Killed", code=137, times=2)
    await world.bad(FirewallError)
    assert world.flows.sources() == {CLIENT}, "the rules still lead there"
    await world.good()
    assert world.flows.sources() == set()


async def test_the_table_of_flows_is_read_at_first_and_then_only_when_udp_is_affected(
    world: World,
) -> None:
    world.put(DNS, A)
    await world.good()
    opened = world.flows.opened
    world.put(web(), A)
    await world.good()
    assert world.flows.opened == opened
    world.put(DNS, B)
    await world.good()
    assert world.flows.opened > opened


async def test_flows_that_cannot_be_removed_are_a_problem_and_tried_again(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(A))
    world.flows.refuse[CLIENT] = errno.EPERM
    world.put(DNS, B)
    outcome = await world.step()
    assert isinstance(outcome.error, NetdError)
    assert "cannot be removed" in world.texts()["conntrack"]
    world.flows.refuse.clear()
    await world.good()
    assert world.flows.sources() == set()
    assert world.texts() == {}


async def test_where_flows_cannot_be_read_rules_and_health_ports_still_work(world: World) -> None:
    (port,) = free_ports(1)
    world.flows.refuse_dump = errno.EINVAL
    world.put(DNS, A)
    world.put(web(health_port=port), A)
    world.figures.arrived("service")
    outcome = await world.step()
    assert isinstance(outcome.error, NetdError)
    world.assert_whole()
    assert world.health.ports == {port}
    assert world.sync.last is not None
    assert world.figures.pending["service"] == 0
    assert "nf_conntrack_netlink" in world.texts()["conntrack"]


async def test_flows_of_a_removed_service_go_and_later_ones_are_nobodys_business(
    world: World,
) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(A))
    world.away(DNS.key)
    await world.good()
    assert world.flows.sources() == set()
    world.flows.add(dns_flow(A))
    world.put(replace(DNS, key="default/dns2", cluster_ips=("10.0.0.11",)), B)
    await world.good()
    assert world.flows.sources() == {CLIENT}, "that address is no service of ours"


async def test_flows_of_a_removed_service_go_even_if_the_first_attempt_failed(world: World) -> None:
    world.flows.refuse_dump = errno.ENOBUFS
    world.put(DNS, A)
    await world.step()
    world.flows.add(dns_flow(A))
    world.away(DNS.key)
    await world.step()
    world.flows.refuse_dump = 0
    await world.good()
    assert world.flows.sources() == set()


async def test_a_service_that_is_removed_during_the_write_leaves_no_flow(world: World) -> None:
    """Its rules are in the kernel for a while, so clients may have got flows."""
    world.put(DNS, A)

    def remove(argv: tuple[str, ...]) -> None:
        if argv[0] == RESTORE:
            world.away(DNS.key)

    world.fake.before = remove
    await world.good()
    assert world.serves("kube-system/dns")
    world.flows.add(dns_flow(A))
    await world.good()
    assert not world.serves("kube-system/dns")
    assert world.flows.sources() == set()


async def test_flows_to_node_ports_go_at_every_local_address(world: World) -> None:
    service = replace(DNS, ports=(ServicePort("dns", "udp", 53, 30053),))
    world.put(service, A)
    await world.good()
    world.flows.add(Entry(CLIENT, "192.0.2.7:30053", f"{A}:8080"))
    world.flows.add(Entry("10.1.1.9:40001", "192.0.2.8:30053", f"{A}:8080"))
    world.put(service, B)
    await world.good()
    assert world.flows.sources() == {"10.1.1.9:40001"}, "192.0.2.8 is another host"
    world.flows.add(Entry(CLIENT, "192.0.2.7:30053", f"{B}:8080"))
    world.put(DNS, B)
    await world.good()
    assert CLIENT not in world.flows.sources(), "nor does a node port outlive its service"


async def test_under_the_policy_local_a_cluster_address_leads_to_this_node_only(
    world: World,
) -> None:
    here = Endpoint(A, "node1")
    world.put(DNS, here, B)
    await world.good()
    world.flows.add(dns_flow(B))
    world.put(replace(DNS, external_local=True), here, B)
    await world.good()
    assert world.flows.sources() == {CLIENT}, "that policy is for clients from outside"
    world.put(replace(DNS, internal_local=True), here, B)
    await world.good()
    assert world.flows.sources() == set()


async def test_under_the_policy_local_from_outside_any_endpoint_may_have_a_flow(
    world: World,
) -> None:
    """This host and its pods use them all."""
    here, service = Endpoint(A, "node1"), replace(DNS, cluster_ips=(), external_ips=("10.0.0.10",))
    world.put(service, here, B)
    await world.good()
    world.flows.add(dns_flow(B))
    world.put(replace(service, external_local=True), here, B)
    await world.good()
    assert world.flows.sources() == {CLIENT}
    world.put(replace(service, external_local=True), here)
    await world.good()
    assert world.flows.sources() == set()


async def test_other_addresses_of_the_host_lead_to_another_look_at_the_flows(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(B))
    await world.good()
    assert world.flows.sources() == {CLIENT}
    world.sync.recheck_flows()
    await world.good()
    assert world.flows.sources() == set()


async def test_addresses_that_change_during_the_look_lead_to_another_one(world: World) -> None:
    world.put(DNS, A)
    await world.good()
    world.flows.add(dns_flow(B))
    world.flows.before_delete = world.sync.recheck_flows
    world.sync.recheck_flows()
    await world.good()
    opened = world.flows.opened
    await world.good()
    assert world.flows.opened > opened
