"""An API server is found and trusted by the pin of its CA, and by nothing else."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import LabError, UsageError
from lab.join import discovery
from lab.join.discovery import Server, authorities, check_pin, discover, pinned, skew
from lab.master import x509
from lab.master.pki import Pki
from tests.lab.join.cluster import HOUR, Cluster, authority, pem

SERVER = Server("10.0.0.1")
DATE = "Sat, 21 Nov 2026 12:00:00 GMT"
NOON = 1795262400.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster, whose server a test starts when it is as it should be."""
    made = Cluster(tmp_path)
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.1", "10.0.0.1:6443"),
        ("10.0.0.1:443", "10.0.0.1:443"),
        ("https://10.0.0.1:6443/", "10.0.0.1:6443"),
        ("api.example.org", "api.example.org:6443"),
    ],
)
def test_servers_are_written_in_several_ways(text: str, shown: str) -> None:
    """As the join line has them, as a URL, by name."""
    assert str(Server.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", ":6443", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "http://10.0.0.1", "a b", "a/b",
     "[::1]:6443", "user@host", "10.0.0.1:6443:1"],
)  # fmt: skip
def test_what_is_no_server_is_refused_by_its_name(text: str) -> None:
    """Before anything is asked."""
    with pytest.raises(UsageError, match="ADDRESS"):
        Server.parse(text)


def test_the_pin_is_that_of_the_pki(tmp_path: Path) -> None:
    """What init prints is what join compares with."""
    pki = Pki(tmp_path)
    pki.authorities()
    certificate = x509.load_certificate((tmp_path / "ca.crt").read_bytes())
    assert discovery.pin_of(certificate) == pki.fingerprint()
    assert check_pin(pki.fingerprint().upper().replace("SHA256", "sha256")) == pki.fingerprint()


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:abc", "a" * 64, "md5:" + "a" * 64])
def test_what_is_no_pin_is_refused(text: str) -> None:
    """The sentence says where the right one comes from."""
    with pytest.raises(UsageError, match=r"--ca-hash: .*print-join-command"):
        check_pin(text)


async def test_the_server_with_the_pinned_ca_is_found(cluster: Cluster) -> None:
    """Everything after uses that CA."""
    await cluster.start()
    found = await discover(cluster.server, cluster.pin)
    assert found.ca.encode() == pem(cluster.ca)
    assert set(cluster.made("GET", "cluster-info")) == {"anonymous"}


async def test_another_ca_is_refused_with_both_pins(cluster: Cluster) -> None:
    """Another cluster, or somebody in between."""
    await cluster.start()
    other = discovery.pin_of(authority().certificate)
    with pytest.raises(LabError, match="another cluster, or somebody is in between") as caught:
        await discover(cluster.server, other)
    assert other in str(caught.value)
    assert cluster.pin in str(caught.value)


async def test_somebody_in_between_who_shows_the_right_ca_gets_nothing(cluster: Cluster) -> None:
    """It has no certificate of that CA; a CA of its own beside the right one does not help."""
    own = authority("kubernetes")
    cluster.signer, cluster.shown = own, pem(own) + pem(cluster.ca)
    await cluster.start()
    with pytest.raises(LabError, match=r"shows the right CA, but .* somebody is in between"):
        await discover(cluster.server, cluster.pin)
    assert len(cluster.calls) == 1


async def test_all_cas_of_a_cluster_that_changes_its_ca_count(cluster: Cluster) -> None:
    """They are believed over the connection that the pinned one verified."""
    following = authority()
    cluster.shown = pem(cluster.ca) + pem(following)
    await cluster.start()
    found = await discover(cluster.server, cluster.pin)
    assert found.ca.encode() == pem(cluster.ca) + pem(following)


async def test_a_server_of_another_name_is_refused_with_the_way_out(cluster: Cluster) -> None:
    """A balancer's address has to be in the certificate."""
    cluster.addresses = ("10.9.9.9",)
    await cluster.start()
    with pytest.raises(LabError, match=r"another name or address.*--name 127\.0\.0\.1"):
        await discover(cluster.server, cluster.pin)


@pytest.mark.parametrize(
    ("valid", "text"), [((HOUR, 2 * HOUR), "not valid yet"), ((-2 * HOUR, -HOUR), "has expired")]
)
async def test_a_certificate_out_of_time_says_what_both_clocks_say(
    cluster: Cluster, valid: tuple[timedelta, timedelta], text: str
) -> None:
    """Most often it is this host's clock."""
    cluster.valid, cluster.date = valid, DATE
    await cluster.start()
    with pytest.raises(LabError, match=rf"{text} by this host's clock.*timedatectl") as caught:
        await discover(cluster.server, cluster.pin)
    assert DATE in str(caught.value)


async def test_clocks_that_differ_are_refused_with_both_times(cluster: Cluster) -> None:
    """Certificates made now would not be valid here, or not there."""
    await cluster.start()
    with pytest.raises(LabError, match=r"the clocks differ by (59 min|1 h 0 min).*timedatectl"):
        await discover(cluster.server, cluster.pin, now=lambda: time.time() - 3599)


@pytest.mark.parametrize(
    ("header", "now", "text"),
    [
        (DATE, NOON, ""),
        (DATE, NOON + 60, ""),
        (DATE, NOON - 60, ""),
        (DATE, NOON + 61, "differ by 1 min 1 s: here it is Sat, 21 Nov 2026 12:01:01 GMT"),
        (DATE, NOON - 86400, "differ by 1 d 0 h"),
        ("", NOON, ""),
        ("yesterday", NOON, ""),
        ("Sat, 21 Nov 2026 12:00:00 -0000", NOON + 90, "differ by 1 min 30 s"),
    ],
)
def test_a_minute_is_the_limit(header: str, now: float, text: str) -> None:
    """A server that tells no time is no reason to refuse."""
    assert text in skew(header, now, SERVER)
    assert bool(text) == bool(skew(header, now, SERVER))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (404, "publishes no cluster-info.*barenode init"),
        (403, "does not let hosts read"),
        (401, "--anonymous-auth=false"),
        (302, "status 302"),
        (503, "status 503: try again"),
    ],
)
async def test_a_server_that_does_not_tell_is_named_with_what_to_do(
    cluster: Cluster, code: int, text: str
) -> None:
    """A redirection is not followed."""
    headers = {"Location": "https://127.0.0.1:1/"}
    cluster.fail = lambda _method, _path: web.Response(status=code, headers=headers)
    await cluster.start()
    with pytest.raises(LabError, match=text):
        await discover(cluster.server, cluster.pin)


async def test_an_answer_without_end_is_cut(cluster: Cluster) -> None:
    """The host keeps its memory."""
    cluster.info = lambda _ca: {"kubeconfig": "x" * 2**21}
    await cluster.start()
    with pytest.raises(LabError, match="sends more than a cluster-info"):
        await discover(cluster.server, cluster.pin)


async def test_a_port_where_nobody_listens_is_said_so(cluster: Cluster) -> None:
    """The server was there a moment ago."""
    await cluster.start()
    await cluster.stop()
    with pytest.raises(LabError, match=r"refuses the connection.*barenode init.*firewalls"):
        await discover(cluster.server, cluster.pin)


async def test_a_server_without_tls_is_said_so() -> None:
    """Another program has the port."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener:
        server = Server("127.0.0.1", listener.sockets[0].getsockname()[1])
        with pytest.raises(LabError, match="is it the port of the API server"):
            await discover(server, "sha256:" + "a" * 64)


async def test_a_name_that_nobody_knows_is_said_so() -> None:
    """By DNS or /etc/hosts."""
    with pytest.raises(LabError, match=r"no-such-host\.invalid is not known"):
        await discovery.reach(Server("no-such-host.invalid"), within=120.0)


def info(kubeconfig: object) -> bytes:
    """The ConfigMap with this in it."""
    return json.dumps({"data": {"kubeconfig": yaml.safe_dump(kubeconfig)}}).encode()


def test_a_certificate_that_is_no_ca_is_not_taken_for_one(tmp_path: Path) -> None:
    """Its pin may be right all the same."""
    pki = Pki(tmp_path)
    pki.authorities()
    signer = authority()
    text = pem(signer).decode()
    data = {"certificate-authority-data": b64encode(text.encode()).decode()}
    (found,) = authorities(info({"clusters": [{"cluster": data}]}), SERVER)
    assert found == signer.certificate
    with pytest.raises(LabError, match="found none"):
        pinned([], "sha256:" + "a" * 64, SERVER)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'{"data": null}', b'{"data": {"kubeconfig": "["}}',
        b'{"data": {"kubeconfig": "clusters: []"}}', info({"clusters": [{}]}),
        info({"clusters": [{"cluster": {"certificate-authority-data": "%%%"}}]}),
        info([[]]), info("x"),
    ],
)  # fmt: skip
def test_a_body_of_another_kind_is_an_error_and_no_traceback(body: bytes) -> None:
    """Whoever answers is not trusted yet."""
    with pytest.raises(LabError, match="no cluster-info as 'barenode init' writes it"):
        authorities(body, SERVER)


def test_a_damaged_certificate_is_an_error() -> None:
    """Which is cut short."""
    text = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    data = {"certificate-authority-data": b64encode(text).decode()}
    with pytest.raises(LabError, match="a CA in it is no certificate"):
        authorities(info({"clusters": [{"cluster": data}]}), SERVER)


@given(st.binary(max_size=300))
def test_no_body_whatever_breaks_the_reader(body: bytes) -> None:
    """It is an error or no CA."""
    try:
        assert authorities(body, SERVER) == []
    except LabError:
        return
