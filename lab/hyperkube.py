"""Where the hyperkube image comes from, by which masters run Kubernetes as pods.

It is, in this order, the one that the operator names, one made of the operator's binaries, or one
made of binaries built from Debian's source package.

An image that is made here is kept under a key over its recipe and the binaries' paths, sizes and
times: no 300 MB are read to find that it is there already. Its busybox is not in the key: apt is
only asked when an image is made.
"""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostkit.command import CommandError, Runner
from lab import kubebinaries
from lab.archivecache import ArchiveCache, free_bytes
from lab.debs import Apt, contents
from lab.errors import LabError, PrerequisiteError, UsageError
from lab.hyperkubeimage import image_config, image_key, image_tree
from lab.layers import Entry, ImageConfig, go_architecture, image_pieces, read_package
from lab.master.plane import Version
from lab.savedimage import hyperkube_tag
from nodeagent.docker import references

SUBJECT = "hyperkube"
DOCKER = "/usr/bin/docker"
_SAVE_TIMEOUT = 600.0
_ARCHIVE_NAMES = (".tar", ".gz", ".tgz", ".xz", ".bz2")


@dataclass(frozen=True, slots=True)
class Hyperkube:
    """An image to run a control plane from.

    *tag* is what manifests name. *archive* is to be loaded into the masters; without one they
    pull the image. *kubectl* is one of this version, if one came along.
    """

    tag: str
    version: Version
    archive: Path | None
    kubectl: Path | None


def require_version(asked: str, found: str, what: str) -> None:
    """Raise UsageError unless *found* is the version *asked* for, or one of its patches."""
    wanted, got = asked.removeprefix("v"), found.removeprefix("v")
    if wanted and not (got == wanted or (got.startswith(wanted) and got[len(wanted)] in ".-+_")):
        raise UsageError(
            f"--kubernetes-version is {asked}, but {what} is {found}: leave the flag out, or name "
            "the image or the binaries of that version by --hyperkube-image or --kube-bin-dir"
        )


def version_in_tag(reference: str, asked: str) -> Version:
    """The version that a tag tells, else the one *asked* for; raises UsageError without either."""
    tag = references.parse(reference).tag
    try:
        found = Version.parse(tag)
    except UsageError:
        if asked:
            return Version.parse(asked)
        raise UsageError(
            f"the name {reference} does not tell the version of Kubernetes: "
            "give it by --kubernetes-version, such as v1.20.2"
        ) from None
    require_version(asked, tag, f"that of {reference}")
    return found


class HyperkubeSource:
    """Finds or makes the image. Archives are kept below *cache*; *report* hears about progress."""

    def __init__(
        self,
        runner: Runner,
        cache: Path,
        report: Callable[[str, str], None],
        *,
        docker: str = DOCKER,
        script: Path = kubebinaries.BUILD,
        clock: Callable[[], float] = time.time,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._run = runner
        self._cache = cache
        self._archives = ArchiveCache(cache / "images", "hyperkube-", clock=clock, free=free)
        self._apt = Apt(runner, cache / "debs")
        self._report = report
        self._docker = docker
        self._script = script

    async def get(self, image: str = "", bin_dir: str = "", version: str = "") -> Hyperkube:
        """The image *image* (file or reference), else of the binaries in *bin_dir*, else built.

        *version* tells what an image's name does not, and is checked against what is found.
        Raises UsageError, PrerequisiteError, LabError.
        """
        if version:
            Version.parse(version)
        try:
            if image:
                return await self._named(image, version)
            return await self._made(bin_dir, version)
        except OSError as error:
            where = error.filename or self._cache
            raise LabError(f"{where}: {error.strerror or error}") from error

    async def write(self, target: Path, bin_dir: str = "", version: str = "") -> Hyperkube:
        """Make the image as ``get`` does, and copy its archive to *target*; raises as ``get``."""
        made = await self.get(bin_dir=bin_dir, version=version)
        if made.archive is not None:
            try:
                await asyncio.to_thread(shutil.copyfile, made.archive, target)
            except OSError as error:
                raise LabError(f"{target}: {error.strerror or error}") from error
        return made

    async def _named(self, image: str, version: str) -> Hyperkube:
        archive = _existing(image)
        if archive is not None:
            tag, architecture = await asyncio.to_thread(hyperkube_tag, archive)
            here = go_architecture(await self._architecture())
            if architecture not in {"", here}:
                raise UsageError(f"{image} is for {architecture}, this machine is {here}")
            return Hyperkube(tag, version_in_tag(tag, version), archive, None)
        try:
            reference = references.parse(image)
        except ValueError as error:
            raise UsageError(f"--hyperkube-image: {error}") from error
        if reference.image_id:
            raise UsageError("--hyperkube-image: name the image by NAME:TAG, not by its id")
        found = version_in_tag(image, version)
        # Docker does not load an image under a name with a digest.
        archive = None if reference.digest else await self._saved(image)
        if archive is None:
            self._report(SUBJECT, f"{image} is not in this machine's Docker")
        return Hyperkube(image, found, archive, None)

    async def _saved(self, image: str) -> Path | None:
        """An archive of *image* out of the operator's own Docker; None when it is not there."""
        argv = [self._docker, "image", "inspect", "--format", "{{.Id}} {{.Size}}", image]
        try:
            identity, size = (await self._run.run(argv)).stdout.split()
            needed = int(size)
        except (CommandError, ValueError):
            return None
        key = hashlib.sha256(f"{image} {identity}".encode()).hexdigest()[:16]
        name = f"saved-{key}.tar"
        if (kept := self._archives.find(name)) is not None:
            return kept
        self._announce(f"saving {image} from this machine's Docker", needed)
        with self._archives.new(name) as temporary:
            argv = [self._docker, "save", "-o", str(temporary), image]
            try:
                await self._run.run(argv, timeout=_SAVE_TIMEOUT)
            except CommandError as error:
                raise LabError(f"{image} cannot be saved: {error}") from error
        return self._archives.find(name)

    async def _made(self, bin_dir: str, version: str) -> Hyperkube:
        folder = Path(bin_dir) if bin_dir else await self._built(version)
        commands = kubebinaries.find_commands(folder)
        key = image_key(kubebinaries.fingerprint(commands))
        archive = self._archives.find(f"v*-{key}.tar")
        if archive is None:
            found = await kubebinaries.command_version(self._run, commands["kube-apiserver"])
            require_version(version, found, f"that in {folder}")
            archive = await self._make(f"{found}-{key}.tar", image_config(found), commands)
        found = archive.name.removeprefix("hyperkube-").removesuffix(f"-{key}.tar")
        require_version(version, found, f"that in {folder}")
        kubectl = commands.get(kubebinaries.KUBECTL)
        return Hyperkube(image_config(found).tag, Version.parse(found), archive, kubectl)

    async def _built(self, version: str) -> Path:
        def said(line: str) -> None:
            self._report(SUBJECT, line)

        return await kubebinaries.build(
            self._cache, said, version=version.removeprefix("v"), script=self._script
        )

    async def _make(self, name: str, config: ImageConfig, commands: Mapping[str, Path]) -> Path:
        size = sum(path.stat().st_size for path in commands.values())
        self._announce(f"making the image {config.tag}", size)
        architecture = await self._architecture()
        packages = await self._apt.fetch(await self._apt.resolve(["busybox-static"], []))

        def write() -> Path:
            tree = image_tree(commands, _unpacked(packages))
            return self._archives.write(name, image_pieces(tree, config, architecture))

        return await asyncio.to_thread(write)

    async def _architecture(self) -> str:
        try:
            done = await self._run.run(["dpkg", "--print-architecture"])
        except CommandError as error:
            raise PrerequisiteError(f"images are made from Debian packages: {error}") from error
        return done.stdout.strip()

    def _announce(self, what: str, size: int) -> None:
        self._report(SUBJECT, f"{what}: {size / 1e6:.0f} MB in {self._archives.directory}")
        self._archives.reserve(size)


def _existing(image: str) -> Path | None:
    """The file *image*; None when it can only be a reference. Raises UsageError."""
    path = Path(image)
    if path.is_file():
        return path.absolute()
    if image.startswith(("/", ".")) or image.endswith(_ARCHIVE_NAMES):
        raise UsageError(f"--hyperkube-image: there is no file {image}")
    return None


def _unpacked(packages: Sequence[Path]) -> dict[str, Entry]:
    tree: dict[str, Entry] = {}
    for package in packages:
        tree |= read_package(contents(package), ["usr/share"])
    return tree
