"""X.509 made and read: no files, no clock.

Keys are on the curve P-256, which every TLS library of the last ten years takes and which are
made in no time. Service account tokens are signed by RSA, 2048 bits: Kubernetes signs with RS256
then, the only algorithm that its first versions know.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from lab.errors import LabError
from lab.master.certificates import Wanted

Certificate = x509.Certificate
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A CA that can sign."""

    certificate: Certificate
    key: Key = field(repr=False)


def new_key() -> Key:
    """A key for a certificate."""
    return ec.generate_private_key(ec.SECP256R1())


def new_rsa_key() -> Key:
    """A key for service account tokens."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_pem(key: Key) -> bytes:
    """PKCS #8, not encrypted: daemons start without anyone to type a password."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_der(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, of which kubeadm's discovery takes the digest."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def cert_pem(certificate: Certificate) -> bytes:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_key(pem: bytes) -> Key:
    """A private key without a password; raises LabError saying what is wrong with it."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise LabError("is encrypted: store it without a password") from error
    except ValueError as error:
        raise LabError("is no private key in PEM") from error
    if not isinstance(key, Key):
        raise LabError("is a key of another kind than RSA or elliptic curve")
    return key


def load_public_key(pem: bytes) -> PublicKey:
    """A public key; raises LabError likewise."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise LabError("is no public key in PEM") from error
    if not isinstance(key, PublicKey):
        raise LabError("is a key of another kind than RSA or elliptic curve")
    return key


def load_certificate(pem: bytes) -> Certificate:
    """The first certificate in *pem*, its key RSA or elliptic curve; raises LabError likewise."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        public = certificate.public_key()
        # Parts that the library reads only when asked: a damaged one shows now, not later.
        extensions = certificate.extensions
    except ValueError as error:
        raise LabError("is no certificate in PEM") from error
    if not isinstance(public, PublicKey) or not extensions:
        raise LabError("is no certificate of the kind that Kubernetes uses")
    return certificate


def public_key(certificate: Certificate) -> PublicKey:
    """The key of a certificate that came from ``load_certificate``."""
    public = certificate.public_key()
    if not isinstance(public, PublicKey):
        raise LabError("is a certificate for a key of another kind than RSA or elliptic curve")
    return public


def pair_up(certificate: Certificate, key: Key) -> bool:
    """Whether *key* is the certificate's."""
    return public_der(public_key(certificate)) == public_der(key.public_key())


def span(certificate: Certificate) -> tuple[datetime, datetime]:
    """From when to when the certificate is valid, in UTC."""

    def read(name: str) -> datetime:
        # Before version 42 the library has the same times without a time zone only.
        aware = getattr(certificate, f"{name}_utc", None)
        if aware is None:
            aware = getattr(certificate, name).replace(tzinfo=UTC)
        found: datetime = aware
        return found

    return read("not_valid_before"), read("not_valid_after")


def is_authority(certificate: Certificate) -> bool:
    """Whether it may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def signed_by(certificate: Certificate, authority: Certificate) -> bool:
    """Whether the key of *authority* signed *certificate*, not only a CA of the same name."""
    digest = certificate.signature_hash_algorithm
    public = authority.public_key()
    if certificate.issuer != authority.subject or digest is None:
        return False
    signature, content = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, content, ec.ECDSA(digest))
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, content, padding.PKCS1v15(), digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def make_authority(name: str, key: Key, begin: datetime, end: datetime) -> Certificate:
    """A CA that signs itself."""
    subject = _subject(name, ())
    public = key.public_key()
    usage = _key_usage(signs_certificates=True, encrypts_keys=True)
    return (
        _builder(subject, subject, public, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_leaf(
    wanted: Wanted,
    public: PublicKey,
    signer: Signer,
    begin: datetime,
    end: datetime,
) -> Certificate:
    """The certificate *wanted* for the key *public*."""
    subject = _subject(wanted.common_name, wanted.organizations)
    usages = [
        usage
        for usage, on in ((Usage.SERVER_AUTH, wanted.server), (Usage.CLIENT_AUTH, wanted.client))
        if on
    ]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key(signer.certificate))
    encrypts = isinstance(public, rsa.RSAPublicKey)
    builder = (
        _builder(subject, signer.certificate.subject, public, begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(encrypts_keys=encrypts), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in wanted.names]
    others += [x509.IPAddress(ip_address(text)) for text in wanted.addresses]
    if others:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    return builder.sign(signer.key, hashes.SHA256())


def wanted_of(name: str, issuer: str, certificate: Certificate) -> Wanted:
    """What *certificate* says, as what was wanted; raises UsageError for one never wanted here."""
    usages, names, addresses = [], [], []
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            usages = list(value)
        elif isinstance(value, x509.SubjectAlternativeName):
            names = value.get_values_for_type(x509.DNSName)
            addresses = [str(found) for found in value.get_values_for_type(x509.IPAddress)]
    common = _values(certificate.subject, NameOID.COMMON_NAME)
    return Wanted(
        name,
        issuer,
        common[0] if common else "",
        _values(certificate.subject, NameOID.ORGANIZATION_NAME),
        tuple(addresses),
        tuple(names),
        Usage.SERVER_AUTH in usages,
        Usage.CLIENT_AUTH in usages,
    )


def same(one: Wanted, other: Wanted) -> bool:
    """Whether both mean one certificate: the order of names counts nothing."""

    def key(wanted: Wanted) -> tuple[object, ...]:
        return (
            wanted.common_name,
            frozenset(wanted.organizations),
            frozenset(map(ip_address, wanted.addresses)),
            frozenset(name.lower() for name in wanted.names),
            wanted.server,
            wanted.client,
        )

    return key(one) == key(other)


def subject_text(name: x509.Name) -> str:
    """``CN=kube-apiserver, O=system:masters``: common name first, as people look for it."""
    common = [f"CN={text}" for text in _values(name, NameOID.COMMON_NAME)]
    groups = [f"O={text}" for text in _values(name, NameOID.ORGANIZATION_NAME)]
    return ", ".join(common + groups) or name.rfc4514_string() or "-"


def _values(name: x509.Name, kind: x509.ObjectIdentifier) -> tuple[str, ...]:
    return tuple(str(attribute.value) for attribute in name.get_attributes_for_oid(kind))


def _subject(common_name: str, organizations: tuple[str, ...]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool = False, encrypts_keys: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=encrypts_keys,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
