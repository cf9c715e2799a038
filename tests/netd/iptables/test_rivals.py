"""Another service proxy on this host is told by its chains in nat."""

from netd.iptables.owned import ServiceTables
from tests.netd.iptables.test_owned import World


async def test_a_look_tells_of_another_service_proxy_s_chains() -> None:
    """Chains without rules are what it leaves behind when it is removed."""
    world = World()
    assert (await world.commit(full=True)).rivals == ()
    nat = world.fake.table("nat")
    nat.chains["KUBE-SERVICES"] = []
    assert (await world.commit(full=True)).rivals == ()
    nat.chains["KUBE-SERVICES"].append("-d 10.0.0.1/32 -j RETURN")
    assert (await world.commit()).rivals is None
    assert (await world.commit(full=True)).rivals == ("KUBE-SERVICES",)
    owner = ServiceTables(world.tables, world.subscription, rivals=("X-SERVICES",))
    assert (await owner.commit(world.wishes(), None)).rivals == ()
