"""Join tokens: Kubernetes' bootstrap tokens, as Secrets in kube-system.

Format of tokens and Secrets: kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens.
Who shows a token is the user ``system:bootstrap:ID`` in ``JOIN_GROUP`` until the token expires.
"""

import math
import re
import secrets
import string
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from hostkit.config import duration
from lab.errors import LabError, UsageError
from lab.join.model import JOIN_GROUP

Raw = dict[str, Any]

NAMESPACE = "kube-system"
COLLECTION = f"/api/v1/namespaces/{NAMESPACE}/secrets"
TYPE = "bootstrap.kubernetes.io/token"
SELECTOR = f"type={TYPE}"
"""The field selector of the Secrets that hold tokens."""
DEFAULT_TTL = "24h"

_PREFIX = "bootstrap-token-"
_ALPHABET = string.ascii_lowercase + string.digits
_ID = re.compile(r"[a-z0-9]{6}")
_TOKEN = re.compile(r"(?P<id>[a-z0-9]{6})\.(?P<secret>[a-z0-9]{16})")
# RFC 3339 has years of four digits.
_LONGEST = timedelta(days=100 * 365)


@dataclass(frozen=True, slots=True)
class Token:
    """A token: the public *id*, and the *secret* that only its holder knows."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "Token":
        """One that nobody can guess."""
        return cls(_chosen(6), _chosen(16))

    @classmethod
    def parse(cls, text: str, where: str = "--token") -> "Token":
        """The token that *text* spells; raises UsageError, which never repeats *text*."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{where}: this is no join token: 6 small letters or digits, a dot, and 16 more,"
                " such as abcdef.0123456789abcdef"
            )
        return cls(match["id"], match["secret"])

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}"


def _chosen(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def check_id(text: str) -> str:
    """The id of the token *text*, which may be a whole token; raises UsageError."""
    if match := _TOKEN.fullmatch(text):
        return match["id"]
    if not _ID.fullmatch(text):
        raise UsageError(
            f"ID: {text[:12]!r} is no id of a token: 6 small letters or digits, as in"
            " 'barenode token list'"
        )
    return text


def parse_ttl(text: str, where: str) -> timedelta | None:
    """How long a token lasts, None for ever; *text* as ``24h`` or ``90m``, ``0`` for ever.

    Raises UsageError that begins with the flag *where*.
    """
    try:
        seconds = duration(text)
    except ValueError:
        raise UsageError(f"{where} {text}: use a time such as 24h or 90m, or 0 for ever") from None
    if not seconds:
        return None
    if seconds < 1 or seconds > _LONGEST.total_seconds():
        raise UsageError(f"{where} {text}: use a time from 1s to 876000h, or 0 for ever")
    return timedelta(seconds=math.ceil(seconds))


def secret_path(token_id: str) -> str:
    """Where the Secret of the token lies at the API server."""
    return f"{COLLECTION}/{_PREFIX}{token_id}"


def secret_of(token: Token, *, expires: datetime | None, description: str) -> Raw:
    """The Secret that makes *token* valid until *expires* (with a time zone), None for ever."""
    data = {
        "token-id": token.id,
        "token-secret": token.secret,
        "description": description,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": JOIN_GROUP,
    }
    if expires is not None:
        data["expiration"] = timestamp(expires)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{_PREFIX}{token.id}", "namespace": NAMESPACE},
        "type": TYPE,
        "stringData": data,
    }


def timestamp(moment: datetime) -> str:
    """*moment* as RFC 3339 with whole seconds, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the cluster has it, without its secret.

    *expires* is RFC 3339, "" for never; *usable* tells that it opens the API now.
    """

    id: str
    expires: str
    description: str
    groups: tuple[str, ...]
    usable: bool


def described(secret: Raw, now: datetime) -> TokenInfo | None:
    """The token that a Secret of the API holds; None when it holds none."""
    name = str(secret.get("metadata", {}).get("name", ""))
    if secret.get("type") != TYPE or not name.startswith(_PREFIX):
        return None
    data = {key: _text(value) for key, value in (secret.get("data") or {}).items()}
    expires = data.get("expiration", "")
    left = remaining(expires, now) if expires else timedelta.max
    login = data.get("usage-bootstrap-authentication") == "true"
    return TokenInfo(
        id=data.get("token-id") or name.removeprefix(_PREFIX),
        expires=expires,
        description=data.get("description", ""),
        groups=tuple(g for g in data.get("auth-extra-groups", "").split(",") if g),
        # A time that cannot be read counts as past for the API server too.
        usable=login and left is not None and left > timedelta(0),
    )


def _text(value: object) -> str:
    try:
        return b64decode(str(value), validate=True).decode()
    except ValueError as error:
        raise LabError(f"a Secret of the API server is damaged: {error}") from error


def remaining(expires: str, now: datetime) -> timedelta | None:
    """How long a token lasts that ends at *expires*; None when that is no time."""
    try:
        end = datetime.fromisoformat(expires)
    except ValueError:
        return None
    return (end if end.tzinfo else end.replace(tzinfo=UTC)) - now


def in_words(info: TokenInfo, now: datetime) -> str:
    """How long the token *info* lasts: ``23h 59m``, ``never``, ``expired``."""
    if not info.expires:
        return "never"
    left = remaining(info.expires, now)
    if left is None or left <= timedelta(0):
        return "expired"
    minutes, seconds = divmod(int(left.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def join_line(address: str, token: Token, ca_hash: str) -> str:
    """The command that makes another host a node of the cluster; *address* with the port."""
    return f"barenode join {address} --token {token} --ca-hash {ca_hash}"
