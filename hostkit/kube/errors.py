"""What can go wrong between us and the API server, each with a message fit for an operator.

Messages hold the server's own words, never headers or bodies that we sent: no token can reach
a log.
"""

from collections.abc import Mapping

from hostkit.errors import HostkitError


class KubeError(HostkitError):
    """Base of everything that ``hostkit.kube`` raises."""


class KubeConfigError(KubeError, ValueError):
    """A setting cannot be used; ``field`` names it."""

    def __init__(self, field: str, text: str) -> None:
        self.field = field
        super().__init__(f"{field}: {text}")


class KubeUnavailable(KubeError):  # noqa: N818 - the name callers read: the API is unavailable
    """No server answered; ``causes`` maps each server tried to its cause.

    With ``maybe_applied`` a write was sent and its answer is missing: the server may have done
    it, so the caller has to read the object again before it decides anything.
    """

    def __init__(self, causes: Mapping[str, str], *, maybe_applied: bool = False) -> None:
        self.causes = dict(causes)
        self.maybe_applied = maybe_applied
        each = "; ".join(f"{server}: {cause}" for server, cause in self.causes.items())
        text = f"no API server answers ({each})"
        if maybe_applied:
            text += "; the write may have been applied"
        super().__init__(text)


class ServerFault(KubeError):  # noqa: N818 - one server's fault, not yet an error for the caller
    """One server failed in a way that another one may not.

    ``sent`` tells that the request may have reached the server before it failed; ``overdue``
    that it failed by silence.
    """

    def __init__(self, endpoint: str, cause: str, *, sent: bool, overdue: bool = False) -> None:
        self.endpoint = endpoint
        self.cause = cause
        self.sent = sent
        self.overdue = overdue
        super().__init__(f"API server {endpoint}: {cause}")


class ApiError(KubeError):
    """The server refused a request: HTTP ``status``, and ``reason`` and ``message`` of its Status.

    ``retry_after`` is the pause in seconds that it asked for, 0 for none.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        endpoint: str = "",
        *,
        retry_after: float = 0.0,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.endpoint = endpoint
        self.retry_after = retry_after
        where = f"API server {endpoint}" if endpoint else "API server"
        code = f"{status} {reason}" if reason else str(status)
        advice = f": {self.advice}" if self.advice else ""
        super().__init__(f"{where}: {message} ({code}){advice}")

    advice = ""
    """What an operator can do about it."""


class Unauthorized(ApiError):  # noqa: N818 - Kubernetes' name
    """401: the credentials are missing or not accepted."""

    advice = "check token, client certificate or kubeconfig, and whether they have expired"


class Forbidden(ApiError):  # noqa: N818 - Kubernetes' name
    """403: the credentials are good but do not permit this."""

    advice = "give this user the right to do it (list and watch, for what is only read)"


class NotFound(ApiError):  # noqa: N818 - Kubernetes' name
    """404: there is no such object or API."""


class Conflict(ApiError):  # noqa: N818 - Kubernetes' name
    """409: the object exists already, or was changed since it was read."""


class Gone(ApiError):  # noqa: N818 - Kubernetes' name
    """410: the resource version asked for is older than what the server remembers."""


class TooManyRequests(ApiError):  # noqa: N818 - Kubernetes' name
    """429: the server is busy and did nothing; ``retry_after`` says for how long."""


class ServerTimeout(ApiError):  # noqa: N818 - Kubernetes' name
    """504: the server did not get it done in time."""


class VersionTooLarge(ServerTimeout):
    """504: the server's data are older than the resource version asked for."""


_CLASSES: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: TooManyRequests,
    504: ServerTimeout,
}


def api_error(
    status: int, reason: str, message: str, endpoint: str = "", *, retry_after: float = 0.0
) -> ApiError:
    """The error of the class that fits *status*."""
    kind = _CLASSES.get(status, ApiError)
    # The text is all that servers before 1.18 give; later ones repeat it as the reason's cause.
    if kind is ServerTimeout and "too large resource version" in message.lower():
        kind = VersionTooLarge
    return kind(status, reason, message, endpoint, retry_after=retry_after)
