"""Each half of netd by itself: what is off is not touched, and one netd for each half works."""

import json
from collections.abc import Iterator

import pytest

from tests.fakes.kube import FakeKube
from tests.support.netd import Net, NetdHost
from tests.support.netns import Inside, eventually

SERVICES = "/api/v1/services"


class OverlayNetd(NetdHost):
    """netd with services off."""

    def argv(self, command: str, *flags: str) -> list[str]:
        return super().argv(command, "--services=off", *flags)


class ServicesNetd(NetdHost):
    """netd with the overlay off; *server* is the API server's URL."""

    server = ""

    def argv(self, command: str, *flags: str) -> list[str]:
        own = ["--overlay=off", f"--master={self.server}", "--bridge=none"]
        return super().argv(command, *own, *flags)


class Host:
    """One host with an API server on its loopback and a netd for each half."""

    def __init__(self, network: Net) -> None:
        made = network.host(1)
        made.ns.run("sysctl -q -w net.ipv4.ip_local_reserved_ports=30000-32767")
        folder = made.directory
        self.ns = made.ns
        self.overlay = OverlayNetd(made.ns, folder / "overlay", made.endpoints, network.fabric)
        self.services = ServicesNetd(made.ns, folder / "services", made.endpoints, network.fabric)
        self.inside = Inside(made.ns)
        self.api = self.inside.call(FakeKube)
        self.inside.wait(self.api.up())
        self.services.server = self.api.url
        self.inside.call(self.put_service)

    def put_service(self) -> None:
        """A service without endpoints."""
        ports = [{"name": "http", "protocol": "TCP", "port": 80}]
        self.api.store.put(SERVICES, "default/web", clusterIP="10.0.0.7", ports=ports)

    def chains(self, prefix: str) -> set[str]:
        """The chains in nat and filter whose names start with *prefix*."""
        lines = "".join(self.overlay.saved(table) for table in ("nat", "filter")).splitlines()
        return {line[1:].split()[0] for line in lines if line.startswith(f":{prefix}")}

    def close(self) -> None:
        """End the API server."""
        self.inside.wait(self.api.down())
        self.inside.close()


@pytest.fixture
def host(network: Net) -> Iterator[Host]:
    """A host with neither netd started."""
    made = Host(network)
    yield made
    made.close()


def test_with_the_overlay_off_nothing_of_it_is_made_and_etcd_is_not_asked(
    host: Host, network: Net
) -> None:
    host.services.up()
    assert "KUBE-PORTALS-CONTAINER" in host.chains("KUBE-")
    assert host.chains("FLANNEL") == set()
    links = {row["ifname"] for row in host.ns.json("ip link")}
    assert links.isdisjoint({"flannel.1", "docker0"})
    left = {path.name for path in host.services.directory.rglob("*") if path.is_file()}
    assert left == {"netd.log", "netd.lock"}
    ports = {url.rpartition(":")[2] for url in network.etcd.endpoints}
    assert not any(f":{port} " in host.ns.run("ss -Htan") for port in ports)
    status = host.services.status()
    assert (status["lease"], status["etcd"], status["iptables"]) == (None, None, None)
    assert status["services"]["services"] == 1
    metrics = host.services.view("/metrics")
    assert "netd_peers" not in metrics
    assert "kubeproxy_sync_proxy_rules_last_timestamp_seconds" in metrics


def test_with_services_off_no_chain_of_theirs_is_touched_and_no_api_server_is_asked(
    host: Host,
) -> None:
    """Chains of another proxy with these names, or of another netd, stay as they are."""
    host.ns.run("iptables-nft -t nat -N KUBE-PORTALS-HOST")
    host.overlay.up(f"--master={host.api.url}")
    assert host.chains("FLANNEL") == {"FLANNEL-POSTRTG", "FLANNEL-FWD"}
    assert host.chains("KUBE-") == {"KUBE-PORTALS-HOST"}
    assert host.api.requests == []
    assert host.overlay.status()["services"] is None
    assert "kubeproxy_" not in host.overlay.view("/metrics")


def test_two_netd_of_one_half_each_keep_one_host_and_clean_up_apart(host: Host) -> None:
    host.overlay.up()
    host.services.up()
    assert host.chains("FLANNEL") == {"FLANNEL-POSTRTG", "FLANNEL-FWD"}
    assert "KUBE-PORTALS-HOST" in host.chains("KUBE-")
    host.ns.run("iptables-nft -t nat -F")
    eventually(
        lambda: (
            "FLANNEL-POSTRTG" in host.ns.run("iptables-nft -t nat -S POSTROUTING")
            and "KUBE-PORTALS-HOST" in host.ns.run("iptables-nft -t nat -S OUTPUT")
        ),
        "both put their chains right",
    )
    assert host.services.stop() == 0
    done = host.services.command("cleanup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("services")
    assert host.chains("KUBE-") == set()
    assert host.overlay.status()["ready"] is True
    assert host.chains("FLANNEL") == {"FLANNEL-POSTRTG", "FLANNEL-FWD"}
    assert not any("repaired" in line and "KUBE" in line for line in host.overlay.log.splitlines())


def test_a_second_netd_of_a_half_is_refused_and_so_is_a_cleanup_of_it(host: Host) -> None:
    host.services.up()
    other = f"--run-dir={host.services.directory / 'other'}"
    for command in ("run", "cleanup"):
        done = host.services.command(command, other)
        assert done.returncode == 1
        assert "another netd balances the services of this network namespace" in done.stderr
        assert "--services=off" in done.stderr
    assert host.services.status()["ready"] is True
    assert "KUBE-PORTALS-HOST" in host.chains("KUBE-")


def test_explain_tells_the_path_and_that_nobody_would_answer(host: Host) -> None:
    host.services.up()
    done = host.services.command("explain", "default/web", "--json")
    document = json.loads(done.stdout)
    (answer,) = document["answers"]
    assert (done.returncode, document["found"], answer["endpoints"]) == (1, True, [])
    assert answer["wrong"]
    saved = host.overlay.saved("nat").splitlines()
    for step in answer["steps"]:
        assert f"-A {step['chain']} {step['rule']}" in saved
    done = host.services.command("explain", "10.0.0.7:80")
    assert "KUBE-PORTALS-CONTAINER" in done.stdout
    assert host.services.command("explain", "default/wep").returncode == 1
