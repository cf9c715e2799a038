"""What a host's disk gets before it boots."""

import dataclasses
import json
import tomllib
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from hostkit.config import CONF_D
from lab.master import agents
from lab.master.certificates import NETD_OF_OLD, for_users
from lab.master.manifests import PKI
from lab.master.pki import Pki
from lab.master.plane import Plane
from lab.master.provision import STATE_FILE, Host
from netd.config import load_settings
from netd.identity import identify, saved_config
from netd.leases.model import Lease, parse_network_config
from netd.leases.peers import Judge, interpret
from netd.state import load_state
from tests.lab.master.planes import THREE, plane


def host(tmp_path: Path, made: Plane, name: str = "master1", address: str = "198.18.0.2") -> Host:
    """A host whose disk is a folder of the test."""
    return Host(tmp_path / name, made, Pki(tmp_path / "pki"), name, address)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below *folder* but locks."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.stat().st_size}


def settings(root: Path, path: str) -> dict[str, Any]:
    """A settings file on the disk *root*."""
    return tomllib.loads((root / path.lstrip("/")).read_text())


def test_every_file_that_settings_and_kubeconfigs_name_is_there(tmp_path: Path) -> None:
    """On masters and workers alike."""
    made = plane(THREE)
    for name, address in (("master2", "198.18.0.3"), ("node1", "198.18.0.11")):
        host(tmp_path, made, name, address).provision()
        for path in (agents.NETD_FILE, agents.NODEAGENT_FILE):
            for value in settings(tmp_path / name, path).values():
                if isinstance(value, str) and value.startswith("/") and value != agents.MANIFESTS:
                    assert (tmp_path / name / value.lstrip("/")).is_file(), value


def test_a_worker_gets_no_key_but_its_own(tmp_path: Path) -> None:
    """Whoever takes it over can sign nothing and is nobody else."""
    host(tmp_path, plane(THREE), "node1", "198.18.0.11").provision()
    pki = tmp_path / "node1" / PKI.lstrip("/")
    keys = {str(path.relative_to(pki)) for path in pki.rglob("*.key")}
    assert keys == {"nodeagent.key", "kubelet.key", "netd.key"}
    assert not (pki / "etcd").exists()
    assert not (tmp_path / "node1/etc/kubernetes/admin.conf").exists()


def test_the_administrator_s_kubeconfig_can_be_copied_to_another_machine(tmp_path: Path) -> None:
    """A master's own components ask the server beside them, whatever becomes of the network."""
    host(tmp_path, plane(THREE), "master2", "198.18.0.3").provision()
    folder = tmp_path / "master2/etc/kubernetes"
    assert "server: https://198.18.0.3:6443" in (folder / "admin.conf").read_text()
    assert "server: https://127.0.0.1:6443" in (folder / "scheduler.conf").read_text()


def test_repeating_it_changes_nothing(tmp_path: Path) -> None:
    """Not even a certificate, or every daemon would have to be restarted."""
    one = host(tmp_path, plane(THREE))
    one.provision()
    one.begin()
    one.place_manifests()
    before = files(tmp_path)
    one.provision()
    one.begin()
    one.place_manifests()
    assert files(tmp_path) == before


def test_a_renewed_certificate_remakes_the_pods_that_use_it(tmp_path: Path) -> None:
    """Kubernetes' commands read it at their start alone."""
    made = plane()
    one = host(tmp_path, made)
    one.provision()
    one.place_manifests()
    folder = tmp_path / "master1" / agents.MANIFESTS.lstrip("/")
    before = files(folder)
    scheduler = next(one for one in for_users(made) if one.name == "scheduler")
    Pki(tmp_path / "pki").issue(scheduler, tmp_path / "master1" / PKI.lstrip("/"), anew=True)
    one.provision()
    one.place_manifests()
    after = files(folder)
    assert {name for name in before if before[name] != after[name]} == {"kube-scheduler.yaml"}


def test_netd_comes_up_with_the_seed_as_after_a_reboot(tmp_path: Path) -> None:
    """Its own reader takes it for what it saved."""
    one = host(tmp_path, plane())
    one.begin()
    state = load_state(tmp_path / "master1" / STATE_FILE.lstrip("/"))
    assert state.remembered == IPv4Network("10.1.255.0/24")
    config = saved_config(state)
    assert config is not None
    assert config.network == IPv4Network("10.1.0.0/16")
    assert config.admits(IPv4Network("10.1.255.0/24"))


def test_every_master_knows_what_the_others_begin_with(tmp_path: Path) -> None:
    """So that the first whom etcd hears can enter them all, before a worker leases a subnet."""
    made = plane(THREE)
    told = []
    for master in made.masters:
        host(tmp_path, made, master.name, master.address).begin()
        state = load_state(tmp_path / master.name / STATE_FILE.lstrip("/"))
        leases = [interpret(record) for record in state.to_records()]
        told.append([entry for entry in leases if isinstance(entry, Lease)])
        (own,) = [lease for lease in told[-1] if str(lease.public_ip) == master.address]
        assert (own.subnet, own.vtep_mac) == (state.remembered, state.vtep_mac)
        assert identify(state, None, tmp_path / "none").vtep_mac == own.vtep_mac
    assert told == [told[0]] * 3
    assert {str(lease.public_ip) for lease in told[0]} == {m.address for m in made.masters}
    for values in zip(*((one.subnet, one.vtep_mac, one.key) for one in told[0]), strict=True):
        assert len(set(values)) == 3
    assert not any(lease.is_reservation for lease in told[0])
    network = parse_network_config(agents.network_config(made))
    judge = Judge(network, IPv4Address("198.18.0.99"), None)
    assert [judge.reason_against(lease) for lease in told[0]] == [None] * 3


def test_only_masters_write_the_network_s_configuration(tmp_path: Path) -> None:
    """A worker knows no subnets to enter before it."""
    made = plane(THREE)
    for name, address, writes in (
        ("master2", "198.18.0.3", True),
        ("node1", "198.18.0.11", False),
    ):
        host(tmp_path, made, name, address).provision()
        netd = settings(tmp_path / name, agents.NETD_FILE)
        assert netd.get("net-config-path") == (agents.NETWORK_FILE if writes else None)
        assert (tmp_path / name / agents.NETWORK_FILE.lstrip("/")).exists() == writes
    assert "net-config-path" not in agents.netd_settings(made, "x", "198.18.0.12", joined=True)


@pytest.mark.parametrize("insecure", [False, True])
def test_each_host_prefers_its_own_servers_and_knows_all(tmp_path: Path, insecure: bool) -> None:
    """A master its own, a worker the first."""
    made = plane(THREE, insecure=insecure)
    netd = agents.netd_settings(made, "master2", "198.18.0.3")
    agent = agents.nodeagent_settings(made, "node1", "198.18.0.11")
    scheme, port = ("http", 8080) if insecure else ("https", 6443)
    urls = [f"{scheme}://198.18.0.{n}:{port}" for n in (2, 3, 4)]
    assert list(netd["master"]) == [urls[1], urls[0], urls[2]]  # type: ignore[arg-type]
    assert list(agent["api-servers"]) == urls  # type: ignore[arg-type]
    etcds = [f"{scheme}://198.18.0.{n}:{2379 if insecure else 12379}" for n in (2, 3, 4)]
    assert list(netd["etcd-endpoints"]) == [etcds[1], etcds[0], etcds[2]]  # type: ignore[arg-type]
    assert ("kubeconfig" in netd, "kubeconfig" in agent) == (not insecure, not insecure)


def test_a_joined_host_is_the_node_to_api_and_etcd_alike() -> None:
    """It has one credential, of its own; a prepared host's netd has one beside."""
    made = plane(THREE)
    joined = agents.netd_settings(made, "node1", "198.18.0.11", joined=True)
    assert joined["kubeconfig"] == agents.NODEAGENT_CONF
    assert joined["etcd-certfile"] == f"{PKI}/node.crt"
    assert joined["etcd-keyfile"] == f"{PKI}/node.key"
    prepared = agents.netd_settings(made, "node1", "198.18.0.11")
    assert prepared["etcd-certfile"] == f"{PKI}/netd.crt"
    same = set(joined) - {"kubeconfig", "etcd-certfile", "etcd-keyfile"}
    assert {name: joined[name] for name in same} == {name: prepared[name] for name in same}
    assert joined["etcd-cafile"] == f"{PKI}/ca.crt"


def test_netd_s_own_reader_takes_the_settings(tmp_path: Path) -> None:
    """From the folder beside the operator's file, with the address that the cluster knows."""
    host(tmp_path, plane(THREE), "node1", "198.18.0.11").provision()
    file = tmp_path / "node1/etc/netd/netd.toml"
    assert Path(agents.NETD_FILE).parent == Path("/etc/netd") / CONF_D
    file.write_text("")
    found = load_settings([f"--config={file}"], {})
    assert str(found["public-ip"]) == "198.18.0.11"
    assert found["etcd-endpoints"] == plane(THREE).network_etcd_urls()


def test_the_operator_s_settings_are_not_touched(tmp_path: Path) -> None:
    """What barenode wrote in their place before goes; what anybody else wrote stays."""
    root = tmp_path / "node1"
    old, own = (root / path.lstrip("/") for path in agents.FILES_OF_OLD)
    pair = [root / PKI.lstrip("/") / f"{NETD_OF_OLD}.{suffix}" for suffix in ("crt", "key")]
    for path in (old, own, *pair):
        path.parent.mkdir(parents=True, exist_ok=True)
    old.write_text(agents.toml({"ip-masq": True}))
    own.write_text("# made by barenode, then by me\nv = 4\n")
    for path in pair:
        path.write_text("x")
    one = host(tmp_path, plane(THREE), "node1", "198.18.0.11")
    one.provision()
    assert not any(path.exists() for path in (old, *pair))
    assert own.read_text().endswith("v = 4\n")


def test_masters_keep_ordinary_pods_away_and_workers_do_not() -> None:
    """By the one taint that pods for masters tolerate in that version."""
    for version, name in (("v1.20.2", "master"), ("v1.30.1", "control-plane")):
        settings = agents.nodeagent_settings(plane(version=version), "master1", "1.2.3.4")
        taint = f"node-role.kubernetes.io/{name}=:NoSchedule"
        assert settings["register-with-taints"] == [taint]
    made = plane()
    assert "register-with-taints" not in agents.nodeagent_settings(made, "node1", "1.2.3.4")


def test_masters_begin_with_subnets_of_their_own_and_workers_with_none(tmp_path: Path) -> None:
    """From the top of the network, of any size."""
    made = plane(THREE)
    assert [str(made.first_subnet(m)) for m in made.masters] == [
        "10.1.255.0/24", "10.1.254.0/24", "10.1.253.0/24"
    ]  # fmt: skip
    small = dataclasses.replace(made, pods=IPv4Network("10.8.4.0/22"))
    assert str(small.first_subnet(made.masters[2])) == "10.8.5.0/24"
    worker = host(tmp_path, made, "node1", "198.18.0.11")
    worker.begin()
    worker.place_manifests()
    assert not (tmp_path / "node1").exists()


def test_settings_are_toml_whatever_is_in_them() -> None:
    """Quotes, backslashes and lists."""
    given: dict[str, agents.Value] = {"a": 'x"y\\z', "b": True, "c": ("1", "2")}
    assert tomllib.loads(agents.toml(given)) == {"a": 'x"y\\z', "b": True, "c": ["1", "2"]}


def test_the_network_is_flannel_s_document() -> None:
    """As netd puts it into etcd."""
    assert json.loads(agents.network_config(plane())) == {
        "Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}
    }  # fmt: skip
