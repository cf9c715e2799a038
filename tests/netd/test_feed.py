"""The configuration that an operator wants to be in etcd where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest

from hostkit.problems import Problems
from netd.feed import Seed, read_seed
from tests.netd.leases.strategies import record

GOOD = b'{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}'


def test_without_a_path_there_is_nothing_to_write_and_nothing_wrong() -> None:
    problems = Problems()
    assert read_seed("", problems) is None
    assert problems.all() == ()


@pytest.mark.parametrize("content", [GOOD, b" " + GOOD + b"\n"])
def test_a_good_file_is_taken_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    problems, file = Problems(), tmp_path / "net.json"
    file.write_bytes(content)
    assert read_seed(str(file), problems) == Seed(content)
    assert problems.all() == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        (b"", ["must be JSON"]),
        (b"\xff\xfe", ["must be JSON"]),
        (b"{}", ["Network"]),
        (b'{"Network":"10.1.0.0/33"}', ["Network", "10.1.0.0/33"]),
        (b'{"Network":"10.1.0.0/16","Backend":{"Type":"udp"}}', ["udp"]),
    ],
)
def test_a_bad_file_is_a_problem_with_its_path_and_the_reason_and_is_not_written(
    tmp_path: Path, content: bytes | None, words: list[str]
) -> None:
    problems, file = Problems(), tmp_path / "net.json"
    if content is not None:
        file.write_bytes(content)
    assert read_seed(str(file), problems) is None
    (problem,) = problems.all()
    assert problem.key == "net-config-path"
    assert not problem.blocking
    assert all(word in problem.text for word in (str(file), *words)), problem.text


def test_a_folder_in_the_file_s_place_is_a_problem_too(tmp_path: Path) -> None:
    problems = Problems()
    assert read_seed(str(tmp_path), problems) is None
    assert "net-config-path" in problems


def test_only_the_leases_that_the_configuration_admits_go_with_it(tmp_path: Path) -> None:
    """A damaged record, one of another network and one of another size stay away."""
    file = tmp_path / "net.json"
    file.write_bytes(GOOD)
    good = record("10.1.7.0/24", 2)
    others = [record("10.2.8.0/24", 3), record("10.1.9.0/25", 4), replace(good, value=b"{}")]
    seed = read_seed(str(file), Problems(), [*others, good])
    assert seed is not None
    assert [str(one.subnet) for one in seed.leases] == ["10.1.7.0/24"]
