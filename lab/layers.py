"""Image archives as ``docker load`` takes them, made from values: same files, same image id.

An image is one layer. Its id is the digest of its configuration, which names the digest of the
layer; so everything that varies between builds (times, order, owner names) is fixed here.
Format: Docker image specification v1.2 (manifest.json, CONFIG.json, LAYER/layer.tar).
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec

# Debian merges these into /usr by symlinks; some packages still ship files in them.
_MERGED = ("bin", "sbin", "lib", "lib64")
_ARCHITECTURES = {"i386": "386", "armhf": "arm", "ppc64el": "ppc64le"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory (``data`` and ``link`` None) or symlink of a layer."""

    mode: int = 0o644
    data: bytes | None = None
    link: str | None = None
    uid: int = 0
    gid: int = 0


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


def _add(tar: tarfile.TarFile, path: str, entry: Entry) -> None:
    info = tarfile.TarInfo(path)
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, 0
    if entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif entry.data is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(entry.data)
    tar.addfile(info, io.BytesIO(entry.data or b""))


def pack(tree: Mapping[str, Entry]) -> bytes:
    """A tar archive of *tree*, in path order, with all times zero."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(tree):
            _add(tar, path, tree[path])
    return buffer.getvalue()


def image_config(config: ImageConfig, architecture: str, layer_digest: str) -> bytes:
    """The configuration document of an image; *architecture* is Debian's name for it."""
    document = {
        "architecture": _ARCHITECTURES.get(architecture, architecture),
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


def image_archive(tree: Mapping[str, Entry], config: ImageConfig, architecture: str) -> bytes:
    """The whole archive for ``docker load``."""
    layer = pack(with_parents(tree))
    layer_digest = hashlib.sha256(layer).hexdigest()
    document = image_config(config, architecture, layer_digest)
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest: Sequence[object] = [
        {"Config": name, "RepoTags": [config.tag], "Layers": [f"{layer_digest}/layer.tar"]}
    ]
    return pack(
        {
            name: Entry(data=document),
            layer_digest: directory(),
            f"{layer_digest}/layer.tar": Entry(data=layer),
            "manifest.json": Entry(data=msgspec.json.encode(manifest)),
        }
    )
