"""The TLS side of the server: certificate and client CA as they are on disk now.

An ``ssl.SSLContext`` cannot forget a CA, so a change makes a whole new one. The listener keeps
one context for ever, whose only work is to hand each new connection over to the current one
(``SSLContext.sni_callback``, which OpenSSL calls with or without a name).
"""

import ssl
from pathlib import Path

from nodeagent.errors import NodeAgentError
from nodeagent.server.certificate import stamp


class Tls:
    """Server contexts from *cert*, *key* and, with client certificates, *client_ca* ("": none).

    ``load`` has to succeed once before ``front`` can serve.
    """

    def __init__(self, cert: Path, key: Path, client_ca: str, *, tls13_only: bool = False) -> None:
        self._cert = cert
        self._key = key
        self._ca = client_ca
        self._oldest = ssl.TLSVersion.TLSv1_3 if tls13_only else ssl.TLSVersion.TLSv1_2
        self._current: ssl.SSLContext | None = None
        self._stamp: object = None
        self.front = self._empty()
        self.front.sni_callback = self._hand_over

    @property
    def ready(self) -> bool:
        """Whether there is a certificate to show."""
        return self._current is not None

    def load(self) -> bool:
        """Read the files if they have changed; whether they had.

        Raises NodeAgentError, and the last good ones stay in use.
        """
        paths = [self._cert, self._key, *([Path(self._ca)] if self._ca else [])]
        now = stamp(*paths)
        if now == self._stamp and self._current is not None:
            return False
        context = self._empty()
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            raise NodeAgentError(
                f"certificate {self._cert} with key {self._key} cannot be used: {_why(error)}"
            ) from error
        if self._ca:
            try:
                context.load_verify_locations(cafile=self._ca)
            except (OSError, ValueError) as error:
                text = f"client CA {self._ca} cannot be used: {_why(error)}"
                raise NodeAgentError(text) from error
        if self._current is None:
            # OpenSSL wants some certificate before it asks which one to use.
            self.front.load_cert_chain(self._cert, self._key, password=_no_password)
        self._current, self._stamp = context, now
        return True

    def _empty(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._oldest
        # A resumed session would carry a client's certificate past a change of the CA.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        # Whether to ask for a certificate is the connection's own and does not change with its
        # context. CERT_OPTIONAL: one that is shown is checked, none is let in for a token.
        context.verify_mode = ssl.CERT_OPTIONAL if self._ca else ssl.CERT_NONE
        return context

    def _hand_over(
        self, connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext
    ) -> None:
        if self._current is not None:
            connection.context = self._current


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal for the password of an encrypted key.
    raise ValueError("the key is encrypted: decrypt it")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "").lower().replace("_", " ") or "it is no PEM file"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
