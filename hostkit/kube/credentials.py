"""Tokens and certificates, taken anew when their files change."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostkit.errors import cut
from hostkit.fresh import Fresh
from hostkit.kube.config import KubeConfig
from hostkit.kube.errors import KubeConfigError


class Credentials:
    """The token and the TLS context for *config*.

    Raises KubeConfigError naming the field when a file or PEM text is unusable at the start.
    """

    def __init__(self, config: KubeConfig) -> None:
        self._context = None
        self._token = None
        if config.tls:
            files = (config.ca_file, config.cert_file, config.key_file)
            self._context = Fresh("certificates", files, lambda: _context(config))
            # clientcmd does the same: a token never goes over a connection that anyone can read.
            self._token = Fresh("token", (config.token_file,), lambda: _read_token(config))

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
