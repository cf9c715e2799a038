"""Image archives as ``docker load`` takes them, made from values: same files, same image id.

An image is one layer. Its id is the digest of its configuration, which names the digest of the
layer; so everything that varies between builds (times, order, owner names) is fixed here.
Format: Docker image specification v1.2 (manifest.json, CONFIG.json, LAYER/layer.tar).

An archive comes as pieces, and a file that an entry names by its path is read piece by piece: an
image of any size takes no more memory than its small files. Its large files are read twice, for
the digest stands before the layer.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from lab.errors import LabError

PIECE = 1 << 20
"""Bytes of a file that are held at a time."""

# Debian merges these into /usr by symlinks; some packages still ship files in them.
_MERGED = ("bin", "sbin", "lib", "lib64")
_ARCHITECTURES = {"i386": "386", "armhf": "arm", "ppc64el": "ppc64le"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory (``data``, ``link`` and ``source`` None) or symlink of a layer.

    A file's content is *data*, or that of the file *source* of this machine.
    """

    mode: int = 0o644
    data: bytes | None = None
    link: str | None = None
    uid: int = 0
    gid: int = 0
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How containers of an image start."""

    tag: str
    command: tuple[str, ...]
    ports: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}
    )


def go_architecture(debian: str) -> str:
    """Go's name for the architecture that Debian calls *debian*: images carry Go's."""
    return _ARCHITECTURES.get(debian, debian)


def directory(mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """A directory."""
    return Entry(mode, uid=uid, gid=gid)


def text(content: str, mode: int = 0o644) -> Entry:
    """A text file."""
    return Entry(mode, content.encode())


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(0o777, link=target)


def skeleton() -> dict[str, Entry]:
    """The merged-/usr directories every image has."""
    tree = {f"usr/{name}": directory() for name in _MERGED}
    tree |= {name: symlink(f"usr/{name}") for name in _MERGED}
    tree |= {name: directory() for name in ("dev", "etc", "proc", "root", "run", "sys", "usr")}
    return tree | {"tmp": directory(0o1777), "var": directory(), "var/tmp": directory(0o1777)}


def place(path: str) -> str:
    """Where a package's *path* lies in a merged-/usr tree, relative to the root."""
    parts = PurePosixPath(path).parts
    parts = parts[1:] if parts and parts[0] in {"/", "."} else parts
    if len(parts) > 1 and parts[0] in _MERGED:
        parts = ("usr", *parts)
    return "/".join(parts)


def read_package(archive: bytes, leave_out: Iterable[str]) -> dict[str, Entry]:
    """The files of a package (``dpkg-deb --fsys-tarfile``) except below the paths *leave_out*."""
    unwanted = tuple(f"{path}/" for path in leave_out)
    tree: dict[str, Entry] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            path = place(member.name)
            if not path or path in _MERGED or f"{path}/".startswith(unwanted):
                continue
            uid, gid = member.uid, member.gid
            if member.isdir():
                tree[path] = directory(member.mode, uid, gid)
            elif member.issym():
                tree[path] = Entry(0o777, link=member.linkname, uid=uid, gid=gid)
            elif member.isreg() or member.islnk():
                content = tar.extractfile(member)
                data = content.read() if content else b""
                tree[path] = Entry(member.mode, data, uid=uid, gid=gid)
    return tree


def with_parents(tree: Mapping[str, Entry]) -> dict[str, Entry]:
    """*tree* with every missing parent directory."""
    full = dict(tree)
    for path in tree:
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                full.setdefault(str(parent), directory())
    return full


def _header(path: str, entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, 0
    if entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif entry.source is not None:
        info.size = entry.source.stat().st_size
    elif entry.data is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(entry.data)
    return info


def _content(entry: Entry) -> Iterator[bytes]:
    if entry.source is not None:
        with entry.source.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
    elif entry.data:
        yield entry.data


def _archive(members: Iterable[tuple[tarfile.TarInfo, Iterable[bytes]]]) -> Iterator[bytes]:
    """A tar archive in pieces, the same bytes as ``tarfile`` writes; raises LabError."""
    length = 0
    for info, content in members:
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        yield header
        size = 0
        for piece in content:
            size += len(piece)
            yield piece
        if size != info.size:
            raise LabError(f"{info.name} changed while the image was made: try again")
        padding = -size % tarfile.BLOCKSIZE
        yield bytes(padding)
        length += len(header) + size + padding
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(length + end) % tarfile.RECORDSIZE)


def packed(tree: Mapping[str, Entry]) -> Iterator[bytes]:
    """A tar archive of *tree* in pieces, in path order, with all times zero.

    Raises OSError when a source cannot be read, LabError when it changes meanwhile.
    """
    return _archive((_header(path, tree[path]), _content(tree[path])) for path in sorted(tree))


def pack(tree: Mapping[str, Entry]) -> bytes:
    """The tar archive of *tree* in one piece; raises as ``packed`` does."""
    return b"".join(packed(tree))


def image_config(config: ImageConfig, architecture: str, layer_digest: str) -> bytes:
    """The configuration document of an image; *architecture* is Debian's name for it."""
    document = {
        "architecture": go_architecture(architecture),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Cmd": list(config.command),
            "Env": [f"{key}={value}" for key, value in sorted(config.environment.items())],
            "ExposedPorts": {port: {} for port in sorted(config.ports)},
            "StopSignal": config.stop_signal,
        },
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "barenode image build"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }
    return msgspec.json.encode(document)


def _checked(pieces: Iterable[bytes], digest: str) -> Iterator[bytes]:
    """*pieces*, whose digest is that of the first reading; raises LabError after the last."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if found.hexdigest() != digest:
        raise LabError("files changed while the image was made: try again")


def image_pieces(
    tree: Mapping[str, Entry], config: ImageConfig, architecture: str
) -> Iterator[bytes]:
    """The archive for ``docker load`` in pieces; raises OSError and LabError as ``packed`` does."""
    full = with_parents(tree)
    digest, size = hashlib.sha256(), 0
    for piece in packed(full):
        digest.update(piece)
        size += len(piece)
    layer_digest = digest.hexdigest()
    document = image_config(config, architecture, layer_digest)
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    layer = f"{layer_digest}/layer.tar"
    manifest: Sequence[object] = [{"Config": name, "RepoTags": [config.tag], "Layers": [layer]}]
    small = {
        name: Entry(data=document),
        layer_digest: directory(),
        "manifest.json": Entry(data=msgspec.json.encode(manifest)),
    }
    info = _header(layer, Entry(data=b""))
    info.size = size
    members = [(path, _header(path, entry), _content(entry)) for path, entry in small.items()]
    members.append((layer, info, _checked(packed(full), layer_digest)))
    return _archive((info, content) for _, info, content in sorted(members, key=lambda m: m[0]))


def image_archive(tree: Mapping[str, Entry], config: ImageConfig, architecture: str) -> bytes:
    """The whole archive in one piece; raises as ``image_pieces`` does."""
    return b"".join(image_pieces(tree, config, architecture))
