"""What a pass makes of other programs' rules."""

from collections.abc import AsyncIterator

import pytest

from netd.iptables.errors import HiddenTable
from tests.netd.services.made import web
from tests.netd.services.syncworld import A, B, World
from tests.support.etcd import free_ports


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Everything listed, nothing served."""
    made = World()
    made.listed()
    yield made
    await made.health.close()
    made.iptables.close()


async def test_chains_of_a_kube_proxy_are_named_until_they_are_gone(world: World) -> None:
    nat = world.fake.table("nat").chains
    nat["KUBE-SERVICES"] = ["-d 10.0.0.7/32 -j KUBE-SVC-ABC"]
    nat["KUBE-SVC-ABC"] = ["-j ACCEPT"]
    await world.good()
    (problem,) = world.problems.all()
    assert problem.key == "kube-proxy"
    assert "kube-proxy --cleanup" in problem.text
    world.fake.disturb("nat").chains["KUBE-SERVICES"] = []
    world.iptables.watch.step()
    await world.good()
    assert world.problems.all() == ()


async def test_a_table_that_cannot_be_shown_stops_no_update_and_no_health_port(
    world: World,
) -> None:
    world.put(web(), A)
    await world.good()
    world.fake.hidden.add("nat")
    world.fake.disturb("nat")
    world.iptables.watch.step()
    (port,) = free_ports(1)
    world.put(web(health_port=port), B)
    text = await world.bad(HiddenTable)
    assert "nft list table ip nat" in text
    assert not world.serves(A)
    assert world.health.ports == {port}
    assert world.planner.touched == set()
    assert [one.key for one in world.problems.all()] == ["services"]
    world.fake.hidden.clear()
    world.fake.disturb("nat")
    world.iptables.watch.step()
    await world.good()
    world.assert_whole()
    assert world.problems.all() == ()
