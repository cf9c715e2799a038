"""The images that the lab builds itself, because there is no registry to pull from.

An archive is cached under a key over the recipe and the digests of all its packages, so a
newer package makes a new archive and an unchanged one is never built twice.
"""

import asyncio
import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hostkit.command import CommandError, Runner
from lab.debs import Apt, Package, contents
from lab.errors import LabError
from lab.layers import image_archive, read_package, skeleton, symlink, text
from lab.recipes import Recipe, recipe

# Part of the cache key: raise it when what this module makes of the packages changes.
FORMAT = 1
_LEAVE_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian")

_USERS = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUPS = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"


def cache_key(made: Recipe, packages: Sequence[Package]) -> str:
    """16 hexadecimal digits that change with anything that goes into the image."""
    return hashlib.sha256(repr((FORMAT, made, sorted(packages))).encode()).hexdigest()[:16]


def assemble(
    made: Recipe, archives: Sequence[bytes], applets: Sequence[str], architecture: str
) -> bytes:
    """The image archive from the packages' contents; busybox's *applets* fill what is missing."""
    tree = skeleton() | {"etc/passwd": text(_USERS), "etc/group": text(_GROUPS)}
    for archive in archives:
        tree |= read_package(archive, _LEAVE_OUT)
    for applet in applets:
        present = any(f"usr/{d}/{applet}" in tree for d in ("bin", "sbin"))
        if not present:
            tree[f"usr/bin/{applet}"] = symlink("busybox")
    return image_archive(tree | dict(made.extra), made.config, architecture)


def _applets(archives: Sequence[bytes]) -> list[str]:
    """What the packaged busybox calls itself: it is run, nothing else knows."""
    for archive in archives:
        busybox = read_package(archive, _LEAVE_OUT).get("usr/bin/busybox")
        if busybox is None or busybox.data is None:
            continue
        with tempfile.TemporaryDirectory(prefix="barenode-") as scratch:
            program = Path(scratch) / "busybox"
            program.write_bytes(busybox.data)
            program.chmod(stat.S_IRWXU)
            done = subprocess.run(
                [program, "--list"], capture_output=True, text=True, check=True, timeout=10
            )
            return sorted(set(done.stdout.split()) - {"busybox"})
    return []


class ImageCache:
    """Builds images and keeps them in *directory*."""

    def __init__(self, runner: Runner, directory: Path) -> None:
        self._run = runner
        self._apt = Apt(runner, directory / "debs")
        self._images = directory / "images"

    async def build(self, name: str) -> Path:
        """The archive of the image *name*, built when the cache has none; raises LabError."""
        made = recipe(name)
        packages = await self._apt.resolve(made.programs, made.data)
        path = self._images / f"{name}-{cache_key(made, packages)}.tar"
        if not path.exists():
            files = await self._apt.fetch(packages)
            archive = await asyncio.to_thread(self._assemble, made, files, await self._dpkg())
            self._images.mkdir(parents=True, exist_ok=True)
            # Two builds at once write the same bytes; the rename makes either one whole.
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(archive)
            temporary.replace(path)
        return path

    async def _dpkg(self) -> str:
        try:
            done = await self._run.run(["dpkg", "--print-architecture"])
        except CommandError as error:
            raise LabError(f"images are built from Debian packages: {error}") from error
        return done.stdout.strip()

    def _assemble(self, made: Recipe, files: Sequence[Path], architecture: str) -> bytes:
        archives = [contents(file) for file in files]
        return assemble(made, archives, _applets(archives), architecture)
