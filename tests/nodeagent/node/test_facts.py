"""What is read of a machine, from a root that the test writes."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.node.facts import (
    Disk,
    Machine,
    cpu_count,
    disk_of,
    meminfo,
    pretty_name,
    process_age,
)

DISK = Disk(1000, 100)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 6 CPUs, 16 GiB and some huge pages."""
    write(
        tmp_path,
        {
            "etc/machine-id": "abc\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "sys/class/dmi/id/product_uuid": "UUID-1\n",
            "sys/devices/system/cpu/online": "0-3,8-9\n",
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "512\n",
            "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
            "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1024 kB\nMemAvailable: 4096 kB\n",
            "proc/loadavg": "0.01 0.02 0.00 1/300 4242\n",
            "proc/sys/kernel/hostname": "node-1\n",
            "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
            "proc/sys/kernel/random/boot_id": "boot-1\n",
            "proc/sys/kernel/pid_max": "4194304\n",
            "proc/sys/kernel/threads-max": "1000\n",
        },
    )
    return tmp_path


def machine(root: Path, name: str = "x86_64", disk: Disk | None = DISK) -> Machine:
    return Machine(root / "var", root=root, machine=name, disk=lambda _path: disk)


def test_every_fact_of_a_machine_is_read(root: Path) -> None:
    facts = machine(root).facts()
    assert (facts.hostname, facts.machine_id, facts.system_uuid) == ("node-1", "abc", "UUID-1")
    assert (facts.boot_id, facts.kernel) == ("boot-1", "6.1.0-18-amd64")
    assert facts.os_image == "Debian GNU/Linux 12 (bookworm)"
    assert (facts.cpus, facts.memory, facts.disk) == (6, 16 * 2**30, 1000)
    assert facts.hugepages == {2 * 2**20: 2**30, 2**30: 0}


@pytest.mark.parametrize(
    ("kernel", "go"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_architectures_have_gos_names(root: Path, kernel: str, go: str) -> None:
    assert machine(root, kernel).facts().architecture == go


def test_a_bare_root_gives_defaults_and_no_error(tmp_path: Path) -> None:
    facts = machine(tmp_path, disk=None).facts()
    assert facts.cpus >= 1
    assert (facts.memory, facts.disk, facts.os_image) == (0, 0, "Linux")
    assert machine(tmp_path).memory() == (0, 0)
    assert machine(tmp_path).pids() == (0, 0)


def test_a_board_without_dmi_is_known_by_its_machine_id(root: Path) -> None:
    (root / "sys/class/dmi/id/product_uuid").unlink()
    assert machine(root).facts().system_uuid == "abc"


def test_available_memory_is_the_kernels_figure_or_an_estimate(root: Path) -> None:
    assert machine(root).memory() == (4096 * 1024, 16 * 2**30)
    write(root, {"proc/meminfo": "MemTotal: 100 kB\nMemFree: 1 kB\nBuffers: 2 kB\nCached: 3 kB\n"})
    assert machine(root).memory() == (6 * 1024, 100 * 1024)


def test_process_ids_are_limited_by_the_lower_of_two_limits(root: Path) -> None:
    assert machine(root).pids() == (700, 1000)


def test_a_disk_that_hangs_later_does_not_hold_the_facts_up(root: Path) -> None:
    calls = []

    def disk(path: Path) -> Disk:
        calls.append(path)
        return Disk(7, 1)

    reader = Machine(root, root=root, machine="x86_64", disk=disk)
    assert reader.facts().disk == 7
    assert reader.facts().disk == 7
    assert len(calls) == 1


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    found, parent = disk_of(tmp_path / "a" / "b"), disk_of(tmp_path)
    assert found is not None
    assert parent is not None
    assert found.size == parent.size
    assert 0 < found.free <= found.size


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 1), ("0-1", 2), ("0-3,8-9", 6), ("", 0), ("x", 0), ("1-", 0), ("3-1", 0)],
)  # fmt: skip
def test_lists_of_cpus_are_counted(text: str, count: int) -> None:
    assert cpu_count(text) == count


@given(st.text())
@settings(max_examples=150)
def test_no_text_makes_a_parser_fail(text: str) -> None:
    cpu_count(text)
    meminfo(text)
    pretty_name(f"PRETTY_NAME={text}")


def test_the_age_of_a_process_is_the_kernels(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            first, older = process_age(process.pid), process_age(1)
        finally:
            process.kill()
    assert first is not None
    assert older is not None
    assert 0 <= first < older
    assert process_age(process.pid, tmp_path) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a) b) S 1 2")
    assert process_age(7, tmp_path) is None
