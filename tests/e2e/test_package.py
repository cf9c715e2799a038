"""The package on hosts with real systemd: install, init, join, power failure, upgrade, purge.

The hosts run the very scripts that Vagrant's machines run. Tests follow each other: each goes on
with the cluster as the one before has left it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.support import debs, hostlook
from tests.support.kubelab import BINARIES
from tests.support.load import Client, Load, figures, page
from tests.support.services import Json
from tests.support.sysd import Fabric, Host, fabric, wait_for
from tests.support.sysd_package import package as built

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
SCRIPTS = "/srv/scripts"
IMAGES = "/srv/images"
PACKAGES = "/srv/packages"
NODE_PORT = 30061
READY_SECONDS = 240.0
NOT_READY = "node.kubernetes.io/not-ready"
NEXT = "0.1.1~test"
ADDRESS_OF = "{{.NetworkSettings.IPAddress}}"


@dataclass
class World:
    """Three hosts and what is known of them. *line* is the join line, once there is a master."""

    net: Fabric
    package: Path
    following: Path
    master: Host
    workers: tuple[Host, Host]
    folder: Path
    before: dict[str, hostlook.Look] = field(default_factory=dict)
    line: tuple[str, ...] = ()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The master, then the workers."""
        return (self.master, *self.workers)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """kubectl as the administrator, from beside the hosts."""
        config = self.folder / "admin.conf"
        argv = ["nsenter", f"--net=/run/netns/{self.net.netns}", "kubectl", "--kubeconfig", config]
        done = subprocess.run(
            [*map(str, argv), f"--cache-dir={self.folder}/kubectl", *words],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {words}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, *words: str) -> list[Json]:
        """Objects of a kind."""
        items: list[Json] = json.loads(self.kubectl("get", kind, "-o", "json", *words))["items"]
        return items

    def ready_nodes(self) -> set[str]:
        """Names of the nodes that are Ready."""
        return {
            node["metadata"]["name"]
            for node in self.get("nodes")
            if any(c["type"] == "Ready" and c["status"] == "True"
                   for c in node["status"]["conditions"])
        }  # fmt: skip

    def unready(self) -> set[str]:
        """Names of the nodes that have the taint of those that are not ready."""
        return {
            node["metadata"]["name"]
            for node in self.get("nodes")
            if any(one["key"] == NOT_READY for one in node["spec"].get("taints", ()))
        }

    def service(self) -> str:
        """URL of nginx's cluster IP."""
        found = json.loads(self.kubectl("get", "service", "nginx", "-o", "json"))
        return f"http://{found['spec']['clusterIP']}/"

    def answers(self, count: int = 2) -> None:
        """Wait until each host gets an answer from *count* pods, and so does the world outside."""
        url = self.service()
        for host in self.hosts:
            wait_for(
                partial(_reaches, host, url, count),
                f"{host.name} reaches {count} pods at {url}",
                deadline=READY_SECONDS, interval=0.5,
            )  # fmt: skip
        outside = Path(f"/run/netns/{self.net.netns}")
        for host in self.hosts:
            at = f"http://{host.address}:{NODE_PORT}/"
            wait_for(partial(page_in, outside, at), f"the world outside reaches {at}")


def page_in(space: Path, url: str) -> str:
    """The page at *url* as seen from the network namespace *space*; "" when nobody answers."""
    code = (
        "import sys, urllib.request as r\n"
        "try: print(r.urlopen(sys.argv[1], timeout=2).read().decode().strip())\n"
        "except OSError: pass\n"
    )
    argv = ["nsenter", f"--net={space}", sys.executable, "-I", "-c", code, url]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _get(pid: int, url: str) -> str:
    return page_in(Path(f"/proc/{pid}/ns/net"), url)


def _reaches(host: Host, url: str, count: int) -> bool:
    return len({_get(host.pid, url) for _ in range(12)} - {""}) == count


def _reaches_page(host: Host, address: str) -> bool:
    return _get(host.pid, f"http://{address}/") != ""


def _another(host: Host, was: str) -> bool:
    return host.show("netd.service", "MainPID") not in {"0", was}


def docker_up(host: Host) -> None:
    """Wait for Docker of *host*."""
    wait_for(
        lambda: host.run("docker", "info", check=False).returncode == 0, f"Docker of {host.name}"
    )


def netd_ready(host: Host) -> None:
    """Wait until netd of *host* says that it is ready."""
    wait_for(
        lambda: host.run("netd", "status", check=False).returncode == 0, f"netd of {host.name}"
    )


def seen(host: Host) -> hostlook.Look:
    """What *host* looks like."""
    return hostlook.look(lambda argv: host.run(*argv).stdout)


def _images(folder: Path) -> None:
    """Archives of what runs on the hosts, which reach no registry."""
    more = {"hyperkube": ["--kube-bin-dir", path] if (path := _binaries()) else []}
    for name in ("hyperkube", "etcd", "nginx"):
        argv = [sys.executable, "-m", "lab", "image", "build", name, *more.get(name, [])]
        done = subprocess.run(
            [*argv, "-o", str(folder / f"{name}.tar")], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def _binaries() -> str:
    return os.environ.get(BINARIES, "")


def _newer_conffile(tree: Path) -> None:
    file = tree / "etc/netd/netd.toml"
    file.write_text(f"{file.read_text()}\n# another line of the packager's\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[World]:
    """Three hosts with Docker and what the package depends on, without the package."""
    folder = tmp_path_factory.mktemp("package")
    images, packages = folder / "images", folder / "packages"
    images.mkdir()
    packages.mkdir()
    package = packages / "barenode.deb"
    shutil.copy(built(), package)
    following = debs.of_version(package, NEXT, packages, edit=_newer_conffile)
    _images(images)
    (clock,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    shutil.copy(clock, packages / "clock.so")
    shares = {images: IMAGES, packages: PACKAGES, ROOT / "vagrant/scripts": SCRIPTS}
    with fabric() as net:
        master, one, two = (net.host(name, shares=shares) for name in ("master", "node1", "node2"))
        net.boot(master, one, two)
        made = World(net, package, following, master, (one, two), folder)
        for host in made.hosts:
            docker_up(host)
            made.before[host.name] = seen(host)
        yield made


def install(host: Host, package: Path) -> str:
    """Install *package* as Vagrant does; what was said."""
    said = host.run("sh", f"{SCRIPTS}/install.sh", f"{PACKAGES}/{package.name}", timeout=300)
    return said.stdout + said.stderr


@pytest.fixture(scope="module")
def installed(world: World) -> World:
    """The hosts with the package."""
    for host in world.hosts:
        install(host, world.package)
    return world


@pytest.fixture(scope="module")
def mastered(installed: World) -> World:
    """The hosts, of which the first is a master."""
    world = installed
    world.master.run(
        "sh", f"{SCRIPTS}/master.sh", world.master.address, "/root/join",
        "--hyperkube-image", f"{IMAGES}/hyperkube.tar", "--etcd-image", f"{IMAGES}/etcd.tar",
        timeout=600,
    )  # fmt: skip
    world.line = tuple(world.master.read("/root/join").split())
    (world.folder / "admin.conf").write_text(world.master.read("/etc/kubernetes/admin.conf"))
    return world


@pytest.fixture(scope="module")
def cluster(mastered: World) -> World:
    """A master and two workers with nginx behind a service."""
    world = mastered
    for host in world.workers:
        host.write("/root/join", f"{' '.join(world.line)}\n", mode=0o600)
        host.run("sh", f"{SCRIPTS}/worker.sh", "/root/join", timeout=400)
        host.run("docker", "load", "-i", f"{IMAGES}/nginx.tar")
    # A worker that is Ready gets pods only when the control plane has taken this taint off it:
    # tests count on a pod on each.
    wait_for(lambda: not world.unready(), "pods are let on both workers")
    for name in ("nginx-rc.yaml", "nginx-svc.yaml"):
        world.kubectl("apply", "-f", "-", stdin=(ROOT / "lab/assets" / name).read_text())
    return world


def refused(host: Host, *argv: str) -> str:
    """What a command says that fails without a traceback."""
    done = host.run(*argv, check=False, timeout=200)
    said = done.stdout + done.stderr
    assert done.returncode in {1, 2, 5}, f"{argv}: {done.returncode}\n{said}"
    assert "Traceback" not in said
    return said


def test_the_package_starts_nothing_and_docker_goes_on(installed: World) -> None:
    """A host that is no node yet boots as before: neither daemon holds up Docker."""
    for host in installed.hosts:
        for unit in ("netd", "nodeagent"):
            assert host.show(f"{unit}.service", "ActiveState") == "inactive"
            assert host.show(f"{unit}.service", "UnitFileState") == "disabled"
        assert host.show("docker.service", "ActiveState") == "active"
        assert host.run("netd", "version").stdout.startswith("netd ")
    assert installed.workers[0].failed_units() == []


def test_init_prints_a_line_that_is_a_command(mastered: World) -> None:
    """Address with port, token and the pin of the CA, and nothing more."""
    command = " ".join(mastered.line)
    address = re.escape(mastered.master.address)
    pattern = rf"barenode join {address}:6443 --token [a-z0-9]{{6}}\.[a-z0-9]{{16}} "
    assert re.fullmatch(rf"{pattern}--ca-hash sha256:[0-9a-f]{{64}}", command), command
    mode = mastered.master.run("stat", "-c", "%a", "/root/join").stdout.strip()
    assert mode == "600"


def test_a_wrong_join_line_is_answered_by_what_to_do(mastered: World) -> None:
    """Token, pin, port and address: each has a sentence of its own."""
    host, line = mastered.workers[1], mastered.line
    token, pin = line.index("--token") + 1, line.index("--ca-hash") + 1

    def with_word(place: int, word: str) -> tuple[str, ...]:
        return (*line[:place], word, *line[place + 1 :])

    said = refused(host, *with_word(token, "abcdef.0123456789abcdef"))
    assert "barenode token create" in said
    said = refused(host, *with_word(pin, "sha256:" + "0" * 64))
    assert "--ca-hash" in said
    said = refused(host, *with_word(2, f"{mastered.master.address}:6444"))
    assert "6444 refuses" in said
    nobody = str(mastered.net.network.broadcast_address - 1)
    said = refused(host, *with_word(2, nobody))
    assert nobody in said
    assert "master" in refused(host, *line, "--node-name", "master")
    assert host.show("netd.service", "ActiveState") == "inactive"


@pytest.mark.parametrize(
    ("off", "words"),
    [
        ("-2m", r"clocks differ by (2 min|1 min 5\d) .*timedatectl"),
        ("+3h", r"clocks differ by (3 h 0|2 h 59) min: .*timedatectl"),
        ("-2d", r"certificate of \S+ is not valid yet by this host's clock: .*timedatectl"),
        ("+30y", r"certificate of \S+ has expired by this host's clock: .*timedatectl"),
    ],
)
def test_a_wrong_clock_is_named_with_both_times(mastered: World, off: str, words: str) -> None:
    """Hosts here share one clock: the command alone is shown another one."""
    clock = ("env", f"LD_PRELOAD={PACKAGES}/clock.so", f"FAKETIME={off}", "DONT_FAKE_MONOTONIC=1")
    said = " ".join(refused(mastered.workers[1], *clock, *mastered.line).split())
    assert re.search(words, said), said
    assert re.search(r"here it is \w{3}, .* GMT, at \S+ \w{3}, .* GMT", said), said
    assert mastered.workers[1].show("netd.service", "ActiveState") == "inactive"


def test_a_token_ends(mastered: World) -> None:
    """One that has run out opens nothing."""
    create = mastered.master.run("barenode", "token", "create", "--ttl", "1s", "--json").stdout
    made = json.loads(create)
    end = datetime.fromisoformat(made["expires"])
    wait_for(lambda: datetime.now(UTC) > end, "the token's end")
    place = mastered.line.index("--token") + 1
    line = (*mastered.line[:place], made["token"], *mastered.line[place + 1 :])
    assert "barenode token create" in refused(mastered.workers[1], *line)


def test_one_command_makes_a_host_a_node(cluster: World) -> None:
    """All three are Ready, and nginx answers from every host and from outside."""
    assert cluster.ready_nodes() == {"master", "node1", "node2"}
    cluster.answers()
    for host in cluster.workers:
        status = host.run("netd", "status", "--json")
        assert json.loads(status.stdout)["ready"] is True


def test_the_server_s_certificate_of_a_node_is_the_cluster_s(cluster: World) -> None:
    """kubectl logs goes through the API server, which verifies the node."""
    for pod in cluster.get("pods", "-l", "app=nginx"):
        cluster.kubectl("logs", pod["metadata"]["name"])


def test_joining_again_changes_nothing(cluster: World) -> None:
    """A member says that it is one."""
    host = cluster.workers[0]
    started = host.show("netd.service", "ExecMainStartTimestampMonotonic")
    host.run(*cluster.line)
    assert host.show("netd.service", "ExecMainStartTimestampMonotonic") == started


def test_a_node_has_a_credential_of_its_own(cluster: World) -> None:
    """It opens the network's etcd and the node's own objects, and no more."""
    host = cluster.workers[0]
    subject = host.run("openssl", "x509", "-noout", "-subject", "-in",
                       "/etc/kubernetes/pki/node.crt").stdout  # fmt: skip
    assert "system:node:node1" in subject
    keys = host.run("find", "/etc/kubernetes", "-name", "*.key").stdout.split()
    assert sorted(Path(key).name for key in keys) == ["kubelet.key", "node.key"]
    pair = ["--cacert", "/etc/kubernetes/pki/ca.crt", "--cert", "/etc/kubernetes/pki/node.crt",
            "--key", "/etc/kubernetes/pki/node.key"]  # fmt: skip
    url = f"https://{cluster.master.address}"
    secrets = host.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *pair,
                       f"{url}:6443/api/v1/namespaces/kube-system/secrets")  # fmt: skip
    assert secrets.stdout == "403"
    assert host.run("curl", "-sS", *pair, f"{url}:2379/version", check=False).returncode != 0
    assert host.run("curl", "-sS", *pair, f"{url}:12379/version").returncode == 0


def test_a_node_renews_its_credential_by_itself(cluster: World) -> None:
    """A timer looks each day, and its confined service can do what it has to."""
    host = cluster.workers[0]
    assert host.show("barenode-renew.timer", "ActiveState") == "active"
    assert host.show("barenode-renew.timer", "UnitFileState") == "enabled"
    host.run("systemctl", "start", "barenode-renew.service")
    assert host.show("barenode-renew.service", "Result") == "success"
    # journald reads what a service has said when it comes to it.
    wait_for(lambda: "still good" in host.journal("barenode-renew.service"), "the journal has it")


def test_a_node_comes_back_from_a_power_failure(cluster: World) -> None:
    """Without help: same subnet, its pods, its services."""
    host = cluster.workers[0]
    subnet = host.read("/run/flannel/subnet.env")
    host.power_off()
    host.boot()
    netd_ready(host)
    assert host.read("/run/flannel/subnet.env") == subnet
    cluster.answers()
    wait_for(lambda: "node1" in cluster.ready_nodes(), "node1 is Ready")


def test_without_etcd_a_node_boots_into_the_overlay(cluster: World) -> None:
    """Its containers and those of another host reach each other while the only master is off.

    Pods of the API server start again when it is back: until then a host cannot know whether it
    shall still run them. So the container on the booted host is Docker's own.
    """
    one, two = cluster.workers
    subnet = one.read("/run/flannel/subnet.env")
    far = _own_pod(two)
    cluster.master.power_off()
    one.power_off()
    one.boot()
    assert one.read("/run/flannel/subnet.env") == subnet
    docker_up(one)
    one.run("docker", "run", "--detach", "--name", "near", "barenode/nginx:lab")
    near = one.run("docker", "inspect", "-f", ADDRESS_OF, "near").stdout.strip()
    wait_for(partial(_reaches_page, two, near), f"node2 reaches {near} on node1")
    inside = one.run("docker", "inspect", "-f", "{{.State.Pid}}", "near").stdout.strip()
    argv = ("nsenter", f"--net=/proc/{inside}/ns/net", "curl", "-sSf", f"http://{far}/")
    wait_for(lambda: one.run(*argv, check=False).returncode == 0, f"{near} reaches {far} on node2")
    status = json.loads(one.run("netd", "status", "--json", check=False).stdout)
    assert status["etcd"]["connected"] is False
    one.run("docker", "rm", "--force", "near")
    cluster.master.boot()
    wait_for(
        lambda: _quietly(cluster.ready_nodes) == {"master", "node1", "node2"},
        "all nodes are Ready", deadline=READY_SECONDS, interval=0.5,
    )  # fmt: skip
    cluster.answers()


def _own_pod(host: Host) -> str:
    """The address of the nginx pod on *host*, by its Docker."""
    words = ("docker", "ps", "--quiet", "--filter", "name=k8s_POD_nginx")
    found = host.run(*words).stdout.split()
    return host.run("docker", "inspect", "-f", ADDRESS_OF, found[0]).stdout.strip()


def _quietly(ask: Callable[[], set[str]]) -> set[str]:
    try:
        return ask()
    except (AssertionError, subprocess.TimeoutExpired):
        return set()


def test_an_upgrade_loses_no_request(cluster: World) -> None:
    """Three clients ask all the time while each host is upgraded, then downgraded.

    What the operator changed in a conffile stays, although the package's changed too.
    """
    edited = cluster.workers[0]
    mine = f"{edited.read('/etc/netd/netd.toml')}\nv = 1\n"
    edited.write("/etc/netd/netd.toml", mine)
    url = cluster.service()
    outside = f"http://{cluster.workers[1].address}:{NODE_PORT}/"
    spaces = [(host.name, Path(f"/proc/{host.pid}/ns/net"), url) for host in cluster.workers]
    spaces.append(("outside", Path(f"/run/netns/{cluster.net.netns}"), outside))
    clients = [Client(name, space, page(where), 0.02) for name, space, where in spaces]
    with Load(clients) as load:
        for package in (cluster.following, cluster.package):
            for host in cluster.hosts:
                was = host.show("netd.service", "MainPID")
                install(host, package)
                version = debs.field(package, "Version")
                assert (
                    host.run("dpkg-query", "-W", "-f", "${Version}", "barenode").stdout == version
                )
                # The package does not wait for what it restarts.
                wait_for(partial(_another, host, was), f"netd of {host.name} is another process")
                netd_ready(host)
        wait_for(lambda: cluster.ready_nodes() == {"master", "node1", "node2"}, "all are Ready")
    found = load.requests()
    assert len(found) > 300, figures(found)
    assert [one for one in found if one.failures] == [], figures(found)
    assert edited.read("/etc/netd/netd.toml") == mine


def test_reset_and_join_again(cluster: World) -> None:
    """A host that left is unknown to the cluster, and can come back."""
    host = cluster.workers[1]
    host.run("barenode", "reset", "--yes", timeout=300)
    assert "node2" not in {node["metadata"]["name"] for node in cluster.get("nodes")}
    assert "KUBE-" not in host.run("iptables-save").stdout
    assert host.run("ip", "-o", "link", "show", "type", "vxlan").stdout == ""
    docker_up(host)
    host.run("sh", f"{SCRIPTS}/worker.sh", "/root/join", timeout=400)
    assert "node2" in cluster.ready_nodes()
    cluster.answers()


def test_remove_keeps_the_data_plane(cluster: World) -> None:
    """Pods and services go on until the host is booted again."""
    host, other = cluster.workers
    pod = _own_pod(host)
    host.run("apt-get", "-qy", "remove", "barenode", timeout=300)
    assert host.run("sh", "-c", "command -v netd", check=False).returncode != 0
    wait_for(lambda: _get(other.pid, f"http://{pod}/"), "node2 reaches the pod")
    wait_for(lambda: _get(host.pid, cluster.service()), "node1 reaches the service")


def test_purge_leaves_a_host_as_it_was(cluster: World) -> None:
    """Removed before or not, worker or master: files, users, units, links, routes, rules."""
    for host in reversed(cluster.hosts):
        host.run("apt-get", "-qy", "purge", "barenode", timeout=400)
        docker_up(host)

        changes = hostlook.changes(cluster.before[host.name], seen(host))
        assert not changes, "\n".join([host.name, *changes])
