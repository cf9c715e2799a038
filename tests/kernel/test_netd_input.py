"""Bad input is named and skipped, and never disturbs what is good."""

import json

from tests.support.netd import CONFIG, NETWORK, PREFIX, Net, record
from tests.support.netns import eventually

GARBAGE = {
    "10.1.30.0-24": "\x00\x01 not json {{{",
    "10.1.31.0-24": "[]",
    "10.1.32.0-24": record("not-an-address", "0e:00:00:00:00:32"),
    "10.1.33.0-24": record("172.29.1.33", "ff:ff:ff:ff:ff:ff"),
    "10.1.34.0-24": '{"PublicIP":"172.29.1.34","BackendType":"host-gw"}',
    "10.1.35.0-24": record("172.29.1.35", "0e:00:00:00:00:35", vni=7),
    "10.1.36.0-24&fd00:10:0:b::-64": record("172.29.1.36", "0e:00:00:00:00:36"),
    "10.99.1.0-24": record("172.29.1.37", "0e:00:00:00:00:37"),
    "no-subnet-at-all": record("172.29.1.38", "0e:00:00:00:00:38"),
    "10.1.40.0-24": '{"PublicIP":"172.29.1.40","BackendType":"vxlan","x":' + "[" * 20_000,
    "10.1.41.0-24": '{"PublicIP":"172.29.1.41","x":' + "[" * 20_000 + "]" * 20_000 + "}",
    "10.1.39.7-24": record("172.29.1.39", "0e:00:00:00:00:39"),
}


def test_garbage_among_fifty_leases_leaves_the_forty_nine(network: Net) -> None:
    """Before the start and while running: the good ones are programmed, the bad one is named."""
    host = network.host(1)
    made = network.put_peers(49, first=100)
    network.put(f"{PREFIX}/subnets/10.1.50.0-24", "{broken")
    host.up()
    eventually(lambda: host.routes().keys() == set(made), "49 peers")
    for subnet, (mac, public_ip) in made.items():
        assert host.knows(subnet, mac, public_ip)
    skipped = host.status()["skipped"]
    assert [row["key"] for row in skipped] == [f"{PREFIX}/subnets/10.1.50.0-24"]
    for name, value in GARBAGE.items():
        network.put(f"{PREFIX}/subnets/{name}", value)
    network.put_peers(1, first=60)
    eventually(lambda: "10.1.60.0/24" in host.routes(), "a good one behind the garbage")
    eventually(lambda: host.routes().keys() == {*made, "10.1.60.0/24"}, "none of the garbage")
    status = host.status()
    assert {row["key"].rpartition("/subnets/")[2] for row in status["skipped"]} == {
        *GARBAGE,
        "10.1.50.0-24",
    }
    assert status["ready"] is True
    assert "10.1.50.0-24" in host.log
    for name in GARBAGE:
        network.delete(f"{PREFIX}/subnets/{name}")
    host.wait(lambda status: len(status["skipped"]) == 1, "the garbage gone")
    assert host.routes().keys() == {*made, "10.1.60.0/24"}


def test_a_lease_that_overlaps_ours_never_reroutes_our_own_containers(network: Net) -> None:
    """A /23 around our subnet is skipped and named."""
    network.put(f"{PREFIX}/subnets/10.1.250.0-24", record("172.29.0.1", "0e:00:00:00:00:01"))
    host = network.host(1)
    host.up()
    network.put(f"{PREFIX}/subnets/10.1.250.0-23", record("172.29.1.9", "0e:00:00:00:00:99"))
    host.wait(lambda status: bool(status["skipped"]), "the overlap")
    assert "overlaps ours" in host.status()["skipped"][0]["reason"]
    assert host.routes() == {}


def test_a_bad_network_configuration_is_refused_and_the_last_good_one_stays(network: Net) -> None:
    """Field, value and rule are named; peers go on being followed."""
    host = network.host(1)
    host.up()
    other = '{"Network":"10.77.0.0/16","Backend":{"Type":"vxlan"}}'
    for bad, words in (
        ('{"Network":"10.1.0.0/16","SubnetLen":31}', ("SubnetLen", "31")),
        ('{"Network":"10.1.0.0/16","Backend":{"Type":"ipip"}}', ("Backend.Type", "ipip", "vxlan")),
        ('{"Network":"ten"}', ("Network", "ten")),
        ("{", ("network config",)),
        (other, ("10.77.0.0/16", "--allow-renumber")),
    ):  # fmt: skip
        network.configure(bad)
        status = host.wait(
            lambda status, words=words: any(  # type: ignore[misc]
                all(word in problem["text"] for word in words) for problem in status["problems"]
            ),
            f"a problem that names {words}",
        )
        assert status["network"]["network"] == NETWORK
    network.put_peers(1, first=60)
    eventually(lambda: "10.1.60.0/24" in host.routes(), "a new peer all the same")
    network.configure()
    host.wait(lambda status: status["problems"] == [], "no problem")


def test_a_restart_under_a_refused_configuration_goes_on_with_the_saved_one(network: Net) -> None:
    """The lease is confirmed and renewed all the same, and new peers are followed."""
    host = network.host(1)
    host.up()
    subnet = host.subnet
    host.stop()
    network.configure("{nonsense")
    host.up()
    status = host.wait(
        lambda status: status["lease"]["state"] == "held" and bool(status["problems"]),
        "the lease held and the refusal told",
    )
    assert status["lease"]["subnet"] == subnet
    assert status["lease"]["expires"] is not None
    assert [problem["key"] for problem in status["problems"]] == ["config"]
    network.put_peers(1, first=60)
    eventually(lambda: "10.1.60.0/24" in host.routes(), "a new peer")
    network.configure()
    host.wait(lambda status: status["problems"] == [], "no problem")


def test_a_configuration_that_comes_late_is_waited_for(network: Net) -> None:
    """No configuration: the command to write one is given; then it goes on by itself."""
    network.delete(f"{PREFIX}/config")
    host = network.host(1)
    host.start()
    status = host.wait(lambda status: bool(status["problems"]), "a problem")
    assert f"etcdctl put {PREFIX}/config" in status["problems"][0]["text"]
    assert host.view("/healthz") == "ok\n"
    assert "no network configuration yet" in host.view("/readyz")
    network.configure()
    host.wait_ready()


def test_changed_backend_options_reach_the_device(network: Net) -> None:
    """A new VNI, port and (outer) MTU: another device instead of the old one, and a new record."""
    host = network.host(1)
    host.up()
    subnet = host.subnet
    network.configure(
        {**CONFIG, "Backend": {"Type": "vxlan", "VNI": 42, "Port": 4789, "MTU": 1400}}
    )
    eventually(lambda: "flannel.42" in host.ns.run("ip -br link"), "flannel.42")
    eventually(lambda: "flannel.1 " not in host.ns.run("ip -br link"), "flannel.1 gone")
    link = host.ns.json("ip -d link show flannel.42")[0]
    assert link["linkinfo"]["info_data"]["port"] == 4789
    eventually(lambda: "FLANNEL_MTU=1350" in (host.directory / "subnet.env").read_text(), "MTU")
    eventually(
        lambda: json.loads(
            network.get(f"{PREFIX}/subnets/{subnet.replace('/', '-')}").value
        )["BackendData"]["VNI"] == 42,
        "the record",
    )  # fmt: skip
    assert host.subnet == subnet
    host.stop()
    network.configure({**CONFIG, "Backend": {"Type": "vxlan", "VNI": 43}})
    host.up()
    eventually(lambda: "flannel.43" in host.ns.run("ip -br link"), "flannel.43")
    eventually(lambda: "flannel.42" not in host.ns.run("ip -br link"), "flannel.42 gone")


def test_no_etcd_at_all_gets_a_sentence_and_netd_waits(network: Net) -> None:
    """Nothing listens: alive, not ready, the endpoint named, no trace."""
    host = network.host(1)
    host.endpoints = ("http://172.29.0.250:2379", "http://127.0.0.1:4001")
    host.start()
    host.wait(
        lambda status: any("127.0.0.1:4001" in problem["text"] for problem in status["problems"]),
        "a problem that names the endpoint",
    )
    assert "Traceback" not in host.log
    assert host.view("/healthz") == "ok\n"


def test_a_wrong_interface_is_named_with_what_there_is(network: Net) -> None:
    """The interfaces that exist are listed; when the interface appears, netd goes on."""
    host = network.host(1)
    (host.directory / "netd.toml").write_text('iface = ["eth7"]\n')
    host.start()
    status = host.wait(lambda status: bool(status["problems"]), "a problem")
    assert "--iface eth7" in status["problems"][0]["text"]
    assert "eth0 172.29.0.1" in status["problems"][0]["text"]
    network.fabric.plug(host.ns, "172.29.0.71/24", name="eth7")
    host.wait_ready()
    assert host.status()["network"]["public_ip"] == "172.29.0.71"


def test_ready_waits_for_the_device_and_the_kernel_s_reason_is_told(network: Net) -> None:
    """Another VXLAN device has the VNI: not ready, the reason named; freed, it goes on."""
    host = network.host(1)
    host.ns.run("ip link add squatter type vxlan id 1 dev eth0 dstport 8472")
    host.start()
    status = host.wait(
        lambda status: any(p["key"] == "overlay-device" for p in status["problems"]), "a problem"
    )
    assert status["ready"] is False
    text = next(p["text"] for p in status["problems"] if p["key"] == "overlay-device")
    assert "another VXLAN device may have this VNI" in text
    host.ns.run("ip link del squatter")
    host.wait_ready()


def test_an_mtu_that_does_not_fit_the_interface_is_cut_and_named(network: Net) -> None:
    """Containers must not be told an MTU that the overlay cannot carry."""
    network.configure({**CONFIG, "Backend": {"Type": "vxlan", "MTU": 9000}})
    host = network.host(1)
    host.up()
    assert "FLANNEL_MTU=1450" in (host.directory / "subnet.env").read_text()
    assert host.ns.json("ip link show docker0")[0]["mtu"] == 1450
    host.wait(
        lambda status: any("Backend.MTU" in p["text"] for p in status["problems"]), "the problem"
    )
