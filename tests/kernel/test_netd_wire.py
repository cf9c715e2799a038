"""Two hosts with netd and a real 3-member etcd: what is seen on the wire, and that it keeps
flowing while etcd or netd do not."""

import json
import socket
import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.support.netd import Net, NetdHost, net
from tests.support.netns import Fabric, Inside, Namespace, eventually

ETH_P_ALL = 3


class Pair:
    """Two hosts in the overlay with a pod on each."""

    def __init__(self, network: Net) -> None:
        self.net = network
        self.one, self.two = network.host(1), network.host(2)
        for host in (self.one, self.two):
            host.start()
        for host in (self.one, self.two):
            host.wait_ready()
            host.wait(lambda status: len(status["peers"]) == 1, "the other host as a peer")
        self.pod_one, self.pod_two = self.one.pod("a"), self.two.pod("b")
        self.target = self.two.address(2)
        eventually(
            lambda: " 0% packet loss" in ping(self.pod_one, self.target, "-c1", "-W1"), "ping"
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    fabric = Fabric()
    try:
        with net(fabric, tmp_path_factory.mktemp("net")) as network:
            yield Pair(network)
    finally:
        fabric.remove()


def ping(pod: Namespace, target: str, *options: str) -> str:
    return pod.run(["ping", "-n", *options, target], check=False)


def capture(pair: Pair, host: NetdHost, *options: str) -> list[Ether]:
    """The frames on the host's eth0 while pod one pings pod two."""

    def listen() -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        tap.bind(("eth0", 0))
        tap.setblocking(False)
        return tap

    inside = Inside(host.ns)
    try:
        tap = inside.call(listen)
        ping(pair.pod_one, pair.target, *options)
        frames = []
        while True:
            try:
                frames.append(Ether(tap.recv(65535)))
            except BlockingIOError:
                break
        tap.close()
    finally:
        inside.close()
    return frames


def test_a_ping_between_pods_travels_as_vxlan_with_the_pods_own_addresses(pair: Pair) -> None:
    """VNI 1 on UDP 8472 between the public addresses; inside, the pods' addresses unchanged."""
    frames = capture(pair, pair.one, "-c3", "-i0.2")
    tunnelled = [frame for frame in frames if VXLAN in frame and ICMP in frame[VXLAN]]
    assert len(tunnelled) >= 6, frames
    macs = {host: host.status()["network"]["vtep_mac"] for host in (pair.one, pair.two)}
    for frame in tunnelled:
        request = frame[VXLAN][ICMP].type == 8
        source, sink = (pair.one, pair.two) if request else (pair.two, pair.one)
        assert frame[VXLAN].vni == 1
        assert frame[UDP].dport == 8472
        assert frame[IP].src == source.status()["network"]["public_ip"]
        assert frame[IP].dst == sink.status()["network"]["public_ip"]
        inner = frame[VXLAN].payload
        assert inner[IP].src == source.address(2)
        assert inner[IP].dst == sink.address(2)
        assert inner.src == macs[source]
        assert inner.dst == macs[sink]


def test_the_largest_inner_packet_fills_the_outer_mtu_and_no_more(pair: Pair) -> None:
    """1450 bytes inside make 1500 outside, unfragmented; one byte more is refused at once."""
    frames = capture(pair, pair.one, "-c1", "-W20", "-Mdo", "-s1422")
    outer = [frame[IP] for frame in frames if VXLAN in frame and ICMP in frame[VXLAN]]
    assert outer, frames
    assert {packet.len for packet in outer} == {1500}
    assert all(packet.frag == 0 and "MF" not in str(packet.flags) for packet in outer)
    assert "100% packet loss" in ping(pair.pod_one, pair.target, "-c1", "-W1", "-Mdo", "-s1423")


def test_traffic_flows_through_thirty_seconds_without_etcd(pair: Pair) -> None:
    """All members stopped: 300 pings in 30 s, none lost; afterwards changes arrive again."""
    for index in range(3):
        pair.net.etcd.kill(index)
    output = ping(pair.pod_one, pair.target, "-c300", "-i0.1", "-W10", "-q")
    assert " 0% packet loss" in output, output
    assert pair.one.status()["etcd"]["connected"] is False
    assert pair.one.view("/healthz") == "ok\n", "netd is alive without etcd"
    for index in range(3):
        pair.net.etcd.start_member(index)
    pair.net.etcd.wait_ready()
    subnet, (mac, public_ip) = next(iter(pair.net.put_peers(1, first=77).items()))
    eventually(lambda: pair.one.knows(subnet, mac, public_ip), "a new lease after the outage")
    for host in (pair.one, pair.two):
        host.wait(lambda status: status["etcd"]["connected"], "etcd connected")


def test_kill_9_and_restart_of_netd_lose_no_packet_of_a_running_stream(pair: Pair) -> None:
    """A UDP stream between pods, netd killed and started again on both hosts: nothing lost."""
    server = pair.pod_two.start(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    eventually(lambda: ":5201" in pair.pod_two.run("ss -ltn"), "iperf3 listening")
    before = pair.one.ns.json("ip link show flannel.1")[0]["ifindex"]
    client = pair.pod_one.start(
        ["iperf3", "-c", pair.target, "-u", "-b", "10M", "-l", "1200", "-t", "8", "-J"],
        stdout=subprocess.PIPE,
    )
    eventually(lambda: _received(pair.pod_two) > 200, "the stream running")
    for host in (pair.one, pair.two):
        host.kill()
    for host in (pair.one, pair.two):
        host.up()
    output, _ = client.communicate(timeout=120)
    server.wait(60)
    total = json.loads(output)["end"]["sum"]
    assert total["packets"] > 5000
    # What found the socket full because iperf3 had to wait for a CPU was not lost on its way.
    assert total["lost_packets"] <= _overflows(pair.pod_two), total
    assert pair.one.ns.json("ip link show flannel.1")[0]["ifindex"] == before


def _overflows(pod: Namespace) -> int:
    """How many datagrams arrived at a full socket."""
    names, counts = [
        line.split()
        for line in pod.run("cat /proc/net/snmp").splitlines()
        if line.startswith("Udp:")
    ]
    return int(counts[names.index("RcvbufErrors")])


def _received(pod: Namespace) -> int:
    return int(pod.json("ip -s link show eth0")[0]["stats64"]["rx"]["packets"])


def test_a_pod_reaches_hosts_that_know_nothing_of_the_overlay(pair: Pair) -> None:
    """--ip-masq: the answer can only come back because the host's address was put in."""
    outside = pair.net.fabric.host("outside", "172.29.0.99/24")
    assert "10.1" not in outside.run("ip route"), "there is no way back to a pod's own address"
    assert " 0% packet loss" in ping(pair.pod_one, "172.29.0.99", "-c1", "-W20")
