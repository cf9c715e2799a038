"""An API server over TLS that knows bootstrap tokens and signs certificates, in this process.

Who comes with the token is a stranger, who comes with a certificate of the CA is its common name;
what each may do is what ``lab.join.objects`` gives them.
"""

import json
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from cryptography import x509 as library
from cryptography.x509.oid import NameOID

from lab.join import objects
from lab.join.discovery import Server, pin_of
from lab.join.model import CONFIG_NAME, CONFIG_NAMESPACE, ClusterConfig, Host
from lab.master import x509
from lab.master.certificates import Wanted

Raw = dict[str, Any]

TOKEN = "abcdef.0123456789abcdef"  # noqa: S105 - of this process only
HOUR = timedelta(hours=1)
CONFIG = ClusterConfig(
    masters=(Host("m1", "198.18.0.2"),),
    pods="10.1.0.0/16",
    services="10.96.0.0/12",
    domain="cluster.local",
    version="v1.20",
)


def authority(name: str = "kubernetes") -> x509.Signer:
    """A CA for ten years."""
    key, now = x509.new_key(), datetime.now(UTC)
    return x509.Signer(x509.make_authority(name, key, now - HOUR, now + 87600 * HOUR), key)


def pem(signer: x509.Signer) -> bytes:
    """The CA's certificate."""
    return x509.cert_pem(signer.certificate)


@dataclass
class Cluster:
    """The server's state. *signs* and *approves* are what the controller manager does.

    *old*: a server from before certificates.k8s.io/v1. *fail* may raise an answer for a method
    and a path. *life* is that of the certificates it signs.
    """

    folder: Path
    ca: x509.Signer = field(default_factory=authority)
    shown: bytes = b""
    valid: tuple[timedelta, timedelta] = (-HOUR, HOUR)
    addresses: tuple[str, ...] = ("127.0.0.1",)
    signer: x509.Signer | None = None
    nodes: dict[str, Raw] = field(default_factory=dict)
    requests: dict[str, Raw] = field(default_factory=dict)
    config: Raw | None = field(default_factory=lambda: {"cluster.json": _config()})
    info: Callable[[bytes], Raw] = lambda ca: {
        "kubeconfig": objects.cluster_info("https://198.18.0.2:6443", ca)
    }
    date: str = ""
    old: bool = False
    approves: bool = True
    signs: bool = True
    life: timedelta = timedelta(days=365)
    fail: Callable[[str, str], web.Response | None] = lambda _method, _path: None
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    server: Server = field(default_factory=lambda: Server("127.0.0.1"))
    _runner: web.AppRunner | None = None

    @property
    def pin(self) -> str:
        """What --ca-hash gives."""
        return pin_of(self.ca.certificate)

    async def start(self) -> None:
        """Listen on a port of its own."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context())
        await site.start()
        self.server = Server("127.0.0.1", self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    def made(self, method: str, part: str) -> list[str]:
        """Who made the calls of *method* to paths with *part*."""
        return [who for who, how, path in self.calls if how == method and part in path]

    def ready(self, name: str, address: str, *, ready: bool = True, seen: str = "") -> None:
        """A node tells its state."""
        moment = seen or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.nodes[name] = node(name, address, ready=ready, seen=moment)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key, now = x509.new_key(), datetime.now(UTC)
        wanted = Wanted("apiserver", "ca", "kube-apiserver", addresses=self.addresses, server=True)
        begin, end = now + self.valid[0], now + self.valid[1]
        made = x509.make_leaf(wanted, key.public_key(), self.signer or self.ca, begin, end)
        cert, secret, ca = (self.folder / f"server.{end}" for end in ("crt", "key", "ca"))
        cert.write_bytes(x509.cert_pem(made))
        secret.write_bytes(x509.key_pem(key))
        ca.write_bytes(pem(self.ca))
        context.load_cert_chain(cert, secret)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    async def _answer(self, request: web.Request) -> web.Response:
        who = self._who(request)
        self.calls.append((who, request.method, request.path))
        answer = self.fail(request.method, request.path) or await self._route(request, who)
        if self.date:
            answer.headers["Date"] = self.date
        return answer

    def _who(self, request: web.Request) -> str:
        transport = request.transport
        found = transport.get_extra_info("peercert") if transport is not None else None
        if found:
            return str(dict(pair[0] for pair in found["subject"])["commonName"])
        given = request.headers.get("Authorization", "")
        if not given:
            return "anonymous"
        return "stranger" if given == f"Bearer {TOKEN}" else "unknown"

    async def _route(self, request: web.Request, who: str) -> web.Response:
        path, method = request.path, request.method
        if path.endswith("/cluster-info"):
            return web.json_response({"data": self.info(self.shown or pem(self.ca))})
        if who in {"unknown", "anonymous"}:
            return status(401, "Unauthorized") if who == "unknown" else status(403, "Forbidden")
        if path == f"/api/v1/namespaces/{CONFIG_NAMESPACE}/configmaps/{CONFIG_NAME}":
            return _found({"data": self.config} if self.config is not None else None)
        if path == "/api/v1/nodes":
            return web.json_response({"items": list(self.nodes.values())})
        if path.startswith("/api/v1/nodes/"):
            name = path.rpartition("/")[2]
            if method == "DELETE" and who != f"system:node:{name}":
                return status(403, "Forbidden")
            return _found(
                self.nodes.pop(name, None) if method == "DELETE" else self.nodes.get(name)
            )
        version = "v1beta1" if self.old else "v1"
        root = f"/apis/certificates.k8s.io/{version}/certificatesigningrequests"
        if not path.startswith(root):
            return status(404, "NotFound")
        body = await request.json() if request.can_read_body else {}
        return self._request(method, path.removeprefix(root).strip("/"), body, who)

    def _node(self, method: str, name: str, who: str) -> web.Response:
        if not name:
            return web.json_response({"items": list(self.nodes.values())})
        if method != "DELETE":
            return _found(self.nodes.get(name))
        if who != f"system:node:{name}":
            return status(403, "Forbidden")
        return _found(self.nodes.pop(name, None))

    def _request(self, method: str, rest: str, body: Raw, who: str) -> web.Response:
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.requests:
                return status(409, "AlreadyExists")
            self.requests[name] = {**body, "by": who, "status": {}}
            return web.json_response(self.requests[name], status=201)
        name, _, part = rest.partition("/")
        if name not in self.requests:
            return status(404, "NotFound")
        if method == "PUT" and part == "approval":
            if who != "stranger":
                return status(403, "Forbidden")
            self.requests[name] = body
        self._sign(self.requests[name])
        return web.json_response(self.requests[name])

    def _sign(self, found: Raw) -> None:
        """What the controller manager's approver and signers do."""
        told = found["status"]
        pem_text = b64decode(found["spec"]["request"])
        request = library.load_pem_x509_csr(pem_text)
        client = "client auth" in found["spec"]["usages"]
        own = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        if client and self.approves and found["by"] in {"stranger", own}:
            told.setdefault("conditions", [{"type": "Approved", "status": "True"}])
        approved = any(one["type"] == "Approved" for one in told.get("conditions", ()))
        if not approved or not self.signs or "certificate" in told:
            return
        told["certificate"] = b64encode(self.issue(request, client=client)).decode()

    def issue(self, request: library.CertificateSigningRequest, *, client: bool) -> bytes:
        """The certificate for *request*."""
        groups = request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        names: tuple[str, ...] = ()
        addresses: tuple[str, ...] = ()
        for extension in request.extensions:
            if isinstance(extension.value, library.SubjectAlternativeName):
                names = tuple(extension.value.get_values_for_type(library.DNSName))
                found = extension.value.get_values_for_type(library.IPAddress)
                addresses = tuple(str(ip_address(str(one))) for one in found)
        common = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        wanted = Wanted(
            "signed", "ca", str(common), tuple(str(one.value) for one in groups),
            addresses, names, server=not client, client=client,
        )  # fmt: skip
        key = request.public_key()
        assert isinstance(key, x509.PublicKey)
        now = datetime.now(UTC)
        made = x509.make_leaf(wanted, key, self.ca, now - timedelta(minutes=5), now + self.life)
        return x509.cert_pem(made)


def node(name: str, address: str, *, ready: bool = True, seen: str = "") -> Raw:
    """A Node object."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "message": "all is well" if ready else "docker is away",
        "lastHeartbeatTime": seen,
    }
    told = {
        "addresses": [{"type": "InternalIP", "address": address}] if address else [],
        "conditions": [condition],
    }
    return {"metadata": {"name": name}, "status": told}


def status(code: int, reason: str) -> web.Response:
    """Kubernetes' way of saying no."""
    told = {"kind": "Status", "reason": reason, "message": f"{reason}, it says", "code": code}
    return web.Response(status=code, text=json.dumps(told), content_type="application/json")


def _found(document: Raw | None) -> web.Response:
    return status(404, "NotFound") if document is None else web.json_response(document)


def _config() -> str:
    return msgspec.json.encode(CONFIG).decode()
