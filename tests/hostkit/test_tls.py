"""TLS failures in words, with the two ends talking in memory."""

import ssl
from pathlib import Path

import pytest

from hostkit.tls import explain
from tests.support.certs import Authority


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLError:
    """What the client is told when the two do not agree."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        try:
            ours.do_handshake()
            ours.read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return error
        try:
            theirs.do_handshake()
        except ssl.SSLError:
            # Told to the client by what was written before.
            continue
    raise AssertionError("both ends agreed")


@pytest.mark.parametrize(
    ("version", "pair", "sentence"),
    [
        (ssl.TLSVersion.TLSv1_3, "", "it wants a client certificate: set cert and key"),
        (ssl.TLSVersion.TLSv1_2, "", "it refuses our TLS version, ciphers or client certificate"),
        (
            ssl.TLSVersion.TLSv1_3,
            "foreign",
            "it does not know the CA that signed the client certificate",
        ),
        (ssl.TLSVersion.TLSv1_3, "expired", "it says that the client certificate has expired"),
    ],
)
def test_what_a_server_says_of_our_certificate_is_told_with_the_settings_to_change(
    tmp_path: Path, version: ssl.TLSVersion, pair: str, sentence: str
) -> None:
    authority = Authority(tmp_path / "ca")
    served = authority.issue("server")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(served.cert, served.key)
    server.load_verify_locations(authority.cert)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(authority.cert))
    client.maximum_version = version
    if pair:
        other = Authority(tmp_path / "other", "other-ca") if pair == "foreign" else authority
        shown = other.issue(pair, days=-1 if pair == "expired" else 2)
        client.load_cert_chain(shown.cert, shown.key)
    error = handshake(client, server)
    assert explain(error, authorities="", names="cert and key") == sentence
    wrapped = OSError("cut")
    wrapped.__cause__ = error
    assert explain(wrapped, authorities="", names="cert and key") == sentence


def test_a_failure_that_is_not_of_tls_has_no_explanation() -> None:
    assert explain(OSError("refused"), authorities="", names="") == ""
