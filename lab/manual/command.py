"""``barenode completion``: the script for a shell, on standard output."""

import argparse
import sys
from typing import TypeVar

from lab.output import Output

_P = TypeVar("_P", bound=argparse.ArgumentParser)
_TEXT = "print a script with which a shell completes barenode, netd and nodeagent"


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the command to *groups*; its help ends with *epilog*."""
    parser = groups.add_parser(
        "completion", help=_TEXT, description=_TEXT, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(command="completion", parser=parser)
    parser.add_argument("shell", metavar="SHELL", choices=("bash",), help="bash")


async def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status."""
    # The parsers of all commands are made where this module is imported.
    from lab.cli import build_parser  # noqa: PLC0415 - as said
    from lab.manual.catalogue import bash_script  # noqa: PLC0415

    # A script is no prose: the console would expand its tabs and read its brackets.
    sys.stdout.write(bash_script(build_parser("")))
    return 0
