"""SIGHUP at the real netd: other settings without another process and without a gap."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netd import Net, NetdHost
from tests.support.netns import eventually

DEADLINE = 60.0


class Systemd:
    """systemd's side of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._got: list[str] = []

    def got(self) -> list[str]:
        """All that was said of the service's state."""
        while True:
            try:
                message = self.socket.recv(65536).decode().partition("\n")[0]
            except BlockingIOError:
                return self._got
            if not message.startswith(("STATUS=", "WATCHDOG=")):
                self._got.append(message)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.socket.close()


def hang_up(host: NetdHost) -> None:
    """SIGHUP."""
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)


def settings(host: NetdHost, text: str) -> None:
    """Write the settings of *host*."""
    (host.directory / "netd.toml").write_text(f"iface = ['eth0']\n{text}")


def chains(host: NetdHost) -> str:
    """The nat rules with the kernel's own numbers."""
    return re.sub(r"packets \d+ bytes \d+", "", host.ns.run("nft -a list table ip nat"))


def test_changed_settings_come_into_force_in_the_same_process_without_touching_the_data_plane(
    network: Net, systemd: Systemd
) -> None:
    """Pid, device, routes, rules and subnet stay; systemd sees a reload that ends."""
    host = network.host(1)
    settings(host, "")
    host.start(environ=systemd.environ)
    host.wait_ready(DEADLINE)
    network.put_peers(3, first=100)
    host.wait(lambda status: len(status["peers"]) == 3, "three peers", deadline=DEADLINE)
    before = host.status()
    pod = host.pod("a")
    eventually(lambda: "linkdown" not in host.ns.run("ip route"), "docker0 up", deadline=DEADLINE)
    kernel = host.ns.run("ip -d link"), host.ns.run("ip route"), chains(host)
    fragment = host.directory / "conf.d" / "50-cluster.toml"
    fragment.parent.mkdir()
    fragment.write_text("healthz-port = 10256\nv = 1\n")
    hang_up(host)
    after = host.wait(
        lambda status: status["started"] != before["started"] and status["ready"],
        "netd anew", deadline=DEADLINE,
    )  # fmt: skip
    assert after["pid"] == before["pid"]
    for name in ("subnet", "lease_id"):
        assert after["lease"][name] == before["lease"][name]
    host.wait(lambda status: len(status["peers"]) == 3, "three peers", deadline=DEADLINE)
    eventually(
        lambda: host.ns.run("curl -s http://127.0.0.1:10256/healthz", check=False).strip() == "ok",
        "the health port", deadline=DEADLINE,
    )  # fmt: skip
    assert chains(host) == kernel[2]
    assert host.ns.run("ip route") == kernel[1]
    links = host.ns.run("ip -d link show flannel.1")
    assert links in kernel[0]
    assert " 0% packet loss" in pod.run(f"ping -n -c1 -W20 {host.address(1)}")
    assert f"settings: healthz-port is now 10256, was 0 ({fragment})" in host.log
    eventually(
        lambda: systemd.got() == ["READY=1", "RELOADING=1", "READY=1"], "READY again",
        deadline=DEADLINE,
    )  # fmt: skip
    assert host.stop() == 0
    assert systemd.got()[-1] == "STOPPING=1"


def test_no_sighup_is_lost_and_none_kills_however_many_come(network: Net) -> None:
    """The last of the settings is in force in the end."""
    host = network.host(1)
    settings(host, "")
    host.up()
    assert host.process is not None
    for port in range(10300, 10340):
        settings(host, f"healthz-port = {port}\n")
        hang_up(host)
        # So that they come at every moment of stop and start.
        time.sleep(random.uniform(0.0, 0.1))
        assert host.process.poll() is None, host.log[-2000:]
    eventually(
        lambda: host.ns.run("curl -s http://127.0.0.1:10339/healthz", check=False).strip() == "ok",
        "the last port", deadline=DEADLINE,
    )  # fmt: skip
    assert host.process.poll() is None


def test_settings_that_cannot_be_used_leave_those_in_force(network: Net) -> None:
    """One line in the log, a problem in the status; good ones end it."""
    host = network.host(1)
    settings(host, "")
    host.up()
    started = host.status()["started"]
    file = host.directory / "netd.toml"
    settings(host, "etcd-perfix = '/x'\n")
    hang_up(host)
    status = host.wait(lambda status: bool(status["problems"]), "the problem", deadline=DEADLINE)
    (problem,) = status["problems"]
    assert problem["key"] == "settings"
    assert problem["text"].startswith(f"{file}: unknown setting etcd-perfix; did you mean ")
    assert status["ready"]
    settings(host, "services = 'on'\n")
    hang_up(host)
    status = host.wait(
        lambda status: "no API server is named" in str(status["problems"]), "the other problem",
        deadline=DEADLINE,
    )  # fmt: skip
    settings(host, "")
    hang_up(host)
    status = host.wait(lambda status: not status["problems"], "no problem", deadline=DEADLINE)
    assert status["started"] == started
    assert "settings: nothing changed" in host.log


def test_a_netd_that_waits_for_etcd_takes_other_endpoints(network: Net, systemd: Systemd) -> None:
    """It never was ready, and so need not be stopped for it."""
    host = network.host(1)
    settings(host, "etcd-endpoints = ['http://172.29.0.250:2379']\n")
    flags = [one for one in host.argv("run") if not one.startswith("--etcd-endpoints")]
    with (host.directory / "netd.log").open("a") as log:
        host.process = host.ns.start(
            flags, stdout=log, stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **systemd.environ},
        )  # fmt: skip
    host.wait(lambda status: bool(status["problems"]), "etcd is away", deadline=DEADLINE)
    pid = host.status()["pid"]
    settings(host, f"etcd-endpoints = {list(host.endpoints)}\n")
    hang_up(host)
    host.wait_ready(DEADLINE)
    assert host.status()["pid"] == pid
    eventually(lambda: systemd.got() == ["RELOADING=1", "READY=1"], "READY", deadline=DEADLINE)
