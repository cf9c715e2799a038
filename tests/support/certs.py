"""A throw-away certificate authority for tests, made with openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


def _openssl(*args: str) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True, timeout=60)


class Authority:
    """A CA whose files are in *directory*."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.cert = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(self._key), "-out", str(self.cert)),
            *("-subj", f"/CN={name}", "-days", "2"),
        )

    def issue(
        self,
        name: str,
        *,
        cn: str = "",
        sans: str = "IP:127.0.0.1,DNS:localhost",
        usage: str = "serverAuth,clientAuth",
        days: int = 2,
    ) -> Pair:
        """A certificate; negative *days* make one that has expired."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"extendedKeyUsage={usage}\nsubjectAltName={sans}\n")
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(pair.key), "-out", str(request)),
            *("-subj", f"/CN={cn}" if cn else "/"),
        )
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.cert), "-CAkey"),
            *(str(self._key), "-CAcreateserial", "-out", str(pair.cert)),
            *("-days", str(days), "-extfile", str(extensions)),
        )
        return pair
