"""What a host becomes by init, the first time and when it is a master already."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lab.errors import LabError, UsageError
from lab.join import addresses, firstmaster
from lab.join.firstmaster import Asked, Present
from lab.join.model import Record
from lab.master import agents
from lab.master.manifests import manifests
from tests.lab.master.planes import ONE, plane

FACTS = addresses.read(
    [{"ifname": "eth0", "addr_info": [{"family": "inet", "local": "198.18.0.2", "prefixlen": 24}]}],
    [],
)
RECORD = Record(
    role="master", name="master1", address="198.18.0.2", server="https://198.18.0.2:6443",
    ca_hash="sha256:00",
)  # fmt: skip
NOTHING = Present()


def made() -> Present:
    """What is on the disk of a master that was made before."""
    texts = {name.removesuffix(".yaml"): text for name, text in manifests(plane(), ONE[0]).items()}
    return firstmaster.present(agents.network_config(plane()), texts)


def test_a_new_host_gets_the_defaults() -> None:
    """Its own name, its only address, flannel's and kubeadm's ranges."""
    found = firstmaster.settle(Asked(), NOTHING, None, FACTS, "alpha")
    assert (found.name, found.address, found.domain) == ("alpha", "198.18.0.2", "cluster.local")
    assert (str(found.pods), found.services) == ("10.244.0.0/16", "10.96.0.0/12")


def test_what_is_asked_for_counts() -> None:
    """Every flag."""
    asked = Asked("beta", "198.18.0.2", "172.20.0.0/16", "172.21.0.0/24", "example.org")
    found = firstmaster.settle(asked, NOTHING, None, FACTS, "alpha")
    assert (found.name, found.domain) == ("beta", "example.org")
    assert (str(found.pods), found.services) == ("172.20.0.0/16", "172.21.0.0/24")


def test_the_files_of_a_master_tell_what_it_was_made_with() -> None:
    """By manifests as they are written, so that both cannot drift apart."""
    assert made() == Present(
        "10.1.0.0/16", "10.0.0.0/24", "cluster.local", "barenode/hyperkube:v1.20.2",
        "barenode/etcd:lab",
    )  # fmt: skip


def test_a_lost_network_file_is_made_up_for_by_the_manifests() -> None:
    """The pods' network is never another one than before."""
    texts = {name.removesuffix(".yaml"): text for name, text in manifests(plane(), ONE[0]).items()}
    assert firstmaster.present("", texts) == made()


def test_a_second_run_without_flags_keeps_everything() -> None:
    """Ranges, name and address of the first one."""
    found = firstmaster.settle(Asked(), made(), RECORD, FACTS, "renamed")
    assert (found.name, found.address) == ("master1", "198.18.0.2")
    assert (str(found.pods), found.services) == ("10.1.0.0/16", "10.0.0.0/24")
    assert firstmaster.settle(
        Asked("master1", "198.18.0.2", "10.1.0.0/16", "10.0.0.0/24", "cluster.local"),
        made(), RECORD, FACTS, "renamed",
    ) == found  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (Asked(name="other"), ("--node-name other", "master1")),
        (Asked(address="198.18.0.9"), ("--address 198.18.0.9", "198.18.0.2")),
        (Asked(pods="10.9.0.0/16"), ("--network 10.9.0.0/16", "10.1.0.0/16")),
        (Asked(services="10.8.0.0/24"), ("--service-range 10.8.0.0/24", "10.0.0.0/24")),
        (Asked(domain="example.org"), ("--domain example.org", "cluster.local")),
    ],
)
def test_other_values_than_the_cluster_has_are_refused(
    asked: Asked, names: tuple[str, str]
) -> None:
    """Both are named, and what ends the cluster."""
    with pytest.raises(UsageError) as caught:
        firstmaster.settle(asked, made(), RECORD, FACTS, "master1")
    assert all(name in str(caught.value) for name in (*names, "barenode reset"))


def test_a_run_that_was_cut_short_early_keeps_what_it_had_settled() -> None:
    """Leases hang on the network that netd was told; there is no manifest yet."""
    early = firstmaster.present(agents.network_config(plane()), {})
    assert early == Present(pods="10.1.0.0/16")
    with pytest.raises(UsageError, match=r"--network 10\.9\.0\.0/16"):
        firstmaster.settle(Asked(pods="10.9.0.0/16"), early, RECORD, FACTS, "master1")


def test_ranges_in_use_are_refused_before_there_is_a_cluster_only() -> None:
    """A master lives on when its host gets a clashing route."""
    clash: list[dict[str, Any]] = [{"dst": "10.1.0.0/16", "dev": "tun0"}]
    facts = replace(FACTS, routes=addresses.read([], clash).routes)
    firstmaster.settle(Asked(), made(), RECORD, facts, "master1")
    with pytest.raises(UsageError, match="overlaps the route"):
        firstmaster.settle(Asked(pods="10.1.0.0/16"), NOTHING, None, facts, "master1")


def test_a_master_that_lost_its_address_is_told_so() -> None:
    """Certificates and etcd's membership name it."""
    with pytest.raises(LabError, match=r"master at 198\.18\.0\.2, and none of its interfaces"):
        firstmaster.settle(Asked(), made(), RECORD, addresses.Facts((), ()), "master1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "services", "10.0.0.1/24"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    """By the flag's name."""
    with pytest.raises(UsageError, match="--service-range"):
        firstmaster.settle(Asked(services=text), NOTHING, None, FACTS, "alpha")
    with pytest.raises(UsageError, match="--network"):
        firstmaster.settle(Asked(pods=text), NOTHING, None, FACTS, "alpha")


@pytest.mark.parametrize(
    ("network", "texts"),
    [
        ("{", {}),
        (json.dumps([]), {}),
        ("", {"kube-apiserver": "{"}),
        ("", {"kube-apiserver": "spec: {}"}),
        ("", {"etcd": "hello"}),
    ],
)
def test_damaged_files_are_said_to_be(network: str, texts: dict[str, str]) -> None:
    """By the file's path, and what helps: nothing that ends the cluster."""
    with pytest.raises(LabError, match=r"^/etc/.* is damaged.*: (remove it|put it back)"):
        firstmaster.present(network, texts)
