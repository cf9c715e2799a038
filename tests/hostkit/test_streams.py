"""Lines out of chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostkit.streams import Lines


@given(st.binary(), st.lists(st.integers(0, 30)))
def test_however_bytes_are_cut_the_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    lines = Lines()
    found: list[bytes] = []
    rest = data
    for cut in cuts:
        found += lines.feed(rest[:cut])
        rest = rest[cut:]
    found += lines.feed(rest)
    *whole, last = data.split(b"\n")
    assert found == [line for line in whole if line]
    assert lines.rest == last


@pytest.mark.parametrize("chunks", [[b"12345"], [b"123", b"45"], [b"123", b"45\n"]])
def test_a_line_beyond_the_limit_is_refused(chunks: list[bytes]) -> None:
    lines = Lines(limit=4)
    with pytest.raises(ValueError, match="longer than 4 bytes"):
        for chunk in chunks:
            lines.feed(chunk)
    assert Lines(limit=4).feed(b"1234\n1234\n") == [b"1234", b"1234"]
