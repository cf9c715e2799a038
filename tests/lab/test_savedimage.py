"""Archives of ``docker save``: the images in them, and clear words when they are none."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from lab import layers
from lab.errors import UsageError
from lab.layers import ImageConfig
from lab.savedimage import hyperkube_tag, read_saved


def archive(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """A tar archive of *files* at *path*."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # mode is any
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def saved(path: Path, *tags: list[str] | None, mode: str = "w") -> Path:
    """An archive with one image for each list of *tags*."""
    manifest = [{"Config": "c.json", "RepoTags": one, "Layers": []} for one in tags]
    config = b'{"architecture": "arm64", "os": "linux"}'
    return archive(path, {"c.json": config, "manifest.json": json.dumps(manifest).encode()}, mode)


def test_an_archive_made_here_is_read(tmp_path: Path) -> None:
    """Its name and, in Go's words, its architecture."""
    path = tmp_path / "x.tar"
    path.write_bytes(layers.image_archive({}, ImageConfig("a/b:1", ("sh",)), "i386"))
    (one,) = read_saved(path)
    assert (one.tags, one.architecture) == (("a/b:1",), "386")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_the_hyperkube_image_is_found_by_its_name(tmp_path: Path, mode: str) -> None:
    """Among several by the word; an only image may be called anything. It may be compressed."""
    several = saved(tmp_path / "s", ["etcd:3"], None, ["host:5/k/hyperkube:v1.9"], mode=mode)
    assert hyperkube_tag(several) == ("host:5/k/hyperkube:v1.9", "arm64")
    assert hyperkube_tag(saved(tmp_path / "o", ["mine:1", "mine:2"], mode=mode))[0] == "mine:1"


def test_an_archive_in_which_it_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match="holds a:1, b:2: save the hyperkube image alone"):
        hyperkube_tag(saved(tmp_path / "two", ["a:1"], ["b:2"]))
    with pytest.raises(UsageError, match="has no name: save it by name"):
        hyperkube_tag(saved(tmp_path / "nameless", None))
    with pytest.raises(UsageError, match="has no name: save it by name"):
        hyperkube_tag(saved(tmp_path / "nameless", []))


def test_what_is_no_archive_of_docker_save_is_called_so(tmp_path: Path) -> None:
    """Other archives, of 'docker export' too, cut ones, and files of any kind."""
    whole = saved(tmp_path / "whole", ["a:1"]).read_bytes()
    files = {
        "export": archive(tmp_path / "e", {"etc/passwd": b"root"}).read_bytes(),
        "empty": b"",
        "text": b"hello\n" * 1000,
        "cut": whole[:1100],
        "gzip": archive(tmp_path / "g", {"x": b"y" * 9999}, "w:gz").read_bytes()[:60],
        "not json": archive(tmp_path / "j", {"manifest.json": b"{"}).read_bytes(),
        "object": archive(tmp_path / "k", {"manifest.json": b"{}"}).read_bytes(),
        "no config": archive(
            tmp_path / "n", {"manifest.json": b'[{"Config": "c", "RepoTags": ["a:1"]}]'}
        ).read_bytes(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UsageError, match=f"{name} is no archive of 'docker save'"):
            read_saved(path)
    with pytest.raises(UsageError, match="Is a directory"):
        read_saved(tmp_path)


def test_what_is_no_archive_is_told_in_one_sentence(tmp_path: Path) -> None:
    """tarfile's own words are a line for each compression that it tried."""
    (tmp_path / "x").write_bytes(b"no archive" * 1000)
    other = archive(tmp_path / "y", {"z": b""})
    for path, text in ((tmp_path / "x", "file could not be opened"), (other, "'manifest.json'")):
        with pytest.raises(UsageError, match=text) as raised:
            read_saved(path)
        assert len(str(raised.value).splitlines()) == 1
