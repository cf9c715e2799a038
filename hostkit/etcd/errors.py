"""What can go wrong between us and etcd, each with a message fit for an operator.

Causes are text, never request bodies or headers: no password and no token can reach a log.
"""

from collections.abc import Mapping

from hostkit.errors import HostkitError


class EtcdError(HostkitError):
    """Base of everything that ``hostkit.etcd`` raises."""


class EtcdConfigError(EtcdError, ValueError):
    """A field of EtcdConfig cannot be used; ``field`` names it."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class EtcdUnavailable(EtcdError):  # noqa: N818 - the name callers read: etcd is unavailable
    """No endpoint answered in time; ``causes`` maps each endpoint tried to its last cause.

    With ``maybe_applied`` a write was sent and its reply is missing: etcd may have committed
    it, so the caller has to read the key again before it decides anything.
    """

    def __init__(self, causes: Mapping[str, str], *, maybe_applied: bool = False) -> None:
        self.causes = dict(causes)
        self.maybe_applied = maybe_applied
        each = "; ".join(f"{endpoint}: {cause}" for endpoint, cause in self.causes.items())
        text = f"etcd does not answer ({each})"
        if maybe_applied:
            text += "; the write may have been applied"
        super().__init__(text)


class EtcdApiError(EtcdError):
    """The server refused a request; ``code`` is a gRPC status code, ``message`` its text."""

    def __init__(self, code: int, message: str, endpoint: str = "") -> None:
        self.code = code
        self.message = message
        self.endpoint = endpoint
        super().__init__(f"etcd {endpoint}: {message}" if endpoint else f"etcd: {message}")


class EtcdAuthError(EtcdApiError):
    """User, password, token or permission was refused."""


class EtcdCompacted(EtcdError):  # noqa: N818 - a state of the history, as etcd names it
    """The history asked for is gone; ``revision`` is the oldest one that is still there."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"etcd has compacted its history up to revision {revision}")


class EtcdVersionError(EtcdError):
    """The endpoint has no ``/v3`` API."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(
            f"etcd {endpoint}: has no /v3 API (it answers 404), so it speaks only the v2 API or "
            "is older than 3.4; use etcd 3.4 or newer, or correct the endpoint"
        )


class EtcdTlsError(EtcdError):
    """Certificates or keys do not fit; the message says which and what to change."""

    def __init__(self, endpoint: str, message: str) -> None:
        self.endpoint = endpoint
        super().__init__(f"etcd {endpoint}: {message}")


class EndpointFault(EtcdError):  # noqa: N818 - one endpoint's fault, not yet an error for the caller
    """One endpoint failed in a way that another endpoint may not.

    ``sent`` tells that the request may have reached the server before it failed;
    ``suspect_tls`` that certificates are to blame if the fault lasts; ``overdue`` names what
    did not come in time, "" when the fault is no time-out.
    """

    def __init__(
        self,
        endpoint: str,
        cause: str,
        *,
        sent: bool,
        suspect_tls: bool = False,
        overdue: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.cause = cause
        self.sent = sent
        self.suspect_tls = suspect_tls
        self.overdue = overdue
        super().__init__(f"etcd {endpoint}: {cause}")


class LeaseGone(EtcdError):  # noqa: N818 - a state of the lease
    """The lease expired or was revoked: its keys are gone."""

    def __init__(self, lease_id: int) -> None:
        self.lease_id = lease_id
        super().__init__(f"etcd lease {lease_id:x} is gone")
