"""The lease in a real 3-member etcd: kept, found again, defended, never shared."""

import json

import pytest

from tests.support.netd import PREFIX, Net, NetdHost, record
from tests.support.netns import eventually

FOREIGN = record("172.29.3.3", "0e:00:00:00:03:03")


def lease_key(subnet: str) -> str:
    return f"{PREFIX}/subnets/{subnet.replace('/', '-')}"


def leases(network: Net) -> dict[str, int]:
    """Every record's key with the id of its etcd lease."""
    found = network.do(lambda client: client.range_prefix(f"{PREFIX}/subnets/"))
    return {item.key.rpartition("/")[2]: item.lease for item in found.kvs}


def etcd_leases(network: Net) -> int:
    """How many etcd leases exist at all."""
    lines = network.etcd.ctl("lease", "list").splitlines()
    return len([line for line in lines if line and not line.startswith("found")])


def test_the_subnet_and_its_etcd_lease_survive_restarts_and_none_is_leaked(network: Net) -> None:
    """Three restarts, one of them a kill: same subnet, same etcd lease, one lease in all."""
    host = network.host(1)
    host.up()
    first, held = host.subnet, leases(network)
    for end in (host.stop, host.kill, host.stop):
        end()
        host.up()
        assert host.subnet == first
        assert leases(network) == held
    assert etcd_leases(network) == 1


def test_three_hosts_that_start_at_once_share_three_subnets_and_the_fourth_is_told(
    network: Net,
) -> None:
    """The smallest network: three subnets to lease. No two hosts get the same one."""
    network.configure({"Network": "10.1.0.0/24", "Backend": {"Type": "vxlan"}})
    hosts = [network.host(number) for number in (1, 2, 3)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.wait_ready()
    assert len({host.subnet for host in hosts}) == 3
    assert etcd_leases(network) == 3
    fourth = network.host(4)
    fourth.start()
    fourth.wait(
        lambda status: any(
            "all 3 subnets of 10.1.0.0/24 are taken" in problem["text"]
            for problem in status["problems"]
        ),
        "the problem",
    )
    hosts[0].stop()
    assert hosts[0].command("cleanup").returncode == 0
    fourth.wait_ready()
    assert etcd_leases(network) == 3


def test_a_reservation_is_used_and_stays_a_reservation(network: Net) -> None:
    """A record without etcd lease for our address: its subnet is taken, no lease is attached."""
    network.put(lease_key("10.1.250.0/24"), record("172.29.0.1", "0e:00:00:00:00:01"))
    host = network.host(1)
    host.up()
    assert host.subnet == "10.1.250.0/24"
    lease = host.status()["lease"]
    assert lease["reservation"] is True
    assert lease["expires"] is None
    assert leases(network) == {"10.1.250.0-24": 0}
    assert etcd_leases(network) == 0


def test_a_deleted_record_is_created_again_for_the_same_subnet(network: Net) -> None:
    """Nothing on the host changes, not even for a moment."""
    host = network.host(1)
    host.up()
    subnet = host.subnet
    index = host.ns.json("ip link show flannel.1")[0]["ifindex"]
    network.delete(lease_key(subnet))
    host.wait(lambda status: status["lease"]["reacquired"] == 1, "the record again")
    assert leases(network).keys() == {subnet.replace("/", "-")}
    assert etcd_leases(network) == 1, "the same etcd lease serves again"
    assert host.subnet == subnet
    assert host.ns.json("ip link show flannel.1")[0]["ifindex"] == index


def test_a_revoked_etcd_lease_is_replaced(network: Net) -> None:
    """The lease is gone with its record: a new one, for the same subnet."""
    host = network.host(1)
    host.up()
    subnet, old = host.subnet, leases(network)
    network.do(lambda client: client.lease_revoke(next(iter(old.values()))))
    eventually(
        lambda: leases(network).keys() == old.keys() and leases(network) != old, "a new lease"
    )
    assert host.subnet == subnet
    assert etcd_leases(network) == 1


def take_away(network: Net, host: NetdHost) -> str:
    """While netd is down, its record expires and another host takes the subnet."""
    host.up()
    subnet = host.subnet
    host.pod("p")
    network.put(lease_key(subnet), FOREIGN)
    return subnet


def test_a_subnet_taken_by_another_is_never_renumbered_under_containers(network: Net) -> None:
    """The data plane stays; log, status, /readyz and a metric say so; it heals by itself."""
    host = network.host(1)
    subnet = take_away(network, host)
    status = host.wait(lambda status: not status["ready"], "not ready")
    assert status["lease"]["state"] == "lost to another host"
    assert "172.29.3.3" in "".join(status["not_ready"])
    assert "172.29.3.3" in host.view("/readyz")
    assert host.view("/healthz") == "ok\n"
    assert "netd_lease_conflict 1.0" in host.view("/metrics")
    assert "172.29.3.3" in host.log
    assert host.address(1) in host.ns.run("ip addr show docker0")
    assert json.loads(network.get(lease_key(subnet)).value)["PublicIP"] == "172.29.3.3"
    eventually(lambda: etcd_leases(network) == 0, "our etcd lease given back")
    host.kill()
    host.start()
    host.wait(lambda status: not status["ready"] and bool(status["problems"]), "still refused")
    assert host.address(1) in host.ns.run("ip addr show docker0"), "a restart changes nothing"
    network.delete(lease_key(subnet))
    host.wait_ready()
    assert host.subnet == subnet


def test_garbage_in_our_own_record_is_written_over(network: Net) -> None:
    """Whatever somebody writes under our own etcd lease, the record says the truth again."""
    host = network.host(1)
    host.up()
    key = lease_key(host.subnet)
    before = network.get(key)
    for bad in ("{broken", FOREIGN, '{"PublicIP":"172.29.0.1","BackendType":"ipip"}'):
        network.put(key, bad, lease=before.lease)
        eventually(lambda: network.get(key).value == before.value, f"the record after {bad}")
    assert network.get(key).lease == before.lease
    host.wait_ready()


def test_with_allow_renumber_the_host_moves_to_another_subnet(network: Net) -> None:
    """Only then: another subnet in etcd, files, overlay; docker0 moves once it is unused."""
    host = network.host(1)
    subnet = take_away(network, host)
    host.wait(lambda status: not status["ready"], "not ready")
    host.kill()
    host.ns.run("ip link del vethp")
    host.up("--allow-renumber")
    assert host.subnet != subnet
    eventually(lambda: host.address(1) in host.ns.run("ip addr show docker0"), "the new address")
    eventually(
        lambda: subnet.rpartition(".")[0] not in host.ns.run("ip addr show docker0"), "only that"
    )
    eventually(
        lambda: host.subnet.rpartition(".")[0] in (host.directory / "subnet.env").read_text(),
        "subnet.env",
    )


def test_an_address_that_another_live_host_holds_is_refused_with_its_lease_named(
    network: Net,
) -> None:
    """Vagrant's shared 10.0.2.15: the second host does not take the first one's record over."""
    first, second = network.host(1), network.host(2)
    first.up()
    second.start("--public-ip=172.29.0.1")
    status = second.wait(lambda status: bool(status["problems"]), "a problem")
    text = status["problems"][0]["text"]
    assert lease_key(first.subnet) in text
    assert "172.29.0.1" in text
    assert status["lease"] is None
    assert first.status()["ready"] is True
    assert etcd_leases(network) == 1


def test_a_wiped_etcd_gets_the_same_records_again(network: Net) -> None:
    """etcd rebuilt from nothing, its revision lower than before: every host re-enters itself."""
    host, other = network.host(1), network.host(2)
    for one in (host, other):
        one.up()
    network.put_peers(20, first=100)
    host.wait(lambda status: len(status["peers"]) == 21, "21 peers")
    before = {host.subnet, other.subnet}
    network.etcd.stop()
    for index in range(3):
        network.etcd.wipe(index)
    network.etcd.start()
    assert host.status()["peers"], "the data plane stays while there is no configuration"
    network.configure()
    eventually(
        lambda: {name.replace("-", "/") for name in leases(network)} == before,
        "both records again",
    )
    host.wait(lambda status: len(status["peers"]) == 1, "only the living host")


def test_a_wiped_etcd_gives_no_new_host_the_subnet_of_one_that_has_not_come_back(
    network: Net,
) -> None:
    """A host with a configuration to write puts back the records that it remembers before it.

    Of the three subnets in the smallest network two had holders: one is left to lease.
    """
    config = {"Network": "10.1.0.0/24", "Backend": {"Type": "vxlan"}}
    network.configure(config)
    first, second, third, fourth = (network.host(number) for number in (1, 2, 3, 4))
    for host in (first, second):
        host.up()
    subnets = {first.subnet, second.subnet}
    first.wait(lambda status: len(status["peers"]) == 1, "its peer")
    for host in (first, second):
        host.stop()
    network.etcd.stop()
    for index in range(3):
        network.etcd.wipe(index)
    network.etcd.start()
    for host in (third, fourth):
        host.start()
    seed = first.directory / "network.json"
    seed.write_text(json.dumps(config))
    first.up(f"--net-config-path={seed}")
    full = "all 3 subnets of 10.1.0.0/24 are taken"

    def told(host: NetdHost) -> bool:
        return any(full in problem["text"] for problem in host.status().get("problems", []))

    (unlucky,) = eventually(lambda: [*filter(told, (third, fourth))], "one new host gets none")
    lucky = third if unlucky is fourth else fourth
    lucky.wait_ready()
    assert lucky.subnet not in subnets
    second.up()
    assert {first.subnet, second.subnet} == subnets
    assert etcd_leases(network) == 3


@pytest.mark.parametrize("burst", [200])
def test_a_leader_killed_during_a_burst_of_leases_loses_none(network: Net, burst: int) -> None:
    """200 records written while the leader dies and comes back: all are in the kernel."""
    host = network.host(1)
    host.up()
    made = {}
    for number in range(burst):
        if number == burst // 3:
            leader = network.etcd.leader()
            network.etcd.kill(leader)
        if number == 2 * burst // 3:
            network.etcd.start_member(leader)
        made.update(network.put_peers(1, first=20 + number))
    eventually(lambda: set(made) <= host.routes().keys(), "all routes")
    macs = dict(made.values())
    eventually(lambda: macs.items() <= host.fdb().items(), "all FDB entries")
    eventually(lambda: set(macs) <= set(host.neighbours().values()), "all neighbours")


def test_changes_that_were_compacted_away_during_an_outage_are_diffed(network: Net) -> None:
    """Cut off from etcd, the host misses adds, changes and deletes, and the history of them."""
    host = network.host(1)
    host.up()
    made = network.put_peers(10, first=100)
    eventually(lambda: set(made) <= host.routes().keys(), "ten peers")
    for address in network.etcd.endpoints:
        host.ns.run(f"ip route add blackhole {address.partition('://')[2].partition(':')[0]}/32")
    host.wait(lambda status: not status["etcd"]["connected"], "the outage seen")
    for number in (100, 101, 102):
        network.delete(lease_key(f"10.1.{number}.0/24"))
    network.put(lease_key("10.1.103.0/24"), record("172.29.1.103", "0e:00:00:00:09:09"))
    network.put_peers(3, first=150)
    network.etcd.compact()
    assert set(made) <= host.routes().keys(), "nothing is lost while cut off"
    for address in network.etcd.endpoints:
        host.ns.run(f"ip route del blackhole {address.partition('://')[2].partition(':')[0]}/32")
    expected = {f"10.1.{n}.0/24" for n in (*range(103, 110), 150, 151, 152)}
    eventually(lambda: host.routes().keys() == expected, "the difference")
    eventually(
        lambda: host.knows("10.1.103.0/24", "0e:00:00:00:09:09", "172.29.1.103"), "the new MAC"
    )
    eventually(lambda: "0e:00:00:00:01:67" not in host.fdb(), "the old MAC gone")


def test_a_host_whose_address_changed_keeps_its_subnet(network: Net) -> None:
    """DHCP gave it another one while netd was down: same record, new PublicIP, peers follow."""
    host, other = network.host(1), network.host(2)
    for one in (host, other):
        one.up()
    subnet, mac = host.subnet, host.status()["network"]["vtep_mac"]
    host.stop()
    host.ns.run("ip addr del 172.29.0.1/24 dev eth0")
    host.ns.run("ip addr add 172.29.0.77/24 dev eth0")
    host.ns.run("ip route replace default via 172.29.0.251")
    host.up()
    assert host.subnet == subnet
    eventually(lambda: other.knows(subnet, mac, "172.29.0.77"), "the peer follows")
    assert len(leases(network)) == etcd_leases(network) == 2


def test_a_second_netd_in_one_network_namespace_is_refused(network: Net) -> None:
    """Even with directories of its own: two would undo each other's work."""
    host = network.host(1)
    host.up()
    done = host.command("run", f"--run-dir={host.directory / 'other'}")
    assert done.returncode == 1
    assert "another netd keeps the overlay of this network namespace" in done.stderr
    assert host.status()["ready"] is True
