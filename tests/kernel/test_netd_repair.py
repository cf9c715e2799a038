"""Whatever of ours is deleted or altered in the kernel comes back, and the repair is counted."""

import json

import pytest

from tests.support.netd import Net, NetdHost, peer
from tests.support.netns import eventually

SUBNET, MAC, PUBLIC_IP, VALUE = peer(60)


def one_host(network: Net) -> NetdHost:
    host = network.host(1)
    host.up()
    network.put_peers(1, first=60)
    eventually(lambda: host.knows(SUBNET, MAC, PUBLIC_IP), "the peer")
    return host


def whole(host: NetdHost) -> dict[str, object]:
    """Everything of ours on the host, without what may rightly differ from look to look."""
    links = {row["ifname"]: row for row in host.ns.json("ip -d link show")}
    if not {"flannel.1", "docker0"} <= links.keys():
        return {"links": sorted(links)}
    link, bridge = links["flannel.1"], links["docker0"]
    addresses = {
        (row["ifname"], info["local"], info["prefixlen"])
        for row in host.ns.json("ip addr")
        for info in row["addr_info"]
        if row["ifname"] in {"flannel.1", "docker0"} and info["family"] == "inet"
    }
    return {
        "link": (
            link["address"],
            link["mtu"],
            link["linkinfo"]["info_data"],
            "UP" in link["flags"],
        ),
        "bridge": (bridge["address"], bridge["mtu"], "UP" in bridge["flags"]),
        "addresses": addresses,
        "routes": host.routes(),
        "neighbours": host.neighbours(),
        "fdb": host.fdb(),
        "nat": _rules(host.saved("nat")),
        "filter": _rules(host.saved("filter")),
        "forwarding": host.ns.run("cat /proc/sys/net/ipv4/ip_forward"),
    }


def _rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A") or "FLANNEL" in line]


DAMAGE = [
    ("link", "ip link del flannel.1"),
    ("link", "ip link set flannel.1 down"),
    ("link", "ip link set flannel.1 address 02:00:00:00:00:99"),
    ("mtu", "ip link set flannel.1 mtu 1300"),
    ("address", "ip addr flush dev flannel.1"),
    ("route", f"ip route del {SUBNET}"),
    ("route", f"ip route replace blackhole {SUBNET}"),
    ("neighbour", f"ip neigh del {SUBNET.partition('/')[0]} dev flannel.1"),
    ("neighbour", f"ip neigh replace {SUBNET.partition('/')[0]} lladdr 02:00:00:00:00:98"
     " dev flannel.1 nud permanent"),
    ("fdb", f"bridge fdb del {MAC} dev flannel.1 dst {PUBLIC_IP}"),
    ("fdb", f"bridge fdb replace {MAC} dev flannel.1 dst 172.29.0.250 self permanent"),
    ("bridge", "ip link del docker0"),
    ("bridge", "ip addr flush dev docker0"),
    ("bridge", "ip link set docker0 down"),
    ("iptables", "iptables-nft -t nat -F"),
    ("iptables", "iptables-nft -F FORWARD"),
    ("iptables", "iptables-nft -t nat -I POSTROUTING -s 10.9.9.9 -j FLANNEL-POSTRTG"),
    ("iptables", "iptables-nft -A FLANNEL-FWD -j DROP"),
    ("sysctl", "sysctl -qw net.ipv4.ip_forward=0"),
]  # fmt: skip


def test_everything_that_is_damaged_comes_back_and_is_counted(network: Net) -> None:
    """Each kind of damage in turn on one host; after each the host is as before, to the letter."""
    host = one_host(network)
    before = whole(host)
    for kind, command in DAMAGE:
        counted = host.status()["repairs"].get(kind, 0)
        host.ns.run(command)
        eventually(
            lambda: whole(host) == before,
            f"repair after '{command}': {before} but {whole(host)}",
        )
        host.wait(
            lambda status, kind=kind, counted=counted: (  # type: ignore[misc]
                status["repairs"].get(kind, 0) > counted
            ),
            f"a counted repair of kind {kind} after '{command}'",
        )
    assert 'netd_repairs_total{kind="fdb"}' in host.view("/metrics")
    host.wait(lambda status: status["problems"] == [], "no problem")


def test_a_host_with_fifty_peers_gets_all_back_when_the_device_is_deleted(network: Net) -> None:
    """The device is made again with the same MAC, and every peer is replayed."""
    host = network.host(1)
    host.up()
    made = network.put_peers(50, first=100)
    everything = lambda: all(host.knows(s, m, ip) for s, (m, ip) in made.items())  # noqa: E731
    eventually(everything, "fifty peers")
    mac = host.ns.json("ip link show flannel.1")[0]["address"]
    host.ns.run("ip link del flannel.1")
    eventually(lambda: "flannel.1" in host.ns.run("ip -br link"), "the device")
    eventually(everything, "fifty peers again")
    assert host.ns.json("ip link show flannel.1")[0]["address"] == mac


def test_the_mtu_follows_the_interface_everywhere(network: Net) -> None:
    """A smaller MTU of eth0 reaches flannel.1, docker0, subnet.env and Docker's options."""
    host = one_host(network)
    host.ns.run("ip link set eth0 mtu 1400")
    eventually(lambda: host.ns.json("ip link show flannel.1")[0]["mtu"] == 1350, "flannel.1")
    eventually(lambda: host.ns.json("ip link show docker0")[0]["mtu"] == 1350, "docker0")
    eventually(
        lambda: "FLANNEL_MTU=1350" in (host.directory / "subnet.env").read_text(), "subnet.env"
    )
    eventually(lambda: "--mtu=1350" in (host.directory / "docker.env").read_text(), "docker.env")


def test_peers_that_leave_or_change_leave_nothing_behind(network: Net) -> None:
    """A changed MAC replaces neighbour and FDB entry; a removed lease removes all three."""
    host = one_host(network)
    key = f"/coreos.com/network/subnets/{SUBNET.replace('/', '-')}"
    new = "0e:00:00:00:02:02"
    network.put(key, VALUE.replace(MAC, new))
    eventually(lambda: host.knows(SUBNET, new, PUBLIC_IP), "the new MAC")
    eventually(lambda: host.fdb() == {new: PUBLIC_IP}, f"only the new FDB entry: {host.fdb()}")
    network.delete(key)
    eventually(
        lambda: not host.routes() and not host.neighbours() and not host.fdb(), "nothing left"
    )


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_the_rules_are_repaired_in_both_variants(network: Net, variant: str) -> None:
    """--iptables-variant is obeyed, and a flush of that variant's table is repaired."""
    host = network.host(1)
    host.up(f"--iptables-variant={variant}")
    assert host.status()["iptables"] == {"variant": variant, "in_place": True}
    before = _rules(host.saved("nat", variant))
    assert len(before) == 8, before
    host.ns.run(f"iptables-{variant} -t nat -F")
    host.ns.run(f"iptables-{variant} -t nat -X")
    eventually(lambda: _rules(host.saved("nat", variant)) == before, "the nat rules")


def test_stale_state_of_an_earlier_life_is_removed_at_the_start(network: Net) -> None:
    """Peers that left while netd was down: their route, neighbour and FDB entry go."""
    host = one_host(network)
    host.kill()
    network.delete(f"/coreos.com/network/subnets/{SUBNET.replace('/', '-')}")
    assert host.knows(SUBNET, MAC, PUBLIC_IP), "a killed netd leaves the data plane"
    host.up()
    eventually(
        lambda: not host.routes() and not host.neighbours() and not host.fdb(), "stale entries"
    )
    assert json.dumps(host.status()["peers"]) == "[]"
