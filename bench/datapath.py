"""TCP between pods on two hosts: over netd's VXLAN, over one made by hand, and host to host.

The ways take turns, in an order that changes each round, so that a drift of the machine meets
all of them alike. Both overlays use the same hosts, the same MTU and the same UDP port.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple

from bench.hand import HandMade
from bench.peers import Peer
from bench.result import Aim, BenchError, Result, Samples
from bench.world import Daemon, Host, World
from tests.support.netns import Namespace, eventually

RATIO_AIM = Aim(">=", 0.95)
MTU = 1450
"""Bytes; the fabric's 1500 less VXLAN's 50."""

_PORT = 5201


class Way(NamedTuple):
    """One way for a stream: where iperf3's client and server are, and the server's address."""

    name: str
    client: Namespace
    server: Namespace
    address: str


def measure(world: World, rounds: int, seconds: int) -> Iterator[Result]:
    """Yield the throughputs, medians of *rounds* streams of *seconds* each."""
    prefix = world.records("datapath", [])
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(world.host()) for _ in range(2)]
        daemons = [stack.enter_context(world.daemon(host, prefix)) for host in hosts]
        ways = (
            _over_netd(world, stack, hosts, daemons),
            _over_hand_made(world, stack, hosts),
            Way("host to host", hosts[0].space, hosts[1].space, str(hosts[1].address)),
        )
        for way in ways:
            _serve(way)
        figures = _take_turns(ways, rounds, seconds)
    netd, by_hand, direct = (Samples.of(figures[way.name]) for way in ways)
    yield Result(
        "pod to pod, TCP", netd.median, "Gbit/s", by_hand.median, "hand-made VXLAN", RATIO_AIM,
        aim_on_ratio=True, note=f"{netd.spread(1)}; hand-made {by_hand.spread(1)}",
    )  # fmt: skip
    yield Result(
        "pod to pod, TCP", netd.median, "Gbit/s", direct.median, "host to host",
        note=f"host to host {direct.spread(1)}",
    )  # fmt: skip


def _take_turns(ways: Sequence[Way], rounds: int, seconds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        _stream(way, 1)
    for number in range(rounds):
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            figures[way.name].append(_stream(way, seconds))
    return figures


def _over_netd(
    world: World, stack: contextlib.ExitStack, hosts: Sequence[Host], daemons: Sequence[Daemon]
) -> Way:
    for daemon in daemons:
        daemon.start()
    pods = []
    for host, daemon in zip(hosts, daemons, strict=True):
        daemon.wait_ready()
        subnet = daemon.subnet()
        pods.append((_pod(world, stack, host, "docker0", subnet), str(subnet[2])))
    return _connected("over netd", pods[0][0], pods[1][0], pods[1][1])


def _over_hand_made(world: World, stack: contextlib.ExitStack, hosts: Sequence[Host]) -> Way:
    subnets = [IPv4Network(f"10.3.{number}.0/24") for number in (1, 2)]
    devices = [HandMade(host.space, "hand.2", 2, host.address) for host in hosts]
    pods = []
    for at, host in enumerate(hosts):
        other = 1 - at
        devices[at].address(subnets[at])
        devices[at].add_all([Peer(subnets[other], hosts[other].address, devices[other].mac)])
        host.space.run("ip link add hand0 type bridge")
        host.space.run(f"ip link set hand0 mtu {MTU} up")
        host.space.run(f"ip addr add {subnets[at][1]}/24 dev hand0")
        pods.append(_pod(world, stack, host, "hand0", subnets[at]))
    return _connected("by hand", pods[0], pods[1], str(subnets[1][2]))


def _pod(
    world: World, stack: contextlib.ExitStack, host: Host, bridge: str, subnet: IPv4Network
) -> Namespace:
    """A namespace on *bridge* with the second address of *subnet*."""
    pod = world.fabric.namespace("pod")
    stack.callback(pod.remove)
    port = f"pod-{bridge}"
    host.space.run(
        f"ip link add {port} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {pod.name}"
    )
    host.space.run(f"ip link set {port} master {bridge} up")
    pod.run(f"ip addr add {subnet[2]}/{subnet.prefixlen} dev eth0")
    pod.run("ip link set eth0 up")
    pod.run(f"ip route add default via {subnet[1]}")
    return pod


def _connected(name: str, client: Namespace, server: Namespace, address: str) -> Way:
    eventually(
        lambda: " 0% packet loss" in client.run(f"ping -c1 -W1 -q {address}", check=False),
        f"{name}: {address} answers",
        deadline=20.0,
    )
    return Way(name, client, server, address)


def _serve(way: Way) -> None:
    way.server.start(
        f"setpriv --pdeathsig KILL -- iperf3 -s -p {_PORT}",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: f":{_PORT} " in way.server.run("ss -Hltn"), f"{way.name}: iperf3 listens")


def _stream(way: Way, seconds: int) -> float:
    """Gbit/s that arrived."""
    done = subprocess.run(
        way.client.argv(f"iperf3 -c {way.address} -p {_PORT} -t {seconds} -J"),
        capture_output=True, text=True, check=False, timeout=seconds + 30,
    )  # fmt: skip
    try:
        report = json.loads(done.stdout)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    except (json.JSONDecodeError, KeyError) as error:
        raise BenchError(f"iperf3 {way.name}: {(done.stderr or done.stdout)[:300]}") from error
