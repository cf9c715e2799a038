"""TLS of the server: its own certificate, a given one, client certificates, and their changes."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostkit.command import Completed, SubprocessRunner
from nodeagent.errors import NodeAgentError
from nodeagent.server.certificate import OwnCertificate
from nodeagent.server.tls import Tls
from tests.nodeagent.server.stand import Stand, running
from tests.support.certs import Authority, Pair

NAMES = ("node-1", "10.0.0.7", "127.0.0.1")
DAY = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with two certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    """The certificate of the user bob."""
    return authority.issue("bob", cn="bob", usage="clientAuth")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    """A certificate for 127.0.0.1."""
    return authority.issue("server")


def trusting(ca: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that wants a good server and shows *pair*."""
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def showing(pair: Pair) -> ssl.SSLContext:
    """A client that takes any server and shows *pair*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(pair.cert, pair.key)
    return context


async def now_of(cert: Path) -> float:
    """When *cert* begins."""
    done = await SubprocessRunner().run(["openssl", "x509", "-in", str(cert), "-noout",
                                         "-startdate"])  # fmt: skip
    return float(ssl.cert_time_to_seconds(done.stdout.strip().partition("=")[2]))


class Missing:
    """A runner on a machine without openssl."""

    async def run(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:  # fmt: skip
        """As Runner.run."""
        command = ["/nowhere/openssl", *argv[1:]]
        return await SubprocessRunner().run(command, stdin=stdin, timeout=timeout, check=check)


async def test_a_certificate_of_our_own_names_the_node_and_its_key_is_ours_alone(
    tmp_path: Path,
) -> None:
    own = OwnCertificate(SubprocessRunner(), tmp_path / "pki")
    assert await own.ensure(NAMES, 0.0)
    assert own.key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "pki").iterdir()) == [
        "kubelet.crt", "kubelet.key",
    ]  # fmt: skip
    Tls(own.cert, own.key, "").load()
    text = (await SubprocessRunner().run(["openssl", "x509", "-in", str(own.cert), "-noout",
            "-subject", "-ext", "subjectAltName,extendedKeyUsage"])).stdout  # fmt: skip
    for word in ("CN = node-1", "DNS:node-1", "IP Address:10.0.0.7", "Web Server"):
        assert word in text


async def test_it_is_kept_while_it_is_good_whatever_the_clock_does_for_an_hour(
    tmp_path: Path,
) -> None:
    own = OwnCertificate(SubprocessRunner(), tmp_path)
    await own.ensure(NAMES, 0.0)
    now = await now_of(own.cert)
    before = own.cert.read_bytes()
    for moment in (now, now - 3600, now + 3600, now + 300 * DAY):
        assert not await own.ensure(NAMES[::-1], moment)
    assert own.cert.read_bytes() == before


@pytest.mark.parametrize("why", ["near its end", "names", "clock far back", "no key", "broken"])
async def test_it_is_made_again_when_it_is_not_good_any_more(tmp_path: Path, why: str) -> None:
    own = OwnCertificate(SubprocessRunner(), tmp_path)
    await own.ensure(NAMES, 0.0)
    now, before = await now_of(own.cert), own.cert.read_bytes()
    names: tuple[str, ...] = NAMES
    if why == "near its end":
        now += 340 * DAY
    elif why == "names":
        names = ("node-1", "10.0.0.8")
    elif why == "clock far back":
        now -= 30 * DAY
    elif why == "no key":
        own.key.unlink()
    else:
        own.cert.write_text("-----BEGIN CERTIFICATE-----\nhalf")
    assert await own.ensure(names, now)
    assert own.cert.read_bytes() != before
    Tls(own.cert, own.key, "").load()


async def test_without_openssl_there_is_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(NodeAgentError, match="install it, or give --tls-cert-file"):
        await OwnCertificate(Missing(), tmp_path).ensure(NAMES, 0.0)


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeAgentError, match="/file/pki"):
        await OwnCertificate(SubprocessRunner(), tmp_path / "file" / "pki").ensure(NAMES, 0.0)


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, server: Pair, client: Pair, authority: Authority
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("x")
    for cert, key, ca, word in (
        (tmp_path / "none", server.key, "", "No such file"),
        (server.cert, client.key, "", "mismatch"),
        (junk, server.key, "", "no PEM file"),
        (server.cert, server.key, str(junk), "client CA"),
        (server.cert, server.key, str(tmp_path / "none"), "client CA"),
    ):
        with pytest.raises(NodeAgentError, match=word):
            Tls(cert, key, ca).load()
    assert authority.cert.exists()


async def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(
    tmp_path: Path, server: Pair
) -> None:
    locked = tmp_path / "key"
    await SubprocessRunner().run(["openssl", "ec", "-in", str(server.key), "-aes128", "-passout",
                                  "pass:abcd", "-out", str(locked)])  # fmt: skip
    with pytest.raises(NodeAgentError, match="decrypt it"):
        Tls(server.cert, locked, "").load()


def given(server: Pair) -> dict[str, Any]:
    """Settings for a certificate that the operator gave."""
    return {"cert_file": str(server.cert), "key_file": str(server.key)}


async def test_a_given_certificate_is_the_one_that_clients_see(
    tmp_path: Path, authority: Authority, server: Pair
) -> None:
    async with running(tmp_path, anonymous=True, always_allow=True, **given(server)) as stand:
        assert await stand.ask("/healthz", tls=trusting(authority.cert)) == (200, "ok")
        assert not (tmp_path / "pki").exists()


async def test_a_client_certificate_of_the_ca_is_a_user_and_none_is_a_stranger(
    tmp_path: Path, authority: Authority, server: Pair, client: Pair
) -> None:
    ca: dict[str, Any] = {"client_ca": str(authority.cert), "always_allow": True}
    async with running(tmp_path, **given(server), **ca) as stand:
        assert (await stand.ask("/pods", tls=trusting(authority.cert, client)))[0] == 200
        assert (await stand.ask("/pods", tls=trusting(authority.cert)))[0] == 401


async def fails(stand: Stand, tls: ssl.SSLContext) -> bool:
    """Whether a request with *tls* does not get through."""
    try:
        await stand.ask("/pods", tls=tls)
    except (OSError, aiohttp.ClientError):
        return True
    return False


async def test_certificates_of_another_ca_and_expired_ones_are_refused(
    tmp_path: Path, authority: Authority, server: Pair
) -> None:
    stranger = Authority(tmp_path / "other").issue("eve", cn="bob")
    old = authority.issue("old", cn="bob", days=-1)
    ca: dict[str, Any] = {"client_ca": str(authority.cert), "always_allow": True, "anonymous": True}
    async with running(tmp_path, **given(server), **ca) as stand:
        assert await fails(stand, showing(stranger))
        assert await fails(stand, showing(old))
        assert (await stand.ask("/pods"))[0] == 200


async def test_a_new_client_ca_is_used_at_once_and_the_old_one_is_forgotten(
    tmp_path: Path, authority: Authority, server: Pair, client: Pair
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert.read_bytes())
    other = Authority(tmp_path / "other", "other-ca")
    newer = other.issue("carol", cn="carol")
    async with running(tmp_path, **given(server), client_ca=str(ca), always_allow=True) as stand:
        assert (await stand.ask("/pods", tls=showing(client)))[0] == 200
        assert await fails(stand, showing(newer))
        ca.write_bytes(other.cert.read_bytes())
        await stand.server.look()
        assert (await stand.ask("/pods", tls=showing(newer)))[0] == 200
        assert await fails(stand, showing(client))


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(
    tmp_path: Path, authority: Authority, server: Pair
) -> None:
    pair = Pair(tmp_path / "c.pem", tmp_path / "k.pem")
    pair.cert.write_bytes(server.cert.read_bytes())
    pair.key.write_bytes(server.key.read_bytes())
    other = Authority(tmp_path / "other", "other-ca")
    fresh = other.issue("fresh")
    async with running(tmp_path, anonymous=True, always_allow=True, **given(pair)) as stand:
        pair.cert.write_bytes(fresh.cert.read_bytes())
        await stand.server.look()
        assert "server certificate" in stand.problems
        assert (await stand.ask("/healthz", tls=trusting(authority.cert)))[0] == 200
        pair.key.write_bytes(fresh.key.read_bytes())
        await stand.server.look()
        assert stand.problems.all() == ()
        assert (await stand.ask("/healthz", tls=trusting(other.cert)))[0] == 200
        assert await fails(stand, trusting(authority.cert))


async def test_a_new_address_gets_a_new_certificate_at_the_next_look(tmp_path: Path) -> None:
    async with running(tmp_path, anonymous=True, always_allow=True) as stand:
        first = tmp_path / "pki" / "kubelet.crt"
        old = first.read_bytes()
        await stand.server.look()
        assert first.read_bytes() == old
        stand.parts.known = ("node-1", "localhost", "127.0.0.1")
        await stand.server.look()
        assert first.read_bytes() != old
        assert (await stand.ask("/healthz", tls=trusting(first)))[0] == 200


async def test_tls_1_2_is_refused_where_1_3_is_the_oldest(tmp_path: Path, server: Pair) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(tmp_path, anonymous=True, always_allow=True, **given(server)) as stand:
        assert (await stand.ask("/healthz", tls=old))[0] == 200
    async with running(tmp_path, tls13_only=True, anonymous=True, **given(server)) as stand:
        assert await fails(stand, old)


async def test_a_certificate_that_comes_late_opens_the_port_then(
    tmp_path: Path, server: Pair
) -> None:
    pair = Pair(tmp_path / "c.pem", tmp_path / "k.pem")
    async with running(tmp_path, anonymous=True, always_allow=True, **given(pair)) as stand:
        assert stand.server.port is None
        assert "c.pem" in stand.problems.all()[0].text
        pair.cert.write_bytes(server.cert.read_bytes())
        pair.key.write_bytes(server.key.read_bytes())
        await stand.server.look()
        assert stand.problems.all() == ()
        assert (await stand.ask("/healthz"))[0] == 200
