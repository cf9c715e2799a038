"""The node's Lease: the heartbeat that the control plane watches (``coordination.k8s.io/v1``).

``kube-node-lease/NODE`` is written whole each time, on the version that was read or written last,
so another agent that renews the same lease shows as a conflict with a time that is not ours.

The time never goes back, even when the clock does: kube-controller-manager's node lifecycle
controller takes only a later one for a sign of life.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from hostkit.kube.errors import Conflict, KubeError, KubeUnavailable, NotFound
from hostkit.kube.transport import KubeClient
from nodeagent.node.api import call, time_text
from nodeagent.node.rival import Rival
from nodeagent.node.status import part

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

SECONDS = 40
"""``leaseDurationSeconds``, the kubelet's own: after as long without a renewal a node is lost."""

DEADLINE = 5.0
"""Seconds for one call: two tries on two connections fit in before the lease runs out."""

_ATTEMPTS = 3
_STEP = timedelta(milliseconds=1)


class LeasesAbsent(KubeError):  # noqa: N818 - names the state, not the fault
    """The API server has no leases, or no namespace for those of nodes."""


class NodeLease:
    """Renews the lease of the node *name*; *rival* hears of renewals that are not ours."""

    def __init__(
        self,
        client: KubeClient,
        name: str,
        rival: Rival,
        *,
        seconds: int = SECONDS,
        deadline: float = DEADLINE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._name = name
        self._rival = rival
        self._seconds = seconds
        self._deadline = deadline
        self._wall = wall
        self._held: Mapping[str, Any] | None = None
        # Times that we wrote, also those whose answer was lost.
        self._sent: deque[str] = deque(maxlen=8)

    @property
    def path(self) -> str:
        """The lease's URL path."""
        return f"{LEASES}/{quote(self._name)}"

    async def renew(self, owner: str) -> None:
        """Write the lease as of now; *owner* is the Node's UID, with which it goes.

        Raises LeasesAbsent, or what KubeClient raises.
        """
        for attempt in range(_ATTEMPTS):
            if self._held is None:
                self._held = await self.read()
            try:
                await self._write(owner)
            except Conflict:
                await self._judge()
                if attempt == _ATTEMPTS - 1:
                    raise
            except NotFound as error:
                if self._held is None:
                    raise LeasesAbsent(f"there are no leases for nodes: {error}") from error
                self._held = None
            except KubeUnavailable:
                self._held = None
                raise
            else:
                return

    async def read(self) -> Mapping[str, Any] | None:
        """The lease as it is, None when there is none."""
        try:
            return await call(self._client, "GET", self.path, deadline=self._deadline)
        except NotFound:
            return None

    async def _write(self, owner: str) -> None:
        now = self._stamp()
        self._sent.append(now)
        held = self._held or {}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                **part(held, "metadata"),
                "name": self._name,
                "namespace": "kube-node-lease",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": owner}
                ],
            },
            "spec": {
                **part(held, "spec"),
                "holderIdentity": self._name,
                "leaseDurationSeconds": self._seconds,
                "renewTime": now,
            },
        }
        method, path = ("PUT", self.path) if self._held is not None else ("POST", LEASES)
        self._held = await call(self._client, method, path, body, deadline=self._deadline)

    def _stamp(self) -> str:
        """Now, or a moment after the last renewal where that is later."""
        now, before = self._wall(), renew_time(self._held)
        # A lease may hold any time, the last one that there is too.
        with contextlib.suppress(OverflowError):
            if before is not None:
                now = max(now, (before + _STEP).timestamp())
        return time_text(now, "microseconds")

    async def _judge(self) -> None:
        """After a conflict: read the lease, and see whether somebody else renewed it."""
        self._held = await self.read()
        renewed = renew_time(self._held)
        if renewed and renewed not in map(_moment, self._sent):
            self._rival.seen("another agent renews this node's lease")


def renew_time(lease: Mapping[str, Any] | None) -> datetime | None:
    """When *lease* was renewed, None when it does not say."""
    return _moment(str(part(lease or {}, "spec").get("renewTime") or ""))


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
