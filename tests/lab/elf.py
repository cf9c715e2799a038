"""ELF programs of a few bytes, for tests of what may go into an image."""

import struct
from pathlib import Path


def program(*, static: bool = True, other_machine: bool = False, order: str = "<") -> bytes:
    """A 64-bit program for this machine, or for one that there is not."""
    with Path("/proc/self/exe").open("rb") as file:
        (machine,) = struct.unpack_from("<H", file.read(20), 18)
    if other_machine:
        machine ^= 0x7F00
    kinds = [1] if static else [3, 1]
    ident = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    head = struct.pack(
        f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(kinds), 0, 0, 0
    )
    return ident + head + b"".join(struct.pack(f"{order}I", kind) + bytes(52) for kind in kinds)


def write_commands(directory: Path, *names: str, content: bytes | None = None) -> Path:
    """Static programs called *names* in *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(program() if content is None else content)
        (directory / name).chmod(0o755)
    return directory
