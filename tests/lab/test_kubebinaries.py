"""Kubernetes' commands: which can go into an image, their version, and the build's life."""

import asyncio
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.command import Completed
from lab import kubebinaries
from lab.errors import LabError, PrerequisiteError, UsageError
from lab.kubebinaries import SERVERS, Program, build, find_commands, read_program
from tests.lab.elf import program, write_commands
from tests.lab.fakes import FakeRunner

DEADLINE = 60.0


def kind(data: bytes) -> Program | None:
    """What a program of these bytes is."""
    return read_program(io.BytesIO(data))


def test_a_static_program_is_told_from_one_that_needs_libraries() -> None:
    """By the interpreter that the latter asks for, in either byte order."""
    for order in "<>":
        static, dynamic = kind(program(order=order)), kind(program(static=False, order=order))
        assert static is not None
        assert static.static
        assert dynamic == Program(static.machine, static=False)
    with Path(sys.executable).open("rb") as file:
        python = read_program(file)
    assert python is not None
    assert not python.static


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3), st.integers(0, 64))
def test_no_file_upsets_the_reader(noise: bytes, wide: int, order: int, keep: int) -> None:
    """Whatever stands in it, it is a program or it is none."""
    head = b"\x7fELF" + bytes([wide, order])
    kind(head + noise)
    kind(program()[:keep] + noise)


def test_the_commands_of_a_folder_are_found(tmp_path: Path) -> None:
    """kubectl is welcome and not required."""
    write_commands(tmp_path, *SERVERS)
    assert list(find_commands(tmp_path)) == list(SERVERS)
    write_commands(tmp_path, "kubectl")
    assert find_commands(tmp_path)["kubectl"] == tmp_path / "kubectl"


def test_commands_of_the_working_directory_are_not_looked_for_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--kube-bin-dir .``: a name without a slash is."""
    write_commands(tmp_path, *SERVERS)
    monkeypatch.chdir(tmp_path)
    assert find_commands(Path())["kube-apiserver"] == tmp_path / "kube-apiserver"


def test_missing_commands_are_named(tmp_path: Path) -> None:
    """With those that the folder must hold."""
    write_commands(tmp_path, "kube-apiserver")
    with pytest.raises(UsageError, match="lacks kube-controller-manager, kube-scheduler: it must"):
        find_commands(tmp_path)
    with pytest.raises(UsageError, match=r"--kube-bin-dir: .*/none is no folder"):
        find_commands(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (program(static=False), "needs shared libraries, which the image lacks: build it with"),
        (program(other_machine=True), "is for another kind of processor than this machine's"),
        (b"#!/bin/sh\nexec kube-scheduler\n", "is no program in ELF format"),
        (b"", "is no program in ELF format"),
    ],
)
def test_a_command_that_cannot_run_in_the_image_is_refused(
    tmp_path: Path, content: bytes, why: str
) -> None:
    """Before 300 MB are packed, and not by a pod that crashes."""
    write_commands(tmp_path, *SERVERS)
    write_commands(tmp_path, "kube-scheduler", content=content)
    with pytest.raises(UsageError, match=f"kube-scheduler {why}"):
        find_commands(tmp_path)


def test_a_command_that_is_not_executable_is_refused(tmp_path: Path) -> None:
    """Though the image could make it so: it may be half a download."""
    write_commands(tmp_path, *SERVERS)
    (tmp_path / "kube-apiserver").chmod(0o644)
    with pytest.raises(UsageError, match=r"kube-apiserver cannot be executed: 'chmod \+x' it"):
        find_commands(tmp_path)


def test_the_fingerprint_changes_when_a_command_does(tmp_path: Path) -> None:
    """And only then."""
    commands = find_commands(write_commands(tmp_path, *SERVERS))
    before = kubebinaries.fingerprint(commands)
    assert kubebinaries.fingerprint(commands) == before
    os.utime(commands["kube-scheduler"], (1, 1))
    assert kubebinaries.fingerprint(commands) != before


class Saying(FakeRunner):
    """A command that says *text*."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__()
        self.text = text
        self.status = status

    def answer(self, argv: list[str], stdin: str | None) -> Completed:
        """The same to all."""
        return self.fails(argv, self.text) if self.status else self.ok(argv, self.text)


async def test_a_command_tells_its_version() -> None:
    """Also a vendor's; one that says something else is refused."""
    path = Path("/opt/kube-apiserver")
    for said in ("v1.20.2", "v1.27.3+k3s1", "v1.33.0-beta.1"):
        assert await kubebinaries.command_version(Saying(f"Kubernetes {said}\n"), path) == said
    with pytest.raises(UsageError, match=r"says no version of Kubernetes: 'etcd Version: 3\.4"):
        await kubebinaries.command_version(Saying("etcd Version: 3.4.23"), path)
    with pytest.raises(UsageError, match=r"does not tell its version: .*Illegal instruction"):
        await kubebinaries.command_version(Saying("Illegal instruction", 1), path)


def script(directory: Path, text: str) -> Path:
    """A build that does *text*."""
    path = directory / "build.sh"
    path.write_text(text)
    return path


async def test_a_build_says_how_far_it_is_and_where_the_commands_are(tmp_path: Path) -> None:
    """It is told the cache and the version that is wanted."""
    text = (
        'echo "kubernetes: compiling $3, then $4" >&2; echo plain >&2;'
        ' echo "$BARENODE_CACHE/$1=$2/bin"'
    )
    said: list[str] = []
    made = await build(
        tmp_path, said.append, version="1.20", script=script(tmp_path, text), commands=("a", "b")
    )
    assert made == tmp_path / "--version=1.20" / "bin"
    assert said == ["compiling a, then b", "plain"]


@pytest.mark.parametrize(
    ("status", "error"), [(1, LabError), (2, UsageError), (5, PrerequisiteError)]
)
async def test_a_build_that_fails_says_why_in_its_last_words(
    tmp_path: Path, status: int, error: type[LabError]
) -> None:
    """With the exit status of the command that fits."""
    text = f'echo noise >&2; echo "kubernetes: no room" >&2; exit {status}'
    with pytest.raises(error, match=r"^no room$") as caught:
        await build(tmp_path, lambda _: None, script=script(tmp_path, text))
    assert caught.value.exit_status == status


async def test_a_line_of_any_length_is_survived(tmp_path: Path) -> None:
    """A compiler may print one of a megabyte."""
    text = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2; exit 1"
    with pytest.raises(LabError, match=r"^end$"):
        await build(tmp_path, lambda _: None, script=script(tmp_path, text))


async def test_who_interrupts_a_build_leaves_no_compiler_behind(tmp_path: Path) -> None:
    """The children of its children end with it, also those that ignore a polite signal."""
    deaf = 'trap "" TERM; sleep 1000 & echo $! >&2; wait'
    text = f"sh -c '{deaf}' & echo $! >&2; wait"
    pids: list[int] = []
    heard = asyncio.Event()

    def hear(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 2:
            heard.set()

    task = asyncio.ensure_future(build(tmp_path, hear, script=script(tmp_path, text), grace=0.5))
    async with asyncio.timeout(DEADLINE):
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # No event tells the end of a process that is not one's own child.
        while any(running(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_interrupted_build_may_end_what_it_is_at(tmp_path: Path) -> None:
    """An installation that were cut short would leave packages half configured."""
    # The child speaks: a signal between fork and exec would be lost with the shell's own traps.
    child = "sh -c 'echo now >&2; exec sleep 1000'"
    text = f"trap 'echo ended >\"$BARENODE_CACHE/said\"; exit 130' TERM; {child}"
    heard = asyncio.Event()
    task = asyncio.ensure_future(
        build(tmp_path, lambda _: heard.set(), script=script(tmp_path, text), grace=DEADLINE)
    )
    async with asyncio.timeout(DEADLINE):
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (tmp_path / "said").read_text() == "ended\n"


def running(pid: int) -> bool:
    """Whether *pid* is a process that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def kubernetes_sh(cache: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The script that builds, with its binaries below *cache*; programs in *path* come first."""
    environment = {"PATH": f"{path}:{os.environ['PATH']}", "BARENODE_CACHE": str(cache)}
    argv = ["sh", str(kubebinaries.BUILD), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def test_finished_binaries_are_found_at_once(tmp_path: Path) -> None:
    """By what Debian's version says of Kubernetes'; without root, apt or network."""
    bins = tmp_path / "kubernetes" / "1.20.5+really1.20.2-1.1+deb12u1" / "bin"
    write_commands(bins, "kubectl", "kube-scheduler")
    for words in ([], ["--version", "1.20"], ["--version", "1.20.2"], ["--version", "1"]):
        done = kubernetes_sh(tmp_path, *words, "kubectl", "kube-scheduler")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{bins}\n", "")


def test_binaries_of_another_version_are_not_taken(tmp_path: Path) -> None:
    """They would have to be built, and nobody but root can."""
    stub = write_commands(tmp_path / "stub", "id", content=b"#!/bin/sh\necho 1000\n")
    write_commands(tmp_path / "kubernetes" / "1.20.2-1" / "bin", "kubectl")
    for words in (["--version", "1.2"], ["--version", "1.20.1"], ["--version", "1.21"]):
        done = kubernetes_sh(tmp_path, *words, "kubectl", path=str(stub))
        assert done.returncode == PrerequisiteError.exit_status
        assert "building needs root" in done.stderr


@pytest.mark.parametrize(
    "words", [(), ("etcd",), ("--version",), ("--version", "1.20"), ("kubectl", "--fast")]
)
def test_the_script_refuses_what_it_cannot_build(tmp_path: Path, words: tuple[str, ...]) -> None:
    """With its usage, before anything is made."""
    done = kubernetes_sh(tmp_path, *words)
    assert done.returncode == UsageError.exit_status
    assert "usage: kubernetes.sh [--version MAJOR.MINOR] COMMAND" in done.stderr
    assert not list(tmp_path.iterdir())
