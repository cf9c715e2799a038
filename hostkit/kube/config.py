"""Where the API servers are and how to get in: checked when it is made.

A kubeconfig is the file that kubectl reads, as YAML or JSON; its format is that of
``k8s.io/client-go/tools/clientcmd/api/v1``. What cannot be honoured is refused by name rather
than ignored: a plugin for credentials, impersonation, a proxy, a password.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from hostkit.errors import cut
from hostkit.kube.errors import KubeConfigError


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """The API servers of one cluster and our credentials.

    ``servers`` are base URLs, all http or all https, best first. Files are read again when they
    change; ``*_data`` are PEM texts and win over the file of the same kind, ``token_file`` wins
    over ``token``. ``insecure`` accepts any server certificate. ``tls_server_name`` is the name
    that must stand in the server's certificate, "" for the host of the URL. Credentials are not
    used with http. Raises KubeConfigError naming the field.
    """

    servers: tuple[str, ...]
    ca_file: str = ""
    ca_data: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cert_file: str = ""
    cert_data: str = ""
    key_file: str = ""
    key_data: str = field(default="", repr=False)
    insecure: bool = False
    tls_server_name: str = ""

    def __post_init__(self) -> None:
        servers = tuple(dict.fromkeys(_checked_url(url) for url in self.servers))
        if not servers:
            raise KubeConfigError("servers", "at least one URL is needed")
        if len({url.partition(":")[0] for url in servers}) > 1:
            raise KubeConfigError("servers", "http and https URLs cannot be mixed")
        object.__setattr__(self, "servers", servers)
        if bool(self.cert_file or self.cert_data) != bool(self.key_file or self.key_data):
            missing = "key_file" if self.cert_file or self.cert_data else "cert_file"
            raise KubeConfigError(missing, "a client certificate and its key are needed together")
        if self.insecure and (self.ca_file or self.ca_data):
            raise KubeConfigError("insecure", "cannot be set together with a CA: remove one")
        for name in ("ca_file", "token_file", "cert_file", "key_file"):
            _check_readable(name, getattr(self, name))

    @property
    def tls(self) -> bool:
        """Whether the servers are https."""
        return self.servers[0].startswith("https:")


def load(
    servers: Sequence[str],
    kubeconfig: str,
    *,
    token_file: str = "",
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
) -> KubeConfig:
    """The configuration from the settings of a daemon; raises KubeConfigError.

    *servers* (URLs, or ``host:port`` for http) win over the server in the file *kubeconfig*
    ("": there is none). Credentials are those of the kubeconfig if it has any, else the token in
    *token_file*, else the certificate in *cert_file*; a CA in it wins over *ca_file*.
    """
    wanted = tuple(_with_scheme(url.strip()) for url in servers if url.strip())
    if not kubeconfig and not wanted:
        raise KubeConfigError("api-servers", "no API server: give --api-servers or --kubeconfig")
    given = _from_file(kubeconfig, wanted) if kubeconfig else KubeConfig(wanted)
    if not (given.ca_file or given.ca_data or given.insecure):
        given = replace(given, ca_file=ca_file)
    if not (given.token or given.token_file or given.cert_file or given.cert_data):
        if token_file:
            given = replace(given, token_file=token_file)
        else:
            given = replace(given, cert_file=cert_file, key_file=key_file)
    return given


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(msgspec.Struct, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    exec: object = None
    auth_provider: object = None


class _Context(msgspec.Struct):
    cluster: str = ""
    user: str = ""


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _Kubeconfig(msgspec.Struct, rename="kebab"):
    current_context: str = ""
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


_Named = TypeVar("_Named", _NamedCluster, _NamedUser, _NamedContext)

# Parts of a user that would have to be obeyed, and what to use in their place.
_UNSUPPORTED = {
    "exec": "credential plugins are not run; use a token, tokenFile or client certificate",
    "auth_provider": "is not supported; use a token, tokenFile or client certificate",
    "username": "passwords are not supported; use a token, tokenFile or client certificate",
    "password": "passwords are not supported; use a token, tokenFile or client certificate",
    "impersonate": "acting as another user is not supported; use that user's own credentials",
}


def _from_file(path: str, servers: tuple[str, ...]) -> KubeConfig:
    """The current context of the kubeconfig *path*, at *servers* if there are any."""
    parsed = _parse(path)
    context = _current(path, parsed)
    cluster, user = _Cluster(), _User()
    if context.cluster:
        cluster = _find(path, "clusters", parsed.clusters, context.cluster).cluster
    if context.user:
        user = _find(path, "users", parsed.users, context.user).user or _User()
    for name, advice in _UNSUPPORTED.items():
        if getattr(user, name):
            shown = {"auth_provider": "auth-provider", "impersonate": "as"}.get(name, name)
            raise _bad(path, f"users, {context.user!r}: {shown}: {advice}")
    if cluster.proxy_url:
        where = f"clusters, {context.cluster!r}: proxy-url"
        raise _bad(path, f"{where}: proxies are not supported; remove it")
    if not servers and not cluster.server:
        raise _bad(path, "its current context names no server; set server or --api-servers")
    home = Path(path).resolve().parent
    return KubeConfig(
        servers or (cluster.server,),
        ca_file=_beside(home, cluster.certificate_authority),
        ca_data=_pem(path, "certificate-authority-data", cluster.certificate_authority_data),
        token=user.token,
        token_file=_beside(home, user.token_file),
        cert_file=_beside(home, user.client_certificate),
        cert_data=_pem(path, "client-certificate-data", user.client_certificate_data),
        key_file=_beside(home, user.client_key),
        key_data=_pem(path, "client-key-data", user.client_key_data),
        insecure=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name,
    )


def _parse(path: str) -> _Kubeconfig:
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise _bad(path, f"is neither YAML nor JSON: {cut(text, 200)}") from error
    try:
        return msgspec.convert(content if content is not None else {}, _Kubeconfig)
    except msgspec.ValidationError as error:
        raise _bad(path, f"is no kubeconfig: {error}") from error


def _current(path: str, parsed: _Kubeconfig) -> _Context:
    """The context to use: the current one, or the only one there is."""
    contexts = parsed.contexts or []
    if parsed.current_context:
        return _find(path, "contexts", contexts, parsed.current_context).context
    if len(contexts) == 1:
        return contexts[0].context
    raise _bad(path, "current-context is not set; name one of contexts in it")


def _find(path: str, part: str, entries: "Sequence[_Named] | None", name: str) -> "_Named":
    for entry in entries or ():
        if entry.name == name:
            return entry
    raise _bad(path, f"{part} has no entry named {name!r}; add it or correct current-context")


def _bad(path: str, text: str) -> KubeConfigError:
    return KubeConfigError("kubeconfig", f"{path}: {text}")


def _beside(home: Path, path: str) -> str:
    return str(home / path) if path else ""


def _pem(path: str, name: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _bad(path, f"{name} is not the base64 of a PEM text") from error


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _checked_url(url: str) -> str:
    """*url* without a trailing slash; raises KubeConfigError when it is no base URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise KubeConfigError("servers", f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise KubeConfigError("servers", f"{url!r} must look like https://10.0.0.1:6443")
    if parts.username is not None:
        raise KubeConfigError("servers", "a URL cannot carry a user name; use a kubeconfig")
    if parts.query or parts.fragment:
        raise KubeConfigError("servers", f"{url!r} must end after the path")
    if port == 0:
        raise KubeConfigError("servers", f"{url!r} has no usable port")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _check_readable(name: str, path: str) -> None:
    if not path:
        return
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise KubeConfigError(name, f"cannot read {path}: {error.strerror or error}") from error
