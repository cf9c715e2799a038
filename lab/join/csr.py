"""Certificates that the cluster signs: keys and requests made here, signing waited for.

A request's name tells its key and which certificate it follows, so that a repeated try finds its
own request again instead of leaving one more. Signers and the usages that each wants:
kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests.
"""

import asyncio
import hashlib
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal

from cryptography import x509 as library
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from hostkit.errors import cut
from hostkit.kube.errors import Conflict, NotFound
from lab.errors import LabError
from lab.join.api import Api, Raw
from lab.master import x509
from lab.master.certificates import Wanted

CLIENT: Final = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING: Final = "kubernetes.io/kubelet-serving"
NODES_GROUP = "system:nodes"
"""The organization of every node's certificate."""

Signer = Literal["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"]

_V1 = "/apis/certificates.k8s.io/v1"
# Servers before 1.19.
_V1BETA1 = "/apis/certificates.k8s.io/v1beta1"
# Both signers refuse other sets of usages before 1.27, and take these since.
_USAGES = {
    CLIENT: ["digital signature", "key encipherment", "client auth"],
    SERVING: ["digital signature", "key encipherment", "server auth"],
}
_POLL = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """A request to *signer* for the certificate *wanted*, whose key is *key*.

    *follows* is the certificate that it is to replace, "" for none.
    """

    signer: Signer
    wanted: Wanted
    key: x509.Key
    follows: str = ""

    @property
    def name(self) -> str:
        """The name of the CertificateSigningRequest."""
        told = hashlib.sha256(x509.public_der(self.key.public_key()))
        told.update(f"{self.signer} {self.follows} {self.wanted}".encode())
        # 12 of 64 digits: enough to tell the requests of one node apart.
        return f"barenode-{self.wanted.name}-{_node(self.wanted)}-{told.hexdigest()[:12]}"


def _node(wanted: Wanted) -> str:
    return wanted.common_name.removeprefix("system:node:")


def client_of(node: str) -> Wanted:
    """The certificate by which the node *node* is known to the API server."""
    return Wanted("node", "ca", f"system:node:{node}", (NODES_GROUP,), client=True)


def serving_of(node: str, address: str) -> Wanted:
    """The certificate of nodeagent's server on *node*."""
    return Wanted(
        "kubelet",
        "ca",
        f"system:node:{node}",
        (NODES_GROUP,),
        addresses=(address,),
        names=(node,),
        server=True,
    )


def pem_of(request: Request) -> bytes:
    """The PKCS #10 request."""
    wanted = request.wanted
    subject = [library.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in wanted.organizations]
    subject.append(library.NameAttribute(NameOID.COMMON_NAME, wanted.common_name))
    builder = library.CertificateSigningRequestBuilder().subject_name(library.Name(subject))
    others: list[library.GeneralName] = [library.DNSName(name) for name in wanted.names]
    others += [library.IPAddress(ip_address(text)) for text in wanted.addresses]
    if others:
        builder = builder.add_extension(library.SubjectAlternativeName(others), critical=False)
    signed = builder.sign(request.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def document(request: Request) -> Raw:
    """The object for the API server, but for its ``apiVersion``."""
    return {
        "kind": "CertificateSigningRequest",
        "metadata": {"name": request.name},
        "spec": {
            "request": b64encode(pem_of(request)).decode("ascii"),
            "signerName": request.signer,
            "usages": _USAGES[request.signer],
        },
    }


def state_of(found: Raw, name: str) -> tuple[bool, bytes]:
    """Whether the request is approved, and the certificate, empty while there is none.

    Raises LabError, with the cluster's own words, when it is denied or has failed.
    """
    status = found.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    for kind, verb in (("Denied", "was denied"), ("Failed", "could not be signed")):
        if kind in conditions:
            why = conditions[kind].get("message") or conditions[kind].get("reason") or "no reason"
            raise LabError(
                f"the certificate request {name} {verb}: {cut(str(why), 300)}; 'kubectl delete csr"
                f" {name}' on a master, then repeat the command"
            )
    try:
        pem = b64decode(status.get("certificate") or "", validate=True)
    except (ValueError, TypeError) as error:
        raise LabError(f"the certificate request {name}: what was signed is no PEM") from error
    return "Approved" in conditions, pem


def accept(pem: bytes, request: Request, authorities: list[x509.Certificate]) -> None:
    """Raise LabError unless *pem* is what was asked for, signed by one of *authorities*."""
    where = f"the certificate that the cluster signed for {request.wanted.common_name}"
    try:
        certificate = x509.load_certificate(pem)
    except LabError as error:
        raise LabError(f"{where} {error}") from error
    if not any(x509.signed_by(certificate, authority) for authority in authorities):
        raise LabError(
            f"{where} is not signed by the cluster's CA: check --cluster-signing-cert-file of"
            " kube-controller-manager"
        )
    if not x509.pair_up(certificate, request.key):
        raise LabError(f"{where} is for another key: 'kubectl delete csr {request.name}', repeat")
    made = x509.wanted_of(request.wanted.name, "ca", certificate)
    if not x509.same(made, request.wanted):
        raise LabError(f"{where} says something else than was asked for: {made}")


class Requests:
    """Certificate requests at the API server *api*. *clock* and *sleep* count seconds."""

    def __init__(
        self,
        api: Api,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._clock = clock
        self._sleep = sleep
        self._group = _V1

    async def submit(self, request: Request) -> None:
        """Make the request, or find the same one of an earlier try; raises KubeError."""
        try:
            await self._create(request)
        except NotFound:
            self._group = _V1BETA1
            await self._create(request)

    async def approve(self, name: str) -> None:
        """Approve the request; the API server checks that we may. Raises KubeError."""
        while True:
            found = await self._read(name)
            if state_of(found, name)[0]:
                return
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            approved = {
                "type": "Approved",
                "status": "True",
                "reason": "BarenodeJoin",
                "message": "approved with the join token of the host that asks for it",
                "lastUpdateTime": now,
            }
            status = found.setdefault("status", {}) or {}
            status["conditions"] = [*(status.get("conditions") or ()), approved]
            found["status"] = status
            try:
                await self._api.call("PUT", f"{self._path(name)}/approval", found)
            except Conflict:
                continue
            return

    async def certificate(self, name: str, *, timeout: float) -> bytes:
        """The certificate, once it is signed; raises LabError after *timeout* seconds."""
        deadline = self._clock() + timeout
        while True:
            approved, pem = state_of(await self._read(name), name)
            if pem:
                return pem
            if self._clock() >= deadline:
                raise LabError(_late(name, timeout, approved=approved))
            await self._sleep(_POLL)

    async def _create(self, request: Request) -> None:
        version = self._group.removeprefix("/apis/")
        try:
            await self._api.call("POST", self._path(), {"apiVersion": version, **document(request)})
        except Conflict:
            # Named by its key: it is ours, of a try that was cut short.
            await self._read(request.name)

    async def _read(self, name: str) -> Raw:
        found = await self._api.get(self._path(name))
        if found is None and self._group == _V1:
            self._group = _V1BETA1
            found = await self._api.get(self._path(name))
        if found is None:
            raise LabError(f"the certificate request {name} is gone: repeat the command")
        return found

    def _path(self, name: str = "") -> str:
        collection = f"{self._group}/certificatesigningrequests"
        return f"{collection}/{name}" if name else collection


def _late(name: str, timeout: float, *, approved: bool) -> str:
    if approved:
        return (
            f"the certificate request {name} is approved and not signed after {timeout:g} s: does"
            " kube-controller-manager run, with --cluster-signing-cert-file and"
            " --cluster-signing-key-file?"
        )
    return (
        f"the certificate request {name} is not approved after {timeout:g} s: does"
        " kube-controller-manager run? 'kubectl get csr' on a master shows it, 'kubectl"
        f" certificate approve {name}' approves it"
    )
