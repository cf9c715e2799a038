"""What is in an image archive that ``docker save`` wrote: names and architecture.

Format: Docker image specification v1.2 (manifest.json); archives of Docker 25 and later carry the
same file beside OCI's.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lab.errors import UsageError

_LIMIT = 16 << 20
"""Bytes of a document in the archive; they are a few kilobytes."""


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image of an archive: its names, such as ``repository:tag``, and Go's name for its
    architecture, such as ``amd64``."""

    tags: tuple[str, ...]
    architecture: str


class _Manifest(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class _Config(msgspec.Struct):
    architecture: str = ""


def _document(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return b"" if file is None else file.read(_LIMIT)


def read_saved(path: Path) -> list[SavedImage]:
    """The images in the archive at *path*, compressed or not; raises UsageError."""
    try:
        with tarfile.open(path, "r:*") as tar:
            found = msgspec.json.decode(_document(tar, "manifest.json"), type=list[_Manifest])
            return [
                SavedImage(
                    tuple(one.tags or ()),
                    msgspec.json.decode(_document(tar, one.config), type=_Config).architecture,
                )
                for one in found
            ]
    except (tarfile.TarError, KeyError, EOFError, msgspec.MsgspecError) as error:
        # tarfile tells of each compression that it tried, a line for each.
        first = str(error.args[0]).partition("\n")[0] if error.args else "it is cut short"
        raise UsageError(f"{path} is no archive of 'docker save': {first}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def hyperkube_tag(path: Path) -> tuple[str, str]:
    """The name by which the archive's hyperkube image is known once loaded, and its architecture.

    An archive of several images is searched for one that is called hyperkube; raises UsageError.
    """
    images = read_saved(path)
    named = [(tag, one.architecture) for one in images for tag in one.tags]
    if not named:
        raise UsageError(
            f"{path}: its image has no name: save it by name, 'docker save -o FILE NAME:TAG'"
        )
    fitting = [one for one in named if "hyperkube" in one[0].rpartition("/")[2]]
    if not fitting and len(images) > 1:
        tags = ", ".join(tag for tag, _ in named[:10])
        raise UsageError(f"{path} holds {tags}: save the hyperkube image alone")
    return (fitting or named)[0]
