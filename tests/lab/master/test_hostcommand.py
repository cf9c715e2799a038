"""``barenode host prepare``: what an operator copies to a real host."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab import cli
from lab.errors import UsageError
from lab.master import hostcommand
from lab.output import Output

CLUSTER = (
    "--service-range", "10.9.0.0/24", "--network", "10.1.0.0/16",
    "--hyperkube-image", "x/hyperkube:v1.20.2", "--etcd-image", "x/etcd:3.4",
    "--kubernetes-version", "v1.20.2",
)  # fmt: skip
MASTERS = ("--master", "m1=10.0.0.1", "--master", "m2=10.0.0.2", "--master", "m3=10.0.0.3")


def prepare(home: Path, name: str, *words: str) -> str:
    """What the command says; files are below *home*/NAME."""
    folders = ("-o", str(home / name), "--pki-dir", str(home / "pki"))
    args = cli.parse(["host", "prepare", name, *folders, *words], "1")
    said = io.StringIO()
    assert hostcommand.run(args, Output(Console(file=said), Console(stderr=True))) == 0
    return said.getvalue()


def test_masters_and_workers_share_one_ca_and_differ_in_what_they_run(tmp_path: Path) -> None:
    """Whoever joins by it trusts all."""
    said = [prepare(tmp_path, name, *MASTERS, *CLUSTER) for name in ("m1", "m2")]
    said.append(prepare(tmp_path, "w1", "--address", "10.0.0.9", *MASTERS, *CLUSTER))
    assert [("of a master" in text, "of a worker" in text) for text in said] == [
        (True, False), (True, False), (False, True)
    ]  # fmt: skip
    cas = {(tmp_path / n / "etc/kubernetes/pki/ca.crt").read_bytes() for n in ("m1", "m2", "w1")}
    assert len(cas) == 1
    assert (tmp_path / "m1/etc/kubernetes/manifests/etcd.yaml").exists()
    assert not (tmp_path / "w1/etc/kubernetes/manifests").exists()


def test_who_makes_a_second_set_of_cas_by_mistake_is_told(tmp_path: Path) -> None:
    """Hosts of two CAs never trust each other."""
    assert "new CAs" in prepare(tmp_path, "m1", *MASTERS, *CLUSTER)
    assert "new CAs" not in prepare(tmp_path, "m2", *MASTERS, *CLUSTER)


def test_the_first_subnets_are_the_last_of_the_network(tmp_path: Path) -> None:
    """As many masters as it holds have one."""
    for name in ("m1", "m3"):
        prepare(tmp_path, name, *MASTERS, *CLUSTER, "--network", "10.1.0.0/22")
    first, third = ((tmp_path / n / "var/lib/netd/state.json").read_text() for n in ("m1", "m3"))
    assert '"subnet":"10.1.3.0/24"' in first
    assert '"subnet":"10.1.1.0/24"' in third


def test_each_master_begins_with_a_subnet_of_its_own(tmp_path: Path) -> None:
    """A worker leases one: etcd is there by then."""
    states = set()
    for name in ("m1", "m2", "m3"):
        prepare(tmp_path, name, *MASTERS, *CLUSTER)
        states.add((tmp_path / name / "var/lib/netd/state.json").read_text().split('"subnet":')[1])
    assert len(states) == 3
    prepare(tmp_path, "w1", "--address", "10.0.0.9", *MASTERS, *CLUSTER)
    assert not (tmp_path / "w1/var/lib/netd").exists()


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("w1", MASTERS, "--address: w1 is no master"),
        ("m1", (*MASTERS, "--address", "10.0.0.7"), "--master says that m1 is at 10.0.0.1"),
        ("w1", (*MASTERS, "--address", "w1.home"), "--address: 'w1.home' is no IPv4 address"),
        ("m1", (*MASTERS, "--network", "10.9.0.0/16"), "overlap"),
        ("m1", (*MASTERS, "--network", "10.1.0.0/24"), "/22 or larger"),
        ("m1", (*MASTERS, "--kubernetes-version", "new"), "no version of Kubernetes"),
        ("m_1", MASTERS, "NAME"),
        ("W1", (*MASTERS, "--address", "10.0.0.9"), "NAME: 'W1'.*small letters"),
        ("*.w1", (*MASTERS, "--address", "10.0.0.9"), r"NAME: '\*.w1'"),
        ("w1", (*MASTERS, "--address", "10.1.3.9"), "--address: 10.1.3.9 lies in --network"),
        ("w1", (*MASTERS, "--address", "127.0.0.1"), "--address: other hosts cannot reach"),
        ("m1", (*MASTERS, "--network", "10.0.0.0/15"), "--master m1: 10.0.0.1 lies in --network"),
        ("m1", (*MASTERS, "--service-range", "10.0.0.0/24"), "lies in --service-range"),
        ("m1", (*MASTERS, "--service-range", "172.0.0.0/8"), "/12 to /29"),
        ("m1", (*MASTERS, "--service-range", "10.9.0.0/30"), "/12 to /29"),
        ("m1", (*MASTERS, "--master", "m4=10.0.0.4", "--network", "10.1.0.0/22"), "holds 3 hosts"),
    ],
)
def test_wrong_values_are_refused_by_name_and_nothing_is_made(
    tmp_path: Path, name: str, words: tuple[str, ...], text: str
) -> None:
    """The last of a flag given twice counts."""
    with pytest.raises(UsageError, match=text):
        prepare(tmp_path, name, *CLUSTER, *words)
    assert not list(tmp_path.iterdir())
