"""The certificate that this server makes for itself when it is given none.

Nobody has signed it but itself; API servers take it as they take a kubelet's, unless they are told
a CA. It is made again when this node's names change, and a month before its year is over.
"""

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.files import write_atomic
from nodeagent.errors import NodeAgentError

_DAYS, _RENEW_BEFORE = 365, 30 * 86_400.0
_CLOCK_SLACK = 86_400.0


class OwnCertificate:
    """``kubelet.crt`` and ``kubelet.key`` in *folder*, made by openssl(1)."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self._runner = runner
        self._folder = folder
        self.cert = folder / "kubelet.crt"
        self.key = folder / "kubelet.key"

    async def ensure(self, names: Sequence[str], now: float) -> bool:
        """Make it unless there is one for *names* that is good at *now* (Unix time).

        Returns whether it was made. The first of *names* is its subject. Raises NodeAgentError.
        """
        wanted = tuple(dict.fromkeys(filter(None, names))) or ("localhost",)
        try:
            if await self._is_good(wanted, now):
                return False
            await self._make(wanted)
        except CommandError as error:
            if error.returncode is None and "cannot start" in error.stderr:
                text = "openssl is missing: install it, or give --tls-cert-file"
                raise NodeAgentError(f"no certificate can be made: {text}") from error
            raise NodeAgentError(f"no certificate can be made: {error}") from error
        except OSError as error:
            raise NodeAgentError(
                f"no certificate can be kept in {self._folder}: {error.strerror or error}"
            ) from error
        return True

    async def _is_good(self, names: Sequence[str], now: float) -> bool:
        if not (self.cert.is_file() and self.key.is_file()):
            return False
        asked = ["openssl", "x509", "-in", str(self.cert), "-noout", "-startdate", "-enddate"]
        done = await self._runner.run([*asked, "-ext", "subjectAltName"], check=False)
        if done.returncode != 0:
            return False
        first, last, found = _read(done.stdout)
        # A clock that is put right must not make a new one each time.
        in_time = first - _CLOCK_SLACK <= now < last - _RENEW_BEFORE
        return in_time and found == {_alternative(name) for name in names}

    async def _make(self, names: Sequence[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        key = await self._runner.run(
            ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"]
        )
        fresh = self._folder / ".kubelet.key.new"
        write_atomic(fresh, key.stdout, mode=0o600)
        try:
            alternatives = ",".join(_extension(name) for name in names)
            made = await self._runner.run(
                ["openssl", "req", "-x509", "-new", "-key", str(fresh), "-sha256",
                 "-days", str(_DAYS), "-subj", f"/CN={names[0][:64]}",
                 "-addext", f"subjectAltName={alternatives}",
                 "-addext", "extendedKeyUsage=serverAuth"],
            )  # fmt: skip
            # A reader between the two finds a pair that does not fit, and looks again.
            fresh.replace(self.key)
            write_atomic(self.cert, made.stdout, mode=0o644)
        finally:
            fresh.unlink(missing_ok=True)


def _read(text: str) -> tuple[float, float, set[str]]:
    """First and last moment, and the alternative names, of what openssl-x509(1) prints."""
    first, last = 0.0, 0.0
    found: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.strip().partition("=")
        if key in {"notBefore", "notAfter"}:
            moment = float(ssl.cert_time_to_seconds(value))
            first, last = (moment, last) if key == "notBefore" else (first, moment)
        elif line.strip().startswith(("DNS:", "IP Address:")):
            found |= {item.strip() for item in line.split(",")}
    return first, last, found


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _alternative(name: str) -> str:
    """As openssl prints it."""
    return f"IP Address:{name}" if _is_address(name) else f"DNS:{name}"


def _extension(name: str) -> str:
    """As openssl reads it."""
    return f"IP:{name}" if _is_address(name) else f"DNS:{name}"


def stamp(*paths: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when one of the files does; None for one that cannot be read."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(found)
