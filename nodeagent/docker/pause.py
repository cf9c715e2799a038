"""The image of the container that holds a pod's namespaces, made here: no registry is needed.

Its one program, a static ELF file of a few hundred bytes, sets SIGCHLD to be ignored, so that the
kernel reaps what becomes its child, has SIGTERM and SIGINT end it with exit code 0 and waits for
ever. It is written out instruction by instruction, so that its bytes are the same everywhere.
"""

import hashlib
import io
import platform
import struct
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from nodeagent.docker.api import Image
from nodeagent.errors import NodeAgentError

PAUSE = "barenode/pause:1"
"""The image's name; the number changes with anything in it."""

USER = "65535:65535"
"""Who it runs as: nobody's number, and it needs no right."""

_BASE = 0x400000
_HEADERS = 64 + 2 * 56  # an ELF header and two program headers
_SIGINT, _SIGTERM, _SIGCHLD = 2, 15, 17
_SIG_IGN = 1
_SA_RESTORER = 0x04000000
_EPOCH = "1970-01-01T00:00:00Z"


def program(machine: str) -> bytes:
    """The ELF file for *machine*, as ``uname -m`` names it; raises NodeAgentError for others."""
    make = _CODE.get(machine)
    if make is None:
        raise NodeAgentError(
            f"there is no built-in pause image for {machine} (only for "
            f"{', '.join(sorted(_CODE))}): name one by --pod-infra-container-image"
        )
    number, code = make()
    size = _HEADERS + len(code)
    # elf(5): 64 bit, little-endian; a segment to be loaded, read and executed, and a stack that
    # is not to be executed.
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, number, 1, _BASE + _HEADERS + 64, 64, 0, 0, 64, 56, 2, 64, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return header + load + stack + code


def _actions(handler: int) -> bytes:
    """Two ``struct kernel_sigaction``: to ignore, and to call *handler*; they precede the code."""
    # The restorer is where a handler returns to: this one never does, but amd64 wants one.
    return struct.pack("<QQQQ", _SIG_IGN, _SA_RESTORER, handler, 0) + struct.pack(
        "<QQQQ", handler, _SA_RESTORER, handler, 0
    )


_IGNORE = _BASE + _HEADERS
_HANDLE = _IGNORE + 32
_ENTRY = _IGNORE + 64


def _amd64() -> tuple[int, bytes]:
    def mov(register: bytes, value: int) -> bytes:  # mov r32, imm32
        return register + struct.pack("<I", value)

    eax, edx, esi, edi, r10d = b"\xb8", b"\xba", b"\xbe", b"\xbf", b"\x41\xba"
    syscall = b"\x0f\x05"

    def sigaction(signal: int, action: int) -> bytes:  # rt_sigaction(signal, action, 0, 8)
        return (
            mov(eax, 13) + mov(edi, signal) + mov(esi, action) + mov(edx, 0) + mov(r10d, 8)
            + syscall
        )  # fmt: skip

    code = sigaction(_SIGCHLD, _IGNORE)
    code += sigaction(_SIGTERM, _HANDLE) + sigaction(_SIGINT, _HANDLE)
    code += mov(eax, 34) + syscall + b"\xeb\xf7"  # pause(), and back to it
    handler = _ENTRY + len(code)
    code += mov(eax, 231) + mov(edi, 0) + syscall  # exit_group(0)
    return 62, _actions(handler) + code


def _arm64() -> tuple[int, bytes]:
    def mov(register: int, value: int) -> int:  # movz x<register>, #value
        return 0xD2800000 | value << 5 | register

    def address(register: int, target: int, here: int) -> int:  # adr x<register>, target
        offset = target - here
        return 0x10000000 | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5 | register

    svc = 0xD4000001

    code: list[int] = []
    for signal, action in ((_SIGCHLD, _IGNORE), (_SIGTERM, _HANDLE), (_SIGINT, _HANDLE)):
        # rt_sigaction(signal, action, 0, 8)
        code.append(mov(0, signal))
        code.append(address(1, action, _ENTRY + 4 * len(code)))
        code += [mov(2, 0), mov(3, 8), mov(8, 134), svc]
    # ppoll(0, 0, 0, 0, 8): this architecture has no pause()
    again = [mov(0, 0), mov(1, 0), mov(2, 0), mov(3, 0), mov(4, 8), mov(8, 73), svc]
    code += [*again, 0x14000000 | (-len(again) & 0x3FFFFFF)]  # b to its first instruction
    handler = _ENTRY + 4 * len(code)
    code += [mov(0, 0), mov(8, 94), svc]  # exit_group(0)
    return 183, _actions(handler) + struct.pack(f"<{len(code)}I", *code)


_CODE: Mapping[str, Callable[[], tuple[int, bytes]]] = {"x86_64": _amd64, "aarch64": _arm64}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive(machine: str) -> bytes:
    """The image in the form of ``docker save`` (Docker image specification 1.2)."""
    layer = _tar({"pause": program(machine)}, mode=0o755)
    config = _json(
        {
            "architecture": _ARCHITECTURES[machine],
            "config": {"Entrypoint": ["/pause"], "User": USER},
            "created": _EPOCH,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_hash(layer)}"]},
        }
    )
    name, folder = f"{_hash(config)}.json", _hash(layer)
    manifest = [{"Config": name, "RepoTags": [PAUSE], "Layers": [f"{folder}/layer.tar"]}]
    return _tar(
        {name: config, f"{folder}/layer.tar": layer, "manifest.json": _json(manifest)}, mode=0o644
    )


def _tar(files: Mapping[str, bytes], *, mode: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Loader(Protocol):
    """The part of an engine that is needed here."""

    async def image(self, reference: str) -> Image | None:
        """As ``Engine.image``."""
        ...

    async def load_image(self, data: bytes) -> None:
        """As ``DockerEngine.load_image``."""
        ...


async def ensure_pause(engine: Loader, *, machine: str = "") -> str:
    """Have our pause image in the engine; its name.

    Raises NodeAgentError on a *machine* there is no program for, and EngineError.
    """
    if await engine.image(PAUSE) is None:
        await engine.load_image(archive(machine or platform.machine()))
    return PAUSE
