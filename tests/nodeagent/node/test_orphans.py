"""Processes that Docker has forgotten, in folders that stand for control groups."""

from pathlib import Path

import pytest

from nodeagent.node.orphans import end_processes, is_unborn


def test_only_those_that_are_accepted_are_ended_each_once_and_never_ourselves(
    tmp_path: Path,
) -> None:
    killed: list[int] = []
    for tree in ("cpu", "memory"):
        group = tmp_path / tree / "podx" / "0123" / "inner"
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("0\n7\n8\n9\n")
    folders = [tmp_path / tree / "podx" for tree in ("cpu", "memory", "pids")]
    count = end_processes(
        folders, "0123", {0, 7, 9}.__contains__, kill=lambda p, _: killed.append(p)
    )
    assert (count, sorted(killed)) == (2, [7, 9])
    assert end_processes(folders, "4567", kill=lambda p, _: killed.append(p)) == 0


def test_a_process_that_is_gone_by_then_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("7\n")

    def gone(_pid: int, _number: object) -> None:
        raise ProcessLookupError

    assert end_processes([tmp_path], kill=gone) == 1


@pytest.mark.parametrize(
    ("line", "unborn"),
    [
        (b"runc\0init\0", True),
        (b"runc\0run\0x\0", False),
        (b"sh\0-c\0runc init\0", False),
        (b"", False),
    ],
)
def test_runcs_own_process_is_told_by_its_command_line(
    tmp_path: Path, line: bytes, unborn: bool
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(line)
    assert is_unborn(7, tmp_path) is unborn
    assert not is_unborn(8, tmp_path)
