"""Stale UDP flows with real packets: a client's flow follows the rules at once, others do not move.

A client behind a node that translates, two endpoints behind it. The client keeps one socket, so
the kernel goes on treating its packets as it treated the first one until the entry goes.
"""

import errno
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from netd.netlink import conntrack as ct
from netd.netlink.exchange import Exchange, open_exchange
from netd.services.conntrack import UdpView
from netd.services.flows import FlowCleaner
from tests.fakes.conntrack import TCP, Entry, create
from tests.support.netns import Fabric, Inside, Namespace, eventually

VIP, OTHER_VIP, PORT, NODE_PORT = "10.96.0.10", "10.96.0.20", 53, 30053
NODE, CLIENT, NOWHERE = "198.18.0.2", "198.18.0.1", "10.1.0.99"
A, B = "10.1.0.11:5353", "10.1.0.12:5353"

SERVER = """
import select, socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("", 5353))
tcp = socket.socket(); tcp.bind(("", 5353)); tcp.listen()
print("ready", flush=True)
tcps = []
while True:
    for sock in select.select([udp, tcp, *tcps], [], [])[0]:
        if sock is udp:
            _, peer = udp.recvfrom(99); udp.sendto(sys.argv[1].encode(), peer)
        elif sock is tcp:
            tcps.append(tcp.accept()[0])
        elif sock.recv(99):
            sock.sendall(sys.argv[1].encode())
        else:
            tcps.remove(sock)
"""


class Talker:
    """A socket in the client's namespace that is kept open; it says who answered."""

    def __init__(self, inside: Inside, address: str, port: int, kind: int) -> None:
        def connect() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.settimeout(30.0)
            made.connect((address, port))
            return made

        self._socket: socket.socket = inside.call(connect)

    def send(self) -> None:
        self._socket.send(b"who?")

    def ask(self) -> str:
        self.send()
        return self._socket.recv(99).decode()

    def close(self) -> None:
        self._socket.close()


class World:
    """The hosts; ``rule`` is what the node does with what comes for a frontend."""

    def __init__(self, fabric: Fabric) -> None:
        self.client = fabric.host("client", f"{CLIENT}/24")
        self.node = fabric.host("node", f"{NODE}/24")
        fabric.plug(self.node, "10.1.0.1/24", name="eth1")
        self.client.run(f"ip route add 10.96.0.0/16 via {NODE}")
        self.node.run("sysctl -qw net.ipv4.ip_forward=1")
        # Without any rule that needs it the kernel tracks nothing.
        self.node.run("iptables-nft -t nat -A POSTROUTING -s 10.250.0.0/16 -j MASQUERADE")
        # What is not translated goes to a host that is not there.
        self.node.run(f"ip neigh add {NOWHERE} lladdr 02:00:00:00:00:99 dev eth1 nud permanent")
        self.node.run(f"ip route add 10.96.0.0/16 via {NOWHERE}")
        for name, end in (("a", A), ("b", B)):
            self._endpoint(fabric, name, end.partition(":")[0])
        self.inside = Inside(self.node)
        self._at_client = Inside(self.client)
        self._talkers: list[Talker] = []
        self.cleaner = FlowCleaner()

    def _endpoint(self, fabric: Fabric, name: str, address: str) -> None:
        host = fabric.host(name, f"{address}/24")
        host.run("ip route add default via 10.1.0.1")
        server = host.start([sys.executable, "-c", SERVER, name], stdout=-1)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def talk(self, address: str, port: int = PORT, kind: int = socket.SOCK_DGRAM) -> Talker:
        self._talkers.append(Talker(self._at_client, address, port, kind))
        return self._talkers[-1]

    def translate(self, end: str, *, to: str = VIP, port: int = PORT) -> None:
        """Make what is sent to a frontend go to *end*; empty for nowhere."""
        self.node.run("iptables-nft -t nat -F PREROUTING")
        if end:
            for protocol in ("udp", "tcp"):
                self.node.run(
                    f"iptables-nft -t nat -A PREROUTING -d {to} -p {protocol} --dport {port}"
                    f" -j DNAT --to-destination {end}"
                )

    def clean(self, view: UdpView) -> int:
        return self.inside.wait(self.cleaner.clean(view))

    def entries(self) -> set[str]:
        """The table's entries as conntrack prints them, without what changes by itself."""
        text = self.node.run("conntrack -L -o id", check=False)
        keep = ("src=", "dst=", "sport=", "dport=", "id=", "zone=")
        return {
            " ".join(word for word in line.split() if word.startswith(keep))
            for line in text.splitlines()
        }

    def put(self, *entries: Entry) -> None:
        """Put made-up entries into the node's table."""

        def work() -> None:
            with Exchange(open_exchange(ct.NETLINK_NETFILTER)) as kernel:
                for entry in entries:
                    assert kernel.change(create(entry)) is None

        self.inside.call(work)

    def close(self) -> None:
        for talker in self._talkers:
            talker.close()
        self.inside.close()
        self._at_client.close()


@pytest.fixture
def world(fabric: Fabric) -> Iterator[World]:
    made = World(fabric)
    yield made
    made.close()


def at_vip(*ends: str) -> UdpView:
    return UdpView({(VIP, PORT): frozenset(ends)})


def test_a_flow_whose_endpoint_stays_keeps_its_entry(world: World) -> None:
    """As after a restart of netd, and after an endpoint was added."""
    world.translate(A)
    talker = world.talk(VIP)
    assert talker.ask() == "a"
    before = world.entries()
    assert world.clean(at_vip(A)) == world.clean(at_vip(A, B)) == 0
    assert world.entries() == before
    assert talker.ask() == "a"


def test_a_flow_whose_endpoint_is_gone_moves_at_once(world: World) -> None:
    world.translate(A)
    talker = world.talk(VIP)
    assert talker.ask() == "a"
    world.translate(B)
    assert talker.ask() == "a", "without the clean-up the flow would have moved anyhow"
    assert world.clean(at_vip(B)) == 1
    assert talker.ask() == "b"
    assert world.clean(at_vip(B)) == 0


def test_a_flow_that_began_before_there_were_endpoints_is_answered_once_there_are(
    world: World,
) -> None:
    talker = world.talk(VIP)
    talker.send()
    eventually(lambda: any(VIP in entry for entry in world.entries()), "the entry")
    assert world.clean(at_vip()) == 0
    world.translate(A)
    assert world.clean(at_vip(A)) == 1
    assert talker.ask() == "a"


def test_a_flow_whose_last_endpoint_went_is_refused_at_once(world: World) -> None:
    world.translate(A)
    talker = world.talk(VIP)
    assert talker.ask() == "a"
    world.translate("")
    world.node.run(f"iptables-nft -A FORWARD -d {VIP} -p udp --dport {PORT} -j REJECT")
    assert talker.ask() == "a", "without the clean-up the flow would have ended anyhow"
    assert world.clean(at_vip()) == 1
    with pytest.raises(ConnectionRefusedError):
        talker.ask()


def test_a_flow_to_a_node_port_moves_at_once(world: World) -> None:
    def view(*ends: str) -> UdpView:
        return UdpView({}, {NODE_PORT: frozenset(ends)}, frozenset({NODE, "10.1.0.1"}))

    world.translate(A, to=NODE, port=NODE_PORT)
    talker = world.talk(NODE, NODE_PORT)
    assert talker.ask() == "a"
    assert world.clean(view(A)) == 0
    world.translate(B, to=NODE, port=NODE_PORT)
    assert world.clean(view(B)) == 1
    assert talker.ask() == "b"


def test_foreign_flows_and_tcp_connections_do_not_move(world: World) -> None:
    """Somebody else's translation to the endpoint that we lost, and our service's TCP side."""
    world.translate(A)
    connection = world.talk(VIP, kind=socket.SOCK_STREAM)
    assert connection.ask() == "a"
    world.translate(A, to=OTHER_VIP)
    foreign = world.talk(OTHER_VIP)
    assert foreign.ask() == "a"
    world.translate(A)
    ours = world.talk(VIP)
    assert ours.ask() == "a"
    before = world.entries()
    world.translate(B)
    assert world.clean(at_vip(B)) == 1
    gone = before - world.entries()
    assert len(gone) == 1
    assert f"dst={VIP}" in gone.pop()
    assert (connection.ask(), foreign.ask(), ours.ask()) == ("a", "a", "b")


def test_of_two_entries_that_differ_only_in_zone_the_stale_one_is_removed(world: World) -> None:
    source = f"{CLIENT}:40000"
    world.put(
        Entry(source, f"{VIP}:{PORT}", A, zone=5),
        Entry(source, f"{VIP}:{PORT}", B, zone=6),
        Entry(source, f"{VIP}:{PORT}", zone=7),
    )
    assert world.clean(at_vip(B)) == 1
    assert {word for entry in world.entries() for word in entry.split() if "zone" in word} == {
        "zone=6",
        "zone=7",
    }


def test_an_entry_that_took_the_place_of_the_listed_one_is_not_deleted(world: World) -> None:
    """The kernel may use the same memory again, and then gives it the same id."""
    source = f"{CLIENT}:40000"
    world.put(Entry(source, f"{VIP}:{PORT}", A))
    flow = listed(world)[0][0]
    world.node.run("conntrack -D -p udp")
    world.put(Entry(source, f"{VIP}:{PORT}", B))

    def delete() -> int:
        with Exchange(open_exchange(ct.NETLINK_NETFILTER)) as kernel:
            failure = kernel.change(ct.delete_flow(flow))
            return failure.errno if failure else 0

    assert world.inside.call(delete) == errno.ENOENT
    assert len(world.entries()) == 1


def listed(world: World) -> tuple[list[ct.Flow], int]:
    """The flows of a dump, and how many messages the kernel sent for them."""
    flows: list[ct.Flow] = []
    messages = 0

    def take(data: bytes, at: int, end: int) -> None:
        nonlocal messages
        messages += 1
        flow = ct.read_flow(data, at, end)
        if flow is not None:
            flows.append(flow)

    def work() -> None:
        with Exchange(open_exchange(ct.NETLINK_NETFILTER)) as kernel:
            kernel.dump(ct.dump_udp(), take)

    world.inside.call(work)
    return flows, messages


def test_the_kernel_leaves_other_protocols_out_of_the_list(world: World) -> None:
    clients = [f"10.7.{n >> 8}.{n & 255}:4000" for n in range(3000)]
    world.put(*(Entry(one, f"{VIP}:80", A, protocol=TCP) for one in clients))
    world.put(*(Entry(one, f"{VIP}:{PORT}", A) for one in clients[:500]))
    flows, messages = listed(world)
    assert {flow.source for flow in flows} == set(clients[:500])
    assert messages == 500


def test_many_stale_flows_go_and_as_many_others_stay(world: World) -> None:
    clients = [f"10.7.{n >> 8}.{n & 255}:4000" for n in range(4000)]
    world.put(*(Entry(one, f"{VIP}:{PORT}", A if n % 2 else B) for n, one in enumerate(clients)))
    assert world.clean(at_vip(B)) == 2000
    assert {flow.source for flow in listed(world)[0]} == set(clients[::2])


def test_no_answer_of_a_live_flow_is_lost_while_others_are_cleaned(world: World) -> None:
    """A client that keeps asking beside a hundred clean-ups gets every answer."""
    world.translate(A)
    talker = world.talk(VIP)
    answers: list[str] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            answers.append(talker.ask())

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        for number in range(100):
            world.put(Entry(f"10.7.0.1:{1000 + number}", f"{VIP}:{PORT}", B))
            assert world.clean(at_vip(A)) == 1
    finally:
        stop.set()
        asker.join()
    assert set(answers) == {"a"}


def test_a_node_without_the_permission_says_so(world: World) -> None:
    """Run as nobody inside the namespace."""
    script = (
        "import asyncio\n"
        "from netd.services.conntrack import UdpView\n"
        "from netd.services.flows import FlowCleaner, FlowError\n"
        "try:\n"
        "    asyncio.run(FlowCleaner().clean(UdpView({('10.96.0.10', 53): frozenset()})))\n"
        "except FlowError as error:\n"
        "    print(error)\n"
    )
    text = told_by_nobody(world.node, script)
    assert "cannot list UDP flows" in text
    assert "CAP_NET_ADMIN" in text


def told_by_nobody(host: Namespace, script: str) -> str:
    """What *script* prints when it runs as an unprivileged user."""
    dropped = f"import os\nos.setgid(65534)\nos.setuid(65534)\n{script}"
    imports = "import netd.services.flows, netd.services.conntrack\n"
    return host.run([sys.executable, "-c", imports + dropped])
