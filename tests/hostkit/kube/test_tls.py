"""Certificates and tokens: what is wrong in words, and renewed files without a restart."""

import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.credentials import Credentials
from hostkit.kube.errors import KubeConfigError, KubeUnavailable, Unauthorized
from hostkit.kube.transport import KubeClient
from tests.fakes.kube import FakeKube
from tests.support.certs import Authority, Pair

PODS = "/api/v1/pods"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates of this module are."""
    return tmp_path_factory.mktemp("certs")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    """The CA of server and clients."""
    return Authority(directory / "ca")


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    """The server's certificate."""
    return authority.issue("server", cn="kube-apiserver")


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    """Our certificate."""
    return authority.issue("client", cn="netd")


def server_context(pair: Pair, clients: Authority | None = None) -> ssl.SSLContext:
    """The server's side of TLS; with *clients* it wants a certificate of that CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if clients is not None:
        context.load_verify_locations(clients.cert)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def with_pair(pair: Pair, authority: Authority) -> dict[str, str]:
    """The fields of KubeConfig for *pair*."""
    return {"ca_file": str(authority.cert), "cert_file": str(pair.cert), "key_file": str(pair.key)}


@asynccontextmanager
async def client_of(server: FakeKube, **fields: str) -> AsyncIterator[KubeClient]:
    """A client of *server*."""
    client = KubeClient(KubeConfig((server.url,), **fields), user_agent="test", deadline=5)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


async def trouble(server: FakeKube, **fields: str) -> str:
    """Why a client with *fields* cannot talk to *server*."""
    async with client_of(server, **fields) as client:
        with pytest.raises(KubeUnavailable) as caught:
            await client.get(PODS)
    return caught.value.causes[server.url]


async def test_a_token_goes_over_tls(authority: Authority, server_pair: Pair) -> None:
    async with (
        FakeKube(tls=server_context(server_pair), tokens={"secret"}) as server,
        client_of(server, ca_file=str(authority.cert), token="secret") as client,  # noqa: S106
    ):
        await client.get(PODS)
        assert client.endpoint == server.url


async def test_a_client_certificate_from_files_or_inline_is_shown(
    authority: Authority, server_pair: Pair, client_pair: Pair
) -> None:
    inline = {
        "ca_data": authority.cert.read_text(),
        "cert_data": client_pair.cert.read_text(),
        "key_data": client_pair.key.read_text(),
    }
    async with FakeKube(tls=server_context(server_pair, authority)) as server:
        for fields in (with_pair(client_pair, authority), inline):
            async with client_of(server, **fields) as client:
                await client.get(PODS)


async def test_each_certificate_trouble_is_told_in_its_own_words(
    authority: Authority, server_pair: Pair, directory: Path
) -> None:
    other = Authority(directory / "other", "other-ca")
    expired = authority.issue("expired", days=-1)
    named = authority.issue("named", sans="DNS:kubernetes")
    ours = {"ca_file": str(authority.cert)}
    async with FakeKube(tls=server_context(server_pair)) as server:
        assert await trouble(server, ca_file=str(other.cert)) == (
            f"its certificate is signed by a CA that is not in {other.cert}"
        )
        assert "not in the configured CA data" in await trouble(
            server, ca_data=other.cert.read_text()
        )
        assert "not in the system's CAs" in await trouble(server)
    async with FakeKube(tls=server_context(expired)) as server:
        assert "has expired" in await trouble(server, **ours)
    async with FakeKube(tls=server_context(named)) as server:
        assert "is for another name or address" in await trouble(server, **ours)
        async with client_of(server, **ours, tls_server_name="kubernetes") as client:
            await client.get(PODS)


async def test_https_to_a_port_without_tls_says_so() -> None:
    async with FakeKube() as server:
        url = server.url.replace("http:", "https:")
        client = KubeClient(KubeConfig((url,)), user_agent="test", deadline=5)
        with pytest.raises(KubeUnavailable, match="does not speak TLS on this port: use http://"):
            await client.get(PODS)
        await client.close()


async def test_insecure_accepts_any_certificate(server_pair: Pair) -> None:
    async with FakeKube(tls=server_context(server_pair)) as server:
        client = KubeClient(KubeConfig((server.url,), insecure=True), user_agent="test")
        await client.get(PODS)
        await client.close()


def replace(path: Path, text: str) -> None:
    """Renew *path* at once, as tools that renew credentials do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


async def test_a_renewed_token_is_taken_before_the_next_request(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    async with (
        FakeKube(tls=server_context(server_pair), tokens={"one"}) as server,
        client_of(server, ca_file=str(authority.cert), token_file=str(token)) as client,
    ):
        await client.get(PODS)
        server.tokens = {"two"}
        replace(token, "two")
        await client.get(PODS)
        assert [headers["Authorization"] for _, _, _, headers in server.requests] == [
            "Bearer one",
            "Bearer two",
        ]


async def test_a_refused_token_is_read_again_once_even_if_its_file_looks_unchanged(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    async with (
        FakeKube(tls=server_context(server_pair), tokens={"one"}) as server,
        client_of(server, ca_file=str(authority.cert), token_file=str(token)) as client,
    ):
        await client.get(PODS)
        before = token.stat()
        with token.open("r+") as file:
            file.write("two")
        os.utime(token, ns=(before.st_atime_ns, before.st_mtime_ns))
        server.tokens = {"two"}
        await client.get(PODS)
        assert len(server.requests) == 3
        server.tokens = {"three"}
        with pytest.raises(Unauthorized):
            await client.get(PODS)
        assert len(server.requests) == 4


async def test_a_renewed_certificate_is_taken_before_the_next_connection(
    authority: Authority, server_pair: Pair, client_pair: Pair, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    foreign = other.issue("foreign", cn="netd")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    cert.write_text(foreign.cert.read_text())
    key.write_text(foreign.key.read_text())
    fields = with_pair(Pair(cert, key), authority)
    async with (
        FakeKube(tls=server_context(server_pair, authority)) as server,
        client_of(server, **fields) as client,
    ):
        # Python's server cuts the connection where others send an alert that says why.
        with pytest.raises(KubeUnavailable, match="connection cut"):
            await client.get(PODS)
        replace(cert, client_pair.cert.read_text())
        replace(key, client_pair.key.read_text())
        await client.get(PODS)


def test_files_that_turn_bad_leave_what_was_read_before(
    client_pair: Pair, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, cert = tmp_path / "token", tmp_path / "cert"
    token.write_text("one")
    cert.write_text(client_pair.cert.read_text())
    credentials = Credentials(
        KubeConfig(
            ("https://a",),
            ca_file=str(authority.cert),
            token_file=str(token),
            cert_file=str(cert),
            key_file=str(client_pair.key),
        )
    )
    first = credentials.context()
    token.unlink()
    cert.write_text("half of a")
    for _ in range(3):
        assert credentials.token() == "one"
        assert credentials.context() is first
    assert len(caplog.records) == 2
    token.write_text("two")
    cert.write_text(client_pair.cert.read_text())
    assert credentials.token() == "two"
    assert credentials.context() is not first


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"a\x00b"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    with pytest.raises(KubeConfigError, match=r"token_file: .*token holds no token"):
        Credentials(KubeConfig(("https://a",), token_file=str(token)))


def test_files_that_hold_something_else_are_named(
    authority: Authority, client_pair: Pair, tmp_path: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    with pytest.raises(KubeConfigError, match=r"ca_file: .*junk holds no CA certificate"):
        Credentials(KubeConfig(("https://a",), ca_file=str(junk)))
    with pytest.raises(KubeConfigError, match=r"ca_data: holds no CA certificate"):
        Credentials(KubeConfig(("https://a",), ca_data=base64.b64encode(b"x").decode()))
    with pytest.raises(KubeConfigError, match=r"cert_file: .*junk.*are no usable pair"):
        Credentials(KubeConfig(("https://a",), cert_file=str(junk), key_file=str(client_pair.key)))
    stranger = authority.issue("stranger")
    with pytest.raises(KubeConfigError, match=r"cert_data: .*are no usable pair"):
        Credentials(
            KubeConfig(
                ("https://a",),
                cert_data=client_pair.cert.read_text(),
                key_data=stranger.key.read_text(),
            )
        )
