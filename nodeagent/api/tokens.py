"""Tokens of service accounts, bound to pods (``authentication.k8s.io/v1`` TokenRequest)."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from hostkit.kube.errors import KubeError
from hostkit.kube.transport import KubeClient
from nodeagent.pods.model import Pod

LONGEST = 24 * 3600.0
"""Seconds after which a token is renewed in any case, as the kubelet does."""
SHARE = 0.8
"""The part of its life after which a token is renewed."""
AGAIN = 30.0
"""Seconds after which the renewal of a token that is still good is tried again."""


class _Spec(msgspec.Struct, rename="camel"):
    expiration_seconds: float | None = None


class _Status(msgspec.Struct):
    token: str


class _Answer(msgspec.Struct):
    status: _Status
    spec: _Spec | None = None


@dataclass(slots=True)
class _Token:
    """Times are monotonic; both are 0 before the first answer."""

    text: str = ""
    renew: float = 0.0
    ends: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Tokens:
    """Tokens by pod, account, audience and life; each is asked for once at a time."""

    def __init__(
        self,
        client: KubeClient,
        *,
        deadline: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._deadline = deadline
        self._clock = clock
        self._tokens: dict[str, dict[tuple[str, str, int], _Token]] = {}

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._tokens.pop(uid, None)

    async def get(self, pod: Pod, audience: str, seconds: int) -> tuple[str, float]:
        """A token and for how many seconds it need not be renewed; "" is the API's own audience.

        A token that is still good is given when it cannot be renewed. Raises KubeError, and
        ValueError for an answer that makes no sense.
        """
        account = pod.spec.service_account_name or "default"
        known = self._tokens.setdefault(pod.uid, {})
        token = known.setdefault((account, audience, seconds), _Token())
        async with token.lock:
            if self._clock() >= token.renew:
                try:
                    await self._renew(token, pod, account, audience, seconds)
                except (KubeError, ValueError):
                    if self._clock() + AGAIN >= token.ends:
                        raise
                    return token.text, AGAIN
            return token.text, token.renew - self._clock()

    async def _renew(
        self, token: _Token, pod: Pod, account: str, audience: str, seconds: int
    ) -> None:
        meta = pod.metadata
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid}
        spec: dict[str, object] = {"expirationSeconds": seconds, "boundObjectRef": bound}
        spec["audiences"] = [audience] if audience else []
        document = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        began = self._clock()
        data = await self._client.request(
            "POST",
            f"/api/v1/namespaces/{meta.namespace}/serviceaccounts/{account}/token",
            body=msgspec.json.encode(document),
            deadline=self._deadline,
        )
        answer = msgspec.json.decode(data, type=_Answer)
        # The server may give a shorter or a longer life than was asked for, and says so there.
        given = answer.spec.expiration_seconds if answer.spec else None
        life = float(given or seconds)
        token.text = answer.status.token
        token.ends = began + life
        token.renew = began + min(SHARE * life, LONGEST)
