"""Who asks (authentication) and whether they may (authorization), as the kubelet decides it.

A client certificate is checked by TLS against the client CA; a bearer token by a TokenReview
(``authentication.k8s.io/v1``); what a known user may do by a SubjectAccessReview
(``authorization.k8s.io/v1``) about the subresources of this Node that ``subresource`` names.
Credentials that are shown and wrong are refused even where anonymous requests are let in. When
the API server cannot be asked nobody is let in on its behalf.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from hostkit.errors import HostkitError
from hostkit.kube.errors import NotFound
from hostkit.problems import Problems
from nodeagent.errors import NodeAgentError
from nodeagent.server.cache import Cache
from nodeagent.server.parts import ServerSettings

_TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch",
          "DELETE": "delete"}  # fmt: skip
_ENDED = "the API server cannot be asked at the moment"


class Refused(NodeAgentError):  # noqa: N818 - names the answer, not the fault
    """A request is not let in: *status* is 401, 403 or 503, the text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class User:
    """Who asks; *extra* is what a TokenReview says besides."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
_KNOWN = "system:authenticated"


class Reviewer(Protocol):
    """The part of KubeClient that is used here."""

    async def request(self, method: str, path: str, *, body: bytes | None = None) -> bytes:
        """The body of the answer; raises KubeError."""
        ...


class _UserInfo(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _UserInfo | None = None


class _TokenReview(msgspec.Struct):
    status: _TokenStatus | None = None


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False
    reason: str = ""


class _AccessReview(msgspec.Struct):
    status: _AccessStatus | None = None


_R = TypeVar("_R", _TokenReview, _AccessReview)


@dataclass(frozen=True, slots=True)
class _Question:
    user: User
    verb: str
    subresource: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    allowed: bool
    reason: str


class Access:
    """Lets requests in or refuses them; *client* is None when there is no API server."""

    def __init__(
        self,
        settings: ServerSettings,
        node_name: str,
        client: Reviewer | None,
        problems: Problems,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._node = node_name
        self._client = client
        self._problems = problems
        self._users: Cache[bytes, User | None] = Cache(lambda _user: settings.token_ttl, clock)
        self._verdicts: Cache[_Question, _Verdict] = Cache(
            lambda one: settings.allowed_ttl if one.allowed else settings.denied_ttl, clock
        )

    async def check(
        self, method: str, path: str, certificate: Mapping[str, Any] | None, authorization: str
    ) -> User:
        """The user that may do this; raises Refused.

        *certificate* is what ``ssl`` says of a verified client certificate, *authorization* the
        header of that name.
        """
        user = await self._who(certificate, authorization)
        if self._settings.always_allow:
            return user
        if self._client is None:
            raise Refused(
                403,
                "this node has no API server to ask whether that is allowed; its operator can "
                "set --authorization-mode=AlwaysAllow",
            )
        question = _Question(user, _VERBS.get(method, method.lower()), subresource(path))
        try:
            verdict = await self._verdicts.get(question, lambda: self._review_access(question))
        except HostkitError as error:
            raise Refused(503, f"whether {user.name} may do that is not known: {_ENDED}") from error
        if not verdict.allowed:
            reason = f": {verdict.reason}" if verdict.reason else ""
            raise Refused(
                403,
                f"{user.name} may not {question.verb} nodes/{question.subresource} of "
                f"{self._node}{reason}",
            )
        return user

    async def _who(self, certificate: Mapping[str, Any] | None, authorization: str) -> User:
        user = user_of(certificate) if certificate and self._settings.client_ca else None
        if user is not None:
            return user
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip() and self._settings.token_reviews:
            return await self._by_token(token.strip())
        if self._settings.anonymous and not authorization.strip():
            return ANONYMOUS
        raise Refused(401, "Unauthorized: show a client certificate or a bearer token")

    async def _by_token(self, token: str) -> User:
        if self._client is None:
            raise Refused(401, "Unauthorized: this node has no API server to ask about tokens")
        # Tokens are long, and secret: they are not kept.
        key = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        try:
            user = await self._users.get(key, lambda: self._review_token(token))
        except HostkitError as error:
            text = "its API server knows no TokenReview" if isinstance(error, NotFound) else _ENDED
            raise Refused(503, f"the token cannot be checked: {text}") from error
        if user is None:
            raise Refused(401, "Unauthorized: the bearer token is not valid")
        return user

    async def _review_token(self, token: str) -> User | None:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        answer = await self._review(_TOKENS, review, _TokenReview)
        status = answer.status
        if status is None or not status.authenticated or status.user is None:
            return None
        if not status.user.username:
            return None
        info = status.user
        extra = tuple(sorted((name, tuple(v)) for name, v in (info.extra or {}).items()))
        return User(info.username, _with_known(info.groups or ()), info.uid, extra)

    async def _review_access(self, question: _Question) -> _Verdict:
        user = question.user
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": list(user.groups),
                "uid": user.uid,
                "extra": {name: list(values) for name, values in user.extra},
                "resourceAttributes": {
                    "verb": question.verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": question.subresource,
                    "name": self._node,
                },
            },
        }
        status = (await self._review(_ACCESS, review, _AccessReview)).status or _AccessStatus()
        return _Verdict(status.allowed and not status.denied, status.reason)

    async def _review(self, path: str, review: Mapping[str, Any], kind: type[_R]) -> _R:
        if self._client is None:
            raise NodeAgentError("there is no API server")
        try:
            raw = await self._client.request("POST", path, body=msgspec.json.encode(review))
            answer = msgspec.json.decode(raw, type=kind)
        except (HostkitError, msgspec.DecodeError) as error:
            what = review["kind"]
            self._problems.set(
                "reviews", f"clients of this node cannot be checked: {what}: {error}"
            )
            if isinstance(error, HostkitError):
                raise
            raise NodeAgentError(f"the API server's {what} is none: {error}") from error
        self._problems.clear("reviews")
        return answer


def user_of(certificate: Mapping[str, Any]) -> User | None:
    """The user that a client certificate names: CN, with O as groups; None without a CN."""
    names: list[str] = []
    groups: list[str] = []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                names.append(value)
            elif key == "organizationName":
                groups.append(value)
    return User(names[-1], _with_known(groups)) if names and names[-1] else None


def _with_known(groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*groups, _KNOWN)))


def subresource(path: str) -> str:
    """The subresource of nodes that the kubelet asks about for *path*."""
    first = path.lstrip("/").partition("/")[0]
    # What is not known may be anything, a command in a container for instance.
    return {"stats": "stats", "metrics": "metrics", "logs": "log", "spec": "spec"}.get(
        first, "proxy"
    )
