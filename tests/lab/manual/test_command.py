"""``barenode completion`` as an operator runs it."""

import subprocess
import sys

import pytest

from lab import cli
from tests.lab.manual.bash import script


def barenode(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``barenode`` with *words*."""
    return subprocess.run(
        [sys.executable, "-m", "lab", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_script_is_printed_as_it_is_and_bash_takes_it() -> None:
    done = barenode("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == script()
    text = "source <(printf '%s' \"$1\"); complete -p barenode netd nodeagent"
    read = subprocess.run(
        ["bash", "--norc", "-c", text, "bash", done.stdout],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert read.stdout.splitlines() == [
        f"complete -F _barenode {name}" for name in ("barenode", "netd", "nodeagent")
    ]


@pytest.mark.parametrize("words", [["completion", "zsh"], ["completion"]])
def test_another_shell_or_none_is_wrong_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse(words, "1")
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "bash" in said.err or "SHELL" in said.err
