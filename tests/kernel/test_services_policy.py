"""Traffic policies, endpoints that come and go, and which client a server sees; both variants."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.netns import eventually
from tests.support.services import (
    OUTSIDE,
    POD_NETWORK,
    SERVICES,
    Node,
    World,
    endpoint,
    port,
    world,
)
from tests.support.talk import UDP, Host

LEAVING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


@dataclass
class Scene:
    """Two nodes that know the pods' network, one that hides every client, and one that knows
    nothing; the outside has a route to each by another part of the services' network."""

    world: World
    node: Node
    other: Node
    hiding: Node
    plain: Node
    a: Host
    b: Host
    c: Host

    @property
    def outside(self) -> Host:
        return self.world.outside

    def route(self, address: str, node: Node) -> None:
        """Send what the outside has for *address* by *node*."""
        self.outside.ns.run(f"ip route replace {address} via {node.address}")


@pytest.fixture(scope="module", params=["nft", "legacy"])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with world(tmp_path_factory.mktemp("policy")) as made:
        pods = f"--cluster-cidr={POD_NETWORK}"
        node = made.node(request.param, pods)
        other = made.node(request.param, pods)
        hiding = made.node(request.param, "--masquerade-all")
        plain = made.node(request.param)
        made.outside.ns.run(f"ip route add {POD_NETWORK} via {node.address}")
        yield Scene(made, node, other, hiding, plain, node.pod("a"), node.pod("b"), other.pod("c"))


def test_local_policy_keeps_the_clients_address_and_drops_where_no_endpoint_is(
    scene: Scene,
) -> None:
    web = scene.world.service("local", [scene.a], type="NodePort", externalTrafficPolicy="Local")
    scene.world.settle()
    answer = scene.outside.ask(scene.node.address, web.node_port)
    assert (answer.server, answer.client) == ("a", OUTSIDE)
    assert scene.other.drops(scene.outside, scene.other.address, web.node_port)
    scene.world.endpoints("local", [scene.a, scene.b, scene.c])
    scene.world.settle()
    for _ in range(20):
        answer = scene.outside.ask(scene.node.address, web.node_port)
        assert answer.server in {"a", "b"}
        assert answer.client == OUTSIDE
    assert scene.outside.servers(scene.other.address, web.node_port, count=10) == {"c"}


def test_local_policy_is_none_for_nodes_and_their_own_pods(scene: Scene) -> None:
    """Who is inside may be sent to any node: there is no client's address to keep."""
    web = scene.world.service(
        "inside", [scene.a, scene.b], type="NodePort", externalTrafficPolicy="Local"
    )
    scene.world.settle()
    assert scene.c.servers(scene.other.address, web.node_port) == {"a", "b"}
    assert scene.other.servers(scene.other.address, web.node_port) == {"a", "b"}
    assert scene.c.servers(web.ip, 80) == {"a", "b"}, "the cluster address has its own policy"


def test_local_policy_holds_for_load_balancers_and_external_addresses(scene: Scene) -> None:
    scene.world.service(
        "front", [scene.a, scene.c], type="LoadBalancer", externalTrafficPolicy="Local",
        ingress=["203.0.113.20"], externalIPs=["203.0.113.21"],
    )  # fmt: skip
    scene.world.settle()
    for address in ("203.0.113.20", "203.0.113.21"):
        scene.route(address, scene.node)
        answers = [scene.outside.ask(address, 80) for _ in range(10)]
        assert {(one.server, one.client) for one in answers} == {("a", OUTSIDE)}
        scene.route(address, scene.plain)
        assert scene.plain.drops(scene.outside, address, 80)


def test_internal_local_policy_uses_the_clients_node_only(scene: Scene) -> None:
    agent = scene.world.service("agent", [scene.a, scene.b], internalTrafficPolicy="Local")
    scene.world.settle()
    assert scene.a.servers(agent.ip, 80) == {"a", "b"}
    assert scene.node.servers(agent.ip, 80) == {"a", "b"}
    assert scene.other.drops(scene.c, agent.ip, 80)
    scene.world.endpoints("agent", [scene.a, scene.c])
    scene.world.settle()
    assert scene.a.servers(agent.ip, 80, count=10) == {"a"}
    assert scene.c.servers(agent.ip, 80, count=10) == {"c"}


def health(scene: Scene, node: Node, number: int) -> tuple[int, int]:
    """Status and local endpoints that a load balancer is told, as asked from outside."""
    shown = scene.outside.ns.run(
        f"curl -s --max-time 5 -w %{{http_code}} http://{node.address}:{number}/healthz",
        check=False,
    )
    body, status = shown[:-3], int(shown[-3:] or 0)
    return status, json.loads(body or "{}").get("localEndpoints", -1)


def test_the_health_check_port_tells_where_endpoints_are(scene: Scene) -> None:
    web = scene.world.service(
        "checked", [scene.a, scene.b], type="LoadBalancer", externalTrafficPolicy="Local"
    )
    scene.world.settle()
    eventually(lambda: health(scene, scene.node, web.health_port) == (200, 2), "two here")
    eventually(lambda: health(scene, scene.other, web.health_port) == (503, 0), "none there")
    scene.world.endpoints("checked", [scene.c])
    eventually(lambda: health(scene, scene.node, web.health_port) == (503, 0), "none here")
    eventually(lambda: health(scene, scene.other, web.health_port) == (200, 1), "one there")
    scene.world.api.do("DELETE", f"{SERVICES}/checked")
    eventually(lambda: health(scene, scene.node, web.health_port) == (0, -1), "the port closed")


def test_endpoints_that_are_not_ready_get_nothing(scene: Scene) -> None:
    web = scene.world.service("ready", [scene.a, endpoint(scene.b, ready=False)])
    scene.world.settle()
    assert scene.c.servers(web.ip, 80, count=20) == {"a"}
    scene.world.endpoints("ready", [endpoint(scene.a, ready=False), scene.b])
    scene.world.settle()
    assert scene.c.servers(web.ip, 80, count=20) == {"b"}


def test_hints_for_other_zones_change_nothing(scene: Scene) -> None:
    elsewhere = {"zone": "z1", "hints": {"forZones": [{"name": "z2"}]}}
    web = scene.world.service("hinted", [endpoint(scene.a) | elsewhere, scene.c])
    scene.world.settle()
    assert scene.node.servers(web.ip, 80) == {"a", "c"}


def test_the_last_endpoints_serve_while_they_terminate(scene: Scene) -> None:
    """KEP-1669: not while another is ready, and not one that serves no longer."""
    web = scene.world.service("leaving", [endpoint(scene.a, **LEAVING), scene.b])
    scene.world.settle()
    assert scene.c.servers(web.ip, 80, count=20) == {"b"}
    scene.world.endpoints(
        "leaving",
        [endpoint(scene.a, **LEAVING), endpoint(scene.b, **GONE), endpoint(scene.c, **LEAVING)],
    )
    scene.world.settle()
    assert scene.node.servers(web.ip, 80) == {"a", "c"}
    scene.world.endpoints("leaving", [endpoint(scene.a, **GONE)])
    scene.world.settle()
    assert scene.node.refused(web.ip, 80)


def test_local_policy_falls_back_to_local_endpoints_that_terminate(scene: Scene) -> None:
    """Even while others are ready elsewhere: the load balancer still sends to this node."""
    web = scene.world.service(
        "rolling", [endpoint(scene.a, **LEAVING), scene.c], type="NodePort",
        externalTrafficPolicy="Local",
    )  # fmt: skip
    scene.world.settle()
    answers = [scene.outside.ask(scene.node.address, web.node_port) for _ in range(10)]
    assert {(one.server, one.client) for one in answers} == {("a", OUTSIDE)}
    assert scene.b.servers(web.ip, 80, count=10) == {"c"}


def test_a_pod_is_seen_by_its_own_address_and_a_client_from_outside_by_the_nodes(
    scene: Scene,
) -> None:
    """With --cluster-cidr: who comes from elsewhere must get the answer by the way it came."""
    web = scene.world.service("seen", [scene.c], type="NodePort")
    scene.world.settle()
    scene.route(web.ip, scene.node)
    assert scene.a.ask(web.ip, 80).client == scene.a.address
    assert scene.node.ask(web.ip, 80).client == scene.node.address
    assert scene.outside.ask(web.ip, 80).client == scene.node.address
    assert scene.outside.ask(scene.node.address, web.node_port).client == scene.node.address


def test_masquerade_all_hides_pods_as_well(scene: Scene) -> None:
    hidden = scene.hiding.pod("hidden")
    web = scene.world.service("hiding", [scene.c])
    scene.world.settle()
    assert hidden.ask(web.ip, 80).client == scene.hiding.address


def test_without_a_pods_network_only_the_nodes_own_connections_are_hidden(scene: Scene) -> None:
    shown = scene.plain.pod("shown")
    web = scene.world.service("plain", [shown])
    scene.world.settle()
    scene.route(web.ip, scene.plain)
    assert scene.outside.ask(web.ip, 80).client == OUTSIDE
    assert scene.plain.ask(web.ip, 80).client == "10.1.4.1", "the address towards the pod"


def test_what_goes_to_no_service_is_left_as_it_is(scene: Scene) -> None:
    assert scene.a.ask(scene.c.address, 8080).client == scene.a.address
    assert scene.outside.ask(scene.a.address, 8080).client == OUTSIDE
    assert scene.outside.ask(scene.a.address, 8080, UDP).client == OUTSIDE


def test_a_policy_that_changes_takes_effect(scene: Scene) -> None:
    web = scene.world.service("swap", [scene.a, scene.c], type="NodePort")
    scene.world.settle()
    assert scene.outside.servers(scene.node.address, web.node_port) == {"a", "c"}
    scene.world.service(
        "swap", type="NodePort", externalTrafficPolicy="Local", clusterIP=web.ip,
        ports=[port(80, nodePort=web.node_port)],
    )  # fmt: skip
    scene.world.settle()
    assert scene.outside.servers(scene.node.address, web.node_port, count=20) == {"a"}
