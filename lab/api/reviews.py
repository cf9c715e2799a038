"""Who may do what: everybody everything. Tokens that serve to try out clients, and their reviews.

``authentication.k8s.io/v1`` TokenRequest and TokenReview, ``authorization.k8s.io/v1``
SubjectAccessReview. Known to the review are the token that this server shows to nodes and those
that it gave out itself since its start.
"""

import math
import secrets
from collections.abc import Callable

from lab.api.kinds import POD, SERVICE_ACCOUNT, Kind
from lab.api.mirror import Mirror
from lab.api.objects import FieldErrors, Json, conflict, not_found, part, path, timestamp
from lab.api.schema import conform

TOKEN_REQUEST = Kind("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests")
_TOKEN_REVIEW = Kind("authentication.k8s.io", "v1", "TokenReview", "tokenreviews")
_ACCESS_REVIEW = Kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews")
REVIEWS = {f"{kind.root}/{kind.plural}": kind for kind in (_TOKEN_REVIEW, _ACCESS_REVIEW)}
"""The kinds that are only asked, by URL path."""

SHORTEST = 600
"""Seconds that a token is valid for at least (Kubernetes' limit)."""


_OWN_USER: Json = {
    "username": "kube-apiserver", "groups": ["system:masters", "system:authenticated"]
}  # fmt: skip


class Tokens:
    """Whose each token is: *own* is the server's, the others are those it gave out; *clock* is
    Unix seconds."""

    def __init__(self, own: str, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._users: dict[str, tuple[Json, float]] = {own: (_OWN_USER, math.inf)}

    def issue(self, user: Json, until: float) -> str:
        """A new token of *user*, which is valid *until* then."""
        self._users = {one: it for one, it in self._users.items() if it[1] > self.clock()}
        token = f"lab.{secrets.token_urlsafe(24)}"
        self._users[token] = user, until
        return token

    def user(self, token: str) -> Json | None:
        """Whose *token* is, None when it is nobody's."""
        user, until = self._users.get(token, ({}, -math.inf))
        return user if until > self.clock() else None


def review(kind: Kind, body: Json, tokens: Tokens) -> Json:
    """The answer to a review of *kind*."""
    asked, _ = conform(kind, body)
    status: Json = {"allowed": True}
    if kind is _TOKEN_REVIEW:
        user = tokens.user(path(asked, "spec.token") or "")
        status = {"user": {}} if user is None else {"authenticated": True, "user": user}
        if user is not None and (audiences := path(asked, "spec.audiences")):
            status["audiences"] = audiences
    return {**asked, "apiVersion": kind.api_version, "kind": kind.name, "status": status}


def request_token(mirror: Mirror, tokens: Tokens, namespace: str, name: str, body: Json) -> Json:
    """A TokenRequest with a token for a service account.

    Raises 404, 409 for another pod of the name, 422 for a time that is too short.
    """
    asked, _ = conform(TOKEN_REQUEST, body)
    if (namespace, name) not in mirror.shelves[SERVICE_ACCOUNT].items:
        raise not_found(SERVICE_ACCOUNT, name)
    seconds = path(asked, "spec.expirationSeconds") or 3600
    errors = FieldErrors()
    if seconds < SHORTEST:
        text = "may not specify a duration less than 10 minutes"
        errors.invalid("spec.expirationSeconds", seconds, text)
    errors.raise_for(TOKEN_REQUEST, "")
    bound = part(asked, "spec.boundObjectRef")
    if bound.get("kind") == "Pod":
        pod = mirror.shelves[POD].items.get((namespace, str(bound.get("name", ""))))
        if pod is None:
            raise not_found(POD, str(bound.get("name", "")))
        found = path(pod.obj(), "metadata.uid")
        if bound.get("uid") and bound["uid"] != found:
            text = (
                f"the UID in the bound object reference ({bound['uid']}) does not match the "
                f"UID in record. The object might have been deleted and then recreated"
            )
            raise conflict(POD, str(bound["name"]), text)
    account = mirror.shelves[SERVICE_ACCOUNT].items[namespace, name]
    now = tokens.clock()
    user = {
        "username": f"system:serviceaccount:{namespace}:{name}",
        "uid": path(account.obj(), "metadata.uid"),
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}",
                   "system:authenticated"],
    }  # fmt: skip
    return {
        "apiVersion": TOKEN_REQUEST.api_version, "kind": TOKEN_REQUEST.name,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamp(now)},
        "spec": {"audiences": ["https://kubernetes.default.svc"], **part(asked, "spec"),
                 "expirationSeconds": seconds},
        "status": {
            "token": tokens.issue(user, now + seconds),
            "expirationTimestamp": timestamp(now + seconds),
        },
    }  # fmt: skip
