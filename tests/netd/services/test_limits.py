"""Limits of connection tracking, on files that stand for the kernel's."""

import logging
from pathlib import Path

import pytest

from hostkit.problems import Problems
from netd.services.limits import Files, LimitKeeper, Limits, tcp_be_liberal
from netd.sysctls import Setting

NAMES = ("max", "tcp_timeout_established", "tcp_timeout_close_wait")


class Host:
    """The files, with the kernel's defaults of a small host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dir = root / "net/netfilter"
        self.dir.mkdir(parents=True)
        self.hashsize = root / "hashsize"
        self.write("max", 65536)
        self.write("tcp_timeout_established", 432000)
        self.write("tcp_timeout_close_wait", 60)
        self.hashsize.write_text("16384\n")
        self.problems = Problems()

    def path(self, name: str) -> Path:
        return self.dir / f"nf_conntrack_{name}"

    def write(self, name: str, value: int) -> None:
        self.path(name).write_text(f"{value}\n")

    def read(self) -> list[int]:
        return [int(self.path(name).read_text()) for name in NAMES] + [
            int(self.hashsize.read_text())
        ]

    def keeper(self, limits: Limits | None = None, *, cores: int = 2) -> LimitKeeper:
        files = Files(self.root, self.hashsize)
        return LimitKeeper(limits or Limits(), self.problems, cores=cores, files=files)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_defaults_are_kube_proxys(host: Host) -> None:
    host.keeper().ensure()
    assert host.read() == [131072, 86400, 3600, 32768]
    assert host.problems.all() == ()


def test_the_table_grows_with_the_cores_above_the_least(host: Host) -> None:
    host.keeper(cores=64).ensure()
    assert host.read()[0] == 64 * 32768
    assert host.read()[3] == 64 * 32768 // 4


def test_what_was_found_is_told(host: Host) -> None:
    settings = {one.name: one for one in host.keeper().ensure()}
    name = "net.netfilter.nf_conntrack_max"
    assert settings[name] == Setting(name, "131072", "65536")
    assert settings["nf_conntrack.hashsize"].found == "16384"


def test_a_larger_table_is_left_and_timeouts_are_set_both_ways(host: Host) -> None:
    host.write("max", 1_000_000)
    host.hashsize.write_text("262144")
    host.write("tcp_timeout_established", 300)
    host.write("tcp_timeout_close_wait", 7200)
    host.keeper().ensure()
    assert host.read() == [1_000_000, 86400, 3600, 262144]


def test_zero_leaves_each_as_it_is(host: Host) -> None:
    before = host.read()
    assert host.keeper(Limits(0, 131072, 0, 0)).ensure() == []
    assert host.read() == before
    host.keeper(Limits(0, 0, 100, 0)).ensure()
    assert host.read() == [before[0], 100, *before[2:]]


def test_what_is_right_is_not_written_again(host: Host) -> None:
    keeper = host.keeper()
    keeper.ensure()
    before = [host.path(name).stat().st_mtime_ns for name in NAMES]
    keeper.ensure()
    assert [host.path(name).stat().st_mtime_ns for name in NAMES] == before


def test_what_was_changed_by_somebody_is_set_again(host: Host) -> None:
    keeper = host.keeper()
    keeper.ensure()
    host.write("tcp_timeout_close_wait", 60)
    keeper.ensure()
    assert host.read()[2] == 3600


def test_while_connection_tracking_is_not_loaded_there_is_nothing_to_set(tmp_path: Path) -> None:
    problems = Problems()
    keeper = LimitKeeper(Limits(), problems, cores=2, files=Files(tmp_path, tmp_path / "hashsize"))
    assert keeper.ensure() == []
    assert problems.all() == ()


def test_what_belongs_to_the_host_is_told_once_and_is_no_problem(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """In a namespace of its own the kernel lets even root only read the size of the table."""
    host.path("max").unlink()
    # Readable, smaller than wanted, and never writable, by root either.
    host.path("max").symlink_to("/proc/sys/kernel/cap_last_cap")
    caplog.set_level(logging.INFO)
    keeper = host.keeper()
    keeper.ensure()
    (first, *_) = keeper.ensure()
    assert first.error
    told = [one.message for one in caplog.records if "nf_conntrack_max stays" in one.message]
    assert len(told) == 1
    assert host.problems.all() == ()
    assert host.read()[1:3] == [86400, 3600]


def test_what_cannot_be_set_for_another_reason_is_a_problem_until_it_is_right(host: Host) -> None:
    host.hashsize.unlink()
    host.hashsize.mkdir()
    keeper = host.keeper()
    keeper.ensure()
    (problem,) = host.problems.all()
    assert problem.key == "sysctl/nf_conntrack.hashsize"
    assert "should be 32768" in problem.text
    host.hashsize.rmdir()
    host.hashsize.write_text("32768")
    keeper.ensure()
    assert host.problems.all() == ()


def test_liberal_tracking_is_read_and_is_off_where_it_cannot_be_read(host: Host) -> None:
    assert not tcp_be_liberal(host.root)
    for text, liberal in (("1\n", True), ("0\n", False)):
        host.path("tcp_be_liberal").write_text(text)
        assert tcp_be_liberal(host.root) is liberal
