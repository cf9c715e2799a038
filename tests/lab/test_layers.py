"""Archives in pieces: the bytes that tarfile writes, whatever the size, without holding them."""

import hashlib
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import layers
from lab.errors import LabError
from lab.layers import Entry, ImageConfig

CONFIG = ImageConfig("test/image:1", ("sh",))

NAMES = st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=120)
ENTRIES = st.one_of(
    st.builds(Entry, mode=st.integers(0, 0o7777), data=st.binary(max_size=1500)),
    st.builds(Entry, mode=st.integers(0, 0o7777), uid=st.integers(0, 70000)),
    st.builds(Entry, mode=st.just(0o777), link=NAMES),
)


def by_tarfile(tree: dict[str, Entry]) -> bytes:
    """The archive as Python's own module makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(tree):
            entry = tree[path]
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
            elif entry.data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data or b""))
    return buffer.getvalue()


@settings(max_examples=100)
@given(st.dictionaries(NAMES, ENTRIES, max_size=25))
def test_the_pieces_are_the_bytes_that_tarfile_writes(tree: dict[str, Entry]) -> None:
    """Long names, odd sizes, links and directories included."""
    assert layers.pack(tree) == by_tarfile(tree)


def test_a_file_by_its_path_makes_the_same_image_as_its_bytes(tmp_path: Path) -> None:
    """So an image's id tells what is in it, not how it was made."""
    data = bytes(range(256)) * 5000 + b"odd"
    source = tmp_path / "program"
    source.write_bytes(data)
    one = layers.image_archive({"bin/x": Entry(0o755, source=source)}, CONFIG, "amd64")
    assert one == layers.image_archive({"bin/x": Entry(0o755, data)}, CONFIG, "amd64")


def test_large_files_are_never_held(tmp_path: Path) -> None:
    """64 MB go through in pieces of one."""
    source = tmp_path / "program"
    with source.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        size = sum(map(len, layers.image_pieces({"x": Entry(source=source)}, CONFIG, "amd64")))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 64 << 20
    assert most < 8 << 20


@pytest.mark.parametrize("change", [b"", b"abc", b"abcdef", b"xyzw"])
def test_a_file_that_changes_meanwhile_makes_no_image(tmp_path: Path, change: bytes) -> None:
    """Else Docker would refuse the archive, or hold another program than its name says."""
    source = tmp_path / "program"
    source.write_bytes(b"abcd")
    pieces = layers.image_pieces({"x": Entry(source=source)}, CONFIG, "amd64")
    source.write_bytes(change)
    with pytest.raises(LabError, match="changed while the image was made: try again"):
        list(pieces)


def test_the_digest_of_the_layer_is_its_name(tmp_path: Path) -> None:
    """As the image specification has it, also when the layer comes from files."""
    source = tmp_path / "program"
    source.write_bytes(b"x" * 3000)
    archive = layers.image_archive({"x": Entry(source=source)}, CONFIG, "amd64")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (name,) = [one for one in tar.getnames() if one.endswith("/layer.tar")]
        layer = tar.extractfile(name)
        assert layer is not None
        assert hashlib.sha256(layer.read()).hexdigest() == name.partition("/")[0]
