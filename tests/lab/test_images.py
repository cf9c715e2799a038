"""Image archives: what goes in, and that the same input makes the same image."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from hostkit.command import Completed
from lab import debs, layers
from lab.errors import LabError, UsageError
from lab.images import ImageCache, assemble, cache_key
from lab.layers import Entry, ImageConfig
from lab.recipes import GUESTBOOK, RECIPES, recipe
from tests.lab.fakes import FakeRunner

CONFIG = ImageConfig("test/image:1", ("sh",), ports=("80/tcp",))


def package(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A package's file system archive, with times and owners as a build leaves them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.size, info.mtime, info.uname, info.mode = len(data), 1234567, "builder", 0o755
            tar.addfile(info, io.BytesIO(data))
        for path, target in (links or {}).items():
            info = tarfile.TarInfo(f"./{path}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = ((m, tar.extractfile(m)) for m in tar if m.isreg())
        return {m.name: f.read() for m, f in files if f is not None}


def test_the_same_tree_makes_the_same_archive_in_any_order() -> None:
    """So the image id is the same on every machine, every time."""
    tree = {"a": layers.text("1"), "b/c": layers.text("2"), "d": layers.symlink("a")}
    turned = dict(reversed(tree.items()))
    one = layers.image_archive(tree, CONFIG, "amd64")
    assert one == layers.image_archive(turned, CONFIG, "amd64")
    assert one != layers.image_archive(tree | {"a": layers.text("3")}, CONFIG, "amd64")


def test_the_archive_is_what_docker_load_reads() -> None:
    """manifest.json names configuration and layer; every digest is that of its file."""
    files = unpack(layers.image_archive({"etc/motd": layers.text("hi")}, CONFIG, "arm64"))
    (manifest,) = json.loads(files["manifest.json"])
    config = files[manifest["Config"]]
    layer = files[manifest["Layers"][0]]
    assert manifest["RepoTags"] == ["test/image:1"]
    assert manifest["Config"] == hashlib.sha256(config).hexdigest() + ".json"
    document = json.loads(config)
    assert document["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    assert document["architecture"] == "arm64"
    assert document["config"]["Cmd"] == ["sh"]
    assert document["config"]["ExposedPorts"] == {"80/tcp": {}}
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert [m.name for m in tar] == ["etc", "etc/motd"]
        assert {m.mtime for m in tar} == {0}


def test_files_of_packages_land_in_usr() -> None:
    """Debian 12 merges /bin, /sbin and /lib into /usr; a package may still ship /bin/x."""
    tree = layers.read_package(
        package({"bin/sh": b"x", "usr/lib/y": b"y", "usr/share/doc/z": b"z"}, {"lib/l": "y"}),
        ["usr/share/doc"],
    )
    assert tree["usr/bin/sh"] == Entry(0o755, b"x")
    assert tree["usr/lib/y"].data == b"y"
    assert tree["usr/lib/l"].link == "y"
    assert not any(path.startswith("usr/share") for path in tree)


def test_an_applet_never_hides_a_program() -> None:
    """busybox fills in only what the packages lack, and the recipe's own files win."""
    archive = assemble(
        RECIPES["nginx"],
        [package({"usr/sbin/nginx": b"server", "etc/nginx/nginx.conf": b"theirs"})],
        ["nginx", "wget"],
        "amd64",
    )
    files = unpack(archive)
    (manifest,) = json.loads(files["manifest.json"])
    with tarfile.open(fileobj=io.BytesIO(files[manifest["Layers"][0]])) as tar:
        members = {m.name: m for m in tar}
        conf = tar.extractfile("etc/nginx/nginx.conf")
        assert conf is not None
        assert b"listen 80" in conf.read()
    assert "usr/bin/nginx" not in members
    assert members["usr/bin/wget"].linkname == "busybox"
    assert members["bin"].linkname == "usr/bin"


def test_the_cache_key_changes_with_a_package_and_not_with_their_order() -> None:
    """A security update makes a new image; a second demo does not."""
    a, b = debs.Package("a_1_amd64.deb", "SHA256:1"), debs.Package("b_1_amd64.deb", "SHA256:2")
    made = RECIPES["nginx"]
    assert cache_key(made, [a, b]) == cache_key(made, [b, a])
    assert cache_key(made, [a, b]) != cache_key(made, [a, debs.Package(b.file, "SHA256:3")])
    assert cache_key(made, [a]) != cache_key(RECIPES["busybox"], [a])


def test_an_unknown_image_is_refused_with_the_nearest() -> None:
    """Nothing is built."""
    with pytest.raises(UsageError, match="did you mean 'nginx'"):
        recipe("ngnix")


def test_every_image_of_the_examples_can_be_built() -> None:
    """Their names are those that the recipes give."""
    examples = [p for p in Path("docs/examples").rglob("*") if p.suffix in {".yaml", ".json"}]
    used = {
        image for path in examples for image in re.findall(r"image\W+([\w./:]+)", path.read_text())
    }
    assert used
    assert used <= {made.config.tag for made in RECIPES.values()}


REDIS = """#!/bin/sh
[ "$1 $2 $4" = "-e -h -p" ] || exit 9
host=$3; shift 5
[ "$host" != down ] || { echo Could not connect; exit 1; }
case $1 in
    SET) printf %s "$3" >"$STORE/$2"; echo OK ;;
    GET) cat "$STORE/$2" 2>/dev/null; echo ;;
esac
"""


class Frontend:
    """The guestbook's program in a directory of its own, with a redis that keeps files."""

    def __init__(self, directory: Path) -> None:
        busybox = shutil.which("busybox")
        assert busybox, "busybox is missing: 'make setup' installs it"
        for name in ("sh", "hostname", "httpd", "sed", "timeout", "tr", "cat"):
            (directory / name).symlink_to(busybox)
        (directory / "redis-cli").write_text(REDIS)
        (directory / "redis-cli").chmod(0o755)
        (directory / "store").mkdir()
        self._directory = directory

    def __call__(self, query: str, master: str = "one", slave: str = "two") -> tuple[str, str]:
        """Status and body of the answer."""
        environment = {
            "PATH": str(self._directory),
            "STORE": str(self._directory / "store"),
            "QUERY_STRING": query,
            "REDIS_MASTER_SERVICE_HOST": master,
            "REDIS_MASTER_SERVICE_PORT": "6379",
            "REDIS_SLAVE_SERVICE_HOST": slave,
            "REDIS_SLAVE_SERVICE_PORT": "6379",
        }
        done = subprocess.run(
            ["sh", "-c", GUESTBOOK], env=environment, capture_output=True, check=True, timeout=60
        )
        head, _, body = done.stdout.decode().partition("\r\n\r\n")
        return head.split("\r\n")[0].removeprefix("Status: "), body


@pytest.mark.parametrize(
    "text", ["hello", "a b&c=d%", '"quoted" \\ back', "two\nlines", "* $HOME `id`", "-x", "Grüße"]
)
def test_the_guestbook_says_what_was_written(tmp_path: Path, text: str) -> None:
    """Any text comes back as it was, in valid JSON, and as plain text in the page."""
    ask = Frontend(tmp_path)
    written = ask(f"cmd=set&key=messages&value={quote_plus(text)}")
    assert (written[0], json.loads(written[1])) == ("200 OK", {"message": "Updated"})
    status, body = ask("cmd=get&key=messages")
    assert (status, json.loads(body)) == ("200 OK", {"data": text})
    ask("cmd=set&key=messages&value=<script>")
    status, page = ask("")
    assert status == "200 OK"
    assert "<h1>Guestbook</h1>" in page
    assert "<script>" not in page


def test_the_guestbook_says_why_it_cannot(tmp_path: Path) -> None:
    """A redis that is away or was not known at the start, and a command that there is not."""
    ask = Frontend(tmp_path)
    status, body = ask("cmd=set&key=a&value=b", master="down")
    assert (status, json.loads(body)) == (
        "502 Bad Gateway", {"error": "redis: Could not connect"},
    )  # fmt: skip
    assert ask("cmd=get&key=a", master="down") == ("200 OK", '{"data": ""}\n')
    status, body = ask("cmd=get&key=a", slave="")
    assert status == "502 Bad Gateway"
    assert "no such service" in json.loads(body)["error"]
    assert ask("", slave="down")[0] == "502 Bad Gateway"
    assert ask("cmd=drop")[0] == "400 Bad Request"


def test_apt_s_answers_are_read() -> None:
    """Only libraries are followed; alternatives and virtual packages are understood."""
    depends = (
        "nginx\n  Depends: libc6\n |Depends: libssl3\n  PreDepends: zlib1g\n"
        "  Depends: iproute2\n  Depends: <libvirtual>\n  Recommends: libfoo\n  Breaks: libbar\n"
    )
    assert debs.parse_depends(depends) == {"libc6", "libssl3", "zlib1g"}
    uris = "'http://d/z_1%3a2-3_amd64.deb' zlib1g_1%3a2-3_amd64.deb 86684 SHA256:d7dd\nnoise\n"
    assert debs.parse_uris(uris) == [debs.Package("zlib1g_1%3a2-3_amd64.deb", "SHA256:d7dd")]


class FakeApt(FakeRunner):
    """apt with three packages and lists that must be refreshed first."""

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.depends = {"prog": "libone", "libone": "libtwo", "libtwo": "libone"}
        self.fresh = fresh

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """What apt would say."""
        if argv[:2] == ["apt-get", "update"]:
            self.fresh = True
            return self.ok(argv)
        if not self.fresh:
            return self.fails(argv, "E: No packages found")
        if argv[0] == "apt-cache":
            lines = [f"{n}\n  Depends: {self.depends[n]}" for n in argv[2:]]
            return self.ok(argv, "\n".join(lines))
        found = [f"'http://x/{n}' {n}_1_all.deb 1 SHA256:aa" for n in argv[3:]]
        return self.ok(argv, "\n".join(found))


@pytest.mark.parametrize("fresh", [True, False])
async def test_the_closure_of_libraries_is_resolved(tmp_path: Path, fresh: bool) -> None:
    """Circles end, and missing lists are fetched once."""
    apt = debs.Apt(FakeApt(fresh), tmp_path)
    found = await apt.resolve(["prog"], ["conf"])
    names = [p.file.partition("_")[0] for p in found]
    assert names == ["conf", "libone", "libtwo", "prog"]


async def test_an_apt_that_fails_is_reported_with_its_words(tmp_path: Path) -> None:
    """No half-made image is left behind."""

    class Broken(FakeRunner):
        def answer(self, argv: list[str], stdin: str | None) -> Completed:
            return self.fails(argv, "E: cannot resolve deb.debian.org")

    with pytest.raises(LabError, match=r"cannot resolve deb\.debian\.org"):
        await ImageCache(Broken(), tmp_path / "cache").build("busybox")
    made = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in {".tar", ".deb"}]
    assert not made
