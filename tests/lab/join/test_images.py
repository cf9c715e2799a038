"""Images of a control plane come into Docker once, by archive or by name."""

import asyncio
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from hostkit.command import CommandError, Completed
from lab.errors import LabError, UsageError
from lab.join import images
from lab.join.images import HostImages, Image, ImageWish
from tests.lab.fakes import FakeRunner

ETCD = "barenode/etcd:lab"


class Docker(FakeRunner):
    """Docker with the images in *there*, by name; *remote* are those that can be pulled."""

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, str] = {}
        self.remote = {"example.org/hyperkube:v1.20.2"}
        self.up = True

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        if not self.up:
            return self.fails(argv, "Cannot connect to the Docker daemon")
        match argv[1:]:
            case ["image", "inspect", *_, name] if name in self.there:
                return self.ok(argv, f"{self.there[name]}\n")
            case ["image", "inspect", *_, name]:
                return self.fails(argv, f"Error: No such image: {name}")
            case ["pull", "--quiet", name] if name in self.remote:
                self.there[name] = "sha256:pulled"
                return self.ok(argv)
            case ["pull", *_]:
                return self.fails(argv, "manifest unknown")
            case ["load", "--quiet", "--input", path]:
                for tag in read_tags(Path(path)):
                    self.there[tag] = images.archived(Path(path), tag)
                return self.ok(argv)
        return super().answer(argv, stdin)

    def count(self, word: str) -> int:
        """How often a command of Docker ran."""
        return sum(argv[1] == word for argv in self.ran)


def read_tags(path: Path) -> list[str]:
    """The names in an archive."""
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        return [tag for one in json.load(file) for tag in one["RepoTags"]]


def archive(path: Path, *tags: str, content: str = "1", layout: str = "{}.json") -> Path:
    """What ``docker save`` writes of images with these names."""
    with tarfile.open(path, "w") as tar:
        entries = []
        for tag in tags:
            config = json.dumps({"architecture": "amd64", "tag": tag, "content": content}).encode()
            name = layout.format(hashlib.sha256(config).hexdigest())
            entries.append({"Config": name, "RepoTags": [tag]})
            _add(tar, name, config)
        _add(tar, "manifest.json", json.dumps(entries).encode())
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def made(docker: Docker, tmp_path: Path) -> HostImages:
    """The images of a host with *docker*."""
    return HostImages(docker, tmp_path / "cache", lambda _subject, _text: None, docker="docker")


@pytest.mark.parametrize("layout", ["{}.json", "blobs/sha256/{}"])
def test_an_archive_is_loaded_once(tmp_path: Path, layout: str) -> None:
    """Docker's own layout and OCI's."""
    docker = Docker()
    image = Image(ETCD, archive(tmp_path / "etcd.tar", ETCD, layout=layout))
    for _ in range(2):
        asyncio.run(made(docker, tmp_path).bring(image))
    assert docker.count("load") == 1


def test_another_archive_of_the_same_name_is_loaded_too(tmp_path: Path) -> None:
    """A name is no content."""
    docker = Docker()
    for content in ("1", "2"):
        path = archive(tmp_path / f"{content}.tar", ETCD, content=content)
        asyncio.run(made(docker, tmp_path).bring(Image(ETCD, path)))
    assert docker.count("load") == 2


def test_an_image_by_name_is_pulled_unless_it_is_there(tmp_path: Path) -> None:
    """Once."""
    docker = Docker()
    for _ in range(2):
        asyncio.run(made(docker, tmp_path).bring(Image("example.org/hyperkube:v1.20.2")))
    assert docker.count("pull") == 1


def test_what_docker_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """With the image."""
    with pytest.raises(LabError, match=r"pull example\.org/none:1 failed: manifest unknown"):
        asyncio.run(made(Docker(), tmp_path).bring(Image("example.org/none:1")))


def test_a_docker_that_does_not_answer_has_no_missing_images(tmp_path: Path) -> None:
    """It is down, which is another matter."""
    docker = Docker()
    docker.up = False
    with pytest.raises(LabError, match="Docker does not answer: Cannot connect"):
        asyncio.run(made(docker, tmp_path).bring(Image(ETCD)))


def test_a_docker_command_that_is_missing_is_told(tmp_path: Path) -> None:
    """As a sentence."""

    class Missing(Docker):
        def answer(self, argv: list[str], stdin: str | None) -> Completed:
            raise CommandError(argv, None, "cannot start: No such file or directory")

    with pytest.raises(LabError, match="Docker does not answer"):
        asyncio.run(made(Missing(), tmp_path).identity(ETCD))


def test_both_images_may_be_archives_or_names(tmp_path: Path) -> None:
    """Versions are read from names."""
    chosen = made(Docker(), tmp_path)
    etcd = archive(tmp_path / "etcd.tar", ETCD)
    found = asyncio.run(chosen.choose(ImageWish("example.org/hyperkube:v1.20.2", etcd=str(etcd))))
    assert (found.hyperkube.name, found.hyperkube.archive) == (
        "example.org/hyperkube:v1.20.2", None,
    )  # fmt: skip
    assert (found.etcd, str(found.version)) == (Image(ETCD, etcd), "v1.20")


def test_of_several_images_in_an_archive_etcds_is_taken(tmp_path: Path) -> None:
    """By its name; without one that fits there is no guess."""
    path = archive(tmp_path / "two.tar", "a:1", "example.org/etcd:3.5")
    assert images.named("--etcd-image", str(path), "etcd").name == "example.org/etcd:3.5"
    path = archive(tmp_path / "none.tar", "a:1", "b:1")
    with pytest.raises(UsageError, match=r"--etcd-image: .* holds a:1, b:1: save the one image"):
        images.named("--etcd-image", str(path), "etcd")
    path = archive(tmp_path / "one.tar", "mirror/e:1")
    assert images.named("--etcd-image", str(path), "etcd").name == "mirror/e:1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("./none.tar", "there is no file"),
        ("images.tar.gz", "there is no file"),
        ("Not A Name", "--etcd-image: "),
        ("sha256:" + "0" * 64, "name the image by NAME:TAG"),
    ],
)
def test_what_is_neither_a_file_nor_a_name_is_refused(text: str, why: str) -> None:
    """With the flag."""
    with pytest.raises(UsageError, match=why):
        images.named("--etcd-image", text, "etcd")


def test_an_archive_that_tells_no_digest_is_loaded_each_time(tmp_path: Path) -> None:
    """Rather than trusted by its name."""
    docker = Docker()
    path = archive(tmp_path / "etcd.tar", ETCD, layout="config-of-{:.4}")
    docker.there[ETCD] = ""
    for _ in range(2):
        asyncio.run(made(docker, tmp_path).bring(Image(ETCD, path)))
    assert docker.count("load") == 2
    (tmp_path / "text.tar").write_text("no archive")
    assert images.archived(tmp_path / "text.tar", ETCD) == ""
    with pytest.raises(LabError, match="cannot be read"):
        images.archived(tmp_path / "gone.tar", ETCD)
