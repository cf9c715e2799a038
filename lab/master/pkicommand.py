"""``barenode pki``: certificates and kubeconfigs for a control plane on hosts of one's own.

What is made for a host is a copy of its future ``/etc/kubernetes``: ``pki/`` and kubeconfigs.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from hostkit.files import write_atomic
from lab.errors import LabError, UsageError
from lab.master import certificates, planeflags
from lab.master.certificates import (
    BESIDE_API,
    KUBECONFIGS,
    NODE_AUTHORITIES,
    NODE_KUBECONFIGS,
    USED_BY,
    Wanted,
)
from lab.master.kubeconfig import holder, kubeconfig, renewed
from lab.master.pki import RENEW_DAYS, Expiry, Pair, Pki
from lab.master.plane import API_PORT, Master
from lab.output import Output, Sheet

FOLDER = Path("/etc/kubernetes/pki")
# Below this many days the end of a CA is worth a word: nothing that it signs lasts longer.
_SOON = 365
_P = TypeVar("_P", bound=argparse.ArgumentParser)


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the group ``pki`` to *groups*; each of its commands ends its help with *epilog*."""
    pki = groups.add_parser(
        "pki", help="certificates of a control plane", epilog=epilog, allow_abbrev=False
    )
    commands = pki.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name, help=text, description=text, epilog=epilog, allow_abbrev=False
        )
        parser.set_defaults(command=name, parser=parser)
        parser.add_argument(
            "--pki-dir",
            metavar="DIR",
            type=Path,
            default=FOLDER,
            help=f"folder of the certificates (default: {FOLDER})",
        )
        return parser

    _add_init(command("init", "make CAs and what each master needs; keep what still fits"))
    node = command("node", "make what netd and nodeagent of one node need")
    node.add_argument("node", metavar="NAME", help="the node's name in the cluster")
    node.add_argument("address", metavar="ADDRESS", help="where the API server reaches it")
    _add_output(
        node, "FOLDER", "folder to make, a copy of the node's /etc/kubernetes", required=True
    )
    _add_server(
        node, "API server for the kubeconfigs (default: none, set --api-servers)", required=False
    )
    user = command("user", "make a kubeconfig for somebody")
    user.add_argument("user", metavar="NAME", help="the user's name in the cluster")
    user.add_argument("--group", metavar="G", action="append", default=[], help="may be repeated")
    _add_output(user, "FILE", "the kubeconfig to write", required=True)
    _add_server(user, "the API server", required=True)
    show = command("show", "list certificates and when they end")
    show.add_argument("--json", action="store_true", help="print a JSON document")
    renew = command("renew", f"make certificates anew that end within {RENEW_DAYS} days")
    renew.add_argument("--all", action="store_true", help="all of them, whenever they end")


def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    commands: dict[str, Callable[[argparse.Namespace, Pki, Output], int]] = {
        "init": _init,
        "node": _node,
        "user": _user,
        "show": _show,
        "renew": _renew,
    }
    return commands[args.command](args, Pki(args.pki_dir), output)


def _add_init(init: argparse.ArgumentParser) -> None:
    planeflags.add_arguments(init)
    _add_output(
        init,
        "FOLDER",
        "folder for a copy of each master's future /etc/kubernetes, under its name (default with "
        "one master: DIR for the certificates, the folder above it for the kubeconfigs)",
        required=False,
    )


def _add_output(parser: argparse.ArgumentParser, what: str, text: str, *, required: bool) -> None:
    parser.add_argument("-o", "--output", metavar=what, type=Path, required=required, help=text)


def _add_server(parser: argparse.ArgumentParser, text: str, *, required: bool) -> None:
    parser.add_argument("--server", metavar="URL", default="", required=required, help=text)


def _init(args: argparse.Namespace, pki: Pki, output: Output) -> int:
    plane = planeflags.plane(args)
    if len(plane.masters) > 1 and args.output is None:
        raise UsageError("several masters: -o FOLDER takes a folder for each of them")
    # All are planned before anything is made: a value that cannot be leaves no trace.
    plans = [
        (
            *certificates.for_master(plane, master),
            *certificates.for_users(plane),
            *certificates.for_node(master.name, master.address),
        )
        for master in plane.masters
    ]
    pki.authorities()
    output.line(f"CAs in {pki.folder}, discovery hash {pki.fingerprint()}")
    for master, plan in zip(plane.masters, plans, strict=True):
        _init_master(pki, master, plan, args.output, output)
    return 0


def _init_master(
    pki: Pki, master: Master, plan: Sequence[Wanted], target: Path | None, output: Output
) -> None:
    if target:
        home, folder = target / master.name, target / master.name / "pki"
        pki.copy_authorities(folder, keys=True)
    else:
        home, folder = pki.folder.resolve().parent, pki.folder
    pairs = _issue(pki, plan, folder)
    for wanted in plan:
        address = "127.0.0.1" if wanted.name in BESIDE_API else master.address
        server = f"https://{address}:{API_PORT}"
        _embed(pki, wanted, pairs[wanted.name], home, server)
    copy = f": copy what is in it to {master.name}:/etc/kubernetes" if target else ""
    _tell(output, master.name, pairs, f"{home}{copy}")


def _node(args: argparse.Namespace, pki: Pki, output: Output) -> int:
    if args.server:
        _check_server(args.server)
    wanted = certificates.for_node(args.node, args.address)
    folder = args.output / "pki"
    pki.copy_authorities(folder, NODE_AUTHORITIES)
    pairs = _issue(pki, wanted, folder)
    for one in wanted:
        _embed(pki, one, pairs[one.name], args.output, args.server)
    where = f"{args.output}: copy what is in it to {args.node}:/etc/kubernetes"
    _tell(output, args.node, pairs, where)
    return 0


def _user(args: argparse.Namespace, pki: Pki, output: Output) -> int:
    _check_server(args.server)
    wanted = Wanted("user", "ca", args.user, tuple(args.group), client=True)
    _check_free(args.output, args.user)
    made = pki.make(wanted)
    ca = pki.authority()
    text = kubeconfig(args.server, args.user, ca=ca, cert=made.cert, key=made.key)
    _write(args.output, text)
    groups = f" in {', '.join(args.group)}" if args.group else ""
    output.line(f"{args.output}: {args.user}{groups} at {args.server}")
    return 0


@dataclass(frozen=True, slots=True)
class _Shown:
    """The document of ``show --json``."""

    folder: str
    fingerprint: str
    certificates: list[Expiry]


def _show(args: argparse.Namespace, pki: Pki, output: Output) -> int:
    found = _found(pki)
    if args.json:
        output.json(_Shown(str(pki.folder), pki.fingerprint(), found))
        return 0
    output.sheet(expiry_sheet(found))
    output.line(f"discovery hash {pki.fingerprint()}")
    return 0


def expiry_sheet(found: Iterable[Expiry]) -> Sheet:
    """Certificates as a table."""
    rows = tuple(
        (
            one.name,
            one.subject,
            "itself" if one.name == one.issuer else one.issuer,
            _date(one.not_after),
            str(one.days_left),
        )
        for one in found
    )
    return Sheet(("certificate", "subject", "issuer", "expires", "days"), rows)


def _renew(args: argparse.Namespace, pki: Pki, output: Output) -> int:
    found = _found(pki)
    daemons: set[str] = set()
    failed = done = 0
    for one in found:
        if one.authority:
            if one.days_left < _SOON:
                output.line(
                    f"{one.name} ends on {_date(one.not_after)} and nothing it signs lasts "
                    "longer: plan for a new CA, which all hosts have to get"
                )
            continue
        if not args.all and one.days_left >= RENEW_DAYS:
            continue
        try:
            _renew_one(pki, one, output)
        except LabError as error:
            output.error(str(error))
            failed += 1
            continue
        done += 1
        for base in (Path(one.name).name, one.name):
            daemons.update(USED_BY.get(base, ()))
    if not done and not failed:
        output.line(f"nothing to renew: no certificate ends within {RENEW_DAYS} days")
    if daemons:
        output.line(f"restart where these are in use: {', '.join(sorted(daemons))}")
    return 1 if failed else 0


def _renew_one(pki: Pki, one: Expiry, output: Output) -> None:
    wanted = pki.issued(one.name)
    pair = pki.issue(wanted, anew=True)
    output.line(f"{one.name} renewed")
    # The kubeconfig that holds a copy lies in the folder above, as in /etc/kubernetes.
    path = pair.cert.resolve().parent.parent / f"{pair.cert.stem}.conf"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if holder(text) == wanted.common_name:
        _write(path, renewed(text, pair.cert.read_bytes(), pair.key.read_bytes()))
        output.line(f"{path} holds it")


def _found(pki: Pki) -> list[Expiry]:
    found = pki.expiry()
    if not found:
        raise LabError(f"there is no certificate in {pki.folder}: 'barenode pki init' makes them")
    return found


def _issue(pki: Pki, wanted: Iterable[Wanted], folder: Path) -> dict[str, Pair]:
    return {one.name: pki.issue(one, folder) for one in wanted}


def _embed(pki: Pki, wanted: Wanted, pair: Pair, home: Path, server: str) -> None:
    """Write the kubeconfig of *wanted* to *home*, if a daemon or user reads one."""
    if wanted.name not in (*KUBECONFIGS, *NODE_KUBECONFIGS):
        return
    path = home / f"{wanted.name}.conf"
    _check_free(path, wanted.common_name)
    text = kubeconfig(
        server,
        wanted.common_name,
        ca=pki.authority(),
        cert=pair.cert.read_bytes(),
        key=pair.key.read_bytes(),
    )
    _write(path, text)


def _tell(output: Output, name: str, pairs: dict[str, Pair], where: str) -> None:
    made = sum(pair.made for pair in pairs.values())
    output.line(f"{name}: {made} certificates made, {len(pairs) - made} kept, in {where}")


def _check_free(path: Path, user: str) -> None:
    """Raise UsageError unless *path* is free, or a kubeconfig that was made here for *user*."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be replaced ({error}): name another file") from error
    if holder(text) != user:
        raise UsageError(
            f"{path} is there, and not a kubeconfig that barenode made for {user}: "
            "move it away, or name another file"
        )


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text, mode=0o600)
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror or error}") from error


def _check_server(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--server {url!r}: write it like https://10.0.0.1:{API_PORT}")


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
