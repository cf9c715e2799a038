"""The hyperkube image: what is in it, where it comes from, and that it is made once."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostkit.command import Completed
from lab import hyperkubeimage, layers
from lab.archivecache import SLACK
from lab.errors import LabError, PrerequisiteError, UsageError
from lab.hyperkube import Hyperkube, HyperkubeSource, require_version, version_in_tag
from lab.kubebinaries import SERVERS
from lab.layers import ImageConfig
from lab.master.plane import Version
from lab.savedimage import hyperkube_tag
from tests.lab.elf import write_commands
from tests.lab.fakes import FakeRunner

V120 = Version(1, 20)


class Machine(FakeRunner):
    """dpkg, apt with a busybox, a Docker Engine with *images*, and commands that tell a version."""

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch
        self.images: dict[str, bytes] = {}
        self.version = "v1.20.2"
        self.save_fails = False

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What each of them does."""
        match argv:
            case ["dpkg", "--print-architecture"]:
                return self.ok(argv, "amd64\n")
            case ["apt-cache", "depends", *_]:
                return self.ok(argv, "busybox-static\n")
            case ["apt-get", "download", "--print-uris", name]:
                return self.ok(argv, f"'http://d/{name}' {name}_1_all.deb 1 SHA256:aa\n")
            case ["env", directory, "apt-get", *_, "download", "busybox-static=1"]:
                self.package(Path(directory.partition("=")[2]) / "busybox-static_1_all.deb")
                return self.ok(argv)
            case [path, "--version"]:
                assert path.endswith("/kube-apiserver")
                return self.ok(argv, f"Kubernetes {self.version}\n")
            case ["/test/docker", *words]:
                return self.docker(argv, words)
        return super().answer(argv, stdin)

    def package(self, target: Path) -> None:
        """A package with a busybox."""
        root = self.scratch / "package"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(
            "Package: busybox-static\nVersion: 1\nArchitecture: all\n"
            "Maintainer: x\nDescription: x\n"
        )
        for path in ("bin/busybox", "usr/share/doc/busybox/copyright"):
            (root / path).parent.mkdir(parents=True)
            (root / path).write_text("a busybox")
        subprocess.run(["dpkg-deb", "-b", root, target], check=True, stdout=subprocess.DEVNULL)

    def docker(self, argv: list[str], words: Sequence[str]) -> Completed:
        """Docker's own answers."""
        name = words[-1]
        if name not in self.images:
            return self.fails(argv, f"Error: No such image: {name}")
        if words[0] == "image":
            return self.ok(argv, f"sha256:{len(self.images[name])} {len(self.images[name])}\n")
        if self.save_fails:
            return self.fails(argv, "no space left on device")
        Path(words[2]).write_bytes(self.images[name])
        return self.ok(argv)


class Bench:
    """A source on a machine of its own."""

    def __init__(self, directory: Path) -> None:
        self.machine = Machine(directory)
        self.said: list[str] = []
        self.free = 1 << 40
        self.cache = directory / "cache"
        self.bins = write_commands(directory / "bin", *SERVERS, "kubectl")
        self.script = directory / "build.sh"
        self.script.write_text(f'echo "kubernetes: compiling" >&2; echo {self.bins}')
        self.source = HyperkubeSource(
            self.machine,
            self.cache,
            lambda subject, text: self.said.append(f"{subject}: {text}"),
            docker="/test/docker",
            script=self.script,
            free=lambda _: self.free,
        )

    def archives(self) -> list[str]:
        """What is in the cache."""
        return sorted(path.name for path in (self.cache / "images").glob("*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A source on a machine of its own."""
    return Bench(tmp_path)


def layer_of(archive: Path) -> dict[str, tarfile.TarInfo]:
    """The files in the image's only layer."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
        layer = tar.extractfile(image["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            return {one.name: one for one in inner}


async def test_an_image_is_made_of_the_operator_s_binaries(bench: Bench) -> None:
    """Commands, dispatcher, busybox, and what a program expects of any system."""
    made = await bench.source.get(bin_dir=str(bench.bins))
    assert made.tag == "barenode/hyperkube:v1.20.2"
    assert made.version == V120
    assert made.kubectl == bench.bins / "kubectl"
    assert made.archive is not None
    assert hyperkube_tag(made.archive) == (made.tag, "amd64")
    files = layer_of(made.archive)
    for name in (*SERVERS, "kubectl"):
        assert files[f"usr/local/bin/{name}"].mode == 0o755
        assert files[f"usr/local/bin/{name}"].size == (bench.bins / name).stat().st_size
    assert files["hyperkube"].mode == 0o755
    assert files["usr/bin/busybox"].size == len("a busybox")
    assert files["usr/bin/sh"].linkname == "busybox"
    assert files["etc/ssl/certs"].isdir()
    assert files["tmp"].mode == 0o1777
    assert {"etc/passwd", "etc/nsswitch.conf"} <= set(files)
    assert not any(name.startswith("usr/share") for name in files)


async def test_it_is_made_once(bench: Bench) -> None:
    """The second call runs no program at all; a replaced binary makes a new image."""
    first = await bench.source.get(bin_dir=str(bench.bins))
    bench.machine.ran.clear()
    assert await bench.source.get(bin_dir=str(bench.bins)) == first
    assert bench.machine.ran == []
    os.utime(bench.bins / "kube-scheduler", (1, 1))
    second = await bench.source.get(bin_dir=str(bench.bins))
    assert second.archive != first.archive


async def test_the_space_it_takes_is_said_and_must_be_there(bench: Bench) -> None:
    """Before anything is written."""
    for name in SERVERS:
        with (bench.bins / name).open("ab") as file:
            file.truncate(100_000_000)
    bench.free = SLACK + 200_000_000
    with pytest.raises(PrerequisiteError, match="has 267 MB free and 367 are needed"):
        await bench.source.get(bin_dir=str(bench.bins))
    assert bench.archives() == []
    assert any("making the image barenode/hyperkube:v1.20.2: 300 MB in" in x for x in bench.said)


async def test_without_image_and_binaries_it_is_built_from_source(bench: Bench) -> None:
    """The build's lines are passed on."""
    made = await bench.source.get()
    assert made.archive is not None
    assert bench.said[0] == "hyperkube: compiling"


async def test_an_image_goes_before_binaries(bench: Bench, tmp_path: Path) -> None:
    """As an operator who names both means it; nothing is made."""
    file = tmp_path / "mine"
    file.write_bytes(layers.image_archive({}, ImageConfig("k/hyperkube:v1.9.3", ()), "amd64"))
    made = await bench.source.get(str(file), str(bench.bins))
    assert made == Hyperkube("k/hyperkube:v1.9.3", Version(1, 9), file, None)
    assert bench.archives() == []


async def test_a_file_of_another_architecture_is_refused(bench: Bench, tmp_path: Path) -> None:
    """Its programs would end with a message that no one understands."""
    file = tmp_path / "mine"
    file.write_bytes(layers.image_archive({}, ImageConfig("k/hyperkube:v1.9.3", ()), "arm64"))
    with pytest.raises(UsageError, match="is for arm64, this machine is amd64"):
        await bench.source.get(str(file))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("./hyperkube.tar", "there is no file ./hyperkube.tar"),
        ("hyperkube.tar", "there is no file hyperkube.tar"),
        ("Mine/Image:v1.20", "must be in lower case"),
        ("f" * 64, "name the image by NAME:TAG, not by its id"),
        ("mine/hyperkube", "mine/hyperkube does not tell the version .* by --kubernetes-version"),
    ],
)
async def test_what_cannot_be_an_image_is_refused(bench: Bench, image: str, why: str) -> None:
    """Naming the flag to mend."""
    with pytest.raises(UsageError, match=why):
        await bench.source.get(image)


async def test_an_image_in_the_operator_s_docker_is_saved_once(bench: Bench) -> None:
    """And anew when it is another one by the same name."""
    name = "mine/hyperkube:v1.19.1"
    bench.machine.images[name] = b"one"
    first = await bench.source.get(name)
    assert first.archive is not None
    assert first.archive.read_bytes() == b"one"
    assert await bench.source.get(name) == first
    assert len([argv for argv in bench.machine.ran if argv[1] == "save"]) == 1
    bench.machine.images[name] = b"three"
    second = await bench.source.get(name)
    assert second.archive is not None
    assert second.archive.read_bytes() == b"three"


async def test_an_image_that_docker_lacks_comes_without_an_archive(bench: Bench) -> None:
    """The same without a Docker, and for a digest, by which nothing can be loaded."""
    for image in ("mine/hyperkube:v1.19.1", f"mine/hyperkube:v1.19.1@sha256:{'a' * 64}"):
        made = await bench.source.get(image)
        assert made == Hyperkube(image, Version(1, 19), None, None)
    assert bench.said == [
        "hyperkube: mine/hyperkube:v1.19.1 is not in this machine's Docker",
        f"hyperkube: {image} is not in this machine's Docker",
    ]


async def test_an_image_that_cannot_be_saved_leaves_nothing(bench: Bench) -> None:
    """With Docker's words."""
    bench.machine.images["mine/hyperkube:v1.19.1"] = b"one"
    bench.machine.save_fails = True
    with pytest.raises(LabError, match=r"cannot be saved: .*no space left on device"):
        await bench.source.get("mine/hyperkube:v1.19.1")
    assert bench.archives() == []


async def test_a_version_that_is_not_there_is_refused(bench: Bench) -> None:
    """Rather than a master whose flags do not fit; also when the image is made already."""
    for _ in range(2):
        with pytest.raises(UsageError, match=r"--kubernetes-version is v1\.19, but that in .*"):
            await bench.source.get(bin_dir=str(bench.bins), version="v1.19")
        await bench.source.get(bin_dir=str(bench.bins), version="1.20")
    with pytest.raises(UsageError, match="is no version of Kubernetes"):
        await bench.source.get(version="latest")


async def test_a_vendor_s_version_becomes_a_tag(bench: Bench) -> None:
    """A tag may have no plus sign; the cache knows it again."""
    bench.machine.version = "v1.27.3+k3s1"
    first = await bench.source.get(bin_dir=str(bench.bins), version="v1.27")
    assert first.tag == "barenode/hyperkube:v1.27.3_k3s1"
    assert await bench.source.get(bin_dir=str(bench.bins), version="1.27.3") == first


async def test_the_archive_is_copied_to_where_it_is_wanted(bench: Bench, tmp_path: Path) -> None:
    """A place that cannot be written to is named."""
    made = await bench.source.write(tmp_path / "out.tar", bin_dir=str(bench.bins))
    assert made.archive is not None
    assert (tmp_path / "out.tar").read_bytes() == made.archive.read_bytes()
    with pytest.raises(LabError, match=r"/none/out\.tar: No such file"):
        await bench.source.write(tmp_path / "none" / "out.tar", bin_dir=str(bench.bins))


async def test_a_cache_that_is_no_folder_is_named(bench: Bench) -> None:
    """No traceback."""
    bench.cache.write_text("")
    with pytest.raises(LabError, match="/cache/images: Not a directory"):
        await bench.source.get(bin_dir=str(bench.bins))


def test_a_version_fits_its_patches_and_no_others() -> None:
    """1.2 is not 1.20."""
    for asked in ("", "1", "1.20", "v1.20", "v1.20.2"):
        require_version(asked, "v1.20.2", "it")
    require_version("1.27.3", "v1.27.3_k3s1", "it")
    for asked in ("1.2", "v1.20.1", "v1.20.21", "2"):
        with pytest.raises(UsageError, match="leave the flag out, or name"):
            require_version(asked, "v1.20.2", "it")


def test_the_version_is_in_the_tag_or_told() -> None:
    """A tag that tells it is believed, unless the flag contradicts."""
    assert version_in_tag("host:5000/hyperkube:v1.9.3", "") == Version(1, 9)
    assert version_in_tag("host:5000/hyperkube", "v1.9") == Version(1, 9)
    assert version_in_tag("hyperkube:mine", "1.30.1") == Version(1, 30)
    with pytest.raises(UsageError, match=r"--kubernetes-version is v1\.8, but"):
        version_in_tag("hyperkube:v1.9.3", "v1.8")


def dispatch(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """/hyperkube with *words*, in an image whose commands are in *root*."""
    text = hyperkubeimage.DISPATCHER.replace("/usr/local/bin", str(root))
    argv = ["sh", "-c", text, "hyperkube", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("called", "command"),
    [
        *((name, name) for name in (*SERVERS, "kubectl")),
        ("apiserver", "kube-apiserver"),
        ("controller-manager", "kube-controller-manager"),
        ("scheduler", "kube-scheduler"),
    ],
)
def test_hyperkube_becomes_the_command_that_is_named(
    tmp_path: Path, called: str, command: str
) -> None:
    """By its name of today or of the first years; arguments arrive as they are."""
    echo = b'#!/bin/sh\nprintf "%s|" "${0##*/}" "$@"\nexit 7\n'
    write_commands(tmp_path, *SERVERS, "kubectl", content=echo)
    done = dispatch(tmp_path, called, "--a=b c", "", "$HOME")
    assert done.stdout == f"{command}|--a=b c||$HOME|"
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kubelet", "--v=2"], "nodeagent runs the pods of a host"),
        (["proxy", "--master=x"], "netd balances the services of a host"),
        (["kube-proxy"], "netd balances the services of a host"),
        (["kubectl"], "there is no kubectl in this image"),
        (["etcd"], "unknown command: etcd\nusage: hyperkube COMMAND [ARGS...]: kube-apiserver,"),
    ],
)
def test_hyperkube_says_what_it_does_not_have(tmp_path: Path, words: list[str], says: str) -> None:
    """Exit status 64 is wrong usage."""
    done = dispatch(tmp_path, *words)
    assert says in done.stderr
    assert done.returncode == 64


def test_hyperkube_alone_lists_its_commands(tmp_path: Path) -> None:
    """As an image that is run to see what it is should."""
    for words in ([], ["--help"]):
        done = dispatch(tmp_path, *words)
        assert "kube-apiserver, kube-controller-manager, kube-scheduler, kubectl" in done.stdout
        assert done.returncode == 0
