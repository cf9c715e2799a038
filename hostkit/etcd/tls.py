"""TLS towards etcd: the context, and failures turned into a sentence an operator can act on."""

import ssl

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdConfigError

# OpenSSL's X509_V_ERR_* numbers.
_NOT_YET_VALID, _EXPIRED, _UNKNOWN_CA = 9, 10, frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})

# The reasons by which OpenSSL names an alert that the server sent to us.
_REFUSED = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client certificate: set certfile and keyfile",
    "ALERT_BAD_CERTIFICATE": "it refuses the client certificate, or wants one: check certfile",
    "ALERT_CERTIFICATE_EXPIRED": "it says that the client certificate has expired",
    "ALERT_UNKNOWN_CA": "it does not know the CA that signed the client certificate",
    "ALERT_CERTIFICATE_UNKNOWN": "it refuses the client certificate",
    "ALERT_HANDSHAKE_FAILURE": "it refuses our TLS version, ciphers or client certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port: use http:// or another port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS on this port: use http:// or another port",
}

# The gateway inside etcd logs in to its own server with the server's certificate.
NO_CLIENT_USAGE = (
    "its gateway cannot connect to its own server: the server certificate needs the extended "
    "key usage clientAuth beside serverAuth"
)


def make_context(config: EtcdConfig) -> ssl.SSLContext:
    """The client context for *config*, server name check on.

    Reads the files now, so that renewed ones are taken by making another context. Raises
    EtcdConfigError naming the field whose file holds no usable certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=config.cafile or None)
    except OSError as error:
        raise EtcdConfigError(
            "cafile", f"{config.cafile} holds no CA certificate: {error}"
        ) from error
    if config.certfile:
        try:
            # Without a password callback OpenSSL would ask on the terminal.
            context.load_cert_chain(config.certfile, config.keyfile, password=lambda: "")
        except OSError as error:
            raise EtcdConfigError(
                "certfile",
                f"{config.certfile} and {config.keyfile} are no usable pair: "
                f"{error.strerror or error}",
            ) from error
    return context


def explain(error: BaseException, config: EtcdConfig) -> str:
    """What the TLS failure behind *error* means; "" when there is none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error, config)
    if isinstance(error, ssl.SSLError):
        return _explain_alert(error)
    return explain(error.__cause__, config) if error.__cause__ is not None else ""


def _explain_verification(error: ssl.SSLCertVerificationError, config: EtcdConfig) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate, or one of the CAs above it, has expired"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: compare the clocks"
    if code in _WRONG_NAME:
        return f"its certificate is for another name or address ({error.verify_message})"
    if code in _UNKNOWN_CA:
        known = config.cafile or "the system's CAs"
        return f"its certificate is signed by a CA that is not in {known}"
    return f"its certificate is refused: {error.verify_message}"


def _explain_alert(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    for name, meaning in _REFUSED.items():
        if name in reason:
            return meaning
    return f"TLS fails: {reason.lower().replace('_', ' ') or 'no reason given'}"


def explain_refusal(message: str) -> str:
    """What a TLS trouble told by the gateway in *message* means; "" when it is none."""
    if "HTTP request to an HTTPS server" in message:
        return "it speaks TLS: use https:// in endpoints"
    if "CommonName of client sending a request against gateway" in message:
        return (
            "with user and password in force its gateway refuses client certificates that have "
            "a common name: use a client certificate without CN"
        )
    if "authentication handshake failed" in message or "tls: " in message:
        return f"{NO_CLIENT_USAGE} ({message})"
    return ""
