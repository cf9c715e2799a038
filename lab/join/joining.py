"""The steps by which a host becomes a node of a cluster.

    pin --> CA --> token --> cluster's configuration --> own certificates --> settings --> services

Every step looks first whether it is done, so that a join can be repeated after whatever cut it
short. The token is used for what a stranger may ask; from its own certificate on the host is its
node.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from hostkit.command import Runner
from hostkit.errors import HostkitError
from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import Forbidden, Unauthorized
from lab.errors import BusyError, LabError, UsageError
from lab.join import csr, discovery, preflight, record, registration, renew
from lab.join.addresses import SHARED_NAT
from lab.join.api import Api, Raw
from lab.join.discovery import Found, Server
from lab.join.hostservices import (
    DOCKER_ENV,
    NETD,
    NODEAGENT,
    RENEWAL,
    Report,
    Systemd,
    bring_up,
)
from lab.join.member import CA, Member, x509_bundle
from lab.join.model import CONFIG_NAME, CONFIG_NAMESPACE, RECORD_FILE, Record
from lab.join.tokens import Token
from lab.master import x509
from lab.master.certificates import Wanted
from lab.master.plane import Plane
from netd.bridge.options import parse_subnet_env

SUBNET_FILE = "/run/flannel/subnet.env"
NEW_LINE = "'barenode token create --print-join-command' on the master prints a new line"
LEAST = 10.0
"""The shortest time, in seconds, that makes sense for a join."""

_CONFIG = f"/api/v1/namespaces/{CONFIG_NAMESPACE}/configmaps/{CONFIG_NAME}"
_NODES = "/api/v1/nodes"
_POLL = 1.0
# The controller manager lists requests at once, and takes longer after its own start.
_SIGNING = 60.0
# nodeagent tells its state every 10 s; older than this it is not up.
_FRESH = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags. *token* is None when none was given, *address* "" likewise."""

    server: Server
    pin: str
    token: Token | None
    name: str
    address: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Joined:
    """The result. *already*: the host was a member before, and nothing had to be done."""

    node: str
    address: str
    subnet: str
    server: str
    already: bool


class Join:
    """One run of the command. *now* is the time in seconds since 1970."""

    def __init__(
        self,
        wish: Asked,
        runner: Runner,
        report: Report,
        *,
        root: Path = Path("/"),
        systemd: Systemd | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._wish = wish
        self._runner = runner
        self._report = report
        self._member = Member(root)
        self._systemd = systemd or Systemd(runner)
        self._record_file = root / RECORD_FILE.lstrip("/")
        self._now = now
        self._deadline = time.monotonic() + wish.timeout

    async def run(self) -> Joined:
        """Do what is missing; raises LabError and HostkitError."""
        wish = self._wish
        own = await preflight.check(
            self._runner, role="worker", name=wish.name, report=self._report, root=self._member.root
        )
        registration.check_member(own, wish.name, wish.pin)
        if own is not None and own.at and (done := await self._member_already(own)) is not None:
            return done
        found = await discovery.discover(wish.server, wish.pin, now=self._now)
        self._report("cluster", f"{wish.server} has the expected CA")
        if own is None and self._member.knows_another(found.ca):
            raise BusyError(
                f"{CA} is there, and of another cluster: 'barenode reset' if this host was a node"
                " of that, else move the file away"
            )
        address = wish.address or source_of(wish.server)
        check_source(address, wish)
        plane = await self._configuration(found, address, own)
        begun = Record(
            role="worker", name=wish.name, address=address, server=wish.server.url, ca_hash=wish.pin
        )
        # Without a time until all is done: what was cut short begins its services anew.
        record.save(begun, self._record_file)
        changed = self._member.trust(found.ca)
        changed |= await self._certify(found, address)
        changed |= own is None or not own.at
        changed |= self._member.settle(plane, wish.name, address, wish.server.url)
        began = self._now()
        await bring_up(
            self._runner,
            self._report,
            timeout=self._left(),
            restart=changed,
            systemd=self._systemd,
            docker_env=self._member.path(DOCKER_ENV),
        )
        await self._systemd.enable_now(RENEWAL)
        await self._until_ready(began if changed else began - _FRESH)
        at = (own.at if own is not None else 0.0) or self._now()
        record.save(msgspec.structs.replace(begun, at=at), self._record_file)
        return Joined(wish.name, address, self._subnet(), wish.server.url, already=False)

    async def _member_already(self, own: Record) -> Joined | None:
        """The result on a host that is a member with all that belongs to it; None on others."""
        if self._wish.address not in {"", own.address}:
            return None
        if not all([await self._systemd.is_active(name) for name in (NETD, NODEAGENT)]):
            return None
        ca = self._ca_text()
        serving = csr.serving_of(own.name, own.address)
        if self._member.held(csr.client_of(own.name), ca, self._time()) is None:
            return None
        if self._lasting(serving, ca) is None:
            return None
        try:
            async with self._as_node(own.server) as api:
                state = registration.readiness(await api.get(f"{_NODES}/{own.name}"))
        except HostkitError as error:
            self._report("node", f"the API does not answer this node: {error}")
            return None
        if not state.ready or state.seen < self._now() - _FRESH:
            return None
        return Joined(own.name, own.address, self._subnet(), own.server, already=True)

    async def _configuration(self, found: Found, address: str, own: Record | None) -> Plane:
        """The cluster's plane, in which there is a place for this host."""
        wish = self._wish
        client = csr.client_of(wish.name)
        known = self._member.held(client, found.ca, self._time()) is not None
        with explained(wish.token):
            async with (
                self._as_node(found.server.url) if known else self._as_stranger(found) as api
            ):
                plane = registration.cluster_config(await api.get(_CONFIG)).plane()
                registration.check_place(plane, wish.name, address)
                nodes = await _nodes(api, wish.name)
        if warning := registration.check_clash(nodes, wish.name, address, own):
            self._report("nodes", warning)
        return plane

    async def _certify(self, found: Found, address: str) -> bool:
        """Have the node's two certificates; whether any of them is new."""
        name = self._wish.name
        client, serving = csr.client_of(name), csr.serving_of(name, address)
        new = False
        if self._member.held(client, found.ca, self._time()) is None:
            self._report("credential", f"asking for the certificate of node {name}")
            with explained(self._wish.token):
                async with self._as_stranger(found) as api:
                    await self._sign(csr.Requests(api), csr.CLIENT, client, found, approver=None)
            new = True
        if self._lasting(serving, found.ca) is None:
            self._report("credential", "asking for the certificate of nodeagent's server")
            with explained(self._wish.token):
                async with (
                    self._as_node(found.server.url) as api,
                    self._as_stranger(found) as other,
                ):
                    approver = csr.Requests(other)
                    requests = csr.Requests(api)
                    await self._sign(requests, csr.SERVING, serving, found, approver=approver)
            new = True
        return new

    def _lasting(self, wanted: Wanted, ca: str) -> x509.Certificate | None:
        """The serving certificate if it need not be renewed, which only a token can do."""
        found = self._member.held(wanted, ca, self._time())
        if found is None or self._wish.token is None:
            return found
        return None if renew.ends_soon(found, self._time()) else found

    async def _sign(
        self,
        requests: csr.Requests,
        signer: csr.Signer,
        wanted: Wanted,
        found: Found,
        *,
        approver: csr.Requests | None,
    ) -> None:
        present = self._member.held(wanted, found.ca, self._time())
        follows = f"{present.serial_number:x}" if present is not None else ""
        request = csr.Request(signer, wanted, self._member.key(wanted), follows)
        await requests.submit(request)
        if approver is not None:
            await approver.approve(request.name)
        pem = await requests.certificate(request.name, timeout=min(_SIGNING, self._left()))
        csr.accept(pem, request, x509_bundle(found.ca))
        self._member.keep(wanted, pem)

    async def _until_ready(self, since: float) -> None:
        """Wait until the node is Ready, and has said so after *since*."""
        name, said = self._wish.name, ""
        self._report("node", f"waiting until {name} is Ready")
        async with self._as_node(self._wish.server.url) as api:
            while True:
                try:
                    state = registration.readiness(await api.get(f"{_NODES}/{name}"))
                except HostkitError as error:
                    state = registration.Readiness(why=str(error))
                # A heartbeat's time has whole seconds.
                if state.ready and state.seen >= int(since):
                    return
                if not state.ready and state.why != said:
                    said = state.why
                    self._report("node", said)
                if time.monotonic() >= self._deadline:
                    raise LabError(
                        f"node {name} is not Ready after {self._wish.timeout:g} s: {state.why}; see"
                        " 'nodeagent status' and 'journalctl -u nodeagent', and repeat the command"
                    )
                await asyncio.sleep(_POLL)

    def _as_stranger(self, found: Found) -> Api:
        """The API as whoever has the token."""
        if self._wish.token is None:
            raise UsageError(f"--token is missing, and this host has no credential yet: {NEW_LINE}")
        servers = (found.server.url,)
        return Api(KubeConfig(servers, ca_data=found.ca, token=str(self._wish.token)))

    def _as_node(self, server: str) -> Api:
        """The API as this node."""
        return Api(as_node(self._member, self._wish.name, server))

    def _ca_text(self) -> str:
        try:
            return self._member.path(CA).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def _subnet(self) -> str:
        try:
            text = self._member.path(SUBNET_FILE).read_text(encoding="utf-8")
        except OSError:
            return ""
        return str(parse_subnet_env(text) or "")

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), LEAST)


def as_node(member: Member, name: str, server: str) -> KubeConfig:
    """How the node *name* gets into the API at *server*; raises KubeConfigError."""
    client = csr.client_of(name)
    return KubeConfig(
        (server,),
        ca_file=str(member.path(CA)),
        cert_file=str(member.cert(client)),
        key_file=str(member.key_file(client)),
    )


@contextlib.contextmanager
def explained(token: Token | None) -> Iterator[None]:
    """Say of a refused token what can be done about it."""
    shown = f"the token {token.id}" if token is not None else "this node's certificate"
    try:
        yield
    except Unauthorized as error:
        raise LabError(
            f"the API server does not take {shown}: it is wrong or has expired; {NEW_LINE}"
        ) from error
    except Forbidden as error:
        raise LabError(
            f"{shown} opens the API, and is not good for joining: {error.message}; {NEW_LINE}, and"
            " a repeated 'barenode init' there puts rights in order"
        ) from error


async def _nodes(api: Api, name: str) -> list[Raw]:
    """The nodes of the cluster, as far as we may see them."""
    try:
        return (await api.call("GET", _NODES)).get("items") or []
    except Forbidden:
        # From Kubernetes 1.32 on a node sees only itself.
        own = await api.get(f"{_NODES}/{name}")
        return [own] if own is not None else []


def source_of(server: Server) -> str:
    """The address from which this host's packets to *server* come."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: connect(2) of a datagram socket only chooses the route.
            probe.connect((server.host, server.port))
        except OSError as error:
            raise LabError(
                f"no route to {server.host} ({error.strerror or error}): check this host's network"
            ) from error
        return str(probe.getsockname()[0])


def check_source(address: str, wish: Asked) -> None:
    """Raise UsageError unless other hosts can reach this one at *address*."""
    given = IPv4Address(address)
    if given.is_loopback and not wish.address:
        raise UsageError(
            f"ADDRESS {wish.server.host} leads to this host itself: give the master's address, or"
            " --address"
        )
    if given in SHARED_NAT and not wish.address:
        raise UsageError(
            f"{wish.server.host} is reached by way of {address}, which every machine behind"
            " VirtualBox's NAT has: give the master's address in the private network, or --address"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UsageError(
                f"--address {address}: no interface of this host has it: 'ip address' lists them"
            ) from error
