"""Where etcd is and how to get in: checked when it is made, so that nothing fails later."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hostkit.etcd.errors import EtcdConfigError


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """The endpoints and credentials of one etcd cluster.

    ``endpoints`` are base URLs, all http or all https. ``call_timeout`` is the deadline in
    seconds of one call to one endpoint, ``total_timeout`` that of one call over all endpoints.
    Raises EtcdConfigError naming the field.
    """

    endpoints: tuple[str, ...]
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    call_timeout: float = 3.0
    total_timeout: float = 10.0

    def __post_init__(self) -> None:
        endpoints = tuple(_checked_url(url) for url in self.endpoints)
        if not endpoints:
            raise EtcdConfigError("endpoints", "at least one URL is needed")
        if len({url.partition(":")[0] for url in endpoints}) > 1:
            raise EtcdConfigError("endpoints", "http and https URLs cannot be mixed")
        object.__setattr__(self, "endpoints", tuple(dict.fromkeys(endpoints)))
        if bool(self.certfile) != bool(self.keyfile):
            missing = "keyfile" if self.certfile else "certfile"
            raise EtcdConfigError(missing, "a certificate and its key are needed together")
        for name in ("cafile", "certfile", "keyfile"):
            _check_readable(name, getattr(self, name))
        if bool(self.username) != bool(self.password):
            missing = "password" if self.username else "username"
            raise EtcdConfigError(missing, "user name and password are needed together")
        for name in ("call_timeout", "total_timeout"):
            if not getattr(self, name) > 0:
                raise EtcdConfigError(name, "must be more than 0 seconds")

    @property
    def tls(self) -> bool:
        """Whether the endpoints are https."""
        return self.endpoints[0].startswith("https:")


def _checked_url(url: str) -> str:
    """*url* without a trailing slash; raises EtcdConfigError when it is no base URL."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EtcdConfigError("endpoints", f"{url!r} is not a URL: {error}") from error
    if parts.username is not None:
        raise EtcdConfigError("endpoints", "a URL cannot carry a user name; use username")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise EtcdConfigError("endpoints", f"{url!r} must look like https://10.0.0.1:2379")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise EtcdConfigError("endpoints", f"{url!r} must end after the port")
    if port == 0:
        raise EtcdConfigError("endpoints", f"{url!r} has no usable port")
    return f"{parts.scheme}://{parts.netloc}"


def _check_readable(name: str, path: str) -> None:
    if not path:
        return
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise EtcdConfigError(name, f"cannot read {path}: {error.strerror or error}") from error
