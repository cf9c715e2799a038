"""The pause program runs, reaps and ends; its image is the same bytes everywhere."""

import io
import json
import platform
import signal
import struct
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from nodeagent.docker.pause import PAUSE, archive, ensure_pause, program
from nodeagent.errors import EngineError, NodeAgentError
from tests.fakes.docker import FakeEngine
from tests.support.poll import eventually

here = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "aarch64"}, reason="there is no program for this machine"
)


def started(folder: Path) -> "subprocess.Popen[bytes]":
    file = folder / "pause"
    file.write_bytes(program(platform.machine()))
    file.chmod(0o755)
    return subprocess.Popen([file])


def signals(pid: int, what: str) -> set[int]:
    """The signals in a line of proc(5)'s status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(what):
            mask = int(line.split()[1], 16)
            return {n for n in range(1, 65) if mask >> (n - 1) & 1}
    return set()


@here
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_it_waits_reaps_and_ends_in_good_order(tmp_path: Path, end: signal.Signals) -> None:
    process = started(tmp_path)
    try:
        await eventually(lambda: signal.SIGINT in signals(process.pid, "SigCgt"))
        assert signals(process.pid, "SigIgn") & {signal.SIGCHLD} == {signal.SIGCHLD}
        assert signals(process.pid, "SigCgt") == {signal.SIGTERM, signal.SIGINT}
        process.send_signal(signal.SIGCHLD)
        process.send_signal(end)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@here
async def test_another_signal_does_not_make_it_run_on_at_full_speed(tmp_path: Path) -> None:
    process = started(tmp_path)
    try:
        await eventually(lambda: signal.SIGINT in signals(process.pid, "SigCgt"))
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)

        def state() -> str:
            return Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").split()[2]

        await eventually(lambda: state() == "S")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_file_is_small_static_and_without_an_executable_stack(
    machine: str, number: int
) -> None:
    data = program(machine)
    assert len(data) < 512
    kind, found, _, entry, headers, _, _, _, size, count = struct.unpack_from(
        "<HHIQQQIHHH", data, 16
    )
    assert (kind, found, count) == (2, number, 2)
    segments = [struct.unpack_from("<IIQQQQQQ", data, headers + n * size) for n in range(count)]
    load, stack = segments
    assert (load[0], load[1], load[5], load[6]) == (1, 5, len(data), len(data))
    assert load[3] < entry < load[3] + len(data)
    assert (stack[0], stack[1]) == (0x6474E551, 6)


def arm64(word: int, at: int) -> tuple[str, int, int]:
    """An instruction with its register and value, for those that the program has."""
    if word >> 21 == 0xD2800000 >> 21:
        return "movz", word & 31, word >> 5 & 0xFFFF
    if word & 0x9F000000 == 0x10000000:
        offset = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
        return "adr", word & 31, at + (offset - (1 << 21) if offset >> 20 else offset)
    if word >> 26 == 5:
        offset = word & 0x3FFFFFF
        return "b", 0, at + 4 * (offset - (1 << 26) if offset >> 25 else offset)
    return ("svc", 0, 0) if word == 0xD4000001 else ("?", 0, word)


def test_the_arm64_program_makes_the_calls_it_should() -> None:
    """Interpreted here, as a machine that runs it is not at hand."""
    data = program("aarch64")
    (entry,) = struct.unpack_from("<Q", data, 24)
    base = 0x400000

    def run(at: int, calls: int) -> list[tuple[int, ...]]:
        registers, made = [0] * 31, list[tuple[int, ...]]()
        while len(made) < calls:
            (word,) = struct.unpack_from("<I", data, at - base)
            name, register, value = arm64(word, at)
            assert name != "?", f"{word:#x} at {at:#x}"
            if name == "svc":
                made.append((registers[8], *registers[:5]))
            elif name == "b":
                at = value - 4
            else:
                registers[register] = value
            at += 4
        return made

    made = run(entry, 6)
    assert [(one[0], one[1], one[3], one[4]) for one in made[:3]] == [
        (134, 17, 0, 8), (134, 15, 0, 8), (134, 2, 0, 8),
    ]  # fmt: skip
    ignore, _, _, mask = struct.unpack_from("<QQQQ", data, made[0][2] - base)
    assert (ignore, mask) == (1, 0)
    handler, *_ = struct.unpack_from("<QQQQ", data, made[1][2] - base)
    assert made[1][2] == made[2][2]
    assert made[3:] == [(73, 0, 0, 0, 0, 8)] * 3
    assert run(handler, 1)[0][:2] == (94, 0)


def test_the_image_is_the_same_bytes_each_time_and_whole() -> None:
    data = archive("x86_64")
    assert data == archive("x86_64")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {one.name: tar.extractfile(one) for one in tar}
        content = {name: file.read() for name, file in files.items() if file is not None}
    [manifest] = json.loads(content["manifest.json"])
    assert manifest["RepoTags"] == [PAUSE]
    config = json.loads(content[manifest["Config"]])
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert config["architecture"] == "amd64"
    layer = content[manifest["Layers"][0]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        [one] = tar.getmembers()
        assert (one.name, one.mode, one.mtime, one.uid) == ("pause", 0o755, 0, 0)


def test_for_other_machines_the_flag_is_named() -> None:
    with pytest.raises(NodeAgentError, match=r"riscv64 .*--pod-infra-container-image"):
        program("riscv64")


async def test_it_is_loaded_once() -> None:
    engine = FakeEngine()
    engine.load_brings = (PAUSE,)
    for _ in range(3):
        assert await ensure_pause(engine, machine="x86_64") == PAUSE
    assert engine.loaded == [archive("x86_64")]


async def test_a_docker_that_fails_is_told() -> None:
    engine = FakeEngine()
    engine.fail_next("load_image", EngineError("no space", 500))
    with pytest.raises(EngineError, match="no space"):
        await ensure_pause(engine, machine="x86_64")
