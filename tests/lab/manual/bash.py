"""A bash that completes, as readline would ask it to."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import cli
from lab.manual.catalogue import bash_script


def script() -> str:
    """The script for the parsers as they are."""
    return bash_script(cli.build_parser("1"))


def cut(line: str) -> list[str]:
    """The words of *line* as readline cuts them, with bash's own COMP_WORDBREAKS."""
    words = re.findall(r"""[=:]+|(?:\\.|"[^"]*"?|'[^']*'?|[^\s=:"'\\])+""", line)
    return [*words, ""] if not line or line[-1].isspace() else words


def answers(
    lines: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    options: str = ":",
) -> list[list[str]]:
    """What bash offers at the end of each of *lines*, or at a bar in it, sorted, in *folder*.

    *options* is run first. Anything that bash says on standard error fails the test.
    """
    asked = [options, script()]
    for marked in lines:
        begun, _, rest = marked.partition("|")
        line = begun + rest
        words = cut(line)
        at = len(cut(begun)) - 1
        given = " ".join(shlex.quote(word) for word in words)
        asked += [
            f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(begun)}",
            f"COMP_WORDS=({given}) COMP_CWORD={at}",
            f"_barenode {shlex.quote(words[0])} || :",
            "printf '%s\\n' \"${COMPREPLY[@]}\" ----",
        ]
    done = subprocess.run(
        ["bash", "--norc", "-s"],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **(environment or {})},
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    blocks = done.stdout.split("----\n")[:-1]
    return [sorted(word for word in block.splitlines() if word) for block in blocks]
