"""Services of a real kube-apiserver: connections through them, and the kernel's rules for many.

netd runs on three nodes that show the API server a token, a client certificate and a kubeconfig.
"""

import contextlib
import http.client
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import answers
from tests.support.chance import (
    chance_ends,
    chance_service,
    check,
    packets,
    plain_service,
    plain_slice,
    read_back,
)
from tests.support.kubernetes import PROXY_USER, SLICES, RealWorld, built, real_world, replace_file
from tests.support.netns import eventually
from tests.support.services import (
    OUTSIDE,
    OUTSIDE_2,
    POD_NETWORK,
    SERVICES,
    Node,
    port,
)
from tests.support.talk import UDP, Host
from tests.support.walk import Walker

# The servers' start is not the first test's time.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

EXTERNAL, BALANCER = "203.0.113.1", "203.0.113.2"


@dataclass
class Scene:
    """Three nodes; the outside reaches services by the first. Pods a and b are on it, c on the
    second."""

    world: RealWorld
    nodes: tuple[Node, Node, Node]
    a: Host
    b: Host
    c: Host

    @property
    def node(self) -> Node:
        return self.nodes[0]

    @property
    def outside(self) -> Host:
        return self.world.outside

    def clients(self) -> tuple[Host, ...]:
        """Every node, a pod on each of two, and a client that is routed through a node."""
        return *self.nodes, self.a, self.c, self.outside


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("real")
    with real_world(folder, built(pytestconfig)) as world:
        pods = f"--cluster-cidr={POD_NETWORK}"
        token = replace_file(folder / "token", world.token("netd"))
        pair = world.api.client_certificate(PROXY_USER)
        by_token = world.node("nft", world.ca, pods, f"--kube-token-file={token}", start=False)
        by_certificate = world.node(
            "legacy", world.ca, pods, f"--kube-certfile={pair.cert}", f"--kube-keyfile={pair.key}",
            start=False,
        )  # fmt: skip
        file = folder / "kubeconfig"
        file.write_text(kubeconfig(world, token))
        by_file = world.node("nft", pods, f"--kubeconfig={file}", start=False)
        by_file.netd.server = ""
        nodes = (by_token, by_certificate, by_file)
        for one in nodes:
            one.netd.up()
        for network in ("10.0.0.0/16", "203.0.113.0/24"):
            world.outside.ns.run(f"ip route add {network} via {by_token.address}")
        yield Scene(world, nodes, by_token.pod("a"), by_token.pod("b"), by_certificate.pod("c"))


def kubeconfig(world: RealWorld, token: Path) -> str:
    """The file for the first API server, with *token* by its name beside the file."""
    cluster = {
        "server": world.servers[0].url,
        "certificate-authority": str(world.api.authority.cert),
    }
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "real", "cluster": cluster}],
        "users": [{"name": "netd", "user": {"tokenFile": token.name}}],
        "contexts": [{"name": "here", "context": {"cluster": "real", "user": "netd"}}],
    })  # fmt: skip


def test_what_kubectl_makes_answers_everywhere_follows_changes_and_is_refused_at_its_end(
    scene: Scene,
) -> None:
    """Each kind of credentials and each iptables variant."""
    made = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30061}]}
---
apiVersion: discovery.k8s.io/v1beta1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [ADDRESS]}]
ports: [{port: 8080, name: ""}]
"""
    scene.world.kubectl("create", "-f", "-", stdin=made.replace("ADDRESS", scene.a.address))
    scene.world.settle()
    address = scene.world.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert [one.ask(address, 80).server for one in scene.clients()] == ["a"] * 6
    for node in scene.nodes:
        assert scene.outside.ask(node.address, 30061).server == "a", node.name
        assert node.netd.status()["services"]["api"]["source"] == "EndpointSlice v1beta1"

    more = f"{scene.a.address}, {scene.c.address}"
    scene.world.kubectl("apply", "-f", "-", stdin=made.replace("ADDRESS", scene.c.address))
    scene.world.settle()
    assert {one.ask(address, 80).server for one in scene.clients()} == {"c"}
    scene.world.kubectl("apply", "-f", "-", stdin=made.replace("[ADDRESS]", f"[{more}]"))
    scene.world.settle()
    assert {one.ask(address, 80).server for one in scene.clients()} <= {"a", "c"}

    scene.world.kubectl("delete", "endpointslice", "web-1")
    scene.world.settle()
    assert all(one.refused(address, 80) for one in scene.clients())
    assert scene.outside.refused(scene.node.address, 30061)
    scene.world.kubectl("delete", "service", "web")
    scene.world.settle()
    assert scene.outside.refused(scene.node.address, 30061), "by the node, as any closed port"
    assert not any("default/web:" in line for node in scene.nodes for line in node.rules())


def test_all_endpoints_are_used_from_everywhere_and_a_pod_reaches_itself(scene: Scene) -> None:
    web = scene.world.service("all", [scene.a, scene.b, scene.c])
    alone = scene.world.service("alone", [scene.a])
    scene.world.settle()
    for client in scene.clients():
        assert client.servers(web.ip, 80) == {"a", "b", "c"}, client.name
    assert scene.a.ask(alone.ip, 80).server == "a"


def test_node_ports_and_external_addresses_answer_from_outside(scene: Scene) -> None:
    ends = [scene.a, scene.c]
    web = scene.world.service("ported", ends, type="NodePort", externalIPs=[EXTERNAL])
    scene.world.settle()
    for node in scene.nodes:
        for address in (node.address, node.second):
            assert scene.outside.servers(address, web.node_port, count=20) == {"a", "c"}
        assert node.refused("127.0.0.1", web.node_port)
    for client in scene.clients():
        assert client.servers(EXTERNAL, 80, count=20) == {"a", "c"}, client.name


def test_a_load_balancers_address_answers_its_source_ranges_only(scene: Scene) -> None:
    scene.world.service(
        "balanced", [scene.a], type="LoadBalancer", ingress=[BALANCER],
        loadBalancerSourceRanges=[f"{OUTSIDE}/32"],
    )  # fmt: skip
    scene.world.settle()
    assert scene.outside.ask(BALANCER, 80, source=OUTSIDE).server == "a"
    assert scene.node.drops(scene.outside, BALANCER, 80, source=OUTSIDE_2)


def test_udp_and_ports_with_targets_of_their_own(scene: Scene) -> None:
    ports = [port(80, "http", targetPort="web"), port(81, "admin"), port(80, "dns", UDP)]
    many = scene.world.service("many", ports=ports, type="NodePort")
    names = ("http", "admin", "dns")
    for pod, numbers in ((scene.a, (8080, 8081, 8080)), (scene.c, (8081, 8081, 8081))):
        targets = [
            port(number, name, UDP if name == "dns" else "tcp")
            for name, number in zip(names, numbers, strict=True)
        ]
        scene.world.endpoints("many", [pod], targets, pod.name)
    scene.world.settle()
    for protocol, number, wanted in (
        ("tcp", 80, {("a", 8080), ("c", 8081)}),
        ("tcp", 81, {("a", 8081), ("c", 8081)}),
        (UDP, 80, {("a", 8080), ("c", 8081)}),
    ):
        for client in scene.clients():
            found = [client.ask(many.ip, number, protocol) for _ in range(25)]
            assert {(one.server, one.port) for one in found} == wanted, client.name
    dns = [scene.outside.ask(scene.node.address, many.node_ports[2], UDP) for _ in range(25)]
    assert {one.server for one in dns} == {"a", "c"}


def test_headless_and_external_name_services_get_no_rule(scene: Scene) -> None:
    scene.world.service("headless", [scene.a], clusterIP="None")
    scene.world.service("elsewhere", type="ExternalName", externalName="example.com")
    scene.world.settle()
    for node in scene.nodes:
        rules = "\n".join(node.rules())
        assert "default/headless" not in rules
        assert "default/elsewhere" not in rules
        assert node.skipped() == {}


def test_a_client_with_affinity_keeps_its_endpoint(scene: Scene) -> None:
    ends = [scene.a, scene.b, scene.c]
    sticky = scene.world.service("sticky", ends, type="NodePort", sessionAffinity="ClientIP")
    scene.world.settle()
    for source in (OUTSIDE, OUTSIDE_2):
        found = {
            scene.outside.ask(address, number, source=source).server
            for address, number in (
                (sticky.ip, 80),
                (scene.node.address, sticky.node_port),
            )
            for _ in range(20)
        }
        assert len(found) == 1, found


def test_policy_local_keeps_the_clients_address_and_tells_the_balancer(scene: Scene) -> None:
    """1.20's slices name an endpoint's node in its topology."""
    local = scene.world.service(
        "local", [scene.a, scene.c], type="LoadBalancer", externalTrafficPolicy="Local"
    )
    only_c = scene.world.service(
        "only-c", [scene.c], type="LoadBalancer", externalTrafficPolicy="Local"
    )
    scene.world.settle()
    first, second, third = scene.nodes
    for node, server in ((first, "a"), (second, "c")):
        found = [scene.outside.ask(node.address, local.node_port) for _ in range(10)]
        assert {(one.server, one.client) for one in found} == {(server, OUTSIDE)}
        tells_health(scene.outside, node, local.health_port, (200, 1))
    assert third.drops(scene.outside, third.address, local.node_port)
    tells_health(scene.outside, third, local.health_port, (503, 0))
    assert first.drops(scene.outside, first.address, only_c.node_port)
    assert scene.a.ask(first.address, only_c.node_port).server == "c", "a pod of the cluster"
    assert first.ask(first.address, only_c.node_port).server == "c", "the node itself"


def health(client: Host, node: Node, number: int) -> tuple[int, int]:
    """Status and number of local endpoints that *node* tells at the port *number*."""
    connection = http.client.HTTPConnection(node.address, number, timeout=20)
    with client.open() as made:
        made.settimeout(20)
        made.connect((node.address, number))
        connection.sock = made
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["localEndpoints"]


def tells_health(client: Host, node: Node, number: int, wanted: tuple[int, int]) -> None:
    """Wait for this health: netd writes its rules first, and then opens the port."""

    def told() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return health(client, node, number) == wanted
        return False

    eventually(told, f"{wanted} at port {number} of {node.name}")


def compare(scene: Scene) -> int:
    """Check the rules of two nodes against the API's objects; how many packets were walked."""
    listed = scene.world.api.do("GET", SERVICES)["items"]
    slices = [plain_slice(one) for one in scene.world.api.do("GET", SLICES)["items"]]
    services = [
        plain_service(one)
        for one in listed
        if one["spec"].get("clusterIP") not in {None, "None"}
    ]  # fmt: skip
    walked = 0
    for node in scene.nodes[:2]:
        local = frozenset({node.address, node.second, f"10.1.{node.number}.1", "127.0.0.1"})
        model = answers.World(services, slices, node.name, local, POD_NETWORK)
        walker = Walker(read_back(node), local)
        for packet in packets(services, node):
            check(walker.fates(packet), model.answer(packet), packet)
            walked += 1
    return walked


def test_the_rules_for_many_services_are_what_the_objects_promise(scene: Scene) -> None:
    """Fifty services by chance, and again after a third of them has changed or gone."""
    chance = random.Random(20)
    balancers = iter(range(50, 250))

    def make(name: str) -> None:
        spec = chance_service(chance)
        ingress = [f"203.0.113.{next(balancers)}"] if spec["type"] == "LoadBalancer" else []
        scene.world.service(name, ingress=ingress, **spec)
        ends, targets = chance_ends(chance, spec["ports"])
        if chance.random() < 0.9:
            scene.world.endpoints(name, ends, targets)

    for number in range(50):
        make(f"many-{number}")
    scene.world.settle()
    assert compare(scene) > 1000
    for number in range(0, 50, 3):
        scene.world.api.do("DELETE", f"{SERVICES}/many-{number}")
        if number % 2:
            make(f"many-{number}")
    scene.world.settle()
    assert compare(scene) > 1000
