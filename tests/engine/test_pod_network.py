"""Names, addresses and namespaces of a pod, seen from inside; ports of the node, from outside."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lab.control import socket_in
from tests.engine.pods import (
    SANDBOX,
    PodWorld,
    Raw,
    condition,
    shell,
    sleeper,
)
from tests.support.netns import eventually

SETTINGS = "etc/nodeagent/nodeagent.toml"


def resolv(pods: PodWorld, name: str) -> dict[str, list[str]]:
    """The lines of the pod's resolv.conf by keyword."""
    found: dict[str, list[str]] = {}
    for line in pods.exec(name, "main", "cat", "/etc/resolv.conf").splitlines():
        keyword, *values = line.split()
        if keyword in {"nameserver", "search", "options"}:
            found.setdefault(keyword, []).extend(values)
    return found


@contextlib.contextmanager
def settings(pods: PodWorld, text: str) -> Iterator[None]:
    """nodeagent with *text* added to its settings."""
    path = pods.root / SETTINGS
    before = path.read_text() if path.exists() else ""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before}{text}\n")
    try:
        pods.restart_agent()
        yield
    finally:
        path.write_text(before)
        pods.restart_agent()


# --- names ---


def test_dns_policy_none_has_exactly_what_its_config_says(pods: PodWorld) -> None:
    config = {
        "nameservers": ["192.0.2.53", "192.0.2.54"], "searches": ["one.example", "two.example"],
        "options": [{"name": "ndots", "value": "3"}, {"name": "rotate"}],
    }  # fmt: skip
    pods.create("dns", {"dnsPolicy": "None", "dnsConfig": config, "containers": [sleeper()]})
    pods.ready("dns")
    assert resolv(pods, "dns") == {
        "nameserver": ["192.0.2.53", "192.0.2.54"], "search": ["one.example", "two.example"],
        "options": ["ndots:3", "rotate"],
    }  # fmt: skip


def test_dns_policy_default_has_the_nodes_resolver_and_the_config_added(pods: PodWorld) -> None:
    """What a resolver would leave out is left out, and an event says so."""
    more = [f"192.0.2.{number}" for number in range(1, 5)]
    config = {"nameservers": more, "searches": ["more.example"]}
    pods.create("default", {"dnsPolicy": "Default", "dnsConfig": config, "containers": [sleeper()]})
    pods.ready("default")
    lines = [line.split() for line in pods.node_run("cat", "/etc/resolv.conf").splitlines()]
    own = [words[1] for words in lines if words and words[0] == "nameserver"]
    found = resolv(pods, "default")
    assert found["nameserver"] == [*own, *more][:3]
    assert "more.example" in found["search"]
    pods.event("default", "DNSConfigForming", "only the first 3 are used")


def test_cluster_first_asks_the_clusters_dns_with_its_domains(pods: PodWorld) -> None:
    text = 'cluster-dns = "10.0.0.10"\ncluster-domain = "lab.example"\n'
    with settings(pods, text):
        host = {"hostNetwork": True, "containers": [sleeper()]}
        pods.create("clustered", [sleeper()])
        pods.create("on-host", {**host, "dnsPolicy": "ClusterFirst"})
        pods.create("host-net", {**host, "dnsPolicy": "ClusterFirstWithHostNet"})
        pods.create(
            "member",
            {"hostname": "one", "subdomain": "set", "setHostnameAsFQDN": True,
             "containers": [sleeper()]},
        )  # fmt: skip
        for name in ("clustered", "on-host", "host-net", "member"):
            pods.ready(name)
        for name in ("clustered", "host-net"):
            found = resolv(pods, name)
            assert found["nameserver"] == ["10.0.0.10"]
            assert found["search"][:3] == ["default.svc.lab.example", "svc.lab.example",
                                           "lab.example"]  # fmt: skip
            assert found["options"] == ["ndots:5"]
        assert resolv(pods, "on-host")["nameserver"] != ["10.0.0.10"]
        full = "one.set.default.svc.lab.example"
        assert pods.exec("member", "main", "hostname").strip() == full
        address = pods.get("member")["status"]["podIP"]
        hosts = pods.exec("member", "main", "cat", "/etc/hosts")
        assert [address, full, "one"] in [line.split() for line in hosts.splitlines()]
    pods.create("unclustered", [sleeper()])
    pods.event("unclustered", "DNSConfigForming", "--cluster-dns")


def test_host_name_subdomain_and_aliases(pods: PodWorld) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["db", "db.example"]}]
    pods.create("plain", {"hostAliases": aliases, "containers": [sleeper(), sleeper("two")]})
    pods.create("named", {"hostname": "one", "subdomain": "set", "containers": [sleeper()]})
    for name in ("plain", "named"):
        pods.ready(name)
    for container in ("main", "two"):
        assert pods.exec("plain", container, "hostname").strip() == "plain"
        hosts = pods.exec("plain", container, "cat", "/etc/hosts")
        lines = [line.split() for line in hosts.splitlines()]
        assert [pods.get("plain")["status"]["podIP"], "plain"] in lines
        assert ["192.0.2.7", "db", "db.example"] in lines
        assert ["127.0.0.1", "localhost"] in lines
    assert pods.exec("named", "main", "hostname").strip() == "one"
    full = "one.set.default.svc.cluster.local"
    hosts = pods.exec("named", "main", "cat", "/etc/hosts")
    address = pods.get("named")["status"]["podIP"]
    assert [address, full, "one"] in [line.split() for line in hosts.splitlines()]


# --- the node's namespaces ---


def test_a_pod_in_the_nodes_network_has_its_address_name_and_hosts_file(pods: PodWorld) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["db"]}]
    pods.create("on-host", {"hostNetwork": True, "hostAliases": aliases, "containers": [sleeper()]})
    status = pods.ready("on-host")["status"]
    assert status["podIP"] == status["hostIP"] == pods.spec.nodes[0].address
    inside = pods.exec("on-host", "main", "ip", "addr", "show", "eth0")
    assert f"inet {status['hostIP']}/" in inside
    assert pods.exec("on-host", "main", "hostname") == pods.node_run("hostname")
    hosts = pods.exec("on-host", "main", "cat", "/etc/hosts")
    assert hosts.startswith(pods.node_run("cat", "/etc/hosts").rstrip("\n"))
    assert ["192.0.2.7", "db"] in [line.split() for line in hosts.splitlines()]


@pytest.mark.parametrize(
    ("field", "namespace"), [("hostNetwork", "net"), ("hostPID", "pid"), ("hostIPC", "ipc")]
)
def test_a_namespace_is_the_nodes_only_where_that_is_asked_for(
    pods: PodWorld, field: str, namespace: str
) -> None:
    pods.create("shares", {field: True, "containers": [sleeper()]})
    pods.create("apart", [sleeper(), sleeper("other")])

    def inode(name: str, container: str = "main") -> str:
        return pods.exec(name, container, "readlink", f"/proc/self/ns/{namespace}").strip()

    pods.ready("shares")
    pods.ready("apart")
    own = pods.node_run("readlink", f"/proc/self/ns/{namespace}").strip()
    assert inode("shares") == own
    assert inode("apart") != own
    assert (inode("apart") == inode("apart", "other")) == (namespace != "pid")
    if namespace == "pid":
        # A process of the host may end between the list and its reading.
        names = pods.exec("shares", "main", "sh", "-c", "cat /proc/[0-9]*/comm", check=False)
        assert "dockerd" in names.split()
    sandbox = pods.container("apart", SANDBOX)["HostConfig"]
    assert sandbox["NetworkMode"] != "host"


# --- ports of the node ---

PORT = 18_080


def web(port: int, words: str = "hello", **ports: Any) -> Raw:
    """A container that answers each connection to *port* with *words*."""
    script = f"trap 'exit 0' TERM; (while :; do echo {words} | nc -l -p {port}; done) & wait"
    return shell(script, ports=[{"containerPort": port, **ports}])


def ask(pods: PodWorld, port: int) -> str:
    """What the node says on *port* to a host of the fabric, "" when nothing."""
    spec = pods.spec
    with socket_in(spec.fabric.netns) as connection:
        connection.setblocking(True)
        connection.settimeout(2)
        try:
            connection.connect((spec.nodes[0].address, port))
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100).decode().strip()
        except OSError:
            return ""


@pytest.mark.parametrize("host_network", [False, True], ids=["bridge", "host network"])
def test_a_host_port_is_reached_from_outside_until_the_pod_ends(
    pods: PodWorld, host_network: bool
) -> None:
    container = web(PORT) if host_network else web(8080, hostPort=PORT)
    pods.create("server", {"hostNetwork": host_network, "containers": [container]})
    pods.ready("server")
    eventually(lambda: ask(pods, PORT) == "hello", "an answer", deadline=60, interval=0.1)
    pods.delete("server")
    pods.gone("server")
    assert ask(pods, PORT) == ""


def test_a_host_port_that_is_taken_is_refused_and_can_be_had_afterwards(pods: PodWorld) -> None:
    pods.create("first", [web(8080, "first", hostPort=PORT)])
    pods.ready("first")
    pods.create("second", [web(8081, "second", hostPort=PORT)])
    pods.create("third", {"hostNetwork": True, "containers": [web(PORT, "third")]})
    pods.create("other-address", [web(8080, "other", hostPort=PORT, hostIP="127.0.0.1")])
    pods.create("other-protocol", [web(8080, "udp", hostPort=PORT, protocol="UDP")])
    for name in ("second", "third", "other-address"):
        found = pods.phase(name, "Failed")["status"]
        assert found["reason"] == "NodePorts"
        assert f"port {PORT}/TCP" in found["message"]
        assert "default/first" in found["message"]
        pods.event(name, "NodePorts", "default/first")
        assert not pods.containers(name)
    pods.ready("other-protocol")
    pods.delete("first")
    pods.gone("first")
    pods.create("fourth", [web(8080, "fourth", hostPort=PORT)])
    assert condition(pods.ready("fourth"), "Ready") == "True"
    eventually(lambda: ask(pods, PORT) == "fourth", "an answer", deadline=60, interval=0.1)
