"""What nobody answers: refused at once, UDP flows ended where endpoints went, INVALID dropped."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests.support.netns import eventually
from tests.support.services import (
    OUTSIDE,
    POD_NETWORK,
    SERVICES,
    Made,
    Node,
    World,
    port,
    world,
)
from tests.support.talk import UDP, Host, ask_again, heard, said

EXTERNAL, BALANCER = "203.0.113.1", "203.0.113.2"


@dataclass
class Scene:
    """A node with two pods; the outside reaches services by it."""

    world: World
    node: Node
    a: Host
    b: Host

    @property
    def outside(self) -> Host:
        return self.world.outside

    def udp(self, name: str, *ends: Host) -> Made:
        """A UDP service with a node port."""
        return self.world.service(
            name, ends, type="NodePort", ports=[port(53, protocol=UDP)],
            targets=[port(8080, protocol=UDP)],
        )  # fmt: skip

    def move(self, name: str, *ends: Host) -> None:
        """Other endpoints for a UDP service."""
        self.world.endpoints(name, ends, [port(8080, protocol=UDP)])


@pytest.fixture(scope="module", params=["nft", "legacy"])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with world(tmp_path_factory.mktemp("refuse")) as made:
        node = made.node(request.param, f"--cluster-cidr={POD_NETWORK}")
        for network in ("10.0.0.0/16", "203.0.113.0/24", POD_NETWORK):
            made.outside.ns.run(f"ip route add {network} via {node.address}")
        yield Scene(made, node, node.pod("a"), node.pod("b"))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_without_endpoints_refuses_everybody_at_every_address(
    scene: Scene, protocol: str
) -> None:
    empty = scene.world.service(
        f"empty-{protocol}", type="LoadBalancer", ports=[port(80, protocol=protocol)],
        externalIPs=[EXTERNAL], ingress=[BALANCER],
    )  # fmt: skip
    scene.world.settle()
    for client in (scene.node, scene.a, scene.outside):
        for address in (empty.ip, EXTERNAL, BALANCER):
            assert client.refused(address, 80, protocol), (client.name, address)
        assert client.refused(scene.node.address, empty.node_port, protocol), client.name
    scene.world.api.do("DELETE", f"{SERVICES}/empty-{protocol}")
    scene.world.settle()


def test_a_service_refuses_when_its_last_endpoint_goes_and_answers_when_one_comes(
    scene: Scene,
) -> None:
    web = scene.world.service("web", [scene.a])
    scene.world.settle()
    assert scene.outside.ask(web.ip, 80).server == "a"
    scene.world.endpoints("web", [])
    scene.world.settle()
    for client in (scene.node, scene.b, scene.outside):
        assert client.refused(web.ip, 80), client.name
    scene.world.endpoints("web", [scene.b])
    scene.world.settle()
    for client in (scene.node, scene.a, scene.outside):
        assert client.ask(web.ip, 80).server == "b", client.name


def test_a_local_policy_refuses_where_no_node_has_an_endpoint(scene: Scene) -> None:
    """Dropping is for what another node could answer."""
    none = scene.world.service("none", [], type="NodePort", externalTrafficPolicy="Local")
    scene.world.settle()
    assert scene.outside.refused(scene.node.address, none.node_port)


def conntrack(node: Node) -> dict[str, str]:
    """UDP entries: the client's port to the entry's id and the server that answers it."""
    found = {}
    for line in node.ns.run("conntrack -L -p udp -o id", check=False).splitlines():
        words = line.split()
        sport = next(word for word in words if word.startswith("sport="))
        sources = [word for word in words if word.startswith("src=")]
        number = next(word for word in words if word.startswith("id="))
        found[sport.removeprefix("sport=")] = f"{number} {sources[1].removeprefix('src=')}"
    return found


def talkers(scene: Scene, address: str, number: int, both: bool = True) -> list[socket.socket]:
    """Connected sockets of the outside, until each endpoint has one."""
    made: list[socket.socket] = []
    served: set[str] = set()
    while len(served) < 1 + both:
        one = scene.outside.open(UDP)
        one.settimeout(30)
        one.connect((address, number))
        served.add(ask_again(one).server)
        made.append(one)
    return made


@pytest.mark.parametrize("by_node_port", [False, True], ids=["address", "node port"])
def test_udp_flows_to_an_endpoint_that_went_move_and_all_others_stay(
    scene: Scene, by_node_port: bool
) -> None:
    name = f"dns-{int(by_node_port)}"
    dns = scene.udp(name, scene.a, scene.b)
    other = scene.udp(f"{name}-other", scene.a)
    scene.world.settle()
    target = (scene.node.address, dns.node_port) if by_node_port else (dns.ip, 53)
    flows = [*talkers(scene, *target), *talkers(scene, other.ip, 53, both=False)]
    at_a = [one for one in flows[:-1] if ask_again(one).server == "a"]
    before = conntrack(scene.node)
    scene.move(name, scene.b)
    for one in at_a:
        eventually(lambda one=one: said(one) == "b", "a flow that moves")  # type: ignore[misc]
    after = conntrack(scene.node)
    for one in flows:
        at = str(one.getsockname()[1])
        assert (after[at] != before[at]) == (one in at_a), "exactly what went to a"
        one.close()


def test_a_udp_flow_ends_when_the_last_endpoint_goes_and_comes_back_with_the_next(
    scene: Scene,
) -> None:
    dns = scene.udp("dns", scene.a)
    scene.world.settle()
    (flow,) = talkers(scene, dns.ip, 53, both=False)
    scene.move("dns")
    eventually(lambda: said(flow) == "refused", "the refusal")
    scene.move("dns", scene.b)
    eventually(lambda: said(flow) == "b", "an answer of the new endpoint")
    flow.close()


def test_a_udp_flow_that_began_before_the_service_reaches_it(scene: Scene) -> None:
    """A client that kept sending while there was no such service, as at a start of a cluster."""
    taken = scene.udp("taken", scene.a)
    scene.world.api.do("DELETE", f"{SERVICES}/taken")
    scene.world.settle()
    with scene.outside.open(UDP) as flow:
        flow.connect((taken.ip, 53))
        flow.send(b"?")
        at = str(flow.getsockname()[1])
        eventually(lambda: at in conntrack(scene.node), "the entry of the lost packet")
        scene.world.service(
            "taken", [scene.a], clusterIP=taken.ip, ports=[port(53, protocol=UDP)],
            targets=[port(8080, protocol=UDP)],
        )  # fmt: skip
        eventually(lambda: said(flow) == "a", "an answer")


def reset(source: str, target: str, number: int) -> IP:
    """A reset of a connection that does not exist, which conntrack calls INVALID."""
    return IP(src=source, dst=target) / TCP(sport=number, dport=number, flags="RA", seq=9, ack=9)


def ports_heard(listening: socket.socket, last: int) -> set[int]:
    """The source ports of the segments that arrive, up to that from port *last*."""
    seen: set[int] = set()

    def take(raw: bytes) -> bool:
        frame = Ether(raw)
        if frame.haslayer(TCP):
            seen.add(frame[TCP].sport)
        return last in seen

    assert heard(listening, take), f"the last segment did not come, only {seen}"
    return seen


def test_a_pods_packet_that_conntrack_calls_invalid_does_not_leave(scene: Scene) -> None:
    """What is not from a pod is not judged, and a good segment that follows arrives."""
    good = IP(src=scene.a.address, dst=OUTSIDE) / TCP(sport=7003, dport=7003, flags="S")
    with scene.outside.listen_raw() as listening:
        scene.a.send_raw(bytes(reset(scene.a.address, OUTSIDE, 7001)), OUTSIDE)
        scene.a.send_raw(bytes(good), OUTSIDE)
        assert 7001 not in ports_heard(listening, 7003)
    with scene.a.listen_raw() as listening:
        packet = reset(OUTSIDE, scene.a.address, 7002)
        scene.outside.send_raw(bytes(packet), scene.a.address)
        assert ports_heard(listening, 7002) == {7002}


def test_nothing_invalid_is_dropped_where_the_kernel_is_told_to_be_liberal(scene: Scene) -> None:
    """kubernetes/kubernetes#120412."""
    liberal = scene.world.node(scene.node.variant, f"--cluster-cidr={POD_NETWORK}", start=False)
    liberal.ns.run("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1")
    liberal.netd.up()
    pod = liberal.pod("liberal")
    with scene.outside.listen_raw() as listening:
        pod.send_raw(bytes(reset(pod.address, OUTSIDE, 7004)), OUTSIDE)
        assert ports_heard(listening, 7004) == {7004}
    assert not any("INVALID" in rule for rule in liberal.rules("filter"))


def test_connections_are_tracked_as_long_as_kube_proxy_has_them_tracked(scene: Scene) -> None:
    """--conntrack-tcp-timeout-established and -close-wait; the table's size is the machine's."""
    folder = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_"
    assert scene.node.ns.run(f"cat {folder}established {folder}close_wait").split() == [
        "86400",
        "3600",
    ]
