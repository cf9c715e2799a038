"""A value made of files: made anew when they change, kept while they cannot be used."""

from pathlib import Path

import pytest

from hostkit.errors import HostkitError
from hostkit.fresh import Fresh


class Number:
    """A number in a file, and how often it was read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reads = 0

    def read(self) -> int:
        """The number; HostkitError without one."""
        self.reads += 1
        try:
            return int(self.file.read_text())
        except (OSError, ValueError) as error:
            raise HostkitError(f"{self.file} holds no number") from error


@pytest.fixture
def number(tmp_path: Path) -> Number:
    file = tmp_path / "number"
    file.write_text("1")
    return Number(file)


def test_it_is_read_once_while_the_file_stays_and_again_when_that_changes(number: Number) -> None:
    fresh = Fresh("number", (str(number.file), ""), number.read)
    assert [fresh.get(), fresh.get(), number.reads] == [1, 1, 1]
    number.file.write_text("22")
    assert [fresh.get(), fresh.get(), number.reads] == [22, 22, 2]


@pytest.mark.parametrize("bad", ["", None])
def test_a_file_that_cannot_be_used_leaves_the_last_value_and_is_told_once(
    number: Number, caplog: pytest.LogCaptureFixture, bad: str | None
) -> None:
    fresh = Fresh("number", (str(number.file),), number.read)
    if bad is None:
        number.file.unlink()
    else:
        number.file.write_text(bad)
    assert [fresh.get(), fresh.get()] == [1, 1]
    assert caplog.messages == [f"keeping the number read before: {number.file} holds no number"]
    number.file.write_text("22")
    assert fresh.get() == 22
    number.file.unlink()
    assert fresh.get() == 22
    assert len(caplog.messages) == 2, "a fault that comes again is told again"


def test_one_that_cannot_be_used_at_the_start_is_an_error(number: Number) -> None:
    number.file.unlink()
    with pytest.raises(HostkitError, match="holds no number"):
        Fresh("number", (str(number.file),), number.read)


@pytest.mark.parametrize("named", [True, False])
def test_what_is_to_be_forgotten_is_read_again_though_no_file_changed(
    number: Number, named: bool
) -> None:
    """Once: an authority of the system's own has no file that is named."""
    fresh = Fresh("number", (str(number.file),) if named else (), number.read)
    fresh.forget()
    assert [fresh.get(), fresh.get(), number.reads] == [1, 1, 2]
