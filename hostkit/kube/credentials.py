"""Tokens and certificates, taken anew when their files change.

A file that cannot be used after a change (half written, or gone for a moment) leaves what was
read before in force; the change is tried again at the next use.
"""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from hostkit.errors import cut
from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import KubeConfigError

log = logging.getLogger(__name__)
T = TypeVar("T")

# What tells two states of a file apart: inode, size and time of the last change in ns.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class _Fresh(Generic[T]):
    """What *read* makes of *paths*, made again when one of them changes."""

    def __init__(self, paths: tuple[str, ...], read: Callable[[], T]) -> None:
        self._paths = tuple(path for path in paths if path)
        self._read = read
        self._stamp = self._look()
        self._told = ""
        self.value = read()

    def get(self) -> T:
        """The value for the files as they are now."""
        stamp = self._look()
        if stamp != self._stamp:
            try:
                self.value = self._read()
            except KubeConfigError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("keeping the credentials read before: %s", error)
            else:
                self._stamp, self._told = stamp, ""
        return self.value

    def forget(self) -> None:
        """Read again at the next use, whatever the files look like."""
        self._stamp = ()

    def _look(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths)


class Credentials:
    """The token and the TLS context for *config*.

    Raises KubeConfigError naming the field when a file or PEM text is unusable at the start.
    """

    def __init__(self, config: KubeConfig) -> None:
        self._context = None
        self._token = None
        if config.tls:
            self._context = _Fresh(
                (config.ca_file, config.cert_file, config.key_file), lambda: _context(config)
            )
            # clientcmd does the same: a token never goes over a connection that anyone can read.
            self._token = _Fresh((config.token_file,), lambda: _read_token(config))

    def token(self) -> str:
        """The bearer token, "" for none."""
        return self._token.get() if self._token is not None else ""

    def context(self) -> ssl.SSLContext | None:
        """The TLS context, None for http."""
        return self._context.get() if self._context is not None else None

    def renew_token(self) -> bool:
        """Read the token file again; whether that gave another token."""
        if self._token is None:
            return False
        before = self._token.value
        self._token.forget()
        return self._token.get() != before


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib's costs twice as much, before each request
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read_token(config: KubeConfig) -> str:
    if not config.token_file:
        return config.token
    try:
        token = Path(config.token_file).read_text(encoding="ascii").strip()
    except OSError as error:
        text = f"cannot read {config.token_file}: {error.strerror or error}"
        raise KubeConfigError("token_file", text) from error
    except UnicodeDecodeError as error:
        raise KubeConfigError("token_file", f"{config.token_file} holds no token") from error
    if not token or not token.isprintable() or " " in token:
        raise KubeConfigError("token_file", f"{config.token_file} holds no token")
    return token


def _context(config: KubeConfig) -> ssl.SSLContext:
    """The client context as the files are now."""
    try:
        context = ssl.create_default_context(
            cafile=None if config.ca_data else config.ca_file or None,
            cadata=config.ca_data or None,
        )
    except (OSError, ValueError) as error:
        name = "ca_data" if config.ca_data else "ca_file"
        where = "" if config.ca_data else f"{config.ca_file} "
        raise KubeConfigError(name, f"{where}holds no CA certificate: {_why(error)}") from error
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.cert_file or config.cert_data:
        _load_pair(context, config)
    return context


def _load_pair(context: ssl.SSLContext, config: KubeConfig) -> None:
    name = "cert_data" if config.cert_data else "cert_file"
    try:
        with (
            _as_file(config.cert_data, config.cert_file) as cert,
            _as_file(config.key_data, config.key_file) as key,
        ):
            # Without a password callback OpenSSL would ask on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:
        shown = " and ".join(path for path in (config.cert_file, config.key_file) if path)
        text = f"client certificate and key {shown}".rstrip()
        raise KubeConfigError(name, f"{text} are no usable pair: {_why(error)}") from error


@contextmanager
def _as_file(data: str, path: str) -> Iterator[str]:
    """*path*, or the path of a file in memory with *data*: OpenSSL's loader takes only files."""
    if not data:
        yield path
        return
    descriptor = os.memfd_create("pem")
    try:
        with open(descriptor, "w", encoding="ascii", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return cut(text, 200)
