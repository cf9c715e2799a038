"""Whatever others do to the rules of services is put right when it happens, and counted.

netd looks at all rules again every hour here: what it puts right, the kernel has told it. How
soon it does is measured by ``python -m bench.services``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.netns import eventually
from tests.support.services import POD_NETWORK, Made, Node, World, port, world
from tests.support.talk import Host

COUNT = 60
"""Services, so that there are leaf chains to lose."""

OTHERS = (
    "-t nat -N DOCKER",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 9999 -j DNAT --to-destination 10.1.1.2:80",
    "-t nat -A POSTROUTING -s 10.77.0.0/16 ! -o docker0 -j MASQUERADE",
    "-t nat -N KUBE-SVC-OTHER",
    "-t nat -A KUBE-SVC-OTHER -j RETURN",
    "-N DOCKER-USER",
    "-A FORWARD -j DOCKER-USER",
    "-A DOCKER-USER -j RETURN",
    "-A INPUT -s 10.77.0.9/32 -j DROP",
)
"""What Docker and others have in the tables."""


@dataclass
class Scene:
    """A node with many services and rules of other programs."""

    world: World
    node: Node
    a: Host
    b: Host
    web: Made
    empty: Made

    def rules(self) -> list[str]:
        """Both tables."""
        return [*self.node.rules("nat"), *self.node.rules("filter")]

    def repairs(self) -> int:
        """How many repairs of rules were counted."""
        return int(self.node.netd.status()["repairs"].get("iptables", 0))

    def works(self) -> bool:
        """Whether packets go where they should."""
        outside = self.world.outside
        return (
            self.node.ask(self.web.ip, 80).server == "a"
            and self.b.ask(self.web.ip, 80).server == "a"
            and outside.ask(self.node.address, self.web.node_port).server == "a"
            and outside.refused(self.node.address, self.empty.node_port)
            and self.b.refused(self.empty.ip, 80)
        )


@pytest.fixture(scope="module", params=["nft", "legacy"])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with world(tmp_path_factory.mktemp("repair")) as made:
        node = made.node(
            request.param, f"--cluster-cidr={POD_NETWORK}", "--iptables-resync=3600", start=False
        )
        for words in OTHERS:
            node.iptables(words)
        node.netd.up()
        a, b = node.pod("a"), node.pod("b")
        for number in range(COUNT):
            made.service(f"s{number}", [a], ports=[port(80)], clusterIP=f"10.0.60.{number + 1}")
        web = made.service("web", [a], type="NodePort")
        empty = made.service("empty", type="NodePort")
        made.settle()
        yield Scene(made, node, a, b, web, empty)


DAMAGE = {
    "nat flushed": ["-t nat -F"],
    "nat flushed, chains and all": ["-t nat -F", "-t nat -X"],
    "filter flushed, chains and all": ["-F", "-X"],
    "a chain flushed": ["-t nat -F KUBE-PORTALS"],
    "a rule deleted": ["-t nat -D KUBE-PORTALS-HOST 2"],
    "a leaf's rule deleted": ["-t nat -D LEAF 1"],
    "a leaf's rule replaced": ["-t nat -R LEAF 1 -d 10.0.60.1/32 -j RETURN"],
    "a rule put before ours": ["-t nat -I KUBE-PORTALS 1 -j RETURN"],
    "a jump deleted": ["-t nat -D OUTPUT JUMP"],
    "the jump put last": ["-t nat -A PREROUTING -d 10.9.9.9/32 -j RETURN",
                          "-t nat -D PREROUTING JUMP",
                          "-t nat -A PREROUTING -j KUBE-PORTALS-CONTAINER"],
    "a rule put before the jump": ["-t nat -I PREROUTING 1 -p tcp -j ACCEPT"],
    "the refusals deleted": ["-F KUBE-PORTALS-FILTER"],
    "a chain like ours made": ["-t nat -N KUBE-VIP-1.2.3.0-24"],
}  # fmt: skip


def ours_of(rules: list[str]) -> list[str]:
    """The chains and rules that are netd's."""
    return [line for line in rules if "KUBE-" in line and "OTHER" not in line]


def without_marker(rules: list[str]) -> list[str]:
    """The chains and rules that are netd's, without those that ``settle`` changes."""
    return [line for line in ours_of(rules) if "default/marker" not in line]


def damage(node: Node, words: str) -> None:
    """Do it; LEAF and JUMP are some leaf chain, and the number of a parent's jump to ours."""
    leaf = min(name for name in node.chains() if name.startswith("KUBE-VIP-10.0.60."))
    if "JUMP" in words:
        parent = words.split()[3]
        mine = [line for line in node.rules() if line.startswith(f"-A {parent} ")]
        place = next(at for at, line in enumerate(mine, 1) if "KUBE-PORTALS" in line)
        words = words.replace("JUMP", str(place))
    node.iptables(words.replace("LEAF", leaf))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_put_right_and_counted(scene: Scene, kind: str) -> None:
    """To the letter."""
    ours, repairs = ours_of(scene.rules()), scene.repairs()
    for words in DAMAGE[kind]:
        damage(scene.node, words)

    def is_right() -> bool:
        return ours_of(scene.rules()) == ours and all(
            "KUBE-PORTALS" in next(line for line in scene.rules() if line.startswith(f"-A {one} "))
            for one in ("PREROUTING", "OUTPUT", "POSTROUTING", "FORWARD", "INPUT")
        )

    eventually(is_right, "ours as they were, before all else")
    assert scene.works()
    eventually(lambda: scene.repairs() > repairs, "the repair counted")


def test_an_old_dump_that_somebody_restores_is_brought_up_to_date(scene: Scene) -> None:
    """As ``service netfilter-persistent reload`` does, with services of yesterday."""
    dump = scene.world.directory / f"old-{scene.node.variant}"
    scene.node.ns.run(["sh", "-c", f"iptables-{scene.node.variant}-save > {dump}"])
    scene.world.service("late", [scene.b], clusterIP="10.0.61.1")
    scene.world.endpoints("web", [scene.b])
    scene.world.settle()
    now, repairs = scene.rules(), scene.repairs()
    scene.node.ns.run(["sh", "-c", f"iptables-{scene.node.variant}-restore < {dump}"])
    eventually(lambda: scene.rules() == now, "the rules of today")
    assert scene.node.ask("10.0.61.1", 80).server == "b"
    assert scene.node.ask(scene.web.ip, 80).server == "b"
    eventually(lambda: scene.repairs() > repairs, "the repair counted")
    scene.world.endpoints("web", [scene.a])
    scene.world.settle()


def test_rules_of_other_programs_stay_as_they_are(scene: Scene) -> None:
    """Also while ours change, and when theirs change nothing of ours is written."""
    scene.node.iptables("-t nat -N CNI-THEIRS")
    scene.node.iptables("-t nat -A CNI-THEIRS -s 10.44.0.0/16 -j RETURN")
    scene.node.iptables("-t nat -A POSTROUTING -j CNI-THEIRS")
    scene.node.iptables("-A FORWARD -s 10.44.0.0/16 -j DROP")
    repairs = scene.repairs()
    theirs = [line for line in scene.rules() if re.search("CNI-THEIRS|10.44|DOCKER|OTHER", line)]
    assert len(theirs) >= 4
    for number in range(5):
        scene.world.service(f"other-{number}", [scene.a])
        scene.world.settle()
    after = [line for line in scene.rules() if re.search("CNI-THEIRS|10.44|DOCKER|OTHER", line)]
    assert after == theirs
    assert scene.repairs() == repairs


def test_damage_while_changes_come_ends_with_everything_right(scene: Scene) -> None:
    before = without_marker(scene.rules())
    for number in range(8):
        scene.world.endpoints("web", [scene.a if number % 2 else scene.b])
        scene.node.iptables("-t nat -F")
        if number % 3 == 0:
            # Refused when the repair was faster.
            scene.node.iptables("-t nat -X || true")
    scene.world.settle()
    eventually(lambda: without_marker(scene.rules()) == before, "the rules of before")
    assert scene.works()
    for number in (1, COUNT):
        assert scene.node.ask(f"10.0.60.{number}", 80).server == "a"
