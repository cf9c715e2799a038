"""A host's life: boot without etcd, take-over from flanneld, stop, cleanup, other readers."""

import json
import re
import subprocess
import sys

from tests.support.netd import NETWORK, PREFIX, Net, NetdHost, record
from tests.support.netns import eventually


def reboot(host: NetdHost) -> None:
    """What a power failure leaves: the disk. Kernel state and /run are gone."""
    host.kill()
    for device in ("flannel.1", "docker0"):
        host.ns.run(f"ip link del {device}")
    for table in ("nat", "filter"):
        host.ns.run(f"iptables-nft -t {table} -F")
        host.ns.run(f"iptables-nft -t {table} -X")
    for name in ("subnet.env", "docker.env"):
        (host.directory / name).unlink()
    host.ns.run("sysctl -qw net.ipv4.ip_forward=0")


def test_a_host_boots_into_a_working_overlay_while_etcd_is_down(network: Net) -> None:
    """From disk: subnet, MAC, peers. Traffic flows; when etcd is back, it is confirmed."""
    one, two = network.host(1), network.host(2)
    for host in (one, two):
        host.up()
    network.put_peers(10, first=100)
    one.wait(lambda status: len(status["peers"]) == 11, "11 peers")
    state = one.directory / "state" / "state.json"
    eventually(lambda: state.exists() and state.read_text().count('"172.29.') >= 12, "saved peers")
    subnet, routes, fdb = one.subnet, one.routes(), one.fdb()
    mac = one.status()["network"]["vtep_mac"]
    network.etcd.stop()
    reboot(one)
    one.up()
    status = one.status()
    assert status["lease"]["subnet"] == subnet
    assert status["lease"]["state"] == "not confirmed by etcd"
    assert status["etcd"]["from_cache"] is True
    assert status["network"]["vtep_mac"] == mac
    eventually(lambda: one.routes() == routes and one.fdb() == fdb, "all peers from disk")
    pods = one.pod("a"), two.pod("b")
    target = two.address(2)
    eventually(
        lambda: " 0% packet loss" in pods[0].run(f"ping -n -c1 -W1 {target}", check=False), "ping"
    )
    network.etcd.start()
    one.wait(lambda status: status["lease"]["state"] == "held", "the lease confirmed")
    one.wait(lambda status: status["etcd"]["from_cache"] is False, "the peers from etcd")
    assert one.subnet == subnet


def test_a_running_flanneld_host_is_taken_over_without_touching_it(network: Net) -> None:
    """Device, MAC, etcd lease, chains with their counters and subnet stay what they are."""
    network.configure({"Network": NETWORK, "Backend": {"Type": "vxlan"}})
    host = network.host(1)
    mac, subnet = "a2:d8:8f:2a:15:9d", "10.1.33.0/24"
    lease_id, _ = network.do(lambda client: client.lease_grant(86_400))
    network.put(f"{PREFIX}/subnets/10.1.33.0-24", record("172.29.0.1", mac), lease=lease_id)
    for command in (
        "ip link add flannel.1 type vxlan id 1 local 172.29.0.1 dev eth0 dstport 8472 nolearning",
        f"ip link set flannel.1 address {mac} mtu 1450 up",
        "ip addr add 10.1.33.0/32 dev flannel.1",
        "ip neigh add 10.1.101.0 lladdr 0e:00:00:00:01:65 dev flannel.1 nud permanent",
        "bridge fdb add 0e:00:00:00:01:65 dev flannel.1 dst 172.29.1.101 self permanent",
        "ip route add 10.1.101.0/24 via 10.1.101.0 dev flannel.1 onlink",
        "ip neigh add 10.1.102.0 lladdr 0e:00:00:00:01:66 dev flannel.1 nud permanent",
        "ip route add 10.1.102.0/24 via 10.1.102.0 dev flannel.1 onlink",
    ):
        host.ns.run(command)
    (host.directory / "subnet.env").write_text(
        f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET=10.1.33.1/24\nFLANNEL_MTU=1450\n"
        "FLANNEL_IPMASQ=true\n"
    )
    network.put_peers(1, first=101)
    index = host.ns.json("ip link show flannel.1")[0]["ifindex"]
    flannel_rules(host, subnet)
    handles = rule_handles(host)
    host.up()
    assert host.subnet == subnet
    link = host.ns.json("ip link show flannel.1")[0]
    assert (link["ifindex"], link["address"]) == (index, mac)
    eventually(lambda: host.routes().keys() == {"10.1.101.0/24"}, "the stale peer removed")
    eventually(lambda: set(host.neighbours()) == {"10.1.101.0"}, "the stale neighbour removed")
    assert network.get(f"{PREFIX}/subnets/10.1.33.0-24").lease == lease_id
    assert rule_handles(host) == handles, "the chains were not rewritten"
    saved = host.saved("nat")
    assert saved.count("-j FLANNEL-POSTRTG") == 1
    assert saved.count("-A FLANNEL-POSTRTG") == 6


def has_nft() -> bool:
    return (
        subprocess.run(["sh", "-c", "command -v nft"], check=False, capture_output=True).returncode
        == 0
    )


def rule_handles(host: NetdHost) -> str:
    """The nat rules with the kernel's numbers, without counters: a rule made anew has another."""
    return re.sub(r"packets \d+ bytes \d+", "", host.ns.run("nft -a list table ip nat"))


def flannel_rules(host: NetdHost, subnet: str) -> None:
    """The nat chain as flanneld makes it, rule by rule."""
    masq = ["-m", "comment", "--comment", "flanneld masq"]
    nat = ["iptables-nft", "-t", "nat"]
    host.ns.run([*nat, "-N", "FLANNEL-POSTRTG"])
    host.ns.run([*nat, "-A", "POSTROUTING", *masq, "-j", "FLANNEL-POSTRTG"])
    for match, target in (
        (["-m", "mark", "--mark", "0x4000/0x4000"], ["RETURN"]),
        (["-s", subnet, "-d", NETWORK], ["RETURN"]),
        (["-s", NETWORK, "-d", subnet], ["RETURN"]),
        (["!", "-s", NETWORK, "-d", subnet], ["RETURN"]),
        (["-s", NETWORK, "!", "-d", "224.0.0.0/4"], ["MASQUERADE", "--random-fully"]),
        (["!", "-s", NETWORK, "-d", NETWORK], ["MASQUERADE", "--random-fully"]),
    ):
        host.ns.run([*nat, "-A", "FLANNEL-POSTRTG", *match, *masq, "-j", *target])


def test_sigterm_leaves_the_data_plane_and_cleanup_removes_all_of_it(network: Net) -> None:
    """After cleanup the host is as before netd, and the lease is free."""
    host = network.host(1)
    eventually(lambda: "state UP" in host.ns.run("ip link show eth0"), "eth0 up")
    before = snapshot(host)
    host.up()
    network.put_peers(5, first=100)
    host.wait(lambda status: len(status["peers"]) == 5, "five peers")
    eventually(lambda: len(host.routes()) == 5, "five routes")
    subnet = host.subnet
    refused = host.command("cleanup")
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    assert host.stop() == 0
    assert len(host.routes()) == 5
    assert network.get(f"{PREFIX}/subnets/{subnet.replace('/', '-')}") is not None
    done = host.command("cleanup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert snapshot(host) == before
    assert network.get(f"{PREFIX}/subnets/{subnet.replace('/', '-')}") is None
    assert [path.name for path in host.directory.rglob("*")] == ["netd.log"]
    assert re.search(
        r"^sysctls +stay as they are.*net\.ipv4\.ip_forward", done.stdout, re.MULTILINE
    )
    assert outcome(done, "overlay") == "flannel.1 removed"
    assert outcome(done, "docker0") == "removed"
    again = host.command("cleanup")
    assert again.returncode == 0, "cleaning up twice is no error"
    assert outcome(again, "overlay") == "nothing of ours"
    assert outcome(again, "docker0") == "there was none"


def outcome(done: subprocess.CompletedProcess[str], step: str) -> str:
    """What ``netd cleanup`` says of *step*."""
    found = re.search(rf"^{step} +(.*\S)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return found[1]


def test_cleanup_leaves_tables_alone_in_which_somebody_has_a_rule(network: Net) -> None:
    """netd made the table, and others use it."""
    host = network.host(1)
    host.up()
    host.ns.run("iptables-nft -t nat -A PREROUTING -p tcp --dport 9 -j RETURN")
    host.stop()
    assert host.command("cleanup").returncode == 0
    ruleset = host.ns.run("nft list ruleset")
    assert "tcp dport 9" in ruleset
    assert "table ip filter" not in ruleset


def test_cleanup_without_etcd_remembers_what_is_left_to_do(network: Net) -> None:
    """The host is cleaned, the lease is named as left, and a second run gives it back."""
    host = network.host(1)
    eventually(lambda: "state UP" in host.ns.run("ip link show eth0"), "eth0 up")
    before = snapshot(host)
    host.up()
    key = f"{PREFIX}/subnets/{host.subnet.replace('/', '-')}"
    host.stop()
    endpoints, host.endpoints = host.endpoints, ("http://172.29.0.250:2379",)
    failed = host.command("cleanup")
    assert failed.returncode == 1
    assert re.search(r"^lease +FAILED: etcd does not answer", failed.stdout, re.MULTILINE)
    assert snapshot(host) == before
    host.endpoints = endpoints
    assert host.command("cleanup").returncode == 0
    assert network.get(key) is None


def snapshot(host: NetdHost) -> dict[str, str]:
    """All that the kernel of *host* holds for IPv4, byte for byte."""
    commands = (
        "ip -d link", "ip -4 addr", "ip -4 route show table all", "ip rule", "nft list ruleset",
        "iptables-legacy-save", "ipset list",
    )  # fmt: skip
    told = {command: host.ns.run(command) for command in commands}
    # The others on the wire come and go here.
    lines = host.ns.run("ip neigh").splitlines()
    told["ip neigh"] = "\n".join(line for line in lines if " dev eth0 " not in line)
    return told


def test_flanneld_flags_and_environment_work(network: Net) -> None:
    """Single dashes, no "run", FLANNELD_* variables, and NETD_* over them."""
    host = network.host(1)
    flags = [flag for flag in host.argv("run") if not flag.startswith("--etcd-endpoints")]
    flags.remove("run")
    single = [flag[1:] if flag.startswith("--") else flag for flag in flags]
    with (host.directory / "netd.log").open("a") as log:
        host.process = host.ns.start(
            [*single, "-ip-masq=false", "-iptables-forward-rules=false"],
            stdout=log,
            stderr=log,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "FLANNELD_ETCD_ENDPOINTS": ",".join(host.endpoints),
                "FLANNELD_PUBLIC_IP": "172.29.9.9",
                "NETD_PUBLIC_IP": "172.29.0.1",
            },
        )
    host.wait_ready()
    assert host.status()["network"]["public_ip"] == "172.29.0.1"
    assert "FLANNEL_IPMASQ=false" in (host.directory / "subnet.env").read_text()
    assert "FLANNEL" not in host.saved("nat") + host.saved("filter")


def test_host_gw_routes_directly(network: Net) -> None:
    """No device; a route by the peer's address; the record says host-gw; full MTU."""
    network.configure({"Network": NETWORK, "Backend": {"Type": "host-gw"}})
    one, two = network.host(1), network.host(2)
    for host in (one, two):
        host.up()
    two_net = two.subnet
    eventually(lambda: f"{two_net} via 172.29.0.2 dev eth0" in one.ns.run("ip route"), "the route")
    assert "flannel" not in one.ns.run("ip -br link")
    value = network.get(f"{PREFIX}/subnets/{two_net.replace('/', '-')}").value
    assert json.loads(value) == {
        "PublicIP": "172.29.0.2", "PublicIPv6": None, "BackendType": "host-gw",
    }  # fmt: skip
    assert "FLANNEL_MTU=1500" in (one.directory / "subnet.env").read_text()
    pod, _ = one.pod("a"), two.pod("b")
    target = two.address(2)
    eventually(
        lambda: " 0% packet loss" in pod.run(f"ping -n -c1 -W1 {target}", check=False), "ping"
    )


READ_ETCD = """
import etcd3, json, sys
client = etcd3.client(host=sys.argv[1], port=2379)
found = [
    (meta.key.decode(), value.decode(), meta.lease_id,
     client.get_lease_info(meta.lease_id).TTL, client.get_lease_info(meta.lease_id).grantedTTL)
    for value, meta in client.get_prefix(sys.argv[2])
]
print(json.dumps(found))
"""


def test_etcd3_as_an_independent_reader_sees_flannels_format(network: Net) -> None:
    """Key, value byte for byte, and an etcd lease of 86,400 s."""
    host = network.host(1)
    host.up()
    done = subprocess.run(
        network.fabric.bridge.argv(
            [sys.executable, "-W", "ignore", "-c", READ_ETCD, "172.29.0.251", f"{PREFIX}/subnets/"]
        ),
        capture_output=True, text=True, check=False,
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ((key, value, lease_id, ttl, granted),) = json.loads(done.stdout)
    mac = host.ns.json("ip link show flannel.1")[0]["address"]
    assert key == f"{PREFIX}/subnets/{host.subnet.replace('/', '-')}"
    assert value == (
        '{"PublicIP":"172.29.0.1","PublicIPv6":null,"BackendType":"vxlan",'
        f'"BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}'
    )
    assert f"{lease_id:x}" == host.status()["lease"]["lease_id"]
    assert granted == 86_400
    assert 86_000 < ttl <= 86_400


READ_IPTABLES = """
import iptc, json
found = {}
for name, chain in (("nat", "FLANNEL-POSTRTG"), ("nat", "POSTROUTING"),
                    ("filter", "FLANNEL-FWD"), ("filter", "FORWARD")):
    found[chain] = iptc.easy.dump_chain(name, chain)
print(json.dumps(found))
"""


def test_python_iptables_as_an_independent_reader_sees_the_legacy_rules(network: Net) -> None:
    """Chains, order, matches and targets, read through libiptc."""
    host = network.host(1)
    host.up("--iptables-variant=legacy")
    done = subprocess.run(
        host.ns.argv([sys.executable, "-W", "ignore", "-c", READ_IPTABLES]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    masq = found["FLANNEL-POSTRTG"]
    targets = [
        rule["target"] if isinstance(rule["target"], str) else next(iter(rule["target"]))
        for rule in masq
    ]
    assert targets == ["RETURN"] * 4 + ["MASQUERADE"] * 2
    assert masq[0]["mark"] == {"mark": "0x4000/0x4000"}
    assert (masq[1]["src"], masq[1]["dst"]) == (host.subnet, NETWORK)
    assert (masq[4]["src"], masq[4]["dst"]) == (NETWORK, "!224.0.0.0/4")
    assert [rule["target"] for rule in found["FLANNEL-FWD"]] == ["ACCEPT", "ACCEPT"]
    assert [rule["target"] for rule in found["FORWARD"]] == ["FLANNEL-FWD"]
    assert [rule["target"] for rule in found["POSTROUTING"]] == ["FLANNEL-POSTRTG"]
