"""Nodes that run the real netd's services half: an API server, pods with servers, clients.

    api, etcd --- fabric --- node1 --docker0-- pods
                    |          node2 --docker0-- pods
                    +------- outside

Every object is in the namespace ``default``.
"""

import contextlib
import http.client
import itertools
import json
import re
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.gateway import EtcdClient, Op, put
from tests.support.etcd import EtcdCluster
from tests.support.netd import NetdHost
from tests.support.netns import Fabric, Inside, Namespace, eventually
from tests.support.talk import TCP, Host

Json = dict[str, Any]

CONTROL = "172.29.0.251"
OUTSIDE, OUTSIDE_2 = "172.29.0.100", "172.29.0.101"
SECOND = "172.28.0.{}"
"""The second address of a node, and of the outside, by the last part of the first one."""
POD_NETWORK = "10.1.0.0/16"


class ServicesNetd(NetdHost):
    """netd with the overlay off. Its node's name is *node*."""

    server = ""
    node = ""
    variant = "nft"
    options: tuple[str, ...] = ()

    def argv(self, command: str, *flags: str) -> list[str]:
        own = [
            "--overlay=off", f"--master={self.server}", f"--hostname-override={self.node}",
            f"--iptables-variant={self.variant}", *self.options,
        ]  # fmt: skip
        return super().argv(command, *own, *flags)


class Node(Host):
    """A host with docker0, pods on it, and a netd."""

    def __init__(self, world: "World", number: int, variant: str, options: Iterable[str]) -> None:
        address = f"172.29.0.{10 + number}"
        name = f"node{number}"
        super().__init__(world.fabric.host(name, f"{address}/24"), name, address)
        self._world = world
        self.number = number
        self.second = SECOND.format(10 + number)
        self.variant = variant
        self._pods = itertools.count(2)
        self._ports = itertools.count()
        for command in (
            "ip link add docker0 type bridge",
            f"ip addr add 10.1.{number}.1/24 dev docker0",
            "ip link set docker0 up",
            f"ip route add default via {CONTROL}",
            f"ip addr add {self.second}/24 dev eth0",
            # The outside is on the node's own network, which earns it redirects, and those share
            # a rate limit with the ICMP errors that tests count on.
            "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0",
            "sysctl -qw net.ipv4.ip_local_reserved_ports=30000-32767",
        ):
            self.ns.run(command)
        self.netd = ServicesNetd(self.ns, world.directory / name, world.etcd.endpoints,
                                 world.fabric)  # fmt: skip
        self.netd.server, self.netd.node, self.netd.variant = world.api.url, name, variant
        self.netd.options = tuple(options)

    def pod(self, name: str) -> Host:
        """A container on docker0 that serves."""
        address = f"10.1.{self.number}.{next(self._pods)}"
        space = self._world.fabric.namespace(name)
        port = f"veth{next(self._ports)}"
        self.ns.run(f"ip link add {port} type veth peer name eth0 netns {space.name}")
        self.ns.run(f"ip link set {port} master docker0 up")
        space.run(f"ip addr add {address}/24 dev eth0")
        space.run("ip link set eth0 up")
        space.run(f"ip route add default via 10.1.{self.number}.1")
        pod = Host(space, name, address)
        self._world.hosts.append(pod)
        pod.serve()
        return pod

    def iptables(self, words: str) -> str:
        """Run this node's iptables, such as ``-t nat -F``."""
        return self.ns.run(["sh", "-c", f"iptables-{self.variant} {words}"])

    def rules(self, table: str = "nat") -> list[str]:
        """Chains and rules of *table*, without counters, dates and empty built-in chains."""
        return saved_rules(self.netd.saved(table, self.variant))

    def chains(self, table: str = "nat") -> set[str]:
        """The names of all chains."""
        return {line[1:].split()[0] for line in self.rules(table) if line.startswith(":")}

    def dropped(self) -> int:
        """How many packets the rule that drops has had."""
        saved = self.ns.run(f"iptables-{self.variant}-save -c -t filter")
        found = re.search(r"\[(\d+):\d+\] -A KUBE-PORTALS-FILTER .*-j DROP", saved)
        return int(found[1]) if found else 0

    def drops(self, client: Host, address: str, port: int, *, source: str = "") -> bool:
        """Whether *client* gets no answer because netd's rule dropped its packet here."""
        before = self.dropped()
        silent = client.unanswered(address, port, source=source)
        return silent and self.dropped() > before

    def skipped(self) -> dict[str, str]:
        """What netd status names as left out, by object."""
        found: dict[str, str] = {}
        for one in self.netd.status()["services"]["skipped"]:
            found[one["key"]] = f"{found.get(one['key'], '')} {one['text']}".strip()
        return found


def saved_rules(text: str) -> list[str]:
    """The lines of an iptables-save that say something, without counters."""
    lines = [line.partition(" [")[0] for line in text.splitlines()]
    return [line for line in lines if line.startswith((":", "-A"))]


class Api:
    """A lab.api whose objects are written over HTTP, and whose faults can be set."""

    def __init__(self, space: Namespace, directory: Path, etcd: str, port: int = 8080) -> None:
        self.url = f"http://{CONTROL}:{port}"
        self._space = space
        self._port = port
        self._etcd = etcd
        self._log = directory / f"api-{port}.log"
        self._inside = Inside(space)

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [
            "setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "lab.api",
            f"--etcd={self._etcd}", f"--listen={CONTROL}:{self._port}",
            "--service-cluster-ip-range=10.0.0.0/16", f"--advertise-address={CONTROL}",
            "--no-controllers", "--faults",
        ]  # fmt: skip
        with self._log.open("a") as log:
            self.process = self._space.start(argv, stdout=log, stderr=log)
        eventually(self._is_up, f"an API server: {self._log}")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-2000:]
        with contextlib.suppress(OSError):
            return self.request("GET", "/faults")[0] == 200
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def request(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Status and document of one exchange. Raises OSError."""
        connection = http.client.HTTPConnection(CONTROL, self._port, timeout=60)
        connection.sock = self._inside.call(socket.socket)
        try:
            connection.sock.settimeout(60)
            connection.sock.connect((CONTROL, self._port))
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def do(self, method: str, path: str, body: Json | None = None) -> Json:
        """As ``request``; AssertionError unless it succeeds."""
        status, document = self.request(method, path, body)
        assert status < 300, document
        return document

    def apply(self, collection: str, obj: Json) -> Json:
        """Create or replace."""
        status, made = self.request("POST", collection, obj)
        if status == 409:
            return self.do("PUT", f"{collection}/{obj['metadata']['name']}", obj)
        assert status < 300, made
        return made

    def faults(self, **wanted: int) -> None:
        """Set switches of lab.api.faults."""
        self.do("POST", "/faults", dict(wanted))

    def close(self) -> None:
        """End it."""
        self._inside.close()


SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
MARKER = "10.1.255.254"


def endpoint(pod: Host | str, **conditions: bool) -> Json:
    """An endpoint, on its pod's node; ready unless *conditions* say otherwise."""
    made: Json = {
        "addresses": [pod if isinstance(pod, str) else pod.address],
        "conditions": {"ready": True, **conditions},
    }
    if not isinstance(pod, str):
        # The third part of a pod's address is its node's number.
        made["nodeName"] = f"node{pod.address.split('.')[2]}"
    return made


def port(number: int, name: str = "", protocol: str = TCP, **more: Any) -> Json:
    """A port of a service or slice."""
    return {"port": number, "name": name, "protocol": protocol.upper(), **more}


def service(name: str, ports: Collection[Json], **spec: Any) -> Json:
    """A Service object without a selector."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": list(ports), **spec},
    }


def slice_of(
    name: str, ends: Iterable[Host | Json], ports: Collection[Json], suffix: str = "x"
) -> Json:
    """The EndpointSlice NAME-SUFFIX of the service *name*."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [endpoint(one) if isinstance(one, Host) else one for one in ends],
        "ports": list(ports),
    }


@dataclass(frozen=True, slots=True)
class Made:
    """A service as the API server made it."""

    name: str
    ip: str
    node_ports: tuple[int, ...]
    health_port: int

    @property
    def node_port(self) -> int:
        """The node port of its first port."""
        return self.node_ports[0]


class World:
    """An etcd and an API server on a fabric, a client outside, and nodes."""

    def __init__(self, fabric: Fabric, directory: Path) -> None:
        self.fabric = fabric
        self.directory = directory
        fabric.bridge.run(f"ip addr add {CONTROL}/24 dev br0")
        self.etcd = EtcdCluster(
            directory / "etcd", 1, addresses=[CONTROL], namespaces=[fabric.bridge.name],
            extra_args=["--unsafe-no-fsync"],
        )  # fmt: skip
        self.api = Api(fabric.bridge, directory, f"http://{CONTROL}:2379")
        self.hosts: list[Host] = []
        self.nodes: list[Node] = []
        self._inside = Inside(fabric.bridge)
        self._markers = itertools.count(1)
        space = fabric.host("outside", f"{OUTSIDE}/24")
        space.run(f"ip addr add {OUTSIDE_2}/24 dev eth0")
        space.run(f"ip addr add {SECOND.format(100)}/24 dev eth0")
        self.outside = Host(space, "outside", OUTSIDE)
        self.hosts.append(self.outside)

    def node(self, variant: str = "nft", *options: str, start: bool = True) -> Node:
        """Another node; every other one has a route to its pods."""
        made = Node(self, len(self.nodes) + 1, variant, options)
        for other in self.nodes:
            for one, two in ((made, other), (other, made)):
                one.ns.run(f"ip route add 10.1.{two.number}.0/24 via {two.address}")
        self.nodes.append(made)
        self.hosts.append(made)
        if start:
            made.netd.up()
        return made

    def service(
        self,
        name: str,
        ends: Iterable[Host | Json] | None = None,
        *,
        ports: Collection[Json] = (),
        targets: Collection[Json] = (),
        ingress: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> Made:
        """Make or replace a service; port 80 to 8080 unless told. *ends* None: no slice."""
        wanted = service(name, ports or [port(80)], **spec)
        wanted["metadata"]["labels"] = dict(labels or {})
        made = self.api.apply(SERVICES, wanted)
        if ingress:
            made["status"] = {"loadBalancer": {"ingress": [{"ip": one} for one in ingress]}}
            made = self.api.do("PUT", f"{SERVICES}/{name}/status", made)
        if ends is not None:
            self.endpoints(name, ends, targets or [port(8080)])
        got = made["spec"]
        return Made(
            name,
            got.get("clusterIP", ""),
            tuple(one.get("nodePort", 0) for one in got["ports"]),
            got.get("healthCheckNodePort", 0),
        )

    def endpoints(
        self,
        name: str,
        ends: Iterable[Host | Json],
        targets: Collection[Json] = (),
        suffix: str = "x",
    ) -> None:
        """Replace the slice *suffix* of the service *name*."""
        self.api.apply(SLICES, slice_of(name, ends, targets or [port(8080)], suffix))

    def settle(self, *nodes: Node, deadline: float = 60.0) -> None:
        """Wait until the *nodes* (default: all) have everything that was written before."""
        number = 1000 + next(self._markers)
        self.service("marker", [endpoint(MARKER)], ports=[port(number)], targets=[port(number)])
        # The service and its endpoints come by two watches.
        rule = f"--dport {number} -j DNAT --to-destination {MARKER}:{number}"
        for one in nodes or self.nodes:
            eventually(
                lambda one=one: any(line.endswith(rule) for line in one.rules()),  # type: ignore[misc]
                f"the latest objects on {one.name}:\n{one.netd.log[-2000:]}",
                deadline=deadline,
            )

    def put(self, values: Mapping[str, Json]) -> None:
        """Write objects straight into etcd, below /registry/."""

        async def write() -> None:
            client = EtcdClient(EtcdConfig((f"http://{CONTROL}:2379",), total_timeout=60.0))
            try:
                left = [put(f"/registry/{key}", json.dumps(value).encode())
                        for key, value in values.items()]  # fmt: skip
                while left:
                    batch: list[Op] = left[:100]
                    del left[:100]
                    await client.txn([], batch)
            finally:
                await client.close()

        self._inside.wait(write(), deadline=300)

    def close(self) -> None:
        """End all that runs."""
        for node in self.nodes:
            if node.netd.process is not None and node.netd.process.poll() is None:
                node.netd.kill()
        for host in self.hosts:
            host.close()
        self.api.close()
        self._inside.close()


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    """A World whose API server runs; removed with the context."""
    fabric = Fabric()
    try:
        made = World(fabric, directory)
        try:
            with made.etcd:
                made.api.start()
                yield made
        finally:
            made.close()
    finally:
        fabric.remove()
