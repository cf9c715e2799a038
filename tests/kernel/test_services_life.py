"""netd that is killed, started again, cleaned up or shared between two: services go on."""

import random
import threading
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netd.iptables.generation import Generation
from netd.iptables.watch import TABLES
from tests.support.netd import CONFIG, PREFIX, NetdHost
from tests.support.netns import Inside, eventually
from tests.support.services import (
    CONTROL,
    POD_NETWORK,
    Json,
    Node,
    ServicesNetd,
    World,
    port,
    service,
    slice_of,
    world,
)
from tests.support.talk import UDP, Host, ask_again, said

Place = tuple[str, int]


class Stream:
    """New connections, one after the other, from *client* to random *places*."""

    def __init__(self, client: Host, places: Sequence[Place]) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._client = client
        self._places = places
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        chosen = random.Random(1)
        while not self._stop.is_set():
            place = chosen.choice(self._places)
            try:
                self._client.ask(*place)
            except OSError as error:
                self.failures.append(f"{place}: {error!r}")
            self.done += 1

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait for *count* more connections."""
        wanted = self.done + count
        eventually(lambda: self.done >= wanted, f"{count} connections", deadline=120)


def address(number: int) -> str:
    """The address of service *number*."""
    return str(IPv4Address("10.0.64.0") + 7 * number % 32749 + 1)


def objects(count: int, ends: Sequence[Host]) -> dict[str, Json]:
    """*count* services and their slices as they are in etcd."""
    made: dict[str, Json] = {}
    for number in range(count):
        name = f"s{number}"
        one = service(name, [port(80)], clusterIP=address(number), type="ClusterIP")
        one["metadata"]["creationTimestamp"] = "2024-01-31T12:00:00Z"
        made[f"services/default/{name}"] = one
        made[f"endpointslices/default/{name}-x"] = slice_of(name, ends, [port(8080)])
    return made


class Generations:
    """The number of commits, or figures of the tables, on a node."""

    def __init__(self, node: Node) -> None:
        self._inside = Inside(node.ns)
        self._source = Generation(node.variant)

    def read(self) -> object:
        """What changes when anybody writes a rule."""
        return self._inside.call(self._source.read, TABLES)

    def close(self) -> None:
        """Close what was opened."""
        self._inside.call(self._source.close)
        self._inside.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_kill_at_ten_thousand_services_fails_no_connection_and_a_restart_changes_no_rule(
    room: World, variant: str
) -> None:
    node = room.node(variant, f"--cluster-cidr={POD_NETWORK}", start=False)
    ends = [node.pod("a"), node.pod("b")]
    room.put(objects(10_000, ends))
    node.netd.start()
    node.netd.wait_ready(deadline=180)
    room.settle()
    ported = room.service("ported", ends, type="NodePort")
    room.settle()
    counts = Generations(node)
    before = counts.read(), node.rules(), node.rules("filter")
    places = [(address(number), 80) for number in range(0, 10_000, 17)]
    outside = [(node.address, ported.node_port)]
    with (
        Stream(ends[0], places) as inside,
        Stream(node, places) as own,
        Stream(room.outside, outside) as entering,
    ):
        streams = (inside, own, entering)
        for one in streams:
            one.more(50)
        node.netd.kill()
        for one in streams:
            one.more(50)
        assert (counts.read(), node.rules(), node.rules("filter")) == before
        node.netd.start()
        node.netd.wait_ready(deadline=180)
        for one in streams:
            one.more(50)
    assert [one.failures for one in streams] == [[], [], []]
    assert (counts.read(), node.rules(), node.rules("filter")) == before
    counts.close()
    room.endpoints("s4711", ends[:1])
    room.settle()
    assert node.servers(address(4711), 80, count=10) == {"a"}


def test_udp_flows_survive_a_restart_that_finds_an_endpoint_gone(room: World) -> None:
    """kubernetes/kubernetes#122740; the flow to what went while netd was down moves."""
    node = room.node("nft")
    a, b = node.pod("a"), node.pod("b")
    asked, served = [port(53, protocol=UDP)], [port(8080, protocol=UDP)]
    kept, moved = (
        room.service(name, [a], ports=asked, targets=served) for name in ("kept", "moved")
    )
    room.settle()
    with b.open(UDP) as staying, b.open(UDP) as moving:
        for flow, one in ((staying, kept), (moving, moved)):
            flow.settimeout(30)
            flow.connect((one.ip, 53))
            assert ask_again(flow).server == "a"
        entry = node.ns.run(f"conntrack -L -p udp -d {kept.ip} -o id", check=False).split("id=")[1]
        node.netd.kill()
        room.endpoints("moved", [b], served)
        assert ask_again(moving).server == "a"
        node.netd.up()
        eventually(lambda: said(moving) == "b", "the flow moved")
        assert ask_again(staying).server == "a"
        now = node.ns.run(f"conntrack -L -p udp -d {kept.ip} -o id", check=False).split("id=")[1]
        assert now == entry


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_stopping_leaves_services_and_cleanup_takes_them_and_nothing_else(
    room: World, variant: str
) -> None:
    node = room.node(variant, start=False)
    for words in (
        "-t nat -N DOCKER", "-t nat -A PREROUTING -j DOCKER", "-N KUBE-FIREWALL",
        "-A OUTPUT -j KUBE-FIREWALL", "-A KUBE-FIREWALL -s 10.55.0.0/16 -j DROP",
        "-t nat -N FLANNEL-POSTRTG", "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
    ):  # fmt: skip
        node.iptables(words)
    theirs = node.rules("nat"), node.rules("filter")
    node.netd.up()
    pod = node.pod("a")
    room.put(objects(100, [pod]))
    web = room.service("web", [pod], type="NodePort")
    room.settle()
    assert node.netd.stop() == 0
    assert node.ask(web.ip, 80).server == "a"
    assert room.outside.ask(node.address, web.node_port).server == "a"
    done = node.netd.command("cleanup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (node.rules("nat"), node.rules("filter")) == theirs
    assert room.outside.refused(node.address, web.node_port)
    node.netd.up()
    assert node.ask(web.ip, 80).server == "a"


class Whole(NetdHost):
    """netd with both halves."""

    server = ""

    def argv(self, command: str, *flags: str) -> list[str]:
        own = [f"--master={self.server}", f"--hostname-override={self.ns.name}"]
        return super().argv(command, *own, *flags)


def test_services_reach_across_the_overlay_with_one_netd_or_one_for_each_half(
    room: World,
) -> None:
    """The first host runs both halves in one netd, the second one netd for each."""
    room.etcd.ctl("put", f"{PREFIX}/config", str(CONFIG).replace("'", '"'))
    hosts = []
    for number in (1, 2):
        space = room.fabric.host(f"h{number}", f"172.29.0.{number}/24")
        space.run(f"ip route add default via {CONTROL}")
        hosts.append(Whole(space, room.directory / f"h{number}", room.etcd.endpoints, room.fabric))
        hosts[-1].server = room.api.url
    first, second = hosts
    first.up()
    second.up("--services=off")
    half = ServicesNetd(second.ns, room.directory / "half", room.etcd.endpoints, room.fabric)
    half.server, half.node = room.api.url, "second"
    half.up("--cluster-cidr=10.1.0.0/16")
    pods = [
        Host(one.pod(name), name, one.address(2)) for one, name in ((first, "p1"), (second, "p2"))
    ]
    room.hosts += pods
    for pod in pods:
        pod.serve()
    web = room.service("web", pods)
    for host in hosts:
        eventually(
            lambda host=host: host.saved("nat").count("default/web:") == 2,  # type: ignore[misc]
            "the service",
        )
    for pod in pods:
        answers = [pod.ask(web.ip, 80) for _ in range(40)]
        assert {one.server for one in answers} == {"p1", "p2"}
        assert {one.client for one in answers if one.server != pod.name} == {pod.address}
    second.ns.run("iptables-nft -t nat -F")
    eventually(
        lambda: all(
            chain in second.saved("nat")
            for chain in ('-A POSTROUTING -m comment --comment "flanneld masq"', "-A KUBE-PORTALS ")
        ),
        "both halves' rules",
    )
    assert pods[1].servers(web.ip, 80) == {"p1", "p2"}
    second.kill()
    assert pods[1].servers(web.ip, 80) == {"p1", "p2"}
    assert half.status()["ready"]
