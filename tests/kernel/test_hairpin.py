"""Hairpin on a real bridge: a pod reaches itself through its service, whoever made its port."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from hostkit.problems import Problems
from netd.services.hairpin import HairpinKeeper
from tests.support.netns import Fabric, Inside, Namespace, eventually

VIP, POD = "10.96.0.10", "10.1.5.2"

SERVER = """
import socket
server = socket.socket(); server.bind(("", 8080)); server.listen()
print("ready", flush=True)
while True:
    connection = server.accept()[0]; connection.sendall(b"me"); connection.close()
"""


class Keeper:
    """A HairpinKeeper that runs in a namespace."""

    def __init__(self, host: Namespace) -> None:
        self._inside = Inside(host)
        self.problems = Problems()
        self.repairs: list[str] = []
        self.keeper = self._inside.call(
            HairpinKeeper, "docker0", self.problems, self.repairs.append
        )

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(self.keeper.run())

        self._task = self._inside.wait(start())
        eventually(lambda: self.keeper.loop.last_success is not None, "the first pass")

    def close(self) -> None:
        self._inside.call(self.keeper.close)
        self._inside.close()


@pytest.fixture
def host(fabric: Fabric) -> Namespace:
    """A host with docker0, whose frames between ports pass the iptables rules."""
    made = fabric.host("host", "198.18.0.1/24")
    made.run("ip link add docker0 type bridge")
    made.run("ip addr add 10.1.5.1/24 dev docker0")
    made.run("ip link set docker0 up")
    made.run("sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1")
    return made


@pytest.fixture
def keeper(host: Namespace) -> Iterator[Keeper]:
    made = Keeper(host)
    yield made
    made.close()


def add_pod(fabric: Fabric, host: Namespace, port: str, address: str) -> Namespace:
    pod = fabric.namespace("pod")
    host.run(f"ip link add {port} type veth peer name eth0 netns {pod.name}")
    pod.run(f"ip addr add {address}/24 dev eth0")
    pod.run("ip link set eth0 up")
    host.run(f"ip link set {port} master docker0 up")
    pod.run("ip route add default via 10.1.5.1")
    return pod


def hairpin(host: Namespace, port: str) -> bool:
    (link,) = host.json(f"ip -d link show dev {port}")
    return bool(link["linkinfo"]["info_slave_data"]["hairpin"])


def reach(pod: Namespace, address: str, timeout: float) -> bytes:
    """What answers at *address* from inside *pod*."""
    inside = Inside(pod)

    def ask() -> bytes:
        with socket.create_connection((address, 80), timeout) as connection:
            return connection.recv(99)

    try:
        return inside.call(ask)
    finally:
        inside.close()


def test_a_pod_reaches_itself_through_its_service(fabric: Fabric, host: Namespace) -> None:
    """Not without the flag: then the bridge drops what would go back where it came from."""
    pod = add_pod(fabric, host, "veth1", POD)
    server = pod.start([sys.executable, "-c", SERVER], stdout=-1)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    nat = "iptables-nft -t nat -A"
    host.run(f"{nat} PREROUTING -d {VIP} -p tcp --dport 80 -j DNAT --to-destination {POD}:8080")
    host.run(f"{nat} POSTROUTING -s {POD} -d {POD} -j MASQUERADE")
    with pytest.raises(TimeoutError):
        reach(pod, VIP, 0.5)
    keeper = Keeper(host)
    try:
        assert reach(pod, VIP, 30) == b"me"
    finally:
        keeper.close()


def test_ports_that_come_later_get_the_flag(
    fabric: Fabric, host: Namespace, keeper: Keeper
) -> None:
    for number in range(5):
        add_pod(fabric, host, f"veth{number}", f"10.1.5.{number + 2}")
    for number in range(5):
        eventually(partial(hairpin, host, f"veth{number}"), f"the flag of veth{number}")
    assert keeper.problems.all() == ()
    assert keeper.repairs == []


def test_a_bridge_that_is_made_again_and_a_port_that_moves_to_it_get_the_flag(
    fabric: Fabric, host: Namespace, keeper: Keeper
) -> None:
    host.run("ip link del docker0")
    host.run("ip link add veth1 type veth peer name veth1p")
    host.run("ip link add docker0 type bridge")
    host.run("ip link set veth1 master docker0")
    eventually(lambda: hairpin(host, "veth1"), "the flag")
    assert keeper.problems.all() == ()


def test_a_flag_that_is_switched_off_comes_back_and_is_counted(
    fabric: Fabric, host: Namespace, keeper: Keeper
) -> None:
    add_pod(fabric, host, "veth1", POD)
    eventually(lambda: hairpin(host, "veth1"), "the flag")
    eventually(lambda: len(keeper.keeper.ports) == 1, "the keeper's knowledge of it")
    host.run("bridge link set dev veth1 hairpin off")
    eventually(lambda: hairpin(host, "veth1"), "the flag again")
    eventually(lambda: keeper.repairs == ["bridge"], "the repair counted")


def test_other_bridges_and_other_kinds_of_ports_are_left_alone(
    host: Namespace, keeper: Keeper
) -> None:
    """A port of docker0 that comes last shows that the keeper has seen the others."""
    host.run("ip link add br-other type bridge")
    host.run("ip link add other type veth peer name other-p")
    host.run("ip link set other master br-other")
    host.run("ip link add vx1 type vxlan id 9 dstport 4789 dev eth0")
    host.run("ip link set vx1 master docker0")
    host.run("ip link add last type veth peer name last-p")
    host.run("ip link set last master docker0")
    eventually(lambda: hairpin(host, "last"), "the flag of the container's port")
    assert not hairpin(host, "other")
    assert not hairpin(host, "vx1")


def test_a_hundred_ports_that_come_and_go_leave_no_problem(host: Namespace, keeper: Keeper) -> None:
    for number in range(50):
        host.run(f"ip link add p{number} type veth peer name q{number}")
        host.run(f"ip link set p{number} master docker0")
        if number % 2:
            host.run(f"ip link del p{number}")
    eventually(lambda: len(keeper.keeper.ports) == 25, "the flags of those that stayed")
    assert all(hairpin(host, f"p{number}") for number in range(0, 50, 2))
    eventually(lambda: keeper.problems.all() == (), "no problem")
