"""Certificates are asked for once, signed by the cluster, and checked before they count."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509 as library

from hostkit.kube.errors import Forbidden, NotFound
from lab.errors import LabError
from lab.join import csr
from lab.join.api import Raw
from lab.join.csr import (
    CLIENT,
    SERVING,
    Request,
    Requests,
    accept,
    client_of,
    pem_of,
    serving_of,
    state_of,
)
from lab.master import x509
from lab.master.certificates import Wanted
from tests.lab.join.cluster import authority
from tests.lab.join.fakeapi import FakeApi

KEY = x509.new_key()
CLIENT_REQUEST = Request(CLIENT, client_of("w1"), KEY)
SERVING_REQUEST = Request(SERVING, serving_of("w1", "10.0.0.9"), KEY)
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def made(wanted: Wanted, signer: x509.Signer, key: x509.Key = KEY) -> bytes:
    """What *signer* signs."""
    public = key.public_key()
    return x509.cert_pem(x509.make_leaf(wanted, public, signer, NOW - HOUR, NOW + HOUR))


class Clock:
    """Time that passes only by waiting; *each* is called at every wait."""

    def __init__(self, each: object = None) -> None:
        self.now = 0.0
        self.each = each

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        self.now += seconds
        if callable(self.each):
            self.each()


def requests(api: FakeApi, clock: Clock) -> Requests:
    """What is tested."""
    return Requests(api, clock=lambda: clock.now, sleep=clock.sleep)


def test_a_nodes_request_is_what_its_signer_wants() -> None:
    """Common name, group and usages, and no other names."""
    request = library.load_pem_x509_csr(pem_of(CLIENT_REQUEST))
    assert request.is_signature_valid
    assert x509.subject_text(request.subject) == "CN=system:node:w1, O=system:nodes"
    assert not list(request.extensions)
    spec = csr.document(CLIENT_REQUEST)["spec"]
    assert spec["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
    assert spec["usages"] == ["digital signature", "key encipherment", "client auth"]


def test_a_servers_request_names_its_address_and_host() -> None:
    """By both the API server may reach it."""
    request = library.load_pem_x509_csr(pem_of(SERVING_REQUEST))
    names = request.extensions.get_extension_for_class(library.SubjectAlternativeName).value
    assert names.get_values_for_type(library.DNSName) == ["w1"]
    assert [str(ip) for ip in names.get_values_for_type(library.IPAddress)] == ["10.0.0.9"]
    assert csr.document(SERVING_REQUEST)["spec"]["usages"][-1] == "server auth"


def test_the_name_tells_requests_apart_and_repeats_together() -> None:
    """By key, signer, content, and the certificate that is replaced."""
    again = Request(CLIENT, client_of("w1"), KEY)
    assert CLIENT_REQUEST.name == again.name
    others = {
        CLIENT_REQUEST.name,
        SERVING_REQUEST.name,
        Request(CLIENT, client_of("w1"), x509.new_key()).name,
        Request(CLIENT, client_of("w1"), KEY, follows="1").name,
        Request(SERVING, serving_of("w1", "10.0.0.8"), KEY).name,
    }
    assert len(others) == 5
    assert CLIENT_REQUEST.name.startswith("barenode-node-w1-")


async def test_a_repeat_finds_the_request_of_the_first_try() -> None:
    """Requests do not pile up."""
    api = FakeApi()
    for _ in range(2):
        await requests(api, Clock()).submit(CLIENT_REQUEST)
    assert list(api.objects) == [f"{PATH}/{CLIENT_REQUEST.name}"]


class OldApi(FakeApi):
    """A server from before 1.19."""

    async def call(self, method: str, path: str, body: Raw | None = None, kind: str = "") -> Raw:
        """It does not know v1."""
        if "/v1/" in path:
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        return await super().call(method, path, body, kind)


async def test_an_older_server_is_asked_by_its_own_version() -> None:
    """Request, approval and certificate."""
    api, clock = OldApi(), Clock()
    work = requests(api, clock)
    await work.submit(CLIENT_REQUEST)
    path = f"{PATH.replace('v1', 'v1beta1')}/{CLIENT_REQUEST.name}"
    assert api.objects[path]["apiVersion"] == "certificates.k8s.io/v1beta1"
    # Another credential of the same cluster begins with v1 again.
    api.objects[f"{path}/approval"] = {}
    await requests(api, clock).approve(CLIENT_REQUEST.name)
    assert api.objects[f"{path}/approval"]["status"]["conditions"][0]["type"] == "Approved"


async def test_the_certificate_is_waited_for() -> None:
    """Approved and signed by others, a while later."""
    api = FakeApi()
    path = f"{PATH}/{CLIENT_REQUEST.name}"

    def sign() -> None:
        if clock.now > 5:
            status = {"conditions": [{"type": "Approved"}], "certificate": b64encode(b"x").decode()}
            api.objects[path]["status"] = status

    clock = Clock(sign)
    work = requests(api, clock)
    await work.submit(CLIENT_REQUEST)
    assert await work.certificate(CLIENT_REQUEST.name, timeout=60) == b"x"


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ([], r"not approved after 60 s.*kubectl certificate approve barenode-node-w1"),
        ([{"type": "Approved"}], r"approved and not signed after 60 s.*cluster-signing-cert-file"),
        ([{"type": "Denied", "message": "not you"}], r"was denied: not you; 'kubectl delete csr"),
        ([{"type": "Failed", "reason": "SigningError"}], r"could not be signed: SigningError"),
    ],
)
async def test_a_request_that_gets_nowhere_says_whose_turn_it_is(
    conditions: list[Raw], text: str
) -> None:
    """And by which command it goes on."""
    api, clock = FakeApi(), Clock()
    work = requests(api, clock)
    await work.submit(CLIENT_REQUEST)
    api.objects[f"{PATH}/{CLIENT_REQUEST.name}"]["status"] = {"conditions": conditions}
    with pytest.raises(LabError, match=text):
        await work.certificate(CLIENT_REQUEST.name, timeout=60)


async def test_a_request_that_is_cleaned_away_is_said_so() -> None:
    """The controller manager deletes old ones."""
    with pytest.raises(LabError, match="is gone: repeat"):
        await requests(FakeApi(), Clock()).certificate("x", timeout=60)


async def test_an_approval_keeps_what_is_there_and_is_made_once() -> None:
    """A second one would be refused."""
    api = FakeApi()
    work = requests(api, Clock())
    await work.submit(SERVING_REQUEST)
    path = f"{PATH}/{SERVING_REQUEST.name}"
    api.objects[f"{path}/approval"] = {}
    await work.approve(SERVING_REQUEST.name)
    sent = api.objects[f"{path}/approval"]
    assert sent["spec"] == api.objects[path]["spec"]
    assert [one["type"] for one in sent["status"]["conditions"]] == ["Approved"]
    api.objects[path] = sent
    await work.approve(SERVING_REQUEST.name)
    assert len([call for call in api.calls if call[0] == "PUT"]) == 1


async def test_who_may_not_approve_is_told_by_the_server() -> None:
    """Its own error reaches the caller."""

    def refuse(method: str, _path: str) -> None:
        if method == "PUT":
            raise Forbidden(403, "Forbidden", "no")

    api = FakeApi(refuse)
    work = requests(api, Clock())
    await work.submit(SERVING_REQUEST)
    with pytest.raises(Forbidden):
        await work.approve(SERVING_REQUEST.name)


def test_what_was_asked_for_is_accepted() -> None:
    """Of any of the CAs."""
    ca = authority()
    accept(
        made(CLIENT_REQUEST.wanted, ca), CLIENT_REQUEST, [authority().certificate, ca.certificate]
    )
    accept(made(SERVING_REQUEST.wanted, ca), SERVING_REQUEST, [ca.certificate])


def test_anything_else_is_not() -> None:
    """Another CA's, another key's, another node's, and what is no certificate."""
    ca = authority()
    trusted = [ca.certificate]
    for pem, text in (
        (made(CLIENT_REQUEST.wanted, authority()), "not signed by the cluster's CA"),
        (made(CLIENT_REQUEST.wanted, ca, x509.new_key()), "for another key"),
        (made(client_of("w2"), ca), "something else than was asked for"),
        (b"nonsense", "is no certificate in PEM"),
    ):
        with pytest.raises(LabError, match=text):
            accept(pem, CLIENT_REQUEST, trusted)


@pytest.mark.parametrize("status", [None, {}, {"conditions": None}, {"certificate": ""}])
def test_a_status_without_content_means_not_yet(status: Raw | None) -> None:
    """As the server gives it at first."""
    assert state_of({"status": status}, "x") == (False, b"")


def test_a_certificate_that_is_no_base64_is_an_error() -> None:
    """And no traceback."""
    with pytest.raises(LabError, match="no PEM"):
        state_of({"status": {"certificate": "%"}}, "x")
