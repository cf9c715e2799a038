"""The images of a control plane, brought into this host's Docker.

An archive is loaded unless Docker has that very image; a reference is pulled unless Docker has an
image of that name. Where nobody names an image it is made of Debian's packages.
"""

import asyncio
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hostkit.command import CommandError, Runner
from hostkit.errors import cut
from lab.errors import LabError, UsageError
from lab.host import docker_client
from lab.hyperkube import HyperkubeSource, version_in_tag
from lab.images import ImageCache
from lab.master.plane import Version
from lab.recipes import RECIPES
from lab.savedimage import read_saved
from nodeagent.docker import references

ETCD = "etcd"
_ARCHIVE_NAMES = (".tar", ".gz", ".tgz", ".xz", ".bz2")
_INSPECT_TIMEOUT = 30.0
_LOAD_TIMEOUT = 900.0
_PULL_TIMEOUT = 1800.0
_LIMIT = 16 << 20
# The configuration's name in an archive holds its digest, which is the image's id:
# Docker image specification v1.2 (HEX.json), OCI image layout (blobs/sha256/HEX).
_DIGEST = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.json)?$")


@dataclass(frozen=True, slots=True)
class ImageWish:
    """What the operator said of images: each "" when nothing, *version* as ``v1.20.2``."""

    hyperkube: str = ""
    bin_dir: str = ""
    version: str = ""
    etcd: str = ""

    @property
    def silent(self) -> bool:
        """Whether nothing was said of Kubernetes' commands."""
        return not (self.hyperkube or self.bin_dir)


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its *name*; *archive* holds it, without one it is pulled."""

    name: str
    archive: Path | None = None


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a control plane; *version* is that of Kubernetes."""

    hyperkube: Image
    version: Version
    etcd: Image


class HostImages:
    """Finds images and brings them into Docker. *cache* is the folder of those that are made.

    *report* takes a subject and a line of progress. Methods raise LabError.
    """

    def __init__(
        self,
        runner: Runner,
        cache: Path,
        report: Callable[[str, str], None],
        *,
        docker: str | None = None,
    ) -> None:
        self._run = runner
        self._docker = docker or docker_client()
        self._report = report
        self._hyperkube = HyperkubeSource(runner, cache, report)
        self._made = ImageCache(runner, cache)

    async def choose(self, wish: ImageWish) -> Images:
        """The images that are meant; makes what has to be made. Raises UsageError, LabError."""
        etcd = named("--etcd-image", wish.etcd, ETCD) if wish.etcd else None
        if wish.hyperkube and _archive(wish.hyperkube, "--hyperkube-image") is None:
            kubernetes = Image(_reference(wish.hyperkube, "--hyperkube-image"))
            version = version_in_tag(kubernetes.name, wish.version)
        else:
            found = await self._hyperkube.get(wish.hyperkube, wish.bin_dir, wish.version)
            kubernetes, version = Image(found.tag, found.archive), found.version
        if etcd is None:
            self._report(ETCD, "image from Debian's packages")
            etcd = Image(RECIPES[ETCD].config.tag, await self._made.build(ETCD))
        return Images(kubernetes, version, etcd)

    async def bring(self, image: Image) -> None:
        """Have *image* in this host's Docker; raises LabError."""
        there = await self.identity(image.name)
        if image.archive is None:
            if not there:
                self._report("images", f"pulling {image.name}")
                await self._do("pull", "--quiet", image.name, within=_PULL_TIMEOUT)
            return
        digest = await asyncio.to_thread(archived, image.archive, image.name)
        if there and there == digest:
            self._report("images", f"{image.name} is there")
            return
        self._report("images", f"loading {image.name}")
        await self._do("load", "--quiet", "--input", str(image.archive), within=_LOAD_TIMEOUT)

    async def identity(self, name: str) -> str:
        """The id of the image that Docker has under *name*, ``sha256:HEX``; "" for none.

        Raises LabError when Docker does not answer.
        """
        argv = [self._docker, "image", "inspect", "--format", "{{.Id}}", name]
        try:
            done = await self._run.run(argv, timeout=_INSPECT_TIMEOUT, check=False)
        except CommandError as error:
            raise LabError(f"Docker does not answer: {error}") from error
        if done.returncode and "no such image" not in done.stderr.lower():
            raise LabError(f"Docker does not answer: {cut(done.stderr.strip())}")
        return done.stdout.strip() if not done.returncode else ""

    async def _do(self, *words: str, within: float) -> None:
        try:
            await self._run.run([self._docker, *words], timeout=within)
        except CommandError as error:
            said = cut(error.stderr.strip()) or "no message"
            raise LabError(f"docker {words[0]} {words[-1]} failed: {said}") from error


def named(flag: str, text: str, part: str) -> Image:
    """The image *text*, an archive or a reference; of several in an archive that called *part*.

    Raises UsageError that begins with *flag*.
    """
    archive = _archive(text, flag)
    if archive is None:
        return Image(_reference(text, flag))
    tags = [tag for one in read_saved(archive) for tag in one.tags]
    fitting = [tag for tag in tags if part in tag.rpartition("/")[2]] or tags
    if len(fitting) != 1:
        held = ", ".join(tags[:10]) or "no image with a name"
        raise UsageError(f"{flag}: {text} holds {held}: save the one image, by its name")
    return Image(fitting[0], archive)


def _archive(text: str, flag: str) -> Path | None:
    path = Path(text)
    if path.is_file():
        return path.absolute()
    if text.startswith(("/", ".")) or text.endswith(_ARCHIVE_NAMES):
        raise UsageError(f"{flag}: there is no file {text}")
    return None


def _reference(text: str, flag: str) -> str:
    try:
        reference = references.parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if reference.image_id:
        raise UsageError(f"{flag}: name the image by NAME:TAG, not by its id")
    return text


class _Entry(msgspec.Struct):
    config: str = msgspec.field(name="Config", default="")
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


def archived(path: Path, name: str) -> str:
    """The id, ``sha256:HEX``, of the image called *name* in the archive; "" when it does not tell.

    Raises LabError for a file that cannot be read.
    """
    try:
        with tarfile.open(path, "r:*") as tar:
            file = tar.extractfile("manifest.json")
            text = b"[]" if file is None else file.read(_LIMIT)
        entries = msgspec.json.decode(text, type=list[_Entry])
    except (tarfile.TarError, KeyError, EOFError, msgspec.MsgspecError):
        return ""
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
    for entry in entries:
        if name in (entry.tags or ()) and (match := _DIGEST.search(entry.config)):
            return f"sha256:{match[1]}"
    return ""
