"""Settings of the Vagrant lab, evaluated by Ruby alone."""

import json
from pathlib import Path

import pytest

from tests.vagrant.support import VAGRANT, run

PRINT = """
require "json"
require ARGV[0]
begin
  found = Lab::Settings.read(ARGV[1], ENV.to_h)
  puts JSON.generate(found.machines(images: true).map(&:to_h) + [found.box, found.provider])
rescue Lab::BadSetting => e
  puts JSON.generate(e.message)
end
"""


def settings(file: Path, **environment: str) -> object:
    argv = ["ruby", "-e", PRINT, str(VAGRANT / "settings.rb"), str(file)]
    done = run(argv, {"PATH": "/usr/bin:/bin", **environment})
    assert done.returncode == 0, done.stderr
    found: object = json.loads(done.stdout)
    return found


def test_the_defaults_are_a_master_and_two_workers(tmp_path: Path) -> None:
    assert settings(tmp_path / "none.yaml") == [
        {"name": "master", "address": "192.168.56.10", "memory": 2048},
        {"name": "node1", "address": "192.168.56.11", "memory": 2048},
        {"name": "node2", "address": "192.168.56.12", "memory": 2048},
        "debian/bookworm64",
        "",
    ]


def test_the_environment_wins_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("WORKERS: 1\nMEMORY: 4096\nNETWORK: 192.168.57.0/24\nPROVIDER: virtualbox\n")
    assert settings(file, MEMORY="1024", BOX="a/b", CPUS="") == [
        {"name": "master", "address": "192.168.57.10", "memory": 1024},
        {"name": "node1", "address": "192.168.57.11", "memory": 1024},
        "a/b",
        "virtualbox",
    ]


def test_no_workers_is_a_cluster_of_one(tmp_path: Path) -> None:
    found = settings(tmp_path / "none.yaml", WORKERS="0")
    assert isinstance(found, list)
    assert found[0]["name"] == "master"
    assert found[1] == "debian/bookworm64"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WORKERS", "two", "WORKERS=two: a number from 0 to 100 is needed"),
        ("WORKERS", "-1", "WORKERS=-1: a number from 0 to 100 is needed"),
        ("WORKERS", "101", "WORKERS=101: a number from 0 to 100 is needed"),
        ("CPUS", "0", "CPUS=0: a number from 1 to 64 is needed"),
        ("MEMORY", "2G", "MEMORY=2G: a number from 1024 to 1048576 is needed"),
        ("BOX", " ", "BOX is empty: name a box, such as debian/bookworm64"),
        ("PROVIDER", "vmware", "PROVIDER=vmware: libvirt or virtualbox"),
        ("NETWORK", "192.168.56.0/16", "NETWORK=192.168.56.0/16: a network such as"),
        ("NETWORK", "192.168.56", "NETWORK=192.168.56: a network such as"),
        ("NETWORK", "192.168.999.0/24", "NETWORK=192.168.999.0/24: "),
        ("NETWORK", "10.0.2.0/24", "NETWORK=10.0.2.0/24 lies in VirtualBox's NAT"),
        ("NETWORK", "10.100.1.0/24", "NETWORK=10.100.1.0/24 lies in the services' range"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    found = settings(tmp_path / "none.yaml", **{name: value})
    assert isinstance(found, str)
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("WORKER: 3\n", "no setting WORKER: WORKERS, CPUS"),
        ("- WORKERS\n", "{file}: give lines such as WORKERS: 3"),
        ("WORKERS: [3\n", "{file}: "),
        ("WORKERS: !ruby/object:Object {}\n", "{file}: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    found = settings(file)
    assert isinstance(found, str)
    assert found.startswith(sentence.format(file=file))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("# WORKERS: 3\n")
    assert settings(file) == settings(tmp_path / "none.yaml")
