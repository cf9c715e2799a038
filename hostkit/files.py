"""Small files that other programs read while we write them."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomic(
    path: Path, content: str | bytes, *, mode: int = 0o644, sync: bool = False
) -> bool:
    """Put *content* at *path* so that a reader sees the old or the new content, never a part.

    Creates missing parent directories. With *sync* the content survives a power failure.
    Returns whether the content changed; an unchanged file only gets the right *mode*.
    Raises OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            if path.stat().st_mode & 0o7777 != mode:
                path.chmod(mode)
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return True


def remove(path: Path) -> bool:
    """Remove the file at *path*; returns whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
