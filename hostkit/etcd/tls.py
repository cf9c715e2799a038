"""TLS towards etcd: the context, and failures turned into a sentence an operator can act on."""

import ssl

from hostkit import tls
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdConfigError

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
    return tls.explain(error, authorities=config.cafile, names="certfile and keyfile")


def explain_refusal(message: str) -> str:
    """What a TLS trouble told by the gateway in *message* means; "" when it is none."""
    if "HTTP request to an HTTPS server" in message:
        return "it speaks TLS: use https:// in endpoints"
    if "CommonName of client sending a request against gateway" in message:
        return (
            "with user and password in force its gateway refuses client certificates that have "
            "a common name: use a client certificate without CN"
        )
    # With TLS 1.3 the refusal may come after the handshake: the gateway then only sees its
    # connection cut while it begins to speak.
    signs = ("authentication handshake failed", "tls: ", "failed to write client preface")
    if any(sign in message for sign in signs):
        return f"{NO_CLIENT_USAGE} ({message})"
    return ""
