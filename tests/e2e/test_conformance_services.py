"""Conformance: services from pods: endpoints, ports, types, affinity; ways between pods and nodes.

Two web servers and a client stand for all; each case makes services of its own for them.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.conformance import Space, case, pod, space_of
from tests.support.kubelab import KubeLab
from tests.support.realnode import container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

TRIES = 12
"""So many answers of two servers by chance would come from one of them once in 2,000 times."""
SERVE = (
    "mkdir -p /www /alt; hostname > /www/index.html; echo alt > /alt/index.html; "
    "httpd -p 8081 -h /alt; "
    "exec httpd -f -p 8080 -h /www"
)
READY = {"httpGet": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10}
SERVICES = "[sig-network] Services should "
BY_NAME = (
    "all of it holds but what is asked of names: the service is not found by its name, as there is "
    "no cluster DNS."
)


def server(name: str, node: int) -> Json:
    """A web server that answers with its name; the two run on different nodes."""
    apart = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "server"}}}}]}}  # fmt: skip
    ports = [{"name": "web", "containerPort": 8080}, {"name": "alt", "containerPort": 8081}]
    return pod(name, container(SERVE, readinessProbe=READY, ports=ports), affinity=apart,
               labels={"app": "server", "one": str(node)})  # fmt: skip


SERVERS = [server("server-1", 1), server("server-2", 2)]
NAMES = {one["metadata"]["name"] for one in SERVERS}


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """Two servers and a client."""
    with space_of(kube, __name__) as made:
        for one in (*NAMES, "client"):
            made.ready(one)
        yield made


def service(name: str, *ports: Json, selector: Json | None = None, **spec: Any) -> Json:
    """A service for the servers."""
    wanted = {"ports": list(ports) or [{"port": 80, "targetPort": 8080}],
              "selector": {"app": "server"} if selector is None else selector}  # fmt: skip
    return {"kind": "Service", "metadata": {"name": name}, "spec": {**wanted, **spec}}


def at(space: Space, name: str, port: int = 80) -> str:
    """Cluster IP and port of a service."""
    return f"{space.get('Service', name)['spec']['clusterIP']}:{port}"


def node_port(space: Space, name: str) -> int:
    """The node port of a service's only port."""
    (port,) = space.get("Service", name)["spec"]["ports"]
    return int(port["nodePort"])


def answered(space: Space, address: str, by: str = "") -> None:
    """Wait until the client has an answer from there, by the server *by* if that is named."""
    space.kube.wait(
        lambda: (by or "\n") in space.fetch("client", address), f"{address} answers {by}"
    )


def silent(space: Space, address: str) -> None:
    """Wait until there is no answer."""
    space.kube.wait(lambda: not space.fetch("client", address), f"{address} is silent")


def answered_by(space: Space, address: str, count: int) -> None:
    """Wait until so many servers answer there."""
    space.kube.wait(
        lambda: len(answers(space, address)) == count, f"{count} servers answer at {address}"
    )


def all_answer(space: Space, address: str) -> None:
    """Wait until every server answers there, and nobody else."""
    space.kube.wait(lambda: answers(space, address) == NAMES, f"{NAMES} answer at {address}")


def answers(space: Space, address: str) -> set[str]:
    """Who answers the client in several tries."""
    answered(space, address)
    script = f"for i in $(seq {TRIES}); do wget -q -O - http://{address}; done"
    return set(space.shell("client", script).split())


def endpoints(space: Space, name: str) -> set[tuple[str, int]]:
    """Address and port of each endpoint of a service."""
    found = space.get("Endpoints", name).get("subsets") or ()
    return {(a["ip"], p["port"]) for each in found
            for a in each.get("addresses", ()) for p in each["ports"]}  # fmt: skip


def has(space: Space, name: str, expected: set[tuple[str, int]]) -> None:
    """Wait until a service has these endpoints."""
    space.kube.wait(lambda: endpoints(space, name) == expected, f"{name} has {expected}")


def ip(space: Space, name: str) -> str:
    """A pod's address."""
    return str(space.get("Pod", name)["status"]["podIP"])


# --- endpoints ---


@case(
    SERVICES + "serve a basic endpoint from pods [Conformance]",
    needs=[*SERVERS, pod("client"), service("basic", selector={"basic": "yes"})],
)
def test_endpoints_are_the_ready_pods_of_the_selector(space: Space) -> None:
    name, label = "basic", {"metadata": {"labels": {"basic": "yes"}}}
    assert endpoints(space, name) == set()
    expected: set[tuple[str, int]] = set()
    for one in sorted(NAMES):
        space.patch("Pod", one, label)
        expected |= {(ip(space, one), 8080)}
        has(space, name, expected)
    for one in sorted(NAMES):
        space.patch("Pod", one, {"metadata": {"labels": {"basic": None}}})
        expected -= {(ip(space, one), 8080)}
        has(space, name, expected)


@case(
    SERVICES + "serve multiport endpoints from pods [Conformance]",
    needs=[service("multi", {"name": "web", "port": 80, "targetPort": "web"},
                   {"name": "alt", "port": 81, "targetPort": "alt"})],
)  # fmt: skip
def test_each_port_leads_to_its_own(space: Space) -> None:
    pods = [ip(space, one) for one in NAMES]
    expected = {(one, port) for one in pods for port in (8080, 8081)}
    has(space, "multi", expected)
    all_answer(space, at(space, "multi", 80))
    assert answers(space, at(space, "multi", 81)) == {"alt"}


@case(SERVICES + "test the lifecycle of an Endpoint [Conformance]")
def test_endpoints_that_people_write_are_served(space: Space) -> None:
    """A service without selector, whose endpoints are made, changed and deleted."""
    made = service("by-hand")
    del made["spec"]["selector"]
    space.create(made)

    def subset(one: str) -> Json:
        return {"subsets": [{"addresses": [{"ip": ip(space, one)}], "ports": [{"port": 8080}]}]}

    space.create({"kind": "Endpoints", "metadata": {"name": "by-hand"}, **subset("server-1")})
    address = at(space, "by-hand")
    answered(space, address, "server-1")
    space.patch("Endpoints", "by-hand", subset("server-2"))
    answered(space, address, "server-2")
    space.delete("Endpoints", "by-hand")
    silent(space, address)


@case(
    SERVICES + "find a service from listing all namespaces [Conformance]",
    needs=[service("listed")],
)
def test_a_service_is_found_in_all_namespaces(space: Space) -> None:
    found = space.kube.api("GET", "/api/v1/services")[1]["items"]
    assert (space.namespace, "listed") in {
        (one["metadata"]["namespace"], one["metadata"]["name"]) for one in found
    }


@case(SERVICES + "provide secure master service [Conformance]")
def test_the_api_is_a_service_with_tls(space: Space) -> None:
    path = "/api/v1/namespaces/default/services/kubernetes"
    spec = space.kube.api("GET", path)[1]["spec"]
    (port,) = spec["ports"]
    assert (port["name"], port["port"], port["protocol"]) == ("https", 443, "TCP")
    url = f"https://{spec['clusterIP']}/version"
    host = space.get("Pod", "client")["spec"]["nodeName"]
    said = space.kube.wait(lambda: space.kube.curl(host, url, "--insecure"), f"{url} answers")
    assert '"gitVersion"' in said


# --- types ---


@case(
    SERVICES + "be able to create a functioning NodePort service [Conformance]",
    needs=[service("node-port", type="NodePort")],
    fails=BY_NAME,
)
def test_a_node_port_answers_at_every_node(space: Space) -> None:
    port = node_port(space, "node-port")
    all_answer(space, at(space, "node-port"))
    for host in space.kube.workers:
        answered(space, f"{space.kube.address(host)}:{port}")
        for source in space.kube.workers:
            url = f"http://{space.kube.address(host)}:{port}/"
            said = space.kube.wait(
                functools.partial(space.kube.curl, source, url), f"{url} answers {source}"
            )
            assert said.strip() in NAMES


def elsewhere(name: str) -> Json:
    """A service that is a name of another."""
    made = service(name, type="ExternalName", externalName="example.com")
    return {**made, "spec": {k: v for k, v in made["spec"].items() if k != "ports"}}


@case(
    SERVICES + "be able to change the type from ExternalName to ClusterIP [Conformance]",
    SERVICES + "be able to change the type from ExternalName to NodePort [Conformance]",
    needs=[elsewhere("to-cluster-ip"), elsewhere("to-node-port")],
    fails=BY_NAME,
)
def test_a_name_becomes_a_service_with_an_address(space: Space) -> None:
    ports = [{"port": 80, "targetPort": 8080}]
    for name, kind in (("to-cluster-ip", "ClusterIP"), ("to-node-port", "NodePort")):
        change = {"type": kind, "externalName": None, "ports": ports}
        space.patch("Service", name, {"spec": change})
        all_answer(space, at(space, name))
    host = space.kube.address(space.kube.workers[0])
    answered(space, f"{host}:{node_port(space, 'to-node-port')}")


@case(
    SERVICES + "be able to change the type from ClusterIP to ExternalName [Conformance]",
    SERVICES + "be able to change the type from NodePort to ExternalName [Conformance]",
    needs=[service("from-cluster-ip"), service("from-node-port", type="NodePort")],
    fails=BY_NAME,
)
def test_a_service_that_becomes_a_name_has_no_address_any_more(space: Space) -> None:
    old = {}
    for name in ("from-cluster-ip", "from-node-port"):
        old[name] = at(space, name)
        answered(space, old[name])
        ports = [{"port": 80, "nodePort": None}]
        change = {"type": "ExternalName", "externalName": "example.com", "clusterIP": None,
                  "clusterIPs": None, "ports": ports}  # fmt: skip
        space.patch("Service", name, {"spec": change})
    for name, address in old.items():
        assert not space.get("Service", name)["spec"].get("clusterIP")
        silent(space, address)


# --- affinity ---

STICKY: Json = {"sessionAffinity": "ClientIP"}


def to_node(space: Space, name: str) -> str:
    """A node's address and the service's node port."""
    return f"{space.kube.address(space.kube.workers[0])}:{node_port(space, name)}"


@case(
    SERVICES + "have session affinity work for service with type clusterIP [LinuxOnly] "
    "[Conformance]",
    SERVICES + "have session affinity work for NodePort service [LinuxOnly] [Conformance]",
    needs=[service("sticky", **STICKY), service("sticky-port", type="NodePort", **STICKY)],
)
def test_a_client_stays_with_its_server(space: Space) -> None:
    assert len(answers(space, at(space, "sticky"))) == 1
    assert len(answers(space, to_node(space, "sticky-port"))) == 1


@case(
    SERVICES + "be able to switch session affinity for service with type clusterIP [LinuxOnly] "
    "[Conformance]",
    SERVICES + "be able to switch session affinity for NodePort service [LinuxOnly] [Conformance]",
    needs=[service("switched", **STICKY), service("switched-port", type="NodePort", **STICKY)],
)
def test_affinity_can_be_switched(space: Space) -> None:
    places = {"switched": at(space, "switched"), "switched-port": to_node(space, "switched-port")}
    for name, address in places.items():
        assert len(answers(space, address)) == 1
        space.patch("Service", name, {"spec": {"sessionAffinity": "None"}})
    for address in places.values():
        answered_by(space, address, 2)
    for name in places:
        space.patch("Service", name, {"spec": STICKY})
    for address in places.values():
        answered_by(space, address, 1)


@case(
    SERVICES + "have session affinity timeout work for service with type clusterIP [LinuxOnly] "
    "[Conformance]",
    SERVICES + "have session affinity timeout work for NodePort service [LinuxOnly] [Conformance]",
    needs=[
        service("expires", **STICKY, sessionAffinityConfig={"clientIP": {"timeoutSeconds": 1}}),
        service("expires-port", type="NodePort", **STICKY,
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": 1}}),
    ],
)  # fmt: skip
def test_affinity_ends_when_a_client_was_silent_for_long_enough(space: Space) -> None:
    """Asked every two seconds, now one answers, now the other."""
    places = (at(space, "expires"), to_node(space, "expires-port"))
    seen: dict[str, set[str]] = {address: set() for address in places}
    for address in places:
        answered(space, address)

    script = "; ".join(("sleep 2", *(f"wget -q -O - http://{one}" for one in places)))

    def both() -> bool:
        said = space.shell("client", script).split()
        for address, one in zip(places, said, strict=False):
            seen[address].add(one)
        return all(found == NAMES for found in seen.values())

    space.kube.wait(both, "both servers answer")


# --- pods and nodes ---

CHECKS = "[sig-network] Networking Granular Checks: Pods should function for "


@case(
    CHECKS + "intra-pod communication: http [NodeConformance] [Conformance]",
    CHECKS + "node-pod communication: http [LinuxOnly] [NodeConformance] [Conformance]",
)
def test_pods_and_nodes_reach_each_pod(space: Space) -> None:
    for one in NAMES:
        address = f"{ip(space, one)}:8080"
        for source in (*NAMES, "client"):
            assert space.fetch(source, address) == f"{one}\n", (source, one)
        for host in space.kube.workers:
            assert space.kube.curl(host, f"http://{address}/") == f"{one}\n", (host, one)


ANSWER = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("", 8082))
while True:
    s.sendto(sys.argv[1].encode(), s.recvfrom(99)[1])
"""
ASK = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(20)
s.sendto(b"who", (sys.argv[1], 8082))
print(s.recv(99).decode())
"""


def network(space: Space, name: str, *command: str) -> tuple[str, ...]:
    """A pod's node and the command line that runs *command* there in the pod's network."""
    found = space.get("Pod", name)
    host = found["spec"]["nodeName"]
    identity = found["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    pid = space.kube.docker(host, "inspect", "--format={{.State.Pid}}", identity)
    return host, "nsenter", f"--target={pid}", "--net", "--", *command


@case(
    CHECKS + "intra-pod communication: udp [NodeConformance] [Conformance]",
    CHECKS + "node-pod communication: udp [LinuxOnly] [NodeConformance] [Conformance]",
)
def test_datagrams_reach_each_pod_from_pods_and_nodes(space: Space) -> None:
    """The image knows no datagrams: small programs of the test's do, in the pods' networks."""

    def heard(source: str, one: str) -> bool:
        host, *argv = source, sys.executable, "-c", ASK, ip(space, one)
        if source not in space.kube.workers:
            host, *argv = network(space, source, *argv)
        return space.kube.exec(host, *argv, check=False).strip() == one

    with contextlib.ExitStack() as stack:
        for one in NAMES:
            host, *argv = network(space, one, sys.executable, "-c", ANSWER, one)
            stack.enter_context(space.kube.popen(host, *argv))
        for one in NAMES:
            for source in (*NAMES - {one}, "client", *space.kube.workers):
                space.kube.wait(functools.partial(heard, source, one), f"{one} answers {source}")


@case("[sig-network] Proxy version v1 should proxy through a service and a pod [Conformance]",
      needs=[service("proxied")])  # fmt: skip
def test_the_api_server_leads_to_pods_and_services(space: Space) -> None:
    def reached(what: str) -> bool:
        path = f"/api/v1/namespaces/{space.namespace}/{what}/proxy/"
        return str(space.kube.api("GET", path)[1]).strip() in NAMES

    for what in ("pods/http:server-1:8080", "services/http:proxied:80"):
        space.kube.wait(functools.partial(reached, what), f"{what} answers")
