"""The command line of ``barenode``: words to values, with a suggestion for a mistyped word.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such lab or node, 4 lab busy or already
there, 5 this machine lacks something, 130 interrupted. ``exec`` and ``kubectl`` exit as the
command did.
"""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from lab.imageflags import add_hyperkube
from lab.join import initcommand, joincommand, resetcommand, tokencommand
from lab.manual import command as manualcommand
from lab.master import hostcommand, pkicommand
from lab.model import EMBEDDED, KUBERNETES, NONE
from lab.plan import suggest
from lab.recipes import RECIPES

CONTROL_PLANES = (EMBEDDED, KUBERNETES, NONE)
_EPILOG = """exit status: 0 done, 1 failed, 2 wrong usage, 3 no such lab or node, 4 lab busy or
already there, 5 this machine lacks something, 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests the nearest command or flag, and exits 2."""

    def error(self, message: str) -> NoReturn:
        """Explain and exit; *message* is argparse's own."""
        self.exit(2, f"barenode: {self._explain(message)}\nTry '{self.prog} --help'.\n")

    def _explain(self, message: str) -> str:
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            known = re.findall(r"'([^']*)'", match[2])
            return f"no command {match[1]!r}{suggest(match[1], known)}: {', '.join(known)}"
        if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message):
            word = match[1].partition("=")[0]
            return f"unknown argument {word!r}{suggest(word, self._option_string_actions)}"
        return message

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse; an unknown flag is reported by the parser of the command it was given to."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            getattr(found, "parser", self).error(f"unrecognized arguments: {' '.join(extra)}")
        return found


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, text: str) -> Parser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=_EPILOG, allow_abbrev=False
    )
    parser.set_defaults(command=name, parser=parser)
    return parser


def _add_name(parser: Parser) -> None:
    parser.add_argument("--name", default="lab", metavar="LAB", help="which lab (default: lab)")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _add_network(parser: Parser) -> None:
    parser.add_argument(
        "--network",
        metavar="CIDR",
        help="the pods' network, /22 or larger (default: the first free /16 from 10.1.0.0/16)",
    )


def _add_control_plane(parser: Parser) -> None:
    parser.add_argument(
        "--control-plane",
        choices=CONTROL_PLANES,
        help="embedded: an API server for development on the fabric (default); kubernetes: a real"
        " one, in static pods on masters; none: overlay and Docker alone",
    )
    real = parser.add_argument_group("with --control-plane kubernetes")
    real.add_argument("--masters", type=int, metavar="N", help="1, 3 or 5 of them (default: 1)")
    real.add_argument(
        "--insecure",
        action="store_true",
        help="API and etcd in plain HTTP without credentials (default: TLS)",
    )
    add_hyperkube(real)


def _add_life(commands: "argparse._SubParsersAction[Parser]") -> None:
    up = _command(commands, "up", "make a lab and wait until every node is ready")
    _add_name(up)
    up.add_argument("--nodes", type=int, metavar="N", help="how many, besides masters (default: 2)")
    _add_network(up)
    _add_control_plane(up)
    _add_json(up)
    down = _command(commands, "down", "remove a lab with everything in it, whatever its state")
    which = down.add_mutually_exclusive_group()
    which.add_argument("--name", default="lab", metavar="LAB", help="which lab (default: lab)")
    which.add_argument("--all", action="store_true", help="all labs of this machine")
    down.add_argument(
        "--keep", action="store_true", help="keep the nodes' disks: 'up' boots the lab again"
    )
    kill = _command(commands, "kill", "cut a node's power: SIGKILL to its pid 1")
    _add_name(kill)
    kill.add_argument("node", metavar="NODE")
    start = _command(commands, "start", "boot a dead node; its disk is as it was")
    _add_name(start)
    start.add_argument("node", metavar="NODE")
    demo = _command(
        commands, "demo", "containers reach each other, and a service its pods, which are healed"
    )
    demo.add_argument("--name", default="demo", metavar="LAB", help="lab to make (default: demo)")
    demo.add_argument("--nodes", type=int, default=2, metavar="N", help="how many (default: 2)")
    _add_network(demo)
    demo.add_argument("--keep", action="store_true", help="leave the lab up")


def _add_use(commands: "argparse._SubParsersAction[Parser]") -> None:
    status = _command(commands, "status", "look at every node")
    _add_name(status)
    _add_json(status)
    listing = _command(commands, "list", "all labs of this machine")
    _add_json(listing)
    kubectl = _command(commands, "kubectl", "kubectl on the lab's API server: kubectl -- ARGS...")
    _add_name(kubectl)
    run = _command(commands, "exec", "run a command in a node: exec NODE -- CMD...")
    _add_name(run)
    run.add_argument("node", metavar="NODE")
    load = _command(commands, "load", "load a 'docker save' archive into nodes (default: all)")
    _add_name(load)
    load.add_argument("image", metavar="IMAGE.tar")
    load.add_argument("nodes", metavar="NODE", nargs="*")


def build_parser(version: str) -> Parser:
    """The parser of the whole command."""
    parser = Parser(
        prog="barenode",
        description="Kubernetes nodes from bare Linux hosts, and whole clusters on one machine",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"barenode {version}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    lab = groups.add_parser(
        "lab", help="clusters of namespaces on this machine", epilog=_EPILOG, allow_abbrev=False
    )
    commands = lab.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_life(commands)
    _add_use(commands)
    for command in (initcommand, joincommand, resetcommand, tokencommand):
        command.add_arguments(groups, _EPILOG)
    hostcommand.add_arguments(groups, _EPILOG)
    pkicommand.add_arguments(groups, _EPILOG)
    image = groups.add_parser("image", help="images made here, without a registry")
    images = image.add_subparsers(dest="command", metavar="COMMAND", required=True)
    build = _command(images, "build", "build an image archive for 'docker load'")
    build.add_argument("image", metavar="IMAGE", help=" or ".join([*sorted(RECIPES), "hyperkube"]))
    build.add_argument(
        "--kube-bin-dir", default="", metavar="DIR", help="Kubernetes' commands for hyperkube"
    )
    build.add_argument("-o", "--output", metavar="FILE", required=True)
    manualcommand.add_arguments(groups, _EPILOG)
    return parser


def parse(argv: Sequence[str], version: str) -> argparse.Namespace:
    """The command in *argv*; what follows the first ``--`` is ``remainder``.

    Prints and raises SystemExit for --help, --version and wrong usage.
    """
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = build_parser(version)
    found = parser.parse_args(words[:cut])
    found.remainder = words[cut + 1 :]
    if found.command == "exec" and not found.remainder:
        found.parser.error("exec needs a command: exec NODE -- CMD...")
    if found.command == "kubectl" and not found.remainder:
        found.parser.error("kubectl needs its arguments: kubectl -- get pods")
    if found.command not in {"exec", "kubectl"} and cut < len(words):
        found.parser.error("'--' and what follows is for exec and kubectl only")
    return found
