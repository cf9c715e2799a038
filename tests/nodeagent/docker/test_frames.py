"""Docker's streams are read the same however the network cuts them."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.docker.frames import MOST_DOCUMENT, Demux, Documents, PullProgress, refusal


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """*data* in pieces of *sizes*, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40))), SIZES)
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    data = b"".join(struct.pack(">BxxxL", s, len(d)) + d for s, d in frames)
    demux = Demux()
    found = [piece for part in cut(data, sizes) for piece in demux.feed(part)]
    for stream, sources in ((1, {0, 1}), (2, {2, 3})):
        want = b"".join(d for s, d in frames if s in sources)
        assert b"".join(d for s, d in found if s == stream) == want


def test_a_terminal_has_no_frames() -> None:
    assert Demux(tty=True).feed(b"\x01\0\0\0hello") == [(1, b"\x01\0\0\0hello")]


@settings(max_examples=100)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers())), SIZES)
def test_documents_come_out_as_they_went_in(
    documents: list[dict[str, int]], sizes: list[int]
) -> None:
    data = "\r\n".join(json.dumps(one) for one in documents).encode()
    reader = Documents()
    found = [one for part in cut(data, sizes) for one in reader.feed(part)]
    assert found + reader.end() == documents


@pytest.mark.parametrize("line", [b"[1]\n", b"{\n", b"\xff\n", b" " * (MOST_DOCUMENT + 1)])
def test_what_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="Docker sent"):
        Documents().feed(line)


def test_progress_counts_layers_and_bytes() -> None:
    progress = PullProgress()
    for document in (
        {"status": "Pulling from library/nginx", "id": "1.25"},
        {"status": "Pulling fs layer", "id": "a"},
        {"status": "Already exists", "id": "b"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 5e6, "total": 2}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 500, "total": 2000000}},
        {"status": "Downloading", "id": "c", "progressDetail": {"current": 10**6, "total": 10**6}},
        {"status": "Download complete", "id": "c"},
        {"status": "Pull complete", "id": "c"},
        {"status": 7, "id": "d"},
        {"status": "Digest: sha256:00"},
    ):
        progress.feed(document)
    assert progress.text == "2 of 3 layers, 1.0 of 3.0 MB"


def test_a_refusal_within_a_stream_is_found() -> None:
    assert refusal({"errorDetail": {"message": "no\nspace"}, "error": "x"}) == "no space"
    assert refusal({"error": "x"}) == "x"
    assert refusal({"status": "fine"}) == ""
