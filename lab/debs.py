"""Debian packages as the source of images: which are needed, and their downloaded files.

apt resolves versions and checks digests. Only the candidates' own archive files are used; what
is installed on this machine never gets into an image.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import subprocess
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostkit.command import CommandError, Runner
from lab.errors import LabError, PrerequisiteError

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<digest>\S+:[0-9a-f]+)")
_DEPENDS = re.compile(r"^ [ |](?:Pre)?Depends: (?P<name>[a-z0-9][a-z0-9+.-]*)$")
# Shared libraries of C programs; everything else in a Depends line serves the installation.
_LIBRARY = re.compile(r"lib[a-z0-9].*|zlib1g")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One package file: *file* carries name, version and architecture, *digest* its content."""

    file: str
    digest: str


def parse_uris(output: str) -> list[Package]:
    """The packages in the output of ``apt-get download --print-uris``."""
    return sorted(Package(m["file"], m["digest"]) for m in _URI.finditer(output))


def parse_depends(output: str) -> set[str]:
    """The libraries named as dependencies in the output of ``apt-cache depends``."""
    found = (_DEPENDS.match(line) for line in output.splitlines())
    return {m["name"] for m in found if m and _LIBRARY.fullmatch(m["name"])}


class Apt:
    """Downloads packages into *directory*."""

    def __init__(self, runner: Runner, directory: Path) -> None:
        self._run = runner
        self._directory = directory

    async def closure(self, programs: Collection[str]) -> set[str]:
        """*programs* and every library that they need; raises LabError."""
        known, new = set(programs), set(programs)
        while new:
            try:
                done = await self._run.run(["apt-cache", "depends", *sorted(new)])
            except CommandError as error:
                raise LabError(f"apt does not know these packages: {error}") from error
            new = parse_depends(done.stdout) - known
            known |= new
        return known

    async def resolve(self, programs: Collection[str], data: Collection[str]) -> list[Package]:
        """The package files for *programs* with their libraries, and *data* without theirs.

        Refreshes apt's lists once when they lack something; raises LabError.
        """
        with contextlib.suppress(LabError):
            return await self._locate(programs, data)
        async with self._alone():
            # Whoever had the lock before may have refreshed them.
            with contextlib.suppress(LabError):
                return await self._locate(programs, data)
            try:
                await self._run.run(["apt-get", "update", "-q"], timeout=300)
            except CommandError as error:
                raise PrerequisiteError(f"apt has no package lists: {error}") from error
        return await self._locate(programs, data)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lock of this directory: apt does not wait for another one's refresh."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    async def _locate(self, programs: Collection[str], data: Collection[str]) -> list[Package]:
        names = sorted(await self.closure(programs) | set(data))
        try:
            done = await self._run.run(["apt-get", "download", "--print-uris", *names])
        except CommandError as error:
            raise LabError(f"apt cannot find the packages: {error}") from error
        packages = parse_uris(done.stdout)
        if len(packages) != len(names):
            raise LabError(f"apt found {len(packages)} of the packages {', '.join(names)}")
        return packages

    async def fetch(self, packages: Sequence[Package]) -> list[Path]:
        """The files of *packages*, downloaded where missing; raises LabError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        missing = [p for p in packages if not (self._directory / p.file).exists()]
        if missing:
            exact = [_apt_name(p.file) for p in missing]
            # apt's own download user cannot write here; the digests are checked all the same.
            options = ["-q", "-o", "APT::Sandbox::User=root"]
            script = ["env", f"--chdir={self._directory}", "apt-get", *options, "download", *exact]
            try:
                await self._run.run(script, timeout=300)
            except CommandError as error:
                raise LabError(f"packages cannot be downloaded: {error}") from error
        return [self._directory / p.file for p in packages]


def _apt_name(file: str) -> str:
    """``name=version`` for apt from NAME_VERSION_ARCH.deb, where apt escapes ':' as %3a."""
    name, version, _ = file.split("_", 2)
    return f"{name}={version.replace('%3a', ':')}"


def contents(file: Path) -> bytes:
    """The tar archive inside the package *file*; raises LabError."""
    done = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(file)], capture_output=True, check=False, timeout=60
    )
    if done.returncode:
        raise LabError(f"{file}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
