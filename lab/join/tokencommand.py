"""``barenode token``: the tokens with which hosts join, by the administrator's credential."""

import argparse
import os
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from hostkit.kube.config import KubeConfig
from hostkit.kube.config import load as load_kubeconfig
from hostkit.kube.errors import NotFound
from lab.errors import LabError, PrerequisiteError
from lab.join import bootstrap, tokens
from lab.join.api import Api
from lab.join.discovery import pin_of
from lab.join.tokens import Token, TokenInfo
from lab.master import x509
from lab.output import Output, Sheet

_P = TypeVar("_P", bound=argparse.ArgumentParser)

Connect = Callable[[KubeConfig], Api]

ADMIN_CONF = "/etc/kubernetes/admin.conf"


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the command to *groups*."""
    text = "the tokens with which hosts join a cluster"
    token = groups.add_parser(
        "token", help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    commands = token.add_subparsers(dest="command", metavar="COMMAND", required=True)
    create = _command(commands, "create", "make a token and print it", epilog)
    create.add_argument(
        "--ttl", default=tokens.DEFAULT_TTL, metavar="TIME",
        help=f"how long it lasts, 0 for ever (default: {tokens.DEFAULT_TTL})",
    )  # fmt: skip
    create.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    create.add_argument(
        "--print-join-command", action="store_true", help="print the whole line for other hosts"
    )
    listing = _command(commands, "list", "the cluster's tokens, without their secrets", epilog)
    delete = _command(commands, "delete", "make a token worthless", epilog)
    delete.add_argument("id", metavar="ID", help="its first 6 characters, or all of it")
    for parser in (create, listing):
        parser.add_argument("--json", action="store_true", help="print a JSON document")


def _command(
    commands: "argparse._SubParsersAction[_P]", name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(command=name, parser=parser)
    parser.add_argument(
        "--kubeconfig", default=ADMIN_CONF, metavar="FILE",
        help=f"the administrator's credential (default: {ADMIN_CONF})",
    )  # fmt: skip
    return parser


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """A new token. *expires* is RFC 3339, "" for never; *join* is the line for other hosts."""

    token: str
    expires: str
    join: str


async def run(args: argparse.Namespace, output: Output, *, connect: Connect = Api) -> int:
    """Run the command in *args*; returns its exit status, raises LabError and KubeError.

    *connect* makes a client of the API server.
    """
    command = {"create": _create, "list": _list, "delete": _delete}[args.command]
    return await command(args, output, connect)


async def _create(args: Namespace, output: Output, connect: Connect) -> int:
    ttl = tokens.parse_ttl(args.ttl, "--ttl")
    config = administrator(args.kubeconfig)
    token = Token.new()
    async with connect(config) as api:
        expires = await bootstrap.put_token(api, token, ttl, args.description, bootstrap.now_utc())
    made = Created(
        token=str(token),
        expires=tokens.timestamp(expires) if expires else "",
        join=tokens.join_line(urlsplit(config.servers[0]).netloc, token, pin(config)),
    )
    if args.json:
        output.json(made)
    else:
        output.line(made.join if args.print_join_command else made.token)
    return 0


async def _list(args: Namespace, output: Output, connect: Connect) -> int:
    async with connect(administrator(args.kubeconfig)) as api:
        found = await listed(api, bootstrap.now_utc)
    if args.json:
        output.json({"tokens": found})
    elif found:
        output.sheet(sheet(found, bootstrap.now_utc()))
    else:
        output.line("no tokens: 'barenode token create' makes one")
    return 0


async def _delete(args: Namespace, output: Output, connect: Connect) -> int:
    token = tokens.check_id(args.id)
    async with connect(administrator(args.kubeconfig)) as api:
        try:
            await api.call("DELETE", tokens.secret_path(token))
        except NotFound:
            raise LabError(
                f"there is no token {token}: 'barenode token list' shows those that are there"
            ) from None
    output.progress(token, "deleted: it opens nothing any more")
    return 0


def administrator(path: str) -> KubeConfig:
    """The credential in the file *path*; raises PrerequisiteError, KubeConfigError."""
    if not Path(path).exists():
        raise PrerequisiteError(
            f"{path} is missing: run this on the cluster's master, or name a copy by --kubeconfig"
        )
    if not os.access(path, os.R_OK):
        raise PrerequisiteError(f"{path} may not be read: run this with sudo")
    return load_kubeconfig([], path)


def pin(config: KubeConfig) -> str:
    """The ``--ca-hash`` of the CA in *config*; raises LabError when there is none."""
    pem = config.ca_data or (Path(config.ca_file).read_text() if config.ca_file else "")
    if not pem:
        raise LabError("the kubeconfig names no CA, by which others could know the cluster")
    return pin_of(x509.load_certificate(pem.encode()))


async def listed(api: Api, now: Callable[[], datetime]) -> list[TokenInfo]:
    """The cluster's tokens, those that end first leading."""
    query = urlencode({"fieldSelector": tokens.SELECTOR})
    answer = await api.call("GET", f"{tokens.COLLECTION}?{query}")
    found = (tokens.described(one, now()) for one in answer.get("items") or ())
    return sorted(
        (one for one in found if one is not None),
        key=lambda one: (one.expires == "", one.expires, one.id),
    )


def sheet(found: list[TokenInfo], now: datetime) -> Sheet:
    """The table for an operator."""
    rows = tuple(
        (one.id, tokens.in_words(one, now), one.description or "-", ", ".join(one.groups) or "-")
        for one in found
    )
    return Sheet(("id", "expires in", "description", "groups"), rows)
