"""What keeps a host from becoming a node is found before anything is changed, all of it at once."""

import re
from pathlib import Path

import pytest

from lab.errors import BusyError, LabError, PrerequisiteError, UsageError
from lab.join import preflight, record
from lab.join.hostservices import DOCKER, NETD, NODEAGENT
from lab.join.model import RECORD_FILE, Record
from lab.join.preflight import Facts, Process, check, findings, listening, look, unit_of
from tests.lab.join.booted import Machine

UNITS = dict.fromkeys((NETD, NODEAGENT, DOCKER), "loaded")
WELL = Facts(units=UNITS)
ETCD = Process(12, "etcd", "etcd.service")
WORKER = Record(
    role="worker", name="w1", address="10.0.0.9", server="https://10.0.0.1:6443", ca_hash="x"
)
# The head and two lines of a real /proc/net/tcp: 127.0.0.1:2379 listens, a connection to it.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   107        0 4242 1 0
   1: 0100007F:280A 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0
"""


def test_a_host_with_all_that_is_needed_has_no_findings() -> None:
    """As either."""
    assert findings(WELL, "worker") == []
    assert findings(WELL, "master") == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (Facts(root=False), "needs root"),
        (Facts(systemd=False), "not booted by systemd"),
        (Facts(units={**UNITS, DOCKER: "not-found"}), "Docker is not installed: 'apt-get install"),
        (Facts(units=UNITS, docker_command=False), "Docker is not installed"),
        (Facts(units={**UNITS, DOCKER: "masked"}), "docker.service is masked.*unmask"),
        (Facts(units={**UNITS, NETD: "not-found"}), "netd.service is not installed"),
        (Facts(units={**UNITS, NETD: "bad-setting"}), r"cannot be used \(bad-setting\)"),
        (
            Facts(units=UNITS, rivals=(Process(7, "kubelet", "kubelet.service"),)),
            r"kubelet \(pid 7, kubelet.service\) runs.*systemctl disable --now kubelet.service",
        ),
        (Facts(units=UNITS, rivals=(Process(7, "flanneld"),)), "netd does its work: 'kill 7'"),
        (
            Facts(units=UNITS, taken={10250: Process(9, "java")}),
            r"port 10250, which nodeagent needs, is taken by java \(pid 9\): 'kill 9'",
        ),
        (Facts(units=UNITS, taken={10250: None}), "'ss -tlnp sport = 10250' tells by whom"),
        (Facts(units=UNITS, foreign=("/etc/kubernetes/kubelet.conf",)), "kubeadm reset"),
        (Facts(units=UNITS, own=("/etc/kubernetes/manifests/etcd.yaml",)), "barenode reset"),
    ],
)
def test_each_obstacle_is_named_with_what_to_do(facts: Facts, text: str) -> None:
    """And there is nothing else."""
    (found,) = findings(facts, "worker")
    assert re.search(text, found), found


def test_all_obstacles_are_named_at_once() -> None:
    """Nobody likes to mend one and be told the next."""
    many = Facts(
        units={**UNITS, NETD: "not-found"},
        docker_command=False,
        taken={6443: ETCD, 10250: None},
        foreign=("/etc/kubernetes/kubelet.conf",),
    )
    assert len(findings(many, "master")) == 5


def test_a_kubelet_is_named_once_though_it_has_the_port_too() -> None:
    """The port is free when it is gone."""
    kubelet = Process(7, "kubelet")
    assert (
        len(findings(Facts(units=UNITS, rivals=(kubelet,), taken={10250: kubelet}), "worker")) == 1
    )


@pytest.mark.parametrize("port", [6443, 2379, 2380, 12379, 12380, 10257, 10259])
def test_a_worker_does_not_mind_the_masters_ports(port: int) -> None:
    """A master does."""
    facts = Facts(units=UNITS, taken={port: ETCD})
    assert findings(facts, "worker") == []
    (found,) = findings(facts, "master")
    assert f"port {port}" in found


def test_a_host_that_remembers_what_it_is_may_hold_its_own_ports_and_files() -> None:
    """So that a command that was cut short can be repeated."""
    manifests = ("/etc/kubernetes/manifests/etcd.yaml",)
    facts = Facts(units=UNITS, taken={10250: None, 2379: ETCD}, own=manifests, record=WORKER)
    assert findings(facts, "master") == []


def test_a_nodeagent_that_an_operator_started_before_is_no_obstacle() -> None:
    """It is restarted with the cluster's settings."""
    facts = Facts(units=UNITS, taken={10250: Process(3, "nodeagent", NODEAGENT)})
    assert findings(facts, "worker") == []


def test_only_listeners_count() -> None:
    """A connection from port 10250 is none."""
    assert listening(TCP) == {2379: "4242"}
    assert listening("") == {}


def test_the_unit_of_a_process_is_read_from_its_cgroup() -> None:
    """On both versions of cgroups."""
    assert unit_of("0::/system.slice/etcd.service\n") == "etcd.service"
    assert unit_of("1:name=systemd:/system.slice/etcd.service/x\n") == "etcd.service"
    assert unit_of("0::/user.slice/user-0.slice/session-1.scope\n") == ""


def _process(root: Path, pid: int, name: str, inode: str = "") -> None:
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cgroup").write_text(f"0::/system.slice/{name}.service\n")
    if inode:
        (folder / "fd/3").symlink_to(f"socket:[{inode}]")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A host whose etcd listens on 2379."""
    made = Machine(tmp_path)
    _process(tmp_path, 1, "systemd")
    _process(tmp_path, 12, "etcd", "4242")
    (tmp_path / "proc/net").mkdir()
    (tmp_path / "proc/net/tcp").write_text(TCP)
    return made


async def test_what_is_looked_at_is_the_host(machine: Machine) -> None:
    """Processes, ports, units and files."""
    root = machine.root
    _process(root, 30, "kubelet")
    (root / "etc/kubernetes/manifests").mkdir(parents=True)
    (root / "etc/kubernetes/manifests/etcd.yaml").write_text("# made by barenode\n")
    (root / "etc/kubernetes/manifests/kube-scheduler.yaml").write_text("kind: Pod\n")
    (root / "etc/kubernetes/manifests/mine.yaml").write_text("kind: Pod\n")
    machine.units[NETD].load = "not-found"
    facts = await look(machine, root=root)
    assert facts.taken == {2379: ETCD}
    assert facts.rivals == (Process(30, "kubelet", "kubelet.service"),)
    assert facts.foreign == ("/etc/kubernetes/manifests/kube-scheduler.yaml",)
    assert facts.own == ("/etc/kubernetes/manifests/etcd.yaml",)
    assert facts.units == {**UNITS, NETD: "not-found"}


async def test_a_check_raises_everything_in_one_message(machine: Machine) -> None:
    """Of a master here: the etcd; and netd, which is away."""
    machine.units[NETD].load = "not-found"
    with pytest.raises(PrerequisiteError, match=r"(?s)cannot become a master yet:.*netd.*2379"):
        await check(machine, role="master", name="m1", root=machine.root)


async def test_a_host_of_another_role_is_busy(machine: Machine) -> None:
    """A worker becomes a master only after a reset."""
    record.save(WORKER, machine.root / RECORD_FILE.lstrip("/"))
    with pytest.raises(
        BusyError, match=r"is a worker already, w1 of the cluster at https://10\.0\.0\.1"
    ):
        await check(machine, role="master", name="w1", root=machine.root)


@pytest.mark.parametrize("name", ["W1", "w_1", "*.w", "", "-w", "a" * 254])
async def test_names_that_no_node_can_have_are_refused_first(machine: Machine, name: str) -> None:
    """Nothing is looked at."""
    with pytest.raises(UsageError, match="node name"):
        await check(machine, role="worker", name=name, root=machine.root)
    assert machine.ran == []


async def test_a_damaged_record_is_named(machine: Machine) -> None:
    """Guessing could destroy a cluster."""
    path = machine.root / RECORD_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(LabError, match=r"host.json is damaged.*barenode reset"):
        await check(machine, role="worker", name="w1", root=machine.root)


def test_every_port_of_a_master_is_told_apart() -> None:
    """The constant that the documentation and firewalls follow."""
    assert sorted(preflight.MASTER_PORTS) == [2379, 2380, 6443, 10257, 10259, 12379, 12380]
