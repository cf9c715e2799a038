"""Commands: what they leave behind, how long they may take, and what their failure tells."""

import asyncio
import sys
from pathlib import Path

import pytest

from hostkit.command import CommandError, SubprocessRunner
from hostkit.errors import HostkitError, cut
from tests.support.poll import eventually

PYTHON = sys.executable
RUNNER = SubprocessRunner()


def script(text: str) -> list[str]:
    """The argv that runs *text*."""
    return [PYTHON, "-c", text]


def pid_in(mark: Path) -> str:
    """The process id that a script wrote, empty while it has not."""
    return mark.read_text() if mark.exists() else ""


def lives(pid: str) -> bool:
    """Whether there is a process *pid*."""
    return Path(f"/proc/{pid}").exists()


async def test_output_status_and_argv_are_handed_back() -> None:
    argv = script("import sys; print('out'); print('err', file=sys.stderr)")
    done = await RUNNER.run(argv)
    assert (done.argv, done.returncode) == (tuple(argv), 0)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


async def test_input_reaches_the_command() -> None:
    done = await RUNNER.run(script("import sys; print(sys.stdin.read()[::-1])"), stdin="abc")
    assert done.stdout == "cba\n"


async def test_without_input_the_command_reads_nothing_rather_than_ours() -> None:
    done = await RUNNER.run(script("import sys; print(repr(sys.stdin.read()))"))
    assert done.stdout == "''\n"


async def test_bytes_that_are_no_text_do_not_fail() -> None:
    done = await RUNNER.run(script(r"import sys; sys.stdout.buffer.write(b'a\xffb')"))
    assert done.stdout == "a\N{REPLACEMENT CHARACTER}b"


async def test_a_failure_tells_argv_status_message_and_input() -> None:
    argv = script("import sys; print('no such chain', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CommandError) as caught:
        await RUNNER.run(argv, stdin="*nat\nCOMMIT\n")
    error = caught.value
    assert isinstance(error, HostkitError)
    assert (error.argv, error.returncode, error.stdin) == (tuple(argv), 3, "*nat\nCOMMIT\n")
    for part in (PYTHON, "exit status 3", "no such chain", "*nat"):
        assert part in str(error)


async def test_an_unchecked_failure_is_a_result() -> None:
    done = await RUNNER.run(script("import sys; sys.exit(4)"), check=False)
    assert done.returncode == 4


async def test_a_command_that_does_not_exist_is_said_to_be_unable_to_start() -> None:
    with pytest.raises(CommandError, match="cannot start: No such file") as caught:
        await RUNNER.run(["/nowhere/at-all"])
    assert caught.value.returncode is None


def sleeper(mark: Path) -> list[str]:
    """The argv of a process that writes its id to *mark* and goes on for ten minutes."""
    return script(
        f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); "
        "time.sleep(600)"
    )


async def started(mark: Path) -> str:
    """The id of the process of ``sleeper``, once it runs."""
    await eventually(lambda: bool(pid_in(mark)))
    return pid_in(mark)


async def test_a_command_that_overruns_is_ended_and_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no end after 0\.3 s, stopped") as caught:
        await RUNNER.run(sleeper(tmp_path / "pid"), timeout=0.3)
    assert caught.value.returncode is None
    pid = pid_in(tmp_path / "pid")
    assert not pid or not lives(pid)


async def test_cancelling_ends_the_command(tmp_path: Path) -> None:
    task = asyncio.create_task(RUNNER.run(sleeper(tmp_path / "pid")))
    pid = await started(tmp_path / "pid")
    assert lives(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(pid)


def test_a_failure_without_words_says_so() -> None:
    assert str(CommandError(["ip", "a b"], 1, " \n")) == "ip 'a b': exit status 1: no message"


def test_a_long_input_and_a_long_message_are_cut_in_the_text_but_kept_in_the_error() -> None:
    error = CommandError(["x"], 1, "e" * 5000, "i" * 5000)
    assert len(str(error)) < 1400
    assert (len(error.stderr), len(error.stdin or "")) == (5000, 5000)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("  short \n", 20, "short"),
        ("a" * 20, 20, "a" * 20),
        ("a" * 50 + "z" * 50, 25, "a" * 10 + " ... " + "z" * 10),
    ],
)
def test_cut_keeps_both_ends(text: str, limit: int, expected: str) -> None:
    assert cut(text, limit) == expected
