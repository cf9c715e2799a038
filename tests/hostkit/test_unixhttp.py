"""Asking a daemon on its control socket."""

import pytest

from hostkit import unixhttp


def test_a_reply_is_split_and_nonsense_is_refused() -> None:
    """HTTP/1.0 or 1.1 status line, headers, body."""
    assert unixhttp.parse_response(b"HTTP/1.0 503 No\r\nA: b\r\n\r\nbody") == (503, b"body")
    for nonsense in (b"", b"hello", b"HTTP/1.1 x y\r\n\r\n"):
        with pytest.raises(ValueError, match=r"HTTP|invalid literal"):
            unixhttp.parse_response(nonsense)
