"""A host remembers of which cluster it is a member."""

from pathlib import Path

import pytest

from lab.errors import LabError
from lab.join import record
from lab.join.model import Record

MEMBER = Record(role="worker", name="w1", address="10.0.0.9", server="https://m:6443", ca_hash="x")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And is gone after clear, with its folder."""
    path = tmp_path / "barenode/host.json"
    assert record.load(path) is None
    record.save(MEMBER, path)
    assert record.load(path) == MEMBER
    assert record.clear(path)
    assert not path.parent.exists()
    assert not record.clear(path)


def test_a_folder_with_other_files_stays(tmp_path: Path) -> None:
    """Whoever put them there keeps them."""
    path = tmp_path / "barenode/host.json"
    record.save(MEMBER, path)
    (path.parent / "other").touch()
    assert record.clear(path)
    assert (path.parent / "other").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"role": "king"}', "\xff"])
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    """It is not taken for a host that is no member."""
    path = tmp_path / "host.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabError, match=r"host\.json is damaged"):
        record.load(path)


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "barenode").touch()
    with pytest.raises(LabError, match="cannot be written"):
        record.save(MEMBER, tmp_path / "barenode/host.json")
