"""``barenode join --renew``: a joined node gets its next certificate by the present one.

The controller manager approves a request for a node's certificate that comes from this very node.
The certificate of nodeagent's server is another matter: a node that could have one by its own
right could have one for any address, so a renewed one takes a join token, as the first one did.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hostkit.kube.config import KubeConfig
from lab.errors import LabError, UsageError
from lab.join import csr, record
from lab.join.alone import alone
from lab.join.api import Api
from lab.join.hostservices import Report
from lab.join.member import CA, Member, x509_bundle
from lab.join.model import RECORD_FILE, Record
from lab.master import x509
from lab.output import Output

SOON = timedelta(days=60)
"""How long before its end the serving certificate is worth a warning."""
_PART = 3
_SIGNING = 60.0


@dataclass(frozen=True, slots=True)
class Renewal:
    """The outcome. *until* is when the node's certificate ends, *serving_until* that of its
    server, both RFC 3339, "" for one that is not there; *warning* "" for none."""

    renewed: bool
    until: str
    serving_until: str
    warning: str


def due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether fewer than a third of the certificate's life is left."""
    begin, end = x509.span(certificate)
    return end - now < (end - begin) / _PART


def ends_soon(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate that takes a new token should be renewed: *SOON*, or sooner for one
    with a short life."""
    begin, end = x509.span(certificate)
    return end - now < min(SOON, (end - begin) / _PART)


def warning_of(certificate: x509.Certificate | None, now: datetime) -> str:
    """What to say of the serving certificate; "" while it lasts."""
    how = "run 'barenode join' again with a new token, by the master's 'barenode token create'"
    if certificate is None:
        return f"nodeagent's server has no certificate of the cluster: {how}"
    end = x509.span(certificate)[1]
    if end <= now:
        return f"the certificate of nodeagent's server has expired on {end:%Y-%m-%d}: {how}"
    if ends_soon(certificate, now):
        return f"the certificate of nodeagent's server expires on {end:%Y-%m-%d}: {how} before"
    return ""


async def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    if args.server or args.token or args.token_file or args.ca_hash:
        raise UsageError("--renew takes no ADDRESS, token or hash: it uses the present certificate")
    with alone():
        done = await renew(output.progress)
    if args.json:
        output.json(done)
    else:
        verb = "renewed, valid" if done.renewed else "still good,"
        output.line(f"the node's certificate is {verb} until {done.until}")
    if done.warning:
        output.error(f"warning: {done.warning}")
    return 0


async def renew(
    report: Report, *, root: Path = Path("/"), now: Callable[[], float] = time.time
) -> Renewal:
    """Renew the node's certificate if it is due; raises LabError and KubeError."""
    own = record.load(root / RECORD_FILE.lstrip("/"))
    if own is None:
        raise LabError("this host is no member of a cluster: 'barenode join' makes it one")
    if own.role == "master":
        raise LabError("this host is a master: 'barenode pki renew' renews its certificates")
    member, moment = Member(root), datetime.fromtimestamp(now(), UTC)
    ca = _ca(member)
    client, serving = csr.client_of(own.name), csr.serving_of(own.name, own.address)
    present = member.held(client, ca, moment)
    if present is None:
        raise LabError(
            "the node's certificate has expired, or does not fit: run 'barenode join' again with a"
            " new token, by the master's 'barenode token create --print-join-command'"
        )
    again = due(present, moment)
    if again:
        report("credential", f"asking for the next certificate of node {own.name}")
        present = await _next(member, own, ca, present)
    server = member.held(serving, ca, moment)
    return Renewal(
        again,
        _text(present),
        _text(server) if server is not None else "",
        warning_of(server, moment),
    )


async def _next(
    member: Member, own: Record, ca: str, present: x509.Certificate
) -> x509.Certificate:
    """The certificate after *present*, in force."""
    client = csr.client_of(own.name)
    follows = f"{present.serial_number:x}"
    request = csr.Request(csr.CLIENT, client, member.key(client), follows)
    config = KubeConfig(
        (own.server,),
        ca_file=str(member.path(CA)),
        cert_file=str(member.cert(client)),
        key_file=str(member.key_file(client)),
    )
    async with Api(config) as api:
        requests = csr.Requests(api)
        await requests.submit(request)
        pem = await requests.certificate(request.name, timeout=_SIGNING)
    csr.accept(pem, request, x509_bundle(ca))
    member.keep(client, pem)
    return x509.load_certificate(pem)


def _ca(member: Member) -> str:
    try:
        return member.path(CA).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{CA} cannot be read: {error}: run 'barenode join' again") from error


def _text(certificate: x509.Certificate) -> str:
    return f"{x509.span(certificate)[1]:%Y-%m-%dT%H:%M:%SZ}"
