"""``barenode join``: this host becomes a node of a cluster, or renews what it has of one."""

import argparse
import os
import sys
from pathlib import Path
from typing import TypeVar

from hostkit.command import SubprocessRunner
from hostkit.config import duration
from lab.errors import UsageError
from lab.join import discovery, renew
from lab.join.alone import alone
from lab.join.discovery import Server
from lab.join.joining import LEAST, NEW_LINE, Asked, Join
from lab.join.tokens import Token
from lab.master import certificates, planeflags
from lab.output import Output

_P = TypeVar("_P", bound=argparse.ArgumentParser)


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the command to *groups*."""
    text = "make this host a node of the cluster whose API server is at ADDRESS"
    parser = groups.add_parser(
        "join", help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(command="join", parser=parser)
    parser.add_argument(
        "server", metavar="ADDRESS[:PORT]", nargs="?", default="", help="a master's API server"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--token", default="", metavar="TOKEN", help="a join token; - reads stdin")
    how.add_argument(
        "--token-file", default="", metavar="FILE", help="file with a join token; - reads stdin"
    )
    parser.add_argument("--ca-hash", default="", metavar="sha256:HEX", help="hash of the CA's key")
    parser.add_argument("--node-name", default="", metavar="NAME", help="default: the host's name")
    parser.add_argument(
        "--address", default="",
        help="where others reach this host (default: where packets to ADDRESS come from)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", default="5m", metavar="TIME", help="until the node is Ready (default: 5m)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument(
        "--renew", action="store_true",
        help="ask for a new certificate of this node when two thirds of its life are over",
    )  # fmt: skip


async def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    if args.renew:
        return await renew.run(args, output)
    wish = asked(args)
    with alone():
        joined = await Join(wish, SubprocessRunner(), output.progress).run()
    if args.json:
        output.json(joined)
        return 0
    verb = "is a member already, and Ready" if joined.already else "is Ready"
    output.line(f"node {joined.node} {verb}, pods in {joined.subnet or 'a subnet to come'}")
    return 0


def asked(args: argparse.Namespace) -> Asked:
    """The flags as values; raises UsageError naming the flag."""
    if not args.server:
        raise UsageError(f"ADDRESS is missing: {NEW_LINE}")
    if not args.ca_hash:
        raise UsageError(f"--ca-hash is missing: by it the right cluster is known; {NEW_LINE}")
    try:
        timeout = duration(args.timeout)
    except ValueError as error:
        raise UsageError(f"--timeout {args.timeout}: {error}") from error
    if timeout < LEAST:
        raise UsageError(f"--timeout {args.timeout}: use {LEAST:g} s or more")
    name = args.node_name or os.uname().nodename.lower()
    where = "--node-name" if args.node_name else "the host's name, which --node-name overrides"
    address = planeflags.address_of(args.address, "--address", "10.0.0.9") if args.address else ""
    return Asked(
        Server.parse(args.server),
        discovery.check_pin(args.ca_hash),
        _token(args),
        certificates.check_node(name, where),
        address,
        timeout,
    )


def _token(args: argparse.Namespace) -> Token | None:
    """The token of whichever flag gives it."""
    if args.token and args.token != "-":  # noqa: S105 - stands for stdin
        return Token.parse(args.token)
    if not args.token and not args.token_file:
        return None
    if args.token_file in {"", "-"}:
        return Token.parse(sys.stdin.readline(), "stdin")
    try:
        text = Path(args.token_file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {args.token_file} cannot be read: {error}") from error
    return Token.parse(text, f"--token-file {args.token_file}")
