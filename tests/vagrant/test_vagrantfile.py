"""The Vagrantfile, as Vagrant itself reads it: no machine is made."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from lab.join.addresses import SHARED_NAT
from tests.vagrant.support import VAGRANT, Place

PROVIDERS = ("libvirt", "virtualbox")
LINE = (
    "barenode join 192.168.56.10:6443 --token abcdef.0123456789abcdef --ca-hash sha256:" + "a" * 64
)
DEB = "barenode_0.1.0_amd64.deb"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)


def steps(machine: dict[str, Any], script: str) -> list[list[str]]:
    """The arguments of each call of *script* on *machine*."""
    return [step["args"] for step in machine["steps"] if step.get("script") == f"scripts/{script}"]


def names(machine: dict[str, Any]) -> list[str]:
    return [step["name"] for step in machine["steps"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_is_valid_for_each_provider(place: Place, provider: str) -> None:
    place.build(DEB)
    done = place.vagrant("validate", PROVIDER=provider)
    assert (done.returncode, done.stdout.strip()) == (0, "Vagrantfile validated successfully.")
    listed = place.vagrant("status", "--machine-readable", PROVIDER=provider).stdout
    shown = [line.split(",") for line in listed.splitlines()]
    assert [(at[1], at[3]) for at in shown if at[2] == "provider-name"] == [
        ("master", provider),
        ("node1", provider),
        ("node2", provider),
    ]


def test_machines_can_be_looked_at_when_nothing_is_built(place: Place) -> None:
    """Who ran `make clean` must still be able to destroy the machines."""
    assert place.vagrant("validate", PROVIDER="libvirt").returncode == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_master_comes_first_then_the_workers(place: Place, provider: str) -> None:
    place.build(DEB)
    found = place.read(provider, WORKERS="3", CPUS="4", MEMORY="3072", BOX="mine/debian")
    machines = found["machines"]
    assert [one["name"] for one in machines] == ["master", "node1", "node2", "node3"]
    assert [one["hostname"] for one in machines] == ["master", "node1", "node2", "node3"]
    assert {one["cpus"] for one in machines} == {4}
    assert {one["box"] for one in machines} == {"mine/debian"}
    assert [one["memory"] for one in machines[1:]] == [3072, 3072, 3072]
    assert not found["parallel"], "a worker would be made before there is a master to join"
    assert [one["folders"] for one in machines] == [0, 0, 0, 0]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_private_address_is_the_one_that_others_are_told(place: Place, provider: str) -> None:
    """Each VirtualBox machine has 10.0.2.15 on its first interface: no command may get that one."""
    place.build(DEB)
    machines = place.read(provider, NETWORK="192.168.60.0/24")["machines"]
    addresses = [IPv4Address(one["private"][0]) for one in machines]
    assert [len(one["private"]) for one in machines] == [1, 1, 1]
    assert addresses == [IPv4Address(f"192.168.60.{last}") for last in (10, 11, 12)]
    ((told, *_rest),) = steps(machines[0], "master.sh")
    assert told == str(addresses[0])
    # The join line names the master's private address, the route to which tells the worker its own.
    assert [steps(one, "worker.sh") for one in machines[1:]] == 2 * [
        [["/home/vagrant/barenode/join"]]
    ]
    assert str(SHARED_NAT.network_address).rsplit(".", 1)[0] not in str(machines)


def test_each_machine_gets_the_package_and_the_scripts_as_root(place: Place) -> None:
    place.build(DEB)
    master, worker, _ = place.read("libvirt")["machines"]
    assert names(master) == ["folder", "package", "install", "master"]
    assert names(worker) == ["folder", "package", "install", "join line", "worker", "tidy"]
    sent = {step["name"]: step for step in worker["steps"]}
    assert sent["package"]["source"] == str(place.dist / DEB)
    assert steps(worker, "install.sh") == [[sent["package"]["destination"]]]
    assert steps(worker, "worker.sh") == [[sent["join line"]["destination"]]]
    assert sent["tidy"]["inline"] == f"rm -f {sent['join line']['destination']}"
    assert all(step["root"] for one in (master, worker) for step in one["steps"] if "root" in step)
    for step in master["steps"] + worker["steps"]:
        if step.get("script"):
            assert (VAGRANT / step["script"]).is_file()


def test_images_that_are_there_go_to_the_master_alone(place: Place) -> None:
    place.build(DEB, "images/hyperkube.tar", "images/etcd.tar")
    master, worker, _ = place.read("libvirt", MEMORY="1500")["machines"]
    folder = "/home/vagrant/barenode"
    assert steps(master, "master.sh") == [
        [
            "192.168.56.10",
            "/root/barenode-join",
            "--hyperkube-image",
            f"{folder}/hyperkube.tar",
            "--etcd-image",
            f"{folder}/etcd.tar",
        ]
    ]
    assert "image hyperkube.tar" in names(master)
    assert not [name for name in names(worker) if name.startswith("image")]
    assert (master["memory"], worker["memory"]) == (1500, 1500)


def test_a_master_that_builds_kubernetes_gets_memory_for_it(place: Place) -> None:
    place.build(DEB)
    master, worker, _ = place.read("libvirt", MEMORY="1500")["machines"]
    assert (master["memory"], worker["memory"]) == (6144, 1500)
    assert place.read("libvirt", MEMORY="8192")["machines"][0]["memory"] == 8192


def test_without_a_package_up_says_how_to_build_one(place: Place) -> None:
    sentence = f"no barenode_*.deb in {place.dist}: build it with 'make deb'"
    master, worker = place.triggers(
        {"stage": "before", "name": "master"}, {"stage": "before", "name": "node1"}
    )
    assert (master["error"], worker["error"]) == (sentence, sentence)


def test_two_packages_are_named(place: Place) -> None:
    place.build(DEB, "barenode_0.2.0_amd64.deb")
    (found,) = place.triggers({"stage": "before", "name": "master"})
    assert "has barenode_0.1.0_amd64.deb, barenode_0.2.0_amd64.deb" in found["error"]


def test_a_new_worker_gets_a_line_from_the_master_that_only_the_operator_reads(
    place: Place,
) -> None:
    place.build(DEB)
    case = {"stage": "before", "name": "node1", "answer": f"{LINE}\r\n", "noise": "a warning\n"}
    found, after = place.triggers(case, {**case, "stage": "after"})
    assert found == {
        "asked": ["barenode token create --ttl 1h --print-join-command"],
        "error": None,
        "text": f"{LINE}\n",
        "mode": "600",
    }
    assert after["text"] == "", "the line stays no longer than it is needed"


def test_the_line_is_fetched_again_to_provision_a_worker_again(place: Place) -> None:
    place.build(DEB)
    (found,) = place.triggers(
        {"stage": "before", "command": "provision", "name": "node1", "id": "7", "answer": LINE}
    )
    assert found["text"] == f"{LINE}\n"


def test_a_machine_that_only_boots_asks_for_nothing(place: Place) -> None:
    """The API server needs a while after a boot of all machines, and dist may be gone."""
    found = place.triggers(
        {"stage": "before", "name": "master", "id": "6", "master": "poweroff"},
        {"stage": "before", "name": "node1", "id": "7", "master": "poweroff"},
    )
    assert [(one["asked"], one["error"]) for one in found] == [([], None), ([], None)]


def test_the_master_joins_nobody_and_a_worker_without_it_says_so(place: Place) -> None:
    place.build(DEB)
    master, worker = place.triggers(
        {"stage": "before", "name": "master", "master": "not_created"},
        {"stage": "before", "name": "node2", "master": "not_created"},
    )
    assert (master["asked"], master["error"]) == ([], None)
    assert worker["error"] == "node2 joins the master, which does not run: 'vagrant up master'"
    assert worker["asked"] == []


def test_what_is_no_join_line_goes_nowhere(place: Place) -> None:
    place.build(DEB)
    answers = ["", "no\n", f"{LINE}\n{LINE}\n", f"{LINE}; reboot\n", f"{LINE} $(reboot)\n"]
    for found in place.triggers(
        *({"stage": "before", "name": "node1", "answer": answer} for answer in answers)
    ):
        assert found["error"].startswith("the master printed no join line")
        assert found["text"] == ""


def test_the_vagrantfile_holds_no_secret() -> None:
    text = (VAGRANT / "Vagrantfile").read_text() + (VAGRANT / "settings.rb").read_text()
    assert "--token" not in text.replace("barenode token create", "")
    assert "ca-hash" not in text


def test_networks_that_machines_have_anyway_are_refused(place: Place) -> None:
    for network in (SHARED_NAT, IPv4Network("192.168.121.0/24"), IPv4Network("10.244.3.0/24")):
        done = place.vagrant("status", PROVIDER="libvirt", NETWORK=str(network))
        assert done.returncode != 0
        assert f"NETWORK={network} lies in" in done.stderr
