"""The package's services on a host with real systemd, beside a real etcd and an API server."""

import ipaddress
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.etcd import EtcdCluster
from tests.support.sysd import Host, fabric, wait_for
from tests.support.sysd_package import install, package
from tests.support.sysd_site import (
    NETWORK,
    POD,
    SERVICE,
    SERVICE_RANGE,
    VIP,
    Site,
    active,
    answers,
    pid,
    plane,
)

# The first test waits for the host: the package may have to be built, and the root to be made.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MANIFEST = "/etc/kubernetes/manifests/web.yaml"
PATIENCE = "/etc/systemd/system/netd.service.d/patience.conf"
CHANGED, BROKEN = "/etc/netd/conf.d/60-changed.toml", "/etc/netd/conf.d/70-broken.toml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node that was set up, switched on again, and runs a pod behind a service."""
    directory = tmp_path_factory.mktemp("systemd")
    image = directory / "busybox.tar"
    subprocess.run(
        [sys.executable, "-m", "lab", "image", "build", "busybox", "-o", str(image)],
        check=True, capture_output=True,
    )  # fmt: skip
    deb = package()
    with (
        (directory / "api.log").open("w") as log,
        fabric() as net,
        EtcdCluster(directory, 1, addresses=[net.address], namespaces=[net.netns]) as etcd,
    ):
        etcd.ctl("put", "/coreos.com/network/config", NETWORK)
        api = f"http://{net.address}:8080"
        net.space.start(
            [sys.executable, "-m", "lab.api", f"--etcd={etcd.endpoints[0]}",
             f"--listen={net.address}:8080", f"--service-cluster-ip-range={SERVICE_RANGE}",
             f"--advertise-address={net.address}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        host = net.host("one")
        host.boot()
        install(deb, host)
        host.write(
            "/etc/netd/conf.d/50-cluster.toml",
            f'etcd-endpoints = "{etcd.endpoints[0]}"\nip-masq = true\nmaster = "{api}"\n',
        )
        host.write(
            "/etc/nodeagent/conf.d/50-cluster.toml",
            f'api-servers = "{api}"\nconfig = "/etc/kubernetes/manifests"\n'
            # Each restart of Docker ends the container; ten seconds for each would be long.
            'container-backoff-first = "1s"\n',
        )
        host.write(MANIFEST, POD)
        host.push(image, "/root/busybox.tar")
        host.run("docker", "load", "--input", "/root/busybox.tar")
        host.run("systemctl", "enable", "netd", "nodeagent")
        wait_for(lambda: answers(api, net.space), "the API server answers")
        made = Site(net, etcd, host, api)
        host.reboot()
        made.post("/api/v1/namespaces/default/services", SERVICE)
        made.settled()
        yield made


@pytest.fixture
def host(site: Site) -> Host:
    """The host, with everything running and ready."""
    site.settled()
    return site.host


def test_units_hold_nothing_that_systemd_complains_about(host: Host) -> None:
    units = host.run("sh", "-c", "cd /lib/systemd/system; ls netd.* nodeagent.* barenode*; :")
    # No man-db on this host to look the manuals up.
    words = ("systemd-analyze", "verify", "--man=no", *units.stdout.split(), "docker.service")
    done = host.run(*words, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "most"), [("netd.service", 2.9), ("nodeagent.service", 4.9)])
def test_exposure_is_below_the_threshold(host: Host, unit: str, most: float) -> None:
    said = host.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) < most, said


def test_netd_keeps_no_power_but_that_over_the_network(host: Host) -> None:
    status = host.read(f"/proc/{pid(host, 'netd')}/status")
    # CAP_NET_ADMIN is 12, CAP_NET_RAW 13 (linux/capability.h); 2 is a filter of system calls.
    assert re.findall(r"(?m)^(?:CapEff|CapBnd):\s*(\w+)$", status) == ["0000000000003000"] * 2
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_nodeagent_mounts_where_dockerd_sees_it(host: Host) -> None:
    spaces = {host.run("readlink", f"/proc/{pid(host, unit)}/ns/mnt").stdout
              for unit in ("nodeagent", "docker")}  # fmt: skip
    assert spaces == {host.run("readlink", "/proc/1/ns/mnt").stdout}


def test_services_start_one_after_the_other(host: Host) -> None:
    # The host has been booted with everything enabled.
    words = ("journalctl", "--boot", "--no-pager", "--output=cat", "_PID=1")
    said = [line.split(" - ")[0] for line in host.run(*words).stdout.splitlines()]
    order = ["Started netd.service", "Starting docker.service", "Started docker.service"]
    places = [said.index(line) for line in (*order, "Starting nodeagent.service")]
    assert places == sorted(places)
    assert host.failed_units() == []


def test_docker_starts_on_the_leased_subnet_with_netds_options(site: Site, host: Host) -> None:
    lease = ipaddress.IPv4Network(site.netd()["lease"]["subnet"])
    command = host.read(f"/proc/{pid(host, 'docker')}/cmdline").split("\0")
    assert f"--bip={lease[1]}/{lease.prefixlen}" in command
    assert "--mtu=1450" in command
    bridge = json.loads(host.run("docker", "network", "inspect", "bridge").stdout)[0]
    assert bridge["IPAM"]["Config"][0]["Subnet"] == str(lease)


def test_a_docker_unit_without_the_variable_gets_netds_options_too(site: Site, host: Host) -> None:
    unit = host.read("/lib/systemd/system/docker.service")
    fuller = "/run/systemd/system/docker.service.d/50-netd.conf"
    assert "$DOCKER_OPTS" in unit
    host.write("/etc/systemd/system/docker.service", unit.replace("$DOCKER_OPTS", ""))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "netd")
    wait_for(lambda: "ExecStart" in host.run("cat", fuller, check=False).stdout, "a drop-in")
    wait_for(lambda: host.show("docker", "NeedDaemonReload") == "no", "systemd has read it")
    host.run("systemctl", "restart", "docker")
    assert "\0--bip=" in host.read(f"/proc/{pid(host, 'docker')}/cmdline")
    host.run("rm", "/etc/systemd/system/docker.service")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "netd")
    wait_for(lambda: "ExecStart" not in host.run("cat", fuller, check=False).stdout, "it is gone")
    wait_for(lambda: host.show("docker", "NeedDaemonReload") == "no", "systemd has read that")
    host.run("systemctl", "restart", "docker")
    assert "\0--bip=" in host.read(f"/proc/{pid(host, 'docker')}/cmdline")


def test_udev_leaves_the_address_of_the_overlay_device(host: Host) -> None:
    host.run("udevadm", "settle")
    link = json.loads(host.run("ip", "-j", "link", "show", "flannel.1").stdout)[0]
    assert link["address"] in host.read("/var/lib/netd/state.json")
    tells = host.run("udevadm", "info", "/sys/class/net/flannel.1").stdout
    assert "ID_NET_LINK_FILE=/usr/lib/systemd/network/10-netd-vxlan.link" in tells


def test_a_confined_netd_reports_no_problem(site: Site, host: Host) -> None:
    assert site.netd()["problems"] == []
    journal = host.run("journalctl", "-b", "-u", "netd", "-p", "warning", "--no-pager", "-o", "cat")
    assert "ermission" not in journal.stdout
    assert "not permitted" not in journal.stdout
    assert "ead-only" not in journal.stdout


def test_a_confined_netd_repairs_whatever_is_damaged(site: Site, host: Host) -> None:
    before = plane(host)
    for damage in (
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -t nat -F KUBE-PORTALS",
        "ip link del flannel.1",
        "ip link set docker0 mtu 1400",
        "rm /run/flannel/subnet.env /run/docker_opts.env",
    ):
        done = sum(site.netd()["repairs"].values())
        host.run("sh", "-c", damage)

        def repaired(done: int = done) -> bool:
            # A new device is at another place of the list.
            same = sorted(plane(host).splitlines()) == sorted(before.splitlines())
            return same and sum(site.netd().get("repairs", {}).values()) > done

        wait_for(repaired, f"repaired: {damage}")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    forward = "/proc/sys/net/ipv4/ip_forward"
    wait_for(lambda: host.read(forward) == "1\n", "forwarding is on again")


def test_a_confined_netd_writes_legacy_tables_too(site: Site, host: Host) -> None:
    host.write(CHANGED, 'iptables-variant = "legacy"\n')
    host.run("systemctl", "reload", "netd")
    look = ("iptables-legacy-save", "-t", "nat")
    wait_for(lambda: "-A FLANNEL-POSTRTG" in host.run(*look).stdout, "chains in legacy tables")
    wait_for(lambda: VIP in host.run(*look).stdout, "services in legacy tables")
    # netd may be writing still, and holds their lock meanwhile.
    host.run("iptables-legacy", "-w", "-t", "nat", "-F", "FLANNEL-POSTRTG")
    wait_for(lambda: "-A FLANNEL-POSTRTG" in host.run(*look).stdout, "legacy rules are repaired")
    host.run("rm", CHANGED)
    host.run("systemctl", "reload", "netd")
    wait_for(lambda: site.netd().get("ready"), "netd is ready with nft again")
    for table in ("nat", "filter"):
        host.run("iptables-legacy", "-w", "-t", table, "-F")
        host.run("iptables-legacy", "-w", "-t", table, "-X")


def test_a_confined_nodeagent_gives_a_pod_its_volumes(site: Site, host: Host) -> None:
    # The pod runs as another user, and could write only as a member of the volume's group.
    assert "4711" in site.page().split()
    name = "docker ps -q --filter label=io.kubernetes.container.name=web"
    shell = host.run("sh", "-c", f"docker exec $({name}) sh -c 'mount; cat /names/name'").stdout
    assert re.search(r"^tmpfs on /page type tmpfs", shell, re.MULTILINE), shell
    # A static pod has its node's name behind its own.
    assert shell.endswith("web-one")


def test_a_killed_netd_comes_back_and_touches_nothing(site: Site, host: Host) -> None:
    before, old, docker = plane(host), pid(host, "netd"), pid(host, "docker")
    host.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "netd")
    wait_for(lambda: pid(host, "netd") not in {0, old}, "netd is started again")
    site.settled()
    assert plane(host) == before
    assert pid(host, "docker") == docker


def test_a_killed_nodeagent_comes_back_and_restarts_no_container(site: Site, host: Host) -> None:
    old, running = pid(host, "nodeagent"), host.run("docker", "ps", "-q", "--no-trunc").stdout
    host.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "nodeagent")
    wait_for(lambda: pid(host, "nodeagent") not in {0, old}, "nodeagent is started again")
    site.settled()
    assert host.run("docker", "ps", "-q", "--no-trunc").stdout == running


@pytest.mark.parametrize("unit", ["netd", "nodeagent"])
def test_a_daemon_that_hangs_is_started_again_by_the_watchdog(
    site: Site, host: Host, unit: str
) -> None:
    patience = PATIENCE.replace("netd", unit)
    host.write(patience, "[Service]\nWatchdogSec=4\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", unit)
    old = pid(host, unit)
    host.run("kill", "-STOP", str(old))
    wait_for(lambda: pid(host, unit) not in {0, old}, f"{unit} is started again")
    wait_for(lambda: "Watchdog timeout" in host.journal(unit), "the journal has it")
    host.run("rm", patience)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", unit)
    site.settled()


def test_a_reload_takes_changed_settings_into_force(site: Site, host: Host) -> None:
    old = pid(host, "netd")
    host.write(CHANGED, "ip-masq = false\n")
    # Of two files in conf.d the later one wins.
    host.run("systemctl", "reload", "netd")
    wait_for(lambda: "IPMASQ=false" in host.read("/run/flannel/subnet.env"), "the new setting")
    assert pid(host, "netd") == old
    host.run("rm", CHANGED)
    host.run("systemctl", "reload", "netd")
    wait_for(lambda: "IPMASQ=true" in host.read("/run/flannel/subnet.env"), "the old setting")
    # systemd calls it reloading until it has said that it is ready again.
    wait_for(lambda: active(host, "netd"), "netd is active")
    assert pid(host, "netd") == old


@pytest.mark.parametrize("unit", ["netd", "nodeagent"])
def test_a_reload_with_a_broken_setting_fails_and_changes_nothing(host: Host, unit: str) -> None:
    old = pid(host, unit)
    broken = BROKEN.replace("netd", unit)
    host.write(broken, "no-such-setting = 1\n")
    assert host.run("systemctl", "reload", unit, check=False).returncode != 0
    wait_for(lambda: "no-such-setting" in host.journal(unit), "the journal names the setting")
    assert (active(host, unit), pid(host, unit)) == (True, old)
    host.run("rm", broken)
    host.run("systemctl", "reload", unit)
    wait_for(lambda: active(host, unit), f"{unit} is active")
    assert pid(host, unit) == old


def test_environment_of_both_services_is_in_one_file(site: Site, host: Host) -> None:
    settings = host.read("/etc/default/barenode")
    host.write("/etc/default/barenode", f"{settings}NETD_V=1\nNODEAGENT_V=1\n")
    for unit, name in (("netd", "NETD_V=1"), ("nodeagent", "NODEAGENT_V=1")):
        host.run("systemctl", "restart", unit)
        assert name in host.read(f"/proc/{pid(host, unit)}/environ").split("\0")
    host.write("/etc/default/barenode", settings)
    host.run("systemctl", "restart", "netd", "nodeagent")


def test_docker_and_ours_are_stopped_and_started_apart(site: Site, host: Host) -> None:
    ours = {unit: pid(host, unit) for unit in ("netd", "nodeagent")}
    host.run("systemctl", "restart", "docker")
    site.settled()
    host.run("systemctl", "stop", "docker.socket", "docker")
    assert {unit: pid(host, unit) for unit in ours} == ours
    host.run("systemctl", "start", "docker")
    site.settled()
    assert {unit: pid(host, unit) for unit in ours} == ours
    docker, running = pid(host, "docker"), host.run("docker", "ps", "-q").stdout
    host.run("systemctl", "stop", "netd", "nodeagent")
    assert pid(host, "docker") == docker
    assert host.run("docker", "ps", "-q").stdout == running
    assert site.page(), "the data plane does not outlive netd"
    host.run("systemctl", "start", "netd", "nodeagent")


def test_power_fails_while_etcd_and_the_api_server_are_away(site: Site, host: Host) -> None:
    subnet = host.read("/run/flannel/subnet.env")
    site.etcd.stop()
    host.power_off()
    host.boot()
    assert host.read("/run/flannel/subnet.env") == subnet
    for unit in ("netd", "docker", "nodeagent"):
        assert active(host, unit)
    assert "--bip=" in host.read(f"/proc/{pid(host, 'docker')}/cmdline")
    site.etcd.start()
    site.settled()


def test_a_netd_that_refuses_its_settings_at_boot_lets_docker_start(site: Site, host: Host) -> None:
    host.write(BROKEN, "no-such-setting = 1\n")
    host.power_off()
    host.boot()
    assert active(host, "docker")
    assert not active(host, "netd")
    said = "unknown setting no-such-setting"
    wait_for(lambda: said in host.journal("netd"), "the journal names the setting")
    host.run("rm", BROKEN)
    follow_netd(site, host)


def test_docker_waits_for_a_netd_without_a_subnet_and_not_for_ever(site: Site, host: Host) -> None:
    """etcd may be a container of this very host."""
    assert host.show("netd", "TimeoutStartUSec") == "5min"
    # Long enough for a netd that starts slowly to say why it waits before its time is over.
    host.write(PATIENCE, "[Service]\nTimeoutStartSec=30\n")
    host.run("rm", "/var/lib/netd/state.json")
    host.power_off()
    # Without its state netd is another host to its own lease, which would stand for minutes.
    site.etcd.ctl("del", "--prefix", "/coreos.com/network/subnets/")
    site.etcd.stop()
    host.switch_on()
    wait_for(lambda: "no network config" in host.show("netd", "StatusText"), "netd says why")
    assert not active(host, "docker")
    wait_for(lambda: active(host, "docker"), "Docker starts without netd")
    wait_for(lambda: host.show("netd", "SubState") == "start", "netd is started again")
    site.etcd.start()
    host.run("rm", PATIENCE)
    host.run("systemctl", "daemon-reload")
    follow_netd(site, host)


def follow_netd(site: Site, host: Host) -> None:
    """Restart a Docker that was started without netd: its containers may hold the wrong docker0."""

    def told() -> bool:
        return active(host, "netd") or "containers use it" in str(site.netd().get("problems"))

    wait_for(told, "netd has made its bridge, or says why it cannot")
    host.run("systemctl", "restart", "docker")
    site.settled()
