"""``barenode reset`` takes away what init and join made, and nothing else."""

import json
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hostkit.command import Runner
from lab.errors import UsageError
from lab.join import leftovers, record, resetcommand
from lab.join.dockerbridge import follows
from lab.join.hostservices import DOCKER, NETD, NODEAGENT, Outcome
from lab.join.member import Member, kubeconfig
from lab.join.model import RECORD_FILE, Record
from lab.join.resetcommand import Reset, confirmed, leave, reset, warnings
from lab.master.pki import Pki
from lab.master.provision import Host as Prepared
from tests.lab.join.booted import Machine
from tests.lab.join.cluster import CONFIG, Cluster, pem
from tests.lab.join.test_renew import NODE, _give

WORKER = Record(role="worker", name="w1", address="10.0.0.9", server="https://m:6443", ca_hash="x")
MASTER = Record(
    role="master", name="m1", address="198.18.0.2", server="https://m:6443", ca_hash="x"
)


def tree(root: Path) -> set[str]:
    """All files and folders below *root*."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def write(root: Path, name: str, text: str = "x") -> Path:
    """Put a file on the host's disk."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def join(root: Path, known: Record = WORKER) -> None:
    """The files of a join."""
    member = Member(root)
    member.settle(CONFIG.plane(), known.name, known.address, known.server)
    member.trust("ca")
    for name in ("node", "kubelet"):
        write(root, f"etc/kubernetes/pki/{name}.crt")
        write(root, f"etc/kubernetes/pki/{name}.key")
    record.save(known, root / RECORD_FILE.lstrip("/"))


def become_master(root: Path) -> None:
    """The files of an init."""
    prepared = Prepared(root, CONFIG.plane(), Pki(root / "etc/kubernetes/pki"), "m1", "198.18.0.2")
    prepared.provision()
    prepared.begin()
    prepared.place_manifests()
    write(root, "var/lib/etcd/data/member/snap/db")
    write(root, "var/lib/etcd-network/data/member/snap/db")
    record.save(MASTER, root / RECORD_FILE.lstrip("/"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A booted host with the package's files and somebody else's."""
    write(tmp_path, "etc/netd/netd.toml", "# the operator's\n")
    write(tmp_path, "etc/nodeagent/nodeagent.toml", "# the operator's\n")
    made = Machine(tmp_path)
    (tmp_path / "sys/class/net/docker0").mkdir(parents=True)
    for name in (NETD, NODEAGENT):
        made.units[name].active, made.units[name].enabled = "active", True
    return made


SUBNET = IPv4Network("10.1.7.0/24")


class Cleaners:
    """What the daemons' own clean-up does: its outcomes, and whether it was called."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.called = 0

    async def __call__(self, _runner: Runner) -> list[Outcome]:
        """Clean up."""
        self.called += 1
        return self.outcomes


async def run(machine: Machine, network: Cleaners | None = None) -> Reset:
    """What is tested, with nothing of the real host."""
    root = machine.root
    known = record.load(root / RECORD_FILE.lstrip("/"))
    return await reset(
        machine,
        machine.report,
        known,
        leftovers.find(root, known),
        root=root,
        systemd=machine.systemd,
        pods=Cleaners(Outcome("containers", "none")),
        network=network or Cleaners(Outcome("overlay", "removed")),
        subnet=lambda: SUBNET,
    )


@pytest.mark.parametrize("become", [join, become_master])
async def test_the_disk_is_as_before(machine: Machine, become: Callable[[Path], None]) -> None:
    """Of a worker as of a master."""
    before = tree(machine.root)
    become(machine.root)
    (machine.root / "var/lib/netd").mkdir(parents=True, exist_ok=True)
    write(machine.root, "var/lib/netd/state.json")
    write(machine.root, "run/flannel/subnet.env")
    done = await run(machine)
    assert done.clean, done.steps
    rest = tree(machine.root) - before
    # Folders that others use too.
    assert {name for name in rest if (machine.root / name).is_file()} == set()
    assert not [name for name in rest if "kubernetes" in name or "etcd" in name or "netd" in name]


async def test_what_others_put_there_stays_and_is_named(machine: Machine) -> None:
    """Also in the folders of ours."""
    root = machine.root
    mine = [
        write(root, "etc/kubernetes/pki/mine.crt"),
        write(root, "etc/kubernetes/manifests/mine.yaml", "kind: Pod\n"),
        write(root, "etc/kubernetes/admin.conf", "kind: Config\n"),
        write(root, "etc/netd/conf.d/60-mine.toml", "x = 1\n"),
        write(root, "etc/nodeagent/conf.d/50-cluster.toml", "# by hand\n"),
    ]
    join(root)
    mine[-1].write_text("# by hand\n")
    done = await run(machine)
    assert done.clean
    assert [path for path in mine if not path.exists()] == []
    (files,) = [step.result for step in done.steps if step.what == "files"]
    assert "etc/kubernetes/pki" in files
    assert "somebody else" in files


async def test_the_files_of_another_tool_stay_on_a_host_that_was_no_member(
    machine: Machine,
) -> None:
    """kubeadm's certificates have the same names."""
    for name in ("ca.crt", "ca.key", "etcd/ca.crt"):
        write(machine.root, f"etc/kubernetes/pki/{name}")
    write(machine.root, "etc/kubernetes/manifests/etcd.yaml", "kind: Pod\n")
    write(machine.root, "var/lib/etcd/data/member/wal")
    before = tree(machine.root)
    done = await run(machine)
    assert done.clean
    assert done.node == ""
    assert tree(machine.root) == before


async def test_a_worker_never_loses_an_etcd(machine: Machine) -> None:
    """Somebody may run one of his own there."""
    join(machine.root)
    data = write(machine.root, "var/lib/etcd/data/member/wal")
    assert (await run(machine)).clean
    assert data.exists()


async def test_services_stop_in_their_order_and_stay_disabled(machine: Machine) -> None:
    """nodeagent first, or it would register the node again; Docker gets its own bridge last.

    dockerd is started twice: left alone it keeps netd's.
    """
    join(machine.root)
    machine.write_options("10.1.7.1/24")
    await machine.systemd.up(DOCKER, machine.report, timeout=60, again=True)
    machine.options.unlink()
    machine.ran.clear()
    await run(machine)
    verbs = [
        (argv[1], argv[-1])
        for argv in machine.ran
        if argv[0] == "systemctl" and argv[1] in {"stop", "disable", "restart"}
    ]
    assert verbs == [
        ("stop", NODEAGENT), ("disable", NODEAGENT),
        ("stop", NETD), ("disable", NETD),
        ("stop", DOCKER), ("restart", DOCKER), ("restart", DOCKER),
    ]  # fmt: skip
    assert follows(json.dumps([machine.bridge]), IPv4Network("172.17.0.0/16"))
    assert not list((machine.root / "run/systemd").rglob("*.conf"))


async def test_a_bridge_that_a_container_is_on_goes_with_dockers_restart(
    machine: Machine,
) -> None:
    """Only where Docker cannot be restarted it stays, which is a failure."""
    machine.bridge = {"IPAM": {"Config": [{"Subnet": str(SUBNET)}]}}
    busy = Cleaners(Outcome("docker0", "docker0 is in use by veth1", ok=False))
    assert (await run(machine, busy)).clean
    machine.units[DOCKER].load, machine.units[DOCKER].active = "not-found", "inactive"
    done = await run(machine, busy)
    assert [step.what for step in done.steps if not step.ok] == ["docker0"]


async def test_a_docker_that_never_followed_netd_is_left_alone(machine: Machine) -> None:
    """Its containers go on."""
    await run(machine)
    assert not [argv for argv in machine.ran if argv[1] == "restart"]


async def test_a_docker_without_its_link_makes_it_again(machine: Machine) -> None:
    """netd's clean-up took it away; one start is enough where another address is set."""
    (machine.root / "sys/class/net/docker0").rmdir()
    await run(machine)
    assert [argv[-1] for argv in machine.ran if argv[1] == "restart"] == [DOCKER]


async def test_a_stopped_docker_is_started_to_remove_its_containers(machine: Machine) -> None:
    """They would come back with the next start otherwise."""
    machine.units[DOCKER].active = "inactive"
    done = await run(machine)
    assert [step.what for step in done.steps].index("docker") < [
        step.what for step in done.steps
    ].index("containers")


async def test_a_step_that_fails_is_named_and_the_others_are_done(machine: Machine) -> None:
    """The record and netd's state stay: the next try needs them."""
    join(machine.root)
    state = write(machine.root, "var/lib/netd/state.json")
    machine.refused = {("stop", NETD)}
    network = Cleaners(Outcome("overlay", "busy", ok=False))
    done = await run(machine, network)
    assert not done.clean
    assert [step.what for step in done.steps if not step.ok] == ["netd", "overlay"]
    assert not (machine.root / "etc/kubernetes").exists()
    assert state.exists()
    assert record.load(machine.root / RECORD_FILE.lstrip("/")) == WORKER
    machine.refused = set()
    assert (await run(machine)).clean
    assert not state.exists()
    assert (await run(machine)).clean


async def test_a_purge_without_units_docker_and_systemd_goes_on(machine: Machine) -> None:
    """The package's files are gone by then."""
    join(machine.root)
    for unit in machine.units.values():
        unit.load, unit.active = "not-found", "inactive"
    assert (await run(machine)).clean
    (machine.root / "run/systemd/system").rmdir()
    join(machine.root)
    assert (await run(machine)).clean


def conf(cluster: Cluster, root: Path) -> Path:
    """The kubeconfig of the node w1 of *cluster*."""
    member = Member(root)
    member.trust(pem(cluster.ca).decode())
    _give(cluster, member, NODE, cluster.life)
    text = kubeconfig("w1", cluster.server.url).replace("/etc/", f"{root}/etc/")
    return write(root, "etc/kubernetes/nodeagent.conf", text)


async def test_the_node_leaves_the_cluster_by_its_own_right(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A second time it is gone already."""
    path = conf(cluster, tmp_path / "host")
    cluster.ready("w1", "10.0.0.9")
    assert (await leave("w1", path)).result == "w1 is deleted from the cluster"
    assert cluster.nodes == {}
    assert cluster.made("DELETE", "nodes/w1") == ["system:node:w1"]
    assert "has no node w1" in (await leave("w1", path)).result


async def test_a_cluster_that_does_not_answer_is_no_failure_of_the_host(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The operator is told what to do elsewhere."""
    path = conf(cluster, tmp_path / "host")
    await cluster.stop()
    outcome = await leave("w1", path)
    assert outcome.ok
    assert "'kubectl delete node w1' elsewhere" in outcome.result
    outcome = await leave("w1", tmp_path / "nowhere.conf")
    assert outcome.ok
    assert "kubectl delete node w1" in outcome.result


def test_the_loss_of_a_clusters_data_is_said_loudly(tmp_path: Path) -> None:
    """Only where there is any."""
    become_master(tmp_path)
    found = leftovers.find(tmp_path, MASTER)
    assert any("DELETED FOR EVER" in line for line in warnings(MASTER, found))
    assert any("etcd-network" in line for line in warnings(MASTER, found))
    quiet = leftovers.find(tmp_path / "empty", WORKER)
    assert not any("DELETED" in line for line in warnings(WORKER, quiet))
    assert "no member" in warnings(None, leftovers.find(tmp_path / "empty", None))[0]


def test_nobody_is_asked_without_a_terminal() -> None:
    """And only yes is yes."""
    with pytest.raises(UsageError, match="give --yes"):
        confirmed(False, lambda _prompt: "yes")
    assert confirmed(True, lambda _prompt: " Yes ")
    assert not confirmed(True, lambda _prompt: "")

    def end(_prompt: str) -> str:
        raise EOFError

    assert not confirmed(True, end)


def test_a_master_by_other_means_is_recognised_by_its_files(tmp_path: Path) -> None:
    """``host prepare`` leaves no record."""
    become_master(tmp_path)
    record.clear(tmp_path / RECORD_FILE.lstrip("/"))
    found = leftovers.find(tmp_path, None)
    assert found.member
    assert found.master
    leftovers.clear(found)
    assert not [path for path in (tmp_path / "etc").rglob("*") if path.is_file()]


def test_a_damaged_record_does_not_keep_a_host_from_a_reset(tmp_path: Path) -> None:
    """It is the way out that the error of the others names."""
    path = write(tmp_path, "var/lib/barenode/host.json", "{")
    assert resetcommand._known(path)[0] is None
    assert "damaged" in resetcommand._known(path)[1]
