"""TLS failures turned into sentences an operator can act on."""

import ssl
from collections.abc import Mapping

# OpenSSL's X509_V_ERR_* numbers.
_NOT_YET_VALID, _EXPIRED, _UNKNOWN_CA = 9, 10, frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})

# The reasons by which OpenSSL names an alert that the server sent to us.
_REFUSED: Mapping[str, str] = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client certificate: set {names}",
    "ALERT_BAD_CERTIFICATE": "it refuses the client certificate, or wants one: check {names}",
    "ALERT_CERTIFICATE_EXPIRED": "it says that the client certificate has expired",
    "ALERT_UNKNOWN_CA": "it does not know the CA that signed the client certificate",
    "ALERT_CERTIFICATE_UNKNOWN": "it refuses the client certificate",
    "ALERT_HANDSHAKE_FAILURE": "it refuses our TLS version, ciphers or client certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port: use http:// or another port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS on this port: use http:// or another port",
}


def explain(error: BaseException, *, authorities: str, names: str) -> str:
    """What the TLS failure behind *error* means; "" when there is none.

    *authorities* says where the CAs came from, "" for the system's; *names* are the settings of
    the client certificate and its key.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error, authorities or "the system's CAs")
    if isinstance(error, ssl.SSLError):
        return _explain_alert(error).format(names=names)
    if error.__cause__ is None:
        return ""
    return explain(error.__cause__, authorities=authorities, names=names)


def _explain_verification(error: ssl.SSLCertVerificationError, authorities: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate, or one of the CAs above it, has expired"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: compare the clocks"
    if code in _WRONG_NAME:
        return f"its certificate is for another name or address ({error.verify_message})"
    if code in _UNKNOWN_CA:
        return f"its certificate is signed by a CA that is not in {authorities}"
    return f"its certificate is refused: {error.verify_message}"


def _explain_alert(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    for name, meaning in _REFUSED.items():
        if name in reason:
            return meaning
    return f"TLS fails: {reason.lower().replace('_', ' ') or 'no reason given'}"
