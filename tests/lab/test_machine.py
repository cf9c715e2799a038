"""What a node mounts and runs."""

from pathlib import PurePosixPath

import pytest

from hostkit.mounts import MS_BIND, MS_PRIVATE, MS_REC
from lab import machine
from lab.errors import LabError
from lab.machine import Directory, Mount
from lab.plan import make_lab

V1 = "9:name=systemd:/\n4:cpu,cpuacct:/x\n3:pids:/\n0::/\n"
SPEC = make_lab("x", 2, None, [])


def plan_of(cgroups: str = V1) -> list[machine.Step]:
    """The mounts of a node."""
    return machine.mount_plan("/data/node1", machine.PERSISTENT_NODE, cgroups)


def test_mounts_are_private_before_anything_is_mounted() -> None:
    """Nothing may propagate to the host, whose / is shared where systemd runs."""
    assert plan_of()[0] == Mount("none", "/", "", MS_REC | MS_PRIVATE)


def test_the_node_never_writes_to_the_host() -> None:
    """Before the overlays no directory is made outside the node's own file systems."""
    own = ("/run", "/sys")
    covered = False
    for step in plan_of():
        path = step.path if isinstance(step, Directory) else step.target
        covered = covered or (isinstance(step, Mount) and step.target == "/var")
        if isinstance(step, Directory):
            assert path.startswith(own)
        elif not covered:
            assert path in {"/", "/proc", "/etc", "/var"} or path.startswith(own)


def test_the_disk_is_reachable_when_var_is_covered() -> None:
    """The data directory lies below /var on most hosts: it is bound first."""
    steps = plan_of()
    data = steps.index(Mount("/data/node1", machine.DATA_IN_NODE, "", MS_BIND))
    var = next(i for i, s in enumerate(steps) if isinstance(s, Mount) and s.target == "/var")
    binds = [s for s in steps[data + 1 :] if isinstance(s, Mount) and s.flags == MS_BIND]
    assert data < var
    assert all(bind.source == f"{machine.DATA_IN_NODE}{bind.target}" for bind in binds)
    assert {bind.target for bind in binds} == set(machine.PERSISTENT_NODE)


def test_cgroup_v1_hierarchies_are_mounted_as_on_the_host() -> None:
    """Named and combined ones too; a v2 hierarchy beside them is left out."""
    steps = [s for s in machine.cgroup_mounts(V1) if isinstance(s, Mount)]
    assert steps[0].fstype == "tmpfs"
    found = {(s.target, s.data, s.links) for s in steps[1:]}
    assert found == {
        ("/sys/fs/cgroup/systemd", "none,name=systemd", ()),
        ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", ("cpu", "cpuacct")),
        ("/sys/fs/cgroup/pids", "pids", ()),
    }


def test_pure_cgroup_v2_is_one_mount() -> None:
    """As on a plain Debian 12."""
    (only,) = machine.cgroup_mounts("0::/user.slice\n")
    assert isinstance(only, Mount)
    assert (only.target, only.fstype) == ("/sys/fs/cgroup", "cgroup2")


def test_a_node_knows_itself_and_the_others() -> None:
    """hostname, hosts and machine-id are its own."""
    files = machine.identity_files("node1", "a" * 32, machine.hosts_of(SPEC))
    assert files[PurePosixPath("/etc/hostname")] == "node1\n"
    assert files[PurePosixPath("/etc/machine-id")] == "a" * 32 + "\n"
    assert "198.18.0.12 node2\n" in files[PurePosixPath("/etc/hosts")]
    assert "198.18.0.1 fabric\n" in files[PurePosixPath("/etc/hosts")]


@pytest.mark.parametrize(
    ("bounding", "lacks"), [("000001fffeffffff", True), ("000001ffffffffff", False)]
)
def test_a_missing_capability_is_noticed(bounding: str, lacks: bool) -> None:
    """Bit 24 of the bounding set is CAP_SYS_RESOURCE."""
    assert machine.lacks_sys_resource(f"Name:\tx\nCapBnd:\t{bounding}\n") is lacks


def test_dockerd_follows_netd_and_takes_its_options() -> None:
    """The runtime wrapper is only there where it is needed."""
    plain = make_lab("x", 2, None, [], control_plane=False)
    netd, dockerd = machine.node_services(plain, plain.nodes[0], "/opt/netd", "", wrapper=False)
    assert netd.argv == (
        "/opt/netd",
        "run",
        "--etcd-endpoints=http://198.18.0.1:2379",
        "--iface=eth0",
        "--ip-masq",
    )
    assert dockerd.after == ("netd",)
    assert dockerd.environment_file == "/run/docker_opts.env"
    assert "--userland-proxy=false" in dockerd.argv
    assert not any("runc-lab" in argument for argument in dockerd.argv)
    _, wrapped = machine.node_services(plain, plain.nodes[0], "/opt/netd", "", wrapper=True)
    assert "--default-runtime=runc-lab" in wrapped.argv


def test_with_a_control_plane_netd_and_nodeagent_are_told_of_it() -> None:
    """They know themselves by the lab's name for the node; nothing waits for the API server."""
    netd, dockerd, agent = machine.node_services(
        SPEC, SPEC.nodes[1], "/opt/netd", "/opt/nodeagent", wrapper=False
    )
    assert {"--master=http://198.18.0.1:8080", "--hostname-override=node2"} <= set(netd.argv)
    assert (netd.after, dockerd.after, agent.after) == ((), ("netd",), ())
    assert (agent.wants, agent.notify) == (("dockerd",), True)
    assert agent.argv == (
        "/opt/nodeagent",
        "run",
        "--api-servers=http://198.18.0.1:8080",
        "--config=/etc/kubernetes/manifests",
        "--hostname-override=node2",
        "--node-ip=198.18.0.12",
    )


def test_the_fabric_runs_the_api_server_beside_etcd_if_it_is_wanted() -> None:
    """With the lab's own service range."""
    etcd, api = machine.fabric_services(SPEC, "py")
    assert (etcd.name, api.after) == ("etcd", ("etcd",))
    assert "--service-cluster-ip-range=10.0.0.0/24" in api.argv
    assert "--listen=198.18.0.1:8080" in api.argv
    plain = make_lab("x", 2, None, [], control_plane=False)
    assert [service.name for service in machine.fabric_services(plain, "py")] == ["etcd"]


def test_beside_masters_settings_come_from_files_and_the_fabric_runs_nothing() -> None:
    """As on a real host; etcd and the API server are pods of the masters."""
    spec = make_lab("x", 1, None, [], masters=1)
    assert machine.fabric_services(spec, "/py") == ()
    for node in spec.nodes:
        netd, _, agent = machine.node_services(spec, node, "/netd", "/agent", wrapper=False)
        assert netd.argv == ("/netd", "run", "--iface=eth0")
        assert agent.argv == ("/agent", "run")
        kept = machine.persistent_of(node, spec)
        assert {"/etc/kubernetes", "/etc/netd", "/etc/nodeagent", "/var/lib/etcd"} <= set(kept)


def test_an_environment_file_is_read_as_systemd_reads_it() -> None:
    """Quotes go, blank lines and comments are skipped, the value may be empty."""
    text = '# made by netd\n\nDOCKER_OPTS=" --bip=10.1.2.1/24 --mtu=1450"\nA=b\nEMPTY=\n'
    found = machine.parse_environment(text)
    assert found == {"DOCKER_OPTS": " --bip=10.1.2.1/24 --mtu=1450", "A": "b", "EMPTY": ""}
    argv = machine.expand(("dockerd", "--x", "$DOCKER_OPTS", "$NONE"), found)
    assert argv == ["dockerd", "--x", "--bip=10.1.2.1/24", "--mtu=1450"]


@pytest.mark.parametrize("line", ["DOCKER_OPTS", "A-B=c", 'A="b', "A=b c", "=x"])
def test_a_damaged_environment_file_is_an_error(line: str) -> None:
    """dockerd must not start with half of its options."""
    with pytest.raises(LabError, match="environment line"):
        machine.parse_environment(line)
