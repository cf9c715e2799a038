"""Paths of the host and their types; which node a volume is for."""

import os
import socket
from pathlib import Path

import pytest

from nodeagent.errors import PodError
from nodeagent.pods.affinity import NodeSelector, Requirement, Term, matches
from nodeagent.volumes.backing import Backing
from nodeagent.volumes.hostpath import ensure


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """One of each kind that can be made without root."""
    (tmp_path / "Directory").mkdir()
    (tmp_path / "File").touch()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "Socket"))
    (tmp_path / "CharDevice").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize("kind", ["Directory", "File", "Socket", "CharDevice"])
def test_a_type_accepts_its_own_kind_and_refuses_all_others(places: Path, kind: str) -> None:
    ensure(Backing(str(places / kind), kind), "v")
    for place in places.iterdir():
        if place.name != kind:
            with pytest.raises(PodError, match=kind):
                ensure(Backing(str(place), kind), "v")


@pytest.mark.parametrize("kind", ["Directory", "File", "Socket", "CharDevice", "BlockDevice"])
def test_what_must_be_there_and_is_not_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(PodError, match=r"none.*does not exist") as caught:
        ensure(Backing(str(tmp_path / "none"), kind), "v")
    assert not caught.value.final


@pytest.mark.parametrize("kind", ["", "DirectoryOrCreate"])
def test_a_missing_folder_is_made_with_those_above_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a/b"
    ensure(Backing(str(path), kind), "v")
    assert path.stat().st_mode & 0o777 == 0o755
    ensure(Backing(str(path), kind), "v")


def test_a_missing_file_is_made_and_one_that_is_there_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    ensure(Backing(str(path), "FileOrCreate"), "v")
    path.write_text("x", encoding="utf-8")
    ensure(Backing(str(path), "FileOrCreate"), "v")
    assert path.read_text(encoding="utf-8") == "x"


def test_a_file_is_made_only_where_its_folder_is(tmp_path: Path) -> None:
    with pytest.raises(PodError):
        ensure(Backing(str(tmp_path / "none/f"), "FileOrCreate"), "v")


def test_no_type_accepts_everything(places: Path) -> None:
    for place in places.iterdir():
        ensure(Backing(str(place)), "v")


def test_an_unknown_type_is_refused_for_good(tmp_path: Path) -> None:
    with pytest.raises(PodError, match="Pipe") as caught:
        ensure(Backing(str(tmp_path), "Pipe"), "v")
    assert caught.value.final


LABELS = {"disk": "ssd", "size": "10"}


@pytest.mark.parametrize(
    ("key", "operator", "values", "wanted"),
    [
        ("disk", "In", ("hdd", "ssd"), True),
        ("disk", "In", ("hdd",), False),
        ("none", "In", ("",), False),
        ("disk", "NotIn", ("hdd",), True),
        ("disk", "NotIn", ("ssd",), False),
        ("none", "NotIn", ("x",), True),
        ("disk", "Exists", (), True),
        ("none", "Exists", (), False),
        ("none", "DoesNotExist", (), True),
        ("disk", "DoesNotExist", (), False),
        ("size", "Gt", ("9",), True),
        ("size", "Gt", ("10",), False),
        ("size", "Lt", ("11",), True),
        ("disk", "Lt", ("11",), False),
        ("size", "Lt", ("11", "12"), False),
        ("disk", "Like", ("ssd",), False),
    ],
)
def test_a_requirement_is_about_a_label(
    key: str, operator: str, values: tuple[str, ...], wanted: bool
) -> None:
    term = Term(match_expressions=(Requirement(key, operator, values),))
    assert matches(NodeSelector((term,)), LABELS, "n1") is wanted


def test_one_term_is_enough_and_all_of_its_requirements_must_hold() -> None:
    here = Requirement("metadata.name", "In", ("n1",))
    fits = Term((Requirement("disk", "Exists"),), (here,))
    assert matches(NodeSelector((Term(), fits)), LABELS, "n1")
    assert not matches(NodeSelector((Term(), fits)), LABELS, "n2")
    assert not matches(NodeSelector((Term(),)), LABELS, "n1")
    assert not matches(NodeSelector(), LABELS, "n1")
