"""Where services answer, and who: real connections on nodes with either iptables variant."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit, SCTPChunkInitAck

from tests.support.netns import eventually
from tests.support.services import (
    OUTSIDE,
    OUTSIDE_2,
    POD_NETWORK,
    Node,
    World,
    endpoint,
    port,
    world,
)
from tests.support.talk import UDP, Host, heard

EXTERNAL, BALANCER, OPEN_BALANCER = "203.0.113.1", "203.0.113.2", "203.0.113.3"


@dataclass
class Scene:
    """Two nodes, of which the second serves node ports at its second address only; the outside
    reaches services by the first."""

    world: World
    node: Node
    other: Node
    a: Host
    b: Host
    c: Host

    @property
    def outside(self) -> Host:
        return self.world.outside

    def everybody(self) -> tuple[Host, ...]:
        """Node, pod on it, pod elsewhere, and a client that is routed through the node."""
        return self.node, self.a, self.c, self.outside


@pytest.fixture(scope="module", params=["nft", "legacy"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:  # fmt: skip
    with world(tmp_path_factory.mktemp("reach")) as made:
        pods = f"--cluster-cidr={POD_NETWORK}"
        node = made.node(request.param, pods)
        other = made.node(request.param, pods, "--nodeport-addresses=172.28.0.0/16")
        for network in ("10.0.0.0/16", "203.0.113.0/24"):
            made.outside.ns.run(f"ip route add {network} via {node.address}")
        yield Scene(made, node, other, node.pod("a"), node.pod("b"), other.pod("c"))


def test_a_service_address_reaches_every_endpoint_from_everywhere(scene: Scene) -> None:
    web = scene.world.service("web", [scene.a, scene.b, scene.c])
    scene.world.settle()
    for client in scene.everybody():
        assert client.servers(web.ip, 80) == {"a", "b", "c"}, client.name


def test_endpoints_are_used_evenly(scene: Scene) -> None:
    """Of 600 connections each of three endpoints gets 200: less than 130 would be a wonder."""
    web = scene.world.service("even", [scene.a, scene.b, scene.c])
    scene.world.settle()
    answers = [scene.a.ask(web.ip, 80).server for _ in range(600)]
    assert all(answers.count(name) > 130 for name in "abc"), {n: answers.count(n) for n in "abc"}


def test_a_change_of_endpoints_moves_new_connections(scene: Scene) -> None:
    web = scene.world.service("moving", [scene.a])
    scene.world.settle()
    assert scene.node.servers(web.ip, 80, count=5) == {"a"}
    scene.world.endpoints("moving", [scene.b, scene.c])
    eventually(lambda: scene.node.ask(web.ip, 80).server != "a", "the change")
    assert scene.node.servers(web.ip, 80) == {"b", "c"}


def test_a_node_port_answers_from_outside_on_every_address_of_the_node(scene: Scene) -> None:
    web = scene.world.service("ported", [scene.a, scene.c], type="NodePort")
    scene.world.settle()
    for address in (scene.node.address, scene.node.second):
        assert scene.outside.servers(address, web.node_port) == {"a", "c"}
        assert scene.node.servers(address, web.node_port) == {"a", "c"}
        assert scene.b.servers(address, web.node_port) == {"a", "c"}
    assert scene.a.servers("10.1.1.1", web.node_port) == {"a", "c"}, "docker0's address too"


def test_a_node_port_is_closed_on_127_0_0_1_and_on_addresses_that_were_not_chosen(
    scene: Scene,
) -> None:
    web = scene.world.service("closed", [scene.a, scene.c], type="NodePort")
    scene.world.settle()
    assert scene.node.refused("127.0.0.1", web.node_port)
    for client in (scene.outside, scene.other):
        assert client.servers(scene.other.second, web.node_port) == {"a", "c"}
        assert client.refused(scene.other.address, web.node_port)


def test_an_external_address_answers_whoever_comes_by(scene: Scene) -> None:
    scene.world.service("external", [scene.a, scene.c], externalIPs=[EXTERNAL])
    scene.world.settle()
    for client in scene.everybody():
        assert client.servers(EXTERNAL, 80) == {"a", "c"}, client.name


def test_a_load_balancers_address_answers_its_source_ranges_and_nobody_else(scene: Scene) -> None:
    ranges = [f"{OUTSIDE}/32", "10.1.0.0/16"]
    scene.world.service(
        "balanced", [scene.a, scene.c], type="LoadBalancer", ingress=[BALANCER],
        loadBalancerSourceRanges=ranges,
    )  # fmt: skip
    scene.world.service(
        "open", [scene.a, scene.c], type="LoadBalancer", ingress=[OPEN_BALANCER]
    )  # fmt: skip
    scene.world.settle()
    assert scene.outside.ask(BALANCER, 80, source=OUTSIDE).server in {"a", "c"}
    assert scene.a.servers(BALANCER, 80) == {"a", "c"}
    assert scene.node.drops(scene.outside, BALANCER, 80, source=OUTSIDE_2)
    for source in (OUTSIDE, OUTSIDE_2):
        assert scene.outside.ask(OPEN_BALANCER, 80, source=source).server in {"a", "c"}


def test_udp_is_balanced_like_tcp(scene: Scene) -> None:
    dns = scene.world.service(
        "dns", [scene.a, scene.c], type="NodePort", ports=[port(53, protocol=UDP)],
        targets=[port(8080, protocol=UDP)],
    )  # fmt: skip
    scene.world.settle()
    for client in scene.everybody():
        assert client.servers(dns.ip, 53, UDP) == {"a", "c"}, client.name
    assert scene.outside.servers(scene.node.address, dns.node_port, UDP) == {"a", "c"}


def test_each_of_several_ports_goes_to_its_own_target_wherever_that_is(scene: Scene) -> None:
    """A named target port may be another number in each pod; then each has a slice."""
    ports = [
        port(80, "http", targetPort="web"),
        port(81, "admin"),
        port(80, "dns", UDP),
    ]
    many = scene.world.service("many", ports=ports)
    scene.world.endpoints(
        "many", [scene.a], [port(8080, "http"), port(8081, "admin"), port(8080, "dns", UDP)], "a"
    )
    scene.world.endpoints(
        "many", [scene.c], [port(8081, "http"), port(8081, "admin"), port(8081, "dns", UDP)], "c"
    )
    scene.world.settle()
    for protocol, number, wanted in (
        ("tcp", 80, {("a", 8080), ("c", 8081)}),
        ("tcp", 81, {("a", 8081), ("c", 8081)}),
        ("udp", 80, {("a", 8080), ("c", 8081)}),
    ):
        answers = [scene.node.ask(many.ip, number, protocol) for _ in range(40)]
        assert {(one.server, one.port) for one in answers} == wanted


def test_headless_services_and_those_of_another_proxy_get_no_rule(scene: Scene) -> None:
    label = "service.kubernetes.io/service-proxy-name"
    scene.world.service("headless", [scene.a], clusterIP="None")
    theirs = scene.world.service("theirs", [scene.a], labels={label: "other"})
    scene.world.settle()
    rules = "\n".join(scene.node.rules())
    assert "default/headless" not in rules
    assert "default/theirs" not in rules
    assert not {key for key in scene.node.skipped() if key.endswith(("headless", "theirs"))}
    scene.world.service("theirs", clusterIP=theirs.ip)
    eventually(lambda: "default/theirs" in "\n".join(scene.node.rules()), "the label gone")
    assert scene.node.ask(theirs.ip, 80).server == "a"


def test_a_client_with_affinity_keeps_its_endpoint_on_all_addresses_of_the_service(
    scene: Scene,
) -> None:
    ends = [scene.a, scene.b, scene.c]
    sticky = scene.world.service(
        "sticky", ends, type="NodePort", externalIPs=["203.0.113.9"], sessionAffinity="ClientIP"
    )
    scene.world.settle()
    for source in (OUTSIDE, OUTSIDE_2):
        found = {
            scene.outside.ask(address, number, source=source).server
            for address, number in (
                (sticky.ip, 80),
                (scene.node.address, sticky.node_port),
                ("203.0.113.9", 80),
            )
            for _ in range(15)
        }
        assert len(found) == 1, found
    kept = scene.a.ask(sticky.ip, 80).server
    scene.world.endpoints("sticky", [end for end in ends if end.name != kept])
    eventually(lambda: scene.a.ask(sticky.ip, 80).server != kept, "another for who lost its own")
    assert len(scene.a.servers(sticky.ip, 80, count=15)) == 1


def test_affinity_ends_after_its_timeout_without_a_connection(scene: Scene) -> None:
    """Each try comes after the second is over, so one in two gets the other endpoint."""
    short = scene.world.service(
        "short", [scene.a, scene.c], sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 1}},
    )  # fmt: skip
    scene.world.settle()
    first = scene.b.ask(short.ip, 80).server
    eventually(
        lambda: scene.b.ask(short.ip, 80).server != first,
        "another endpoint",
        deadline=120,
        interval=1.2,
    )


def test_a_pod_reaches_itself_through_its_service(scene: Scene) -> None:
    """It sees another client than itself, or it would answer itself past the node."""
    alone = scene.world.service("alone", [scene.a], type="NodePort")
    scene.world.settle()
    for address, number in ((alone.ip, 80), (scene.node.address, alone.node_port)):
        answer = scene.a.ask(address, number, timeout=10)
        assert answer.server == "a"
        assert answer.client not in {scene.a.address, "127.0.0.1"}


def test_sctp_is_balanced_too(scene: Scene) -> None:
    """Without SCTP in this kernel's sockets: the first packet of an association, there and
    back."""
    diameter = scene.world.service(
        "sctp", [scene.a], type="NodePort", ports=[port(3868, protocol="sctp")],
        targets=[port(3868, protocol="sctp")],
    )  # fmt: skip
    scene.world.settle()
    for number, (address, there) in enumerate(
        ((diameter.ip, 3868), (scene.node.address, diameter.node_port))
    ):
        init = SCTP(sport=40000 + number, dport=there) / SCTPChunkInit(init_tag=7)
        request, reply = _exchange(scene, IP(src=OUTSIDE, dst=address) / init, address)
        assert (request[IP].dst, request[SCTP].dport) == (scene.a.address, 3868)
        assert (reply[IP].src, reply[SCTP].sport) == (address, there)
        assert reply[SCTP].dport == 40000 + number


def _exchange(scene: Scene, packet: IP, address: str) -> tuple[IP, IP]:
    """What arrives at pod a of *packet* from outside, and what arrives there of a's answer."""
    with scene.a.listen_raw() as at_pod, scene.outside.listen_raw() as at_client:
        scene.outside.send_raw(bytes(packet), packet.dst)
        request = heard(at_pod, lambda raw: _sctp(raw, SCTPChunkInit))
        assert request is not None, "nothing arrived at the pod"
        answer = SCTP(sport=request[SCTP].dport, dport=request[SCTP].sport, tag=7)
        back = IP(src=scene.a.address, dst=request[IP].src) / answer / SCTPChunkInitAck(init_tag=9)
        scene.a.send_raw(bytes(back), back.dst)
        reply = heard(at_client, lambda raw: _sctp(raw, SCTPChunkInitAck))
        assert reply is not None, f"no answer from {address}"
        return request, reply


def _sctp(raw: bytes, chunk: type) -> IP | None:
    frame = Ether(raw)
    return frame[IP] if frame.haslayer(SCTP) and frame.haslayer(chunk) else None


def test_a_deleted_service_is_gone_and_its_address_free_for_another(scene: Scene) -> None:
    old = scene.world.service("old", [scene.a], type="NodePort")
    scene.world.settle()
    assert scene.node.ask(old.ip, 80).server == "a"
    scene.world.api.do("DELETE", "/api/v1/namespaces/default/services/old")
    new = scene.world.service("new", [endpoint(scene.c)], clusterIP=old.ip)
    scene.world.settle()
    assert scene.node.servers(new.ip, 80, count=10) == {"c"}
    assert scene.outside.refused(scene.node.address, old.node_port)
    assert "default/old" not in "\n".join(scene.node.rules())
