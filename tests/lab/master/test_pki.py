"""The folder of certificates: what is made, what is kept, and what strangers think of it."""

import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from lab.errors import LabError, UsageError
from lab.master import x509
from lab.master.certificates import AUTHORITIES, Wanted
from lab.master.pki import Pki

SERVER = Wanted(
    "etcd/server",
    "etcd/ca",
    "master1",
    addresses=("127.0.0.1", "fd00::1"),
    names=("localhost",),
    server=True,
    client=True,
)
CLIENT = Wanted("nodeagent", "ca", "system:node:n", ("system:nodes",), client=True)


class Clock:
    """A clock that tests set; it begins at the real time, which openssl compares with."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        """Let *days* go by."""
        self.now += timedelta(days=days)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with authorities, made once: an RSA key takes its time."""
    folder = tmp_path_factory.mktemp("ready") / "pki"
    Pki(folder).authorities()
    return folder


@pytest.fixture
def clock() -> Clock:
    """A clock of its own."""
    return Clock()


@pytest.fixture
def pki(ready: Path, tmp_path: Path, clock: Clock) -> Pki:
    """Authorities of its own."""
    shutil.copytree(ready, tmp_path / "pki")
    return Pki(tmp_path / "pki", now=clock)


def openssl(*words: str) -> str:
    """What openssl says; it has to agree."""
    done = subprocess.run(
        ["openssl", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def content(folder: Path) -> dict[str, bytes]:
    """Every file below *folder*."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_authorities_have_kubeadm_s_layout_and_stay(pki: Pki) -> None:
    """Made once; only their owner can read the keys."""
    before = content(pki.folder)
    assert set(before) == {
        *(f"{name}.{kind}" for name in AUTHORITIES for kind in ("crt", "key")),
        "sa.key",
        "sa.pub",
        ".lock",
    }
    pki.authorities()
    assert content(pki.folder) == before
    assert {mode(pki.folder / name) for name in before if name.endswith(".key")} == {0o600}


def test_openssl_accepts_the_chain_in_its_strictest_mode(pki: Pki) -> None:
    """For the purposes it was made for, and for no other."""
    server, client = pki.issue(SERVER), pki.issue(CLIENT)
    ca, etcd = str(pki.folder / "ca.crt"), str(pki.folder / "etcd/ca.crt")
    for purpose in ("sslserver", "sslclient"):
        openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", etcd, str(server.cert))
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", ca, str(client.cert))
    with pytest.raises(AssertionError, match="purpose"):
        openssl("verify", "-purpose", "sslserver", "-CAfile", ca, str(client.cert))
    with pytest.raises(AssertionError, match="unable to get local issuer"):
        openssl("verify", "-CAfile", etcd, str(client.cert))
    text = openssl("x509", "-noout", "-text", "-in", str(server.cert))
    assert "DNS:localhost, IP Address:127.0.0.1, IP Address:FD00:0:0:0:0:0:0:1" in text
    subject = openssl("x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", str(client.cert))
    assert subject.strip() == "subject=CN=system:node:n,O=system:nodes"


def test_service_account_keys_are_a_pair_of_rsa(pki: Pki) -> None:
    """Tokens are signed by RS256."""
    public = openssl("rsa", "-in", str(pki.folder / "sa.key"), "-pubout")
    assert public == (pki.folder / "sa.pub").read_text()


def test_the_fingerprint_is_that_of_kubeadm(pki: Pki) -> None:
    """SHA-256 of the public key in DER, as kubeadm's documentation computes it by openssl."""
    pem = openssl("x509", "-pubkey", "-noout", "-in", str(pki.folder / "ca.crt"))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "der"],
        input=pem.encode(),
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r"], input=der, capture_output=True, timeout=60, check=True
    )
    assert pki.fingerprint() == f"sha256:{digest.stdout.decode().split()[0]}"


def serve_once(context: ssl.SSLContext, listener: socket.socket, said: list[str]) -> None:
    """Accept one connection and note the common name that the client proves."""
    connection, _ = listener.accept()
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            peer = tls.getpeercert() or {}
            subject = dict(pair for parts in peer.get("subject", ()) for pair in parts)  # type: ignore[misc]
            said.append(str(subject["commonName"]))
            tls.sendall(b"hello")
    except OSError as error:  # an SSLError, or a client that went away
        said.append(str(getattr(error, "reason", error)))
        connection.close()


def shake_hands(pki: Pki, host: str, client: Wanted) -> tuple[str, list[str]]:
    """What a client at *host* receives over mutual TLS, and what its server noted."""
    server, user = pki.issue(SERVER), pki.issue(client)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.cert, server.key)
    serving.load_verify_locations(pki.folder / "etcd/ca.crt")
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=str(pki.folder / "etcd/ca.crt"))
    asking.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    asking.load_cert_chain(user.cert, user.key)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_once, args=(serving, listener, said), daemon=True)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=60) as plain,
                asking.wrap_socket(plain, server_hostname=host) as tls,
            ):
                heard = tls.recv(100).decode()
        except (ssl.SSLError, ConnectionError) as error:
            heard = type(error).__name__
        thread.join(60)
    return heard, said


NETD = Wanted("etcd/netd", "etcd/ca", "netd", client=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_both_sides_of_mutual_tls_accept_each_other(pki: Pki, host: str) -> None:
    """A real handshake, by address and by name."""
    assert shake_hands(pki, host, NETD) == ("hello", ["netd"])


def test_a_name_that_was_not_asked_for_is_refused(pki: Pki) -> None:
    """The server's certificate does not fit every host."""
    heard, said = shake_hands(pki, "other.example.org", NETD)
    assert heard == "SSLCertVerificationError" and said != ["netd"]


def test_a_client_of_another_authority_is_refused(pki: Pki) -> None:
    """Whoever may talk to the API may not therefore talk to etcd."""
    heard, said = shake_hands(pki, "127.0.0.1", CLIENT)
    assert heard != "hello" and said == ["CERTIFICATE_VERIFY_FAILED"]


def test_a_pair_that_fits_is_kept(pki: Pki, clock: Clock) -> None:
    """Whatever the order of its names; a key that others could read is closed again."""
    first = pki.issue(SERVER)
    before = content(pki.folder)
    first.key.chmod(0o644)
    clock.pass_days(300)
    turned = replace(SERVER, addresses=SERVER.addresses[::-1])
    again = pki.issue(turned)
    assert first.made and not again.made
    assert content(pki.folder) == before
    assert (mode(first.key), mode(first.cert)) == (0o600, 0o644)


CHANGES: dict[str, Callable[[Wanted], Wanted]] = {
    "an address": lambda one: replace(one, addresses=("127.0.0.1",)),
    "a name": lambda one: replace(one, names=("localhost", "more")),
    "the subject": lambda one: replace(one, common_name="other"),
    "a group": lambda one: replace(one, organizations=("system:masters",)),
    "a usage": lambda one: replace(one, client=False),
    "the issuer": lambda one: replace(one, issuer="ca"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_that_says_something_else_is_made_anew(pki: Pki, change: str) -> None:
    """Key and all."""
    old = pki.issue(SERVER).key.read_bytes()
    new = pki.issue(CHANGES[change](SERVER))
    assert new.made and new.key.read_bytes() != old


@pytest.mark.parametrize(
    ("days", "made"),
    [(0, False), (334.9, False), (335.1, True), (400, True), (-1, True)],
    ids=["new", "31 days left", "29 days left", "over", "not begun"],
)
def test_the_clock_decides_when_a_pair_is_made_anew(
    pki: Pki, clock: Clock, days: float, made: bool
) -> None:
    """30 days before the end, or when it is not valid at all."""
    shutil.rmtree(pki.folder)  # authorities older than the leaf, so that the clock can go back
    clock.pass_days(-5)
    pki.authorities()
    clock.pass_days(5)
    pki.issue(SERVER)
    clock.pass_days(days)
    again = pki.issue(SERVER)
    assert again.made is made
    begin, end = x509.span(x509.load_certificate(again.cert.read_bytes()))
    assert begin <= clock.now < end
    if made:
        assert (begin, end) == (clock.now - timedelta(hours=1), clock.now + timedelta(days=365))


def test_nothing_lasts_longer_than_its_authority(pki: Pki, clock: Clock) -> None:
    """And what ends with it is not made again at each call."""
    clock.pass_days(3640)
    pair = pki.issue(SERVER)
    ends = [
        x509.span(x509.load_certificate(path.read_bytes()))[1]
        for path in (pair.cert, pki.folder / "etcd/ca.crt")
    ]
    assert ends[0] == ends[1]
    assert not pki.issue(SERVER).made


def test_an_authority_that_is_over_signs_nothing(pki: Pki, clock: Clock) -> None:
    """The clock comes first among the reasons: it is the more frequent one."""
    clock.pass_days(3700)
    with pytest.raises(LabError, match=r"ca\.crt is valid from .* if the clock is right"):
        pki.issue(SERVER)


def test_another_authority_of_the_same_name_means_new_pairs(pki: Pki) -> None:
    """The signature counts, not the name."""
    pki.issue(CLIENT)
    for suffix in ("crt", "key"):
        (pki.folder / f"ca.{suffix}").unlink()
    pki.authorities()
    assert pki.issue(CLIENT).made


def test_a_pair_cut_off_between_key_and_certificate_is_made_anew(pki: Pki) -> None:
    """A key alone, a certificate alone, and two that do not belong together."""
    pair = pki.issue(CLIENT)
    pair.cert.unlink()
    assert pki.issue(CLIENT).made
    pair.key.unlink()
    assert pki.issue(CLIENT).made
    pair.key.write_bytes(x509.key_pem(x509.new_key()))
    assert pki.issue(CLIENT).made


def test_an_authority_cut_off_after_its_key_keeps_its_pairs(pki: Pki) -> None:
    """Its certificate is made again from the key that signed them."""
    pki.issue(CLIENT)
    (pki.folder / "ca.crt").unlink()
    pki.authorities()
    assert not pki.issue(CLIENT).made
    openssl("verify", "-CAfile", str(pki.folder / "ca.crt"), str(pki.folder / "nodeagent.crt"))


def test_an_authority_whose_key_lies_elsewhere_stays(pki: Pki) -> None:
    """Pairs that fit are of use; a new one names the file that is missing."""
    pki.issue(CLIENT)
    (pki.folder / "ca.key").unlink()
    pki.authorities()
    assert not pki.issue(CLIENT).made
    assert not (pki.folder / "ca.key").exists()
    with pytest.raises(LabError, match=r"ca\.key is missing"):
        pki.issue(CLIENT, anew=True)


def test_an_rsa_authority_signs_as_well(pki: Pki, clock: Clock) -> None:
    """kubeadm's own are of that kind."""
    key = x509.load_key((pki.folder / "sa.key").read_bytes())
    begin, end = clock.now - timedelta(days=1), clock.now + timedelta(days=100)
    authority = x509.make_authority("kubernetes", key, begin, end)
    (pki.folder / "ca.key").write_bytes(x509.key_pem(key))
    (pki.folder / "ca.crt").write_bytes(x509.cert_pem(authority))
    pki.authorities()
    pair = pki.issue(CLIENT)
    openssl("verify", "-x509_strict", "-CAfile", str(pki.folder / "ca.crt"), str(pair.cert))
    assert not pki.issue(CLIENT).made


OTHER_KEY = ed25519.Ed25519PrivateKey.generate().private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
LOCKED_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"secret"),
)


@pytest.mark.parametrize(
    ("file", "damage", "text"),
    [
        ("ca.crt", b"", "is no certificate in PEM: put the right file back"),
        ("ca.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no cert"),
        ("ca.key", b"\xff\x00", "is no private key in PEM"),
        ("ca.key", OTHER_KEY, "of another kind than RSA or elliptic curve"),
        ("ca.key", LOCKED_KEY, "is encrypted: store it without a password"),
        ("ca.key", x509.key_pem(x509.new_key()), "is not the key of"),
        ("sa.key", b"x", "is no private key in PEM"),
        ("sa.pub", b"x", "is no public key in PEM: remove it"),
        ("sa.pub", x509.public_pem(x509.new_key().public_key()), "does not belong to"),
        ("nodeagent.crt", b"x", "is no certificate in PEM"),
        ("nodeagent.key", b"x", "is no private key in PEM"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(
    pki: Pki, file: str, damage: bytes, text: str
) -> None:
    """Nothing is overwritten that may be of worth to somebody."""
    pki.issue(CLIENT)
    (pki.folder / file).write_bytes(damage)
    with pytest.raises(LabError, match=text) as caught:
        pki.authorities()
        pki.issue(CLIENT)
    assert str(pki.folder / file) in str(caught.value)
    assert (pki.folder / file).read_bytes() == damage


def test_a_leaf_cannot_sign(pki: Pki) -> None:
    """A file copied to the wrong place."""
    pair = pki.issue(CLIENT)
    for suffix, source in (("crt", pair.cert), ("key", pair.key)):
        shutil.copy(source, pki.folder / f"ca.{suffix}")
    with pytest.raises(LabError, match=r"ca\.crt is not the certificate of a CA"):
        pki.authorities()


def test_a_public_account_key_alone_is_not_replaced(pki: Pki) -> None:
    """A new pair would make all tokens invalid; that is for the operator to say."""
    (pki.folder / "sa.key").unlink()
    with pytest.raises(LabError, match=r"sa\.pub is there without sa\.key"):
        pki.authorities()


def test_a_folder_that_is_not_there_is_not_made_by_a_typing_error(tmp_path: Path) -> None:
    """Only the authorities make it."""
    with pytest.raises(LabError, match=r"there is no .*typo"):
        Pki(tmp_path / "typo").issue(CLIENT)
    assert not (tmp_path / "typo").exists()


def test_a_pair_can_lie_elsewhere_or_nowhere(pki: Pki, tmp_path: Path) -> None:
    """In a host's folder, or in memory alone."""
    before = content(pki.folder)
    pair = pki.issue(SERVER, tmp_path / "host")
    assert pair.cert == tmp_path / "host/etcd/server.crt"
    made = pki.make(CLIENT)
    assert x509.pair_up(x509.load_certificate(made.cert), x509.load_key(made.key))
    assert content(pki.folder) == before
    with pytest.raises(UsageError, match="0 days"):
        pki.make(CLIENT, days=0)


def test_copies_hold_keys_only_for_another_master(pki: Pki, tmp_path: Path) -> None:
    """Who has the keys can issue and sign tokens."""
    pki.public(tmp_path / "worker")
    assert set(content(tmp_path / "worker")) == {f"{name}.crt" for name in AUTHORITIES}
    pki.copy_authorities(tmp_path / "node", ("ca",))
    assert set(content(tmp_path / "node")) == {"ca.crt"}
    pki.copy_authorities(tmp_path / "master", keys=True)
    own = {name: data for name, data in content(pki.folder).items() if name != ".lock"}
    assert content(tmp_path / "master") == own
    assert mode(tmp_path / "master/etcd/ca.key") == 0o600
    assert not Pki(tmp_path / "master").issue(CLIENT, pki.issue(CLIENT).cert.parent).made


def test_expiry_lists_authorities_first_and_counts_whole_days(pki: Pki, clock: Clock) -> None:
    """Negative after the end."""
    pki.issue(SERVER)
    clock.pass_days(366)
    found = pki.expiry()
    assert [one.name for one in found] == [*sorted(AUTHORITIES), "etcd/server"]
    assert [one.authority for one in found] == [True, True, True, False]
    assert (found[3].subject, found[3].issuer) == ("CN=master1", "etcd/ca")
    assert found[3].days_left == -1
    assert found[3].not_after == clock.now - timedelta(days=1)


def test_what_was_issued_can_be_issued_again(pki: Pki) -> None:
    """Its certificate says all; one of another CA is refused by name."""
    pki.issue(SERVER)
    assert x509.same(pki.issued("etcd/server"), SERVER)
    for suffix in ("crt", "key"):
        (pki.folder / f"etcd/ca.{suffix}").unlink()
    pki.authorities()
    with pytest.raises(LabError, match="signed by CN=etcd-ca, which is no CA of"):
        pki.issued("etcd/server")


BOTH = """
import sys
from pathlib import Path
from lab.master.certificates import Wanted
from lab.master.pki import Pki
pki = Pki(Path(sys.argv[1]))
sys.stdin.readline()
pki.authorities()
for number in range(20):
    pki.issue(Wanted(f"leaf{number}", "ca", "x", client=True))
"""


def test_two_commands_at_once_agree(tmp_path: Path) -> None:
    """One set of authorities, and whole pairs: the later one finds what the earlier made."""
    folder = tmp_path / "pki"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", BOTH, str(folder)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    pki = Pki(folder)
    for number in range(20):
        assert not pki.issue(Wanted(f"leaf{number}", "ca", "x", client=True)).made
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
