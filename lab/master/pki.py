"""A folder of certificates in kubeadm's layout: own CAs, and pairs that they sign.

Invariant: what is there and fits is kept; a key is written before its certificate, so a command
that is cut off between both leaves a pair that the next one makes anew, or, of a CA, a key whose
certificate the next one makes without any other certificate becoming invalid. Commands that work
on one folder at once take turns.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hostkit.files import write_atomic
from lab.errors import LabError, UsageError
from lab.master import x509
from lab.master.certificates import AUTHORITIES, AUTHORITY_NAMES, Wanted

AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
RENEW_DAYS = 30
"""A certificate with fewer days left is made anew."""
ACCOUNTS = "sa"
"""The pair of keys that signs and checks service account tokens: ``sa.key`` and ``sa.pub``."""

# Clocks of hosts differ, and a host that is being installed may not have set its own yet.
_SKEW = timedelta(hours=1)
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key. *made*: they are new."""

    cert: Path
    key: Path
    made: bool = False


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate and its key as PEM texts."""

    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Expiry:
    """A certificate in the folder. *name* is its path without ``.crt``, *not_after* is UTC.

    *days_left* counts whole days and is negative after the end. *issuer* is the name of the
    authority in the folder that signed it, else what the certificate says.
    """

    name: str
    subject: str
    issuer: str
    not_after: datetime
    days_left: int
    authority: bool


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Pki:
    """The certificates below *folder*; *now* gives the time, with a time zone.

    Methods raise LabError that names the file, and UsageError for a value that cannot be used.
    """

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = _utc_now) -> None:
        self.folder = folder
        self._now = now

    def authorities(self, days: int = AUTHORITY_DAYS) -> None:
        """Make the CAs and the service account keys that are missing; keep what is there.

        A CA whose key lies elsewhere is kept as it is: it then signs nothing here.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"{self.folder} cannot be made: {error.strerror or error}") from error
        with self._locked():
            for name in AUTHORITIES:
                self._make_authority(name, days)
            self._make_accounts()

    def issue(
        self,
        wanted: Wanted,
        folder: Path | None = None,
        *,
        days: int = LEAF_DAYS,
        anew: bool = False,
    ) -> Pair:
        """The pair *wanted* below *folder*, by default the PKI's own.

        A pair that is there stays if it was signed by the issuer's present key, says the same
        and has ``RENEW_DAYS`` left, or as many as its issuer; else, or with *anew*, it is made,
        for *days* days but no longer than its issuer lasts.
        """
        place = self.folder if folder is None else folder
        cert, key = place / f"{wanted.name}.crt", place / f"{wanted.name}.key"
        with self._locked():
            if not anew and cert.exists() and key.exists() and self._fits(wanted, cert, key):
                _write(key, _read(key), 0o600)
                return Pair(cert, key)
            made = self._sign(wanted, days)
            _write(key, made.key, 0o600)
            _write(cert, made.cert, 0o644)
        return Pair(cert, key, made=True)

    def make(self, wanted: Wanted, *, days: int = LEAF_DAYS) -> Pem:
        """A new pair that is not stored."""
        with self._locked():
            return self._sign(wanted, days)

    def authority(self, name: str = "ca") -> bytes:
        """The certificate of a CA as PEM, with whatever else is in its file."""
        path = self._path(name, ".crt")
        self._load_authority(path)
        return _read(path)

    def public(self, folder: Path) -> None:
        """Copy the certificates of all CAs to *folder*, without their keys."""
        self.copy_authorities(folder, AUTHORITIES)

    def copy_authorities(
        self, target: Path, names: Sequence[str] = AUTHORITIES, *, keys: bool = False
    ) -> None:
        """Copy the CAs called *names* to *target*.

        With *keys* it can sign as well, and gets the service account keys: what all masters of a
        cluster have in common.
        """
        for name in names:
            if keys:
                self._copy(target, f"{name}.key", 0o600)
            _write(target / f"{name}.crt", self.authority(name), 0o644)
        if keys:
            self._copy(target, f"{ACCOUNTS}.key", 0o600)
            self._copy(target, f"{ACCOUNTS}.pub", 0o644)

    def expiry(self) -> list[Expiry]:
        """Every certificate in the folder: the authorities first, then by name."""
        loaded = {path: self._load_certificate(path) for path in self._certificates()}
        known = {
            name: loaded[path]
            for name in AUTHORITIES
            if (path := self._path(name, ".crt")) in loaded
        }
        found = []
        for path, certificate in loaded.items():
            end = x509.span(certificate)[1]
            signer = _signer(certificate, known) or x509.subject_text(certificate.issuer)
            found.append(
                Expiry(
                    path.relative_to(self.folder).with_suffix("").as_posix(),
                    x509.subject_text(certificate.subject),
                    signer,
                    end,
                    (end - self._now()).days,
                    x509.is_authority(certificate),
                )
            )
        return sorted(found, key=lambda one: (not one.authority, one.name))

    def issued(self, name: str) -> Wanted:
        """What the certificate *name* in the folder says, so that it can be issued again.

        Raises LabError when no CA of this folder signed it.
        """
        path = self._path(name, ".crt")
        certificate = self._load_certificate(path)
        known = {
            ca: self._load_certificate(self._path(ca, ".crt"))
            for ca in AUTHORITIES
            if self._path(ca, ".crt").exists()
        }
        issuer = _signer(certificate, known)
        if not issuer:
            raise LabError(
                f"{path} was signed by {x509.subject_text(certificate.issuer)}, which is no CA of "
                f"{self.folder}: renew it where it was made, or remove it"
            )
        try:
            return x509.wanted_of(name, issuer, certificate)
        except UsageError as error:
            raise LabError(f"{path} cannot be renewed here: {error}") from error

    def fingerprint(self) -> str:
        """``sha256:HEX`` of the CA's public key, as ``--discovery-token-ca-cert-hash`` wants it."""
        public = x509.public_key(self._load_authority(self._path("ca", ".crt")))
        return f"sha256:{hashlib.sha256(x509.public_der(public)).hexdigest()}"

    def _copy(self, target: Path, file: str, mode: int) -> None:
        _write(target / file, _read(self.folder / file), mode)

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def _certificates(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.rglob("*.crt") if path.is_file())
        except OSError as error:
            raise LabError(f"{self.folder} cannot be read: {error.strerror or error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise LabError(f"there is no {self.folder}: 'barenode pki init' makes it") from error
        except OSError as error:
            raise LabError(f"{self.folder} cannot be used: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_authority(self, name: str, days: int) -> None:
        cert, key_file = self._path(name, ".crt"), self._path(name, ".key")
        if cert.exists():
            if key_file.exists():
                self._signing(name)
            else:
                self._load_authority(cert)
            return
        key = self._load_key(key_file) if key_file.exists() else x509.new_key()
        now = self._now()
        made = x509.make_authority(
            AUTHORITY_NAMES[name], key, now - _SKEW, now + timedelta(days=days)
        )
        if not key_file.exists():
            _write(key_file, x509.key_pem(key), 0o600)
        _write(cert, x509.cert_pem(made), 0o644)

    def _make_accounts(self) -> None:
        key_file, public_file = self._path(ACCOUNTS, ".key"), self._path(ACCOUNTS, ".pub")
        if public_file.exists() and not key_file.exists():
            raise LabError(
                f"{public_file} is there without {key_file.name}: put the key back, or remove "
                f"{public_file.name}; a new key makes every service account token invalid"
            )
        key = self._load_key(key_file) if key_file.exists() else x509.new_rsa_key()
        public = key.public_key()
        if not key_file.exists():
            _write(key_file, x509.key_pem(key), 0o600)
        if not public_file.exists():
            _write(public_file, x509.public_pem(public), 0o644)
            return
        try:
            other = x509.load_public_key(_read(public_file))
        except LabError as error:
            raise LabError(
                f"{public_file} {error}: remove it, it is made from {key_file.name}"
            ) from error
        if x509.public_der(other) != x509.public_der(public):
            raise LabError(
                f"{public_file} does not belong to {key_file}: remove the one that is wrong"
            )

    def _sign(self, wanted: Wanted, days: int) -> Pem:
        if days < 1:
            raise UsageError(f"certificate {wanted.name}: {days} days: use 1 or more")
        signer = self._signing(wanted.issuer)
        now = self._now()
        end = min(now + timedelta(days=days), x509.span(signer.certificate)[1])
        key = x509.new_key()
        made = x509.make_leaf(wanted, key.public_key(), signer, now - _SKEW, end)
        return Pem(x509.cert_pem(made), x509.key_pem(key))

    def _signing(self, name: str) -> x509.Signer:
        """The CA *name*, fit to sign."""
        cert, key_file = self._path(name, ".crt"), self._path(name, ".key")
        certificate = self._load_authority(cert)
        if not key_file.exists():
            raise LabError(f"{key_file} is missing: sign on the host that has the key of this CA")
        key = self._load_key(key_file)
        if not x509.pair_up(certificate, key):
            raise LabError(
                f"{key_file} is not the key of {cert}: put back the two that belong together"
            )
        begin, end = x509.span(certificate)
        if not begin <= self._now() < end:
            raise LabError(
                f"{cert} is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d} only: if the clock is "
                "right, replace the CA and everything that it signed"
            )
        return x509.Signer(certificate, key)

    def _fits(self, wanted: Wanted, cert: Path, key: Path) -> bool:
        certificate = self._load_certificate(cert)
        authority = self._load_authority(self._path(wanted.issuer, ".crt"))
        if not x509.signed_by(certificate, authority):
            return False
        if not x509.pair_up(certificate, self._load_key(key)):
            return False
        try:
            if not x509.same(x509.wanted_of(wanted.name, wanted.issuer, certificate), wanted):
                return False
        except UsageError:
            return False
        begin, end = x509.span(certificate)
        now = self._now()
        if not begin <= now < end:
            return False
        return end - now >= timedelta(days=RENEW_DAYS) or end >= x509.span(authority)[1]

    def _load_authority(self, path: Path) -> x509.Certificate:
        if not path.exists():
            raise LabError(f"there is no CA {path}: 'barenode pki init' makes one")
        certificate = self._load_certificate(path)
        if not x509.is_authority(certificate):
            raise LabError(f"{path} is not the certificate of a CA: put the right file there")
        return certificate

    def _load_certificate(self, path: Path) -> x509.Certificate:
        try:
            return x509.load_certificate(_read(path))
        except LabError as error:
            raise _described(path, error) from error

    def _load_key(self, path: Path) -> x509.Key:
        try:
            return x509.load_key(_read(path))
        except LabError as error:
            raise _described(path, error) from error


def _signer(certificate: x509.Certificate, known: dict[str, x509.Certificate]) -> str:
    """The name of the authority among *known* that signed *certificate*, or ""."""
    for name, authority in known.items():
        if x509.signed_by(certificate, authority):
            return name
    return ""


def _described(path: Path, error: LabError) -> LabError:
    """*error*, which says what is wrong with a file's content, with the file and the way out."""
    if str(error).startswith(str(path)):
        return error
    return LabError(f"{path} {error}: put the right file back, or remove it with its other half")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        write_atomic(path, content, mode=mode, sync=True)
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror or error}") from error
