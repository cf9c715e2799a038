"""``python3 -m lab.manual FOLDER``: man pages and completion, for the package's build.

Writes ``FOLDER/man/NAME.SECTION`` and ``FOLDER/barenode.bash``. The same release gives the same
bytes on every machine: version and date come from the checkout's ``pyproject.toml`` and
``CHANGELOG.md``, or from the installed package, which has no date. ``SOURCE_DATE_EPOCH`` wins
(https://reproducible-builds.org/specs/source-date-epoch/).
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lab.cli import build_parser
from lab.manual.catalogue import all_pages, bash_script
from lab.manual.pages import Edition
from lab.manual.roff import render

_ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Write all files below the one folder in *arguments*; returns the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python3 -m lab.manual FOLDER\n")
        return 2
    folder = Path(arguments[0])
    try:
        write(folder, edition(_ROOT, environment))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"lab.manual: {error}\n")
        return 1
    return 0


def write(folder: Path, of: Edition) -> None:
    """Write the pages and the script of edition *of*; raises OSError."""
    (folder / "man").mkdir(parents=True, exist_ok=True)
    parser = build_parser(of.version)
    for page in all_pages(parser, of):
        (folder / "man" / page.file).write_text(render(page), encoding="ascii")
    (folder / "barenode.bash").write_text(bash_script(parser), encoding="utf-8")


def edition(root: Path, environment: Mapping[str, str]) -> Edition:
    """The version and date of the checkout at *root*, or of the installed package.

    Raises ValueError for a SOURCE_DATE_EPOCH that is no time.
    """
    project, changes = root / "pyproject.toml", root / "CHANGELOG.md"
    if project.is_file():
        number = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    else:
        number = version("barenode")
    text = changes.read_text(encoding="utf-8") if changes.is_file() else ""
    return Edition(number, date(text, environment.get("SOURCE_DATE_EPOCH", "")))


def date(changelog: str, epoch: str) -> str:
    """The day of *epoch* (seconds since 1970) in UTC, else the newest in *changelog*, else none.

    Raises ValueError for an epoch that is no time.
    """
    if epoch:
        try:
            return datetime.fromtimestamp(int(epoch), UTC).date().isoformat()
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"SOURCE_DATE_EPOCH is {epoch!r}: use seconds since 1970") from None
    return max(re.findall(r"^## .*\b(\d{4}-\d\d-\d\d)\b", changelog, re.MULTILINE), default="")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
