"""Finding the API server, and the CA by which it is trusted from then on.

A host that joins knows an address and the pin of a CA. It asks the server anonymously, believes
nothing of the answer but a CA whose key has that pin, and asks again over TLS that this CA
verifies. Then the clocks are compared: certificates are dated by the master's, and judged by
this host's.
"""

import asyncio
import hashlib
import os
import re
import socket
import ssl
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
import msgspec
import yaml

from hostkit import tls
from hostkit.errors import cut
from lab.errors import LabError, UsageError
from lab.master import certificates, x509
from lab.master.plane import API_PORT

CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
MAX_SKEW = 60.0
"""Seconds by which the clocks may differ: leases and certificates do not notice as much."""

_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SERVER = re.compile(r"(?:https://)?(?P<host>[^/:\[\]]+)(?::(?P<port>\d{1,5}))?/?")
# etcd keeps no larger object, and this one holds a certificate.
_LARGEST = 2**20
_CONNECT = 5.0
_ANSWER = 15.0
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OUT_OF_TIME = frozenset({_NOT_YET_VALID, _EXPIRED})
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_WRONG_NAME = frozenset({62, 64})
_SET_CLOCK = "'timedatectl set-ntp true', or chrony, sets it; then repeat the command"


@dataclass(frozen=True, slots=True)
class Server:
    """Where an API server is: *host* is an IPv4 address or a DNS name."""

    host: str
    port: int = API_PORT

    @classmethod
    def parse(cls, text: str) -> "Server":
        """``ADDRESS[:PORT]``, also as a URL; raises UsageError."""
        match = _SERVER.fullmatch(text.strip())
        port = int(match["port"] or API_PORT) if match else 0
        if match is None or not 0 < port < 2**16:
            raise UsageError(f"ADDRESS {text!r}: write it like 10.0.0.1 or 10.0.0.1:{API_PORT}")
        host = match["host"]
        if not certificates.is_address(host):
            certificates.check_name(host, "ADDRESS")
        return cls(host, port)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"https://{self}"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Found:
    """A server whose CA has the pin. *ca* is the cluster's CAs as PEM."""

    server: Server
    ca: str


def check_pin(text: str) -> str:
    """The pin *text*, ``sha256:HEX`` of a CA's public key; raises UsageError."""
    pin = text.strip().lower()
    if not _PIN.fullmatch(pin):
        raise UsageError(
            "--ca-hash: this is no hash of a CA: 'sha256:' and 64 hexadecimal digits, as"
            " 'barenode token create --print-join-command' on the master prints it"
        )
    return pin


def pin_of(certificate: x509.Certificate) -> str:
    """The pin of a CA, as ``Pki.fingerprint`` makes it."""
    return f"sha256:{hashlib.sha256(x509.public_der(x509.public_key(certificate))).hexdigest()}"


class _Cluster(msgspec.Struct):
    ca: str = msgspec.field(default="", name="certificate-authority-data")


class _NamedCluster(msgspec.Struct):
    cluster: _Cluster


class _Kubeconfig(msgspec.Struct):
    clusters: list[_NamedCluster]


class _ClusterInfo(msgspec.Struct):
    data: dict[str, str] = {}


def authorities(body: bytes, server: Server) -> list[x509.Certificate]:
    """The CAs in the ConfigMap ``cluster-info``, maybe none; raises LabError for other text."""
    wrong = f"{server} answers, but with no cluster-info as 'barenode init' writes it"
    try:
        info = msgspec.json.decode(body, type=_ClusterInfo)
        text = yaml.safe_load(info.data.get("kubeconfig", ""))
        config = msgspec.convert(text, _Kubeconfig)
        pem = b64decode(config.clusters[0].cluster.ca, validate=True).decode("ascii")
    except (msgspec.MsgspecError, yaml.YAMLError, ValueError, IndexError, RecursionError) as error:
        raise LabError(f"{wrong}: {cut(' '.join(str(error).split()), 200)}") from error
    try:
        found = [x509.load_certificate(one.encode()) for one in _PEM.findall(pem)]
    except LabError as error:
        raise LabError(f"{wrong}: a CA in it {error}") from error
    return [one for one in found if x509.is_authority(one)]


def pinned(found: list[x509.Certificate], pin: str, server: Server) -> str:
    """The CAs among *found* that have the pin, as PEM; raises LabError when none has."""
    good = [one for one in found if pin_of(one) == pin]
    if not good:
        shown = ", ".join(map(pin_of, found)) or "none"
        raise LabError(
            f"the CA of {server} is not the one of --ca-hash: either this is another cluster, or"
            f" somebody is in between. Expected {pin}, found {cut(shown, 400)};"
            " 'barenode token create --print-join-command' on the master prints the right line"
        )
    return _bundle(good)


def _bundle(found: list[x509.Certificate]) -> str:
    return "".join(x509.cert_pem(one).decode("ascii") for one in found)


def skew(header: str, now: float, server: Server) -> str:
    """What is wrong with the clocks by the server's ``Date`` *header*; "" when nothing is.

    *now* is this host's time in seconds since 1970.
    """
    try:
        theirs = parsedate_to_datetime(header)
    except ValueError:
        # A server need not send it, RFC 9110, section 6.6.1.
        return ""
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    off = now - theirs.timestamp()
    if abs(off) <= MAX_SKEW:
        return ""
    return f"the clocks differ by {_words(abs(off))}: {_both(header, now, server)}: {_SET_CLOCK}"


def _both(header: str, now: float, server: Server) -> str:
    return (
        f"here it is {datetime.fromtimestamp(now, UTC):%a, %d %b %Y %T GMT}, at {server} {header}"
    )


def _words(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


async def reach(server: Server, *, within: float = _CONNECT) -> None:
    """Raise LabError, which says what to check, unless the port can be reached."""
    check = (
        f"check the address, that 'barenode init' is done there, and that firewalls let TCP port"
        f" {server.port} through"
    )
    try:
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(server.host, server.port)
    except TimeoutError as error:
        raise LabError(f"{server} does not answer in {within:g} s: {check}") from error
    except ConnectionRefusedError as error:
        raise LabError(
            f"{server} refuses the connection: no API server listens there: {check}"
        ) from error
    except socket.gaierror as error:
        raise LabError(
            f"the name {server.host} is not known ({error.strerror}): give an address, or mend"
            " /etc/hosts or DNS"
        ) from error
    except OSError as error:
        raise LabError(
            f"{server} cannot be reached ({_named(error)}): check the address and this host's"
            " routes, 'ip route get' tells the way"
        ) from error
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        # The other end may have cut it: it was reached.
        return


def _named(error: OSError) -> str:
    # asyncio puts its own words into strerror.
    return os.strerror(error.errno) if error.errno else str(error)


async def discover(server: Server, pin: str, *, now: Callable[[], float] = time.time) -> Found:
    """The server's CA, which has the pin and verifies the server; raises LabError."""
    await reach(server)
    first = await _fetch(server, _trusting_nobody())
    ca = pinned(authorities(_good(first, server), server), pin, server)
    try:
        again = await _fetch(server, _trusting(ca))
    except _OutOfTimeError as error:
        both = _both(first.date, now(), server)
        raise LabError(
            f"the certificate of {server} {error} by this host's clock: {both}. If this host's"
            f" clock is wrong, {_SET_CLOCK}; else 'barenode pki renew' on the master"
        ) from error
    if wrong := skew(again.date, now(), server):
        raise LabError(wrong)
    # Over TLS that the pinned CA verifies, the others of a cluster that changes its CA count too.
    return Found(server, _bundle(authorities(_good(again, server), server)) or ca)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    date: str
    body: bytes


class _OutOfTimeError(LabError):
    """The server's certificate is not valid yet, or no longer."""


def _good(answer: _Answer, server: Server) -> bytes:
    if answer.status == HTTPStatus.OK:
        return answer.body
    if answer.status == HTTPStatus.NOT_FOUND:
        raise LabError(
            f"{server} publishes no cluster-info: its cluster was not made by 'barenode init', or"
            " that is not done yet: repeat it on the master"
        )
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise LabError(
            f"{server} does not let hosts read its cluster-info ({answer.status}): repeat"
            " 'barenode init' on the master, and check that this is the port of the API server,"
            " which must not run with --anonymous-auth=false"
        )
    raise LabError(f"{server} answers with status {answer.status}: try again when it is well")


def _trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca)


async def _fetch(server: Server, context: ssl.SSLContext) -> _Answer:
    """What the server answers to the question for cluster-info."""
    limits = aiohttp.ClientTimeout(total=_ANSWER, connect=_CONNECT)
    try:
        async with (
            aiohttp.ClientSession(timeout=limits) as session,
            session.get(server.url + CLUSTER_INFO, ssl=context, allow_redirects=False) as response,
        ):
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LARGEST:
                    raise LabError(f"{server} sends more than a cluster-info: is it the master?")
            return _Answer(response.status, response.headers.get("Date", ""), bytes(body))
    except TimeoutError as error:
        raise LabError(
            f"{server} accepts connections and does not answer in {_ANSWER:g} s: is it an API"
            " server, and well?"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _explained(error, server) from error


def _explained(error: Exception, server: Server) -> LabError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _refused(cause, server)
        if isinstance(cause, ssl.SSLError):
            why = tls.explain(cause, authorities="", names="the port")
            return LabError(f"{server}: {why}: is it the port of the API server?")
    text = cut(" ".join(str(error).split()), 200) or type(error).__name__
    return LabError(f"{server} breaks off: {text}: is it an API server, and well?")


def _refused(error: ssl.SSLCertVerificationError, server: Server) -> LabError:
    if error.verify_code in _OUT_OF_TIME:
        expired = error.verify_code == _EXPIRED
        return _OutOfTimeError("has expired" if expired else "is not valid yet")
    why = tls.explain(error, authorities="what --ca-hash names", names="")
    if error.verify_code in _WRONG_NAME:
        return LabError(
            f"{server}: {why}: use an address of the master, or repeat 'barenode init' there with"
            f" --name {server.host}"
        )
    return LabError(
        f"{server} shows the right CA, but {why}: either somebody is in between, or its certificate"
        " was replaced by one of another CA"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        # aiohttp's errors are OpenSSL's by their class, and keep the real one as an attribute.
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        if isinstance(inner, BaseException):
            yield inner
        if not isinstance(error, aiohttp.ClientError):
            yield error
        error = error.__cause__
