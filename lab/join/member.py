"""What a joined host has on its disk: CA, two certificates with their keys, and settings.

Each certificate is one file beside its key. A key is made once and stays: with it a renewed
certificate is one file to replace, and a host that loses power at any moment has a pair that
fits. Files that are there are read again before anything is asked for, so that a join that was
cut short goes on.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from hostkit.files import write_atomic
from lab.errors import LabError
from lab.master import agents, x509
from lab.master.certificates import Wanted
from lab.master.manifests import PKI
from lab.master.plane import Plane

CA = f"{PKI}/ca.crt"


@dataclass(frozen=True, slots=True)
class Member:
    """The files of a joined host whose root folder is *root*; methods raise LabError."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Where the absolute path *name* of the host lies."""
        return self.root / name.lstrip("/")

    def cert(self, wanted: Wanted) -> Path:
        """The file of the certificate."""
        return self.path(f"{PKI}/{wanted.name}.crt")

    def key_file(self, wanted: Wanted) -> Path:
        """The file of its key."""
        return self.path(f"{PKI}/{wanted.name}.key")

    def trust(self, ca: str) -> bool:
        """Keep the cluster's CAs; whether they changed."""
        return self._write(self.path(CA), ca.encode(), 0o644)

    def knows_another(self, ca: str) -> bool:
        """Whether there are CAs already, and others than *ca*."""
        found = _read(self.path(CA))
        return found is not None and found.strip() != ca.encode().strip()

    def key(self, wanted: Wanted) -> x509.Key:
        """The key of the certificate: the one that is there, else a new one, which is kept."""
        file = self.key_file(wanted)
        if (found := _read(file)) is not None:
            try:
                return x509.load_key(found)
            except LabError:
                # A file of a try that lost power: nothing depends on it yet.
                file.unlink(missing_ok=True)
        key = x509.new_key()
        self._write(file, x509.key_pem(key), 0o600)
        return key

    def keep(self, wanted: Wanted, pem: bytes) -> None:
        """Put the certificate *pem* into force."""
        self._write(self.cert(wanted), pem, 0o644)

    def held(self, wanted: Wanted, ca: str, now: datetime) -> x509.Certificate | None:
        """The certificate *wanted*, None unless it is there, of the CAs, with its key, and valid.

        *ca* is PEM. *now* has a time zone.
        """
        cert, key = _read(self.cert(wanted)), _read(self.key_file(wanted))
        if cert is None or key is None:
            return None
        try:
            certificate = x509.load_certificate(cert)
            if not x509.pair_up(certificate, x509.load_key(key)):
                return None
            made = x509.wanted_of(wanted.name, wanted.issuer, certificate)
        except LabError:
            return None
        begin, end = x509.span(certificate)
        signed = any(x509.signed_by(certificate, one) for one in x509_bundle(ca))
        return certificate if signed and begin <= now < end and x509.same(made, wanted) else None

    def settle(self, plane: Plane, name: str, address: str, server: str) -> bool:
        """Write kubeconfig and settings of the node *name*; whether any of them changed.

        *server* is the URL of the API server that it joined by, which it prefers.
        """
        netd = agents.netd_settings(plane, name, address, joined=True)
        agent = agents.nodeagent_settings(plane, name, address)
        servers = list(dict.fromkeys((server, *plane.api_urls())))
        netd["master"] = agent["api-servers"] = servers
        changed = [
            self._write(self.path(agents.NODEAGENT_CONF), kubeconfig(name, server).encode(), 0o600),
            self._write(self.path(agents.NETD_FILE), agents.toml(netd).encode(), 0o644),
            self._write(self.path(agents.NODEAGENT_FILE), agents.toml(agent).encode(), 0o644),
        ]
        return any(changed)

    @staticmethod
    def _write(path: Path, content: bytes, mode: int) -> bool:
        try:
            return write_atomic(path, content, mode=mode, sync=True)
        except OSError as error:
            raise LabError(f"{path} cannot be written: {error.strerror or error}") from error


def kubeconfig(name: str, server: str) -> str:
    """The kubeconfig of the node *name*: it names files, so that renewed ones count at once."""
    context = f"{name}@barenode"
    cluster = {"server": server, "certificate-authority": CA}
    user = {
        "client-certificate": f"{agents.NODE_PAIR}.crt",
        "client-key": f"{agents.NODE_PAIR}.key",
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "barenode", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": "barenode", "user": name}}],
        "current-context": context,
    }
    return f"{agents.HEAD}\n" + yaml.safe_dump(document, sort_keys=False)


def x509_bundle(pem: str) -> list[x509.Certificate]:
    """The certificates in *pem*; raises LabError for a damaged one."""
    end = "-----END CERTIFICATE-----"
    parts = [part + end for part in pem.split(end)[:-1]]
    return [x509.load_certificate(part.encode()) for part in parts]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
