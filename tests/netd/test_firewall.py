"""flannel's chains are kept, a foreign change wakes the loop, and our own do not."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hostkit.problems import Problems
from netd.errors import FirewallError
from netd.firewall import Firewall
from netd.iptables.chain import Jump, Wish
from netd.iptables.owned import ServiceTables
from netd.iptables.table import Iptables
from tests.fakes.iptables import FakeGeneration, FakeIptables

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.33.0/24")
SERVICES = Wish(
    "nat",
    {"KUBE-PORTALS": ("-j RETURN",)},
    (Jump("OUTPUT", "-j KUBE-PORTALS", "KUBE-PORTALS", first=True),),
    prefixes=("KUBE-PORTALS",),
)


@dataclass
class World:
    """A firewall on a fake iptables that it shares with whoever asks for it."""

    path: Path
    fake: FakeIptables = field(default_factory=FakeIptables)
    problems: Problems = field(default_factory=Problems)
    repairs: list[str] = field(default_factory=list)
    wanted: bool = True

    def __post_init__(self) -> None:
        self.iptables = Iptables(
            self.fake,
            "nft",
            resync=5,
            source=lambda variant: FakeGeneration(self.fake, variant),
            lock_file=self.path / "lock",
        )
        self.firewall = Firewall(
            self.iptables,
            self.problems,
            ip_masq=self.wanted,
            forward_rules=self.wanted,
            repaired=self.repairs.append,
        )

    async def step(self) -> bool:
        """One poll and one pass of the loop, if one is due; whether it ran."""
        self.iptables.watch.step()
        outcome = await self.firewall.loop.step()
        if outcome.error is not None:
            raise outcome.error
        return outcome.ran


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """With the rules in place."""
    made = World(tmp_path)
    made.firewall.set_subnet(NETWORK, SUBNET)
    assert await made.step()
    assert made.firewall.is_done
    return made


def flannel_chains(fake: FakeIptables) -> dict[str, list[str]]:
    return {
        name: list(rules)
        for table in ("nat", "filter")
        for name, rules in fake.table(table).chains.items()
        if "FLANNEL" in name
    }


async def test_before_a_subnet_is_known_nothing_is_touched(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.firewall.loop.trigger()
    assert await world.step()
    assert world.fake.calls == []
    assert not world.firewall.is_done


async def test_a_flush_by_somebody_else_is_repaired_and_counted(world: World) -> None:
    before = flannel_chains(world.fake)
    nat = world.fake.disturb("nat")
    nat.chains = {name: [] for name in nat.policies}
    assert await world.step()
    assert flannel_chains(world.fake) == before
    assert world.repairs == ["iptables"] * 2
    assert not await world.step()


async def test_our_first_rules_are_no_repair_and_cause_no_second_look(world: World) -> None:
    assert world.repairs == []
    assert not await world.step()


async def test_a_commit_of_the_services_half_does_not_wake_the_loop(world: World) -> None:
    tables = await world.iptables.open()
    subscription = world.iptables.watch.subscribe(lambda: None)
    services = ServiceTables(tables, subscription)
    await services.commit([SERVICES], None)
    emptied = replace(SERVICES, chains={"KUBE-PORTALS": ()})
    assert not (await services.commit([emptied], {"nat": ["KUBE-PORTALS"]})).full
    assert not await world.step()
    # Nor the other way round.
    world.firewall.set_subnet(NETWORK, IPv4Network("10.1.44.0/24"))
    assert await world.step()
    assert not subscription.is_pending
    world.fake.disturb("nat")
    assert await world.step()
    assert subscription.is_pending


async def test_a_failure_is_a_problem_until_it_is_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fake.fail("iptables-nft-restore", "no memory")
    world.firewall.set_subnet(NETWORK, SUBNET)
    with pytest.raises(FirewallError, match="no memory"):
        await world.step()
    assert [problem.blocking for problem in world.problems.all()] == [True]
    assert await world.step()
    assert "iptables" not in world.problems
    assert world.firewall.is_done


async def test_an_iptables_without_random_fully_gets_rules_without_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fake.fail("iptables-nft-restore", 'unknown option "--random-fully"', code=2)
    world.firewall.set_subnet(NETWORK, SUBNET)
    assert await world.step()
    rules = world.fake.table("nat").chains["FLANNEL-POSTRTG"]
    assert rules[-1].endswith("-j MASQUERADE")
    assert "iptables" not in world.problems


async def test_iptables_need_not_be_installed_where_nothing_is_wanted(tmp_path: Path) -> None:
    world = World(tmp_path, wanted=False)
    world.fake.missing = {"iptables-nft-save"}
    world.firewall.set_subnet(NETWORK, SUBNET)
    assert await world.step()
    assert world.firewall.is_done
    assert world.problems.all() == ()
