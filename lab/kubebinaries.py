"""Kubernetes' commands as files: which ones a folder holds, and building them from source.

A command that is put alone into an image must be static: there is nobody there to load its
libraries. That is read off its ELF header (elf(5)): a static program asks for no interpreter.
"""

import asyncio
import contextlib
import os
import re
import signal
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hostkit.command import CommandError, Runner
from lab.errors import LabError, PrerequisiteError, UsageError

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
KUBECTL = "kubectl"
BUILD = Path(__file__).parent / "assets" / "kubernetes.sh"

_EXECUTABLE, _SHARED = 2, 3  # e_type
_INTERPRETER = 3  # p_type
_FARTHEST = 1 << 40  # No file is as large; Python refuses to seek much farther.
_VERSION = re.compile(r"Kubernetes (v\d+\.\d+[0-9A-Za-z.+-]*)")
_ERRORS: dict[int, type[LabError]] = {2: UsageError, 5: PrerequisiteError}


@dataclass(frozen=True, slots=True)
class Program:
    """An ELF program. Programs run on the same machines when *machine* is the same."""

    machine: tuple[int, int, int]
    static: bool


def read_program(file: BinaryIO) -> Program | None:
    """What kind of program *file* is; None when it is no ELF program."""
    head = file.read(64)
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
        return None
    order = "<" if head[5] == 1 else ">"
    kind, machine = struct.unpack_from(f"{order}HH", head, 16)
    if kind not in {_EXECUTABLE, _SHARED}:
        return None
    wide = head[4] == 2
    (offset,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
    if size != (56 if wide else 32) or offset > _FARTHEST:
        return None
    file.seek(offset)
    table = file.read(size * count)
    if len(table) < size * count:
        return None
    types = (struct.unpack_from(f"{order}I", table, at)[0] for at in range(0, len(table), size))
    return Program((head[4], head[5], machine), _INTERPRETER not in types)


def _objection(path: Path) -> str | None:
    """Why *path* cannot be put into an image; None when it can. Raises OSError."""
    if not os.access(path, os.X_OK):
        return "cannot be executed: 'chmod +x' it"
    with path.open("rb") as file:
        program = read_program(file)
    if program is None:
        return "is no program in ELF format"
    with Path("/proc/self/exe").open("rb") as file:
        here = read_program(file)
    if here is not None and here.machine != program.machine:
        return "is for another kind of processor than this machine's"
    if not program.static:
        return "needs shared libraries, which the image lacks: build it with CGO_ENABLED=0"
    return None


def find_commands(directory: Path) -> dict[str, Path]:
    """The three servers, and kubectl if it is there, in *directory*; raises UsageError."""
    if not directory.is_dir():
        raise UsageError(f"--kube-bin-dir: {directory} is no folder")
    missing = [name for name in SERVERS if not (directory / name).is_file()]
    if missing:
        raise UsageError(
            f"--kube-bin-dir: {directory} lacks {', '.join(missing)}: it must hold "
            f"{', '.join(SERVERS)}, and may hold {KUBECTL}"
        )
    # A name without a slash would be looked for on PATH.
    found = {name: directory.absolute() / name for name in (*SERVERS, KUBECTL)}
    found = {name: path for name, path in found.items() if path.is_file()}
    for path in found.values():
        try:
            objection = _objection(path)
        except OSError as error:
            raise UsageError(f"--kube-bin-dir: {path}: {error.strerror or error}") from error
        if objection:
            raise UsageError(f"--kube-bin-dir: {path} {objection}")
    return found


def fingerprint(commands: Mapping[str, Path]) -> str:
    """A text that changes when one of *commands* is replaced or written to. Raises OSError."""
    parts = []
    for name, path in sorted(commands.items()):
        found = path.stat()
        parts.append((name, str(path.resolve()), found.st_size, found.st_mtime_ns))
    return repr(parts)


async def command_version(runner: Runner, path: Path) -> str:
    """The version, such as ``v1.20.2``, that the command at *path* tells; raises UsageError."""
    try:
        done = await runner.run([str(path), "--version"], timeout=60)
    except CommandError as error:
        raise UsageError(f"{path} does not tell its version: {error}") from error
    match = _VERSION.search(done.stdout)
    if match is None:
        raise UsageError(f"{path} --version says no version of Kubernetes: {done.stdout[:200]!r}")
    return match[1]


async def build(
    cache: Path,
    report: Callable[[str], None],
    *,
    version: str = "",
    script: Path = BUILD,
    commands: Sequence[str] = (*SERVERS, KUBECTL),
    grace: float = 20.0,
) -> Path:
    """The folder of *commands* below *cache*, built from Debian's source package if need be.

    *version*, such as ``1.20``, is refused when Debian has another one. *report* hears each line
    of progress. Cancelling ends the build, which has *grace* seconds to end what it is at; the next
    call goes on from there. Raises UsageError, PrerequisiteError, LabError.
    """
    asked = ["--version", version] if version else []
    try:
        process = await asyncio.create_subprocess_exec(
            "sh", str(script), *asked, *commands,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "BARENODE_CACHE": str(cache)},
            process_group=0,
        )  # fmt: skip
    except OSError as error:
        raise LabError(f"sh does not start: {error.strerror or error}") from error
    try:
        async with asyncio.TaskGroup() as group:
            said = group.create_task(_progress(process.stderr, report))
            out = group.create_task(_all(process.stdout))
        status = await process.wait()
    finally:
        if process.returncode is None:
            await _end(process, grace)
    if status:
        raise _ERRORS.get(status, LabError)(said.result() or f"{script}: exit status {status}")
    return Path(out.result().strip())


async def _progress(stream: asyncio.StreamReader | None, report: Callable[[str], None]) -> str:
    """Pass *stream* on line by line; the last line, as it was passed on."""
    last = ""
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:
            # A line beyond the reader's limit: the reader has dropped it.
            continue
        if not line:
            break
        last = line.decode(errors="replace").strip().removeprefix("kubernetes: ")
        report(last)
    return last


async def _all(stream: asyncio.StreamReader | None) -> str:
    return "" if stream is None else (await stream.read()).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    """End *process* with its whole process group: compilers are children of its children."""
    ending = asyncio.ensure_future(process.communicate())
    # Not asyncio.timeout: in a task that was cancelled Python 3.11 takes its expiry for that.
    try:
        _signal(process.pid, signal.SIGTERM)
        await asyncio.wait({ending}, timeout=grace)
    finally:
        _signal(process.pid, signal.SIGKILL)
    await asyncio.wait({ending}, timeout=grace)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
