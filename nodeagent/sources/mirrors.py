"""Mirror pods: what the API server shows of this node's static pods.

``mirrorplan`` decides, this module writes. What cannot be written is named and tried again with
back-off, one mirror apart from the others.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import msgspec

from hostkit.kube.errors import Conflict, KubeError, KubeUnavailable, NotFound
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.pods.model import MIRROR, Pod
from nodeagent.sources.manifests import StaticPod
from nodeagent.sources.mirrorplan import Change, Key, Plan, mirror_of, plan, seen_of

AT_ONCE = 8
"""Most mirrors that are written at the same time."""
LAG = 5.0
"""Seconds within which the watch must show what was written; then it is written again."""
NO_NODE = 1.0
"""Seconds after which to ask again for the UID of the Node object."""


class Client(Protocol):
    """What is used of ``KubeClient``."""

    async def request(
        self, method: str, path: str, *, params: Sequence[tuple[str, str]] = (), body: bytes | None
    ) -> bytes:
        """The body of the answer; raises ApiError or KubeUnavailable."""
        ...


@dataclass(slots=True)
class _Trouble:
    """A *change* that failed: how often in a row, and when to try again.

    *text* is "" for what is named elsewhere.
    """

    change: Change
    text: str
    times: int
    due: float


class Mirrors:
    """Keeps the mirror pods of the node called *node*; *node_uid* is None until that is known.

    *clock* is monotonic.
    """

    def __init__(
        self,
        client: Client,
        node: str,
        node_uid: Callable[[], str | None],
        problems: Problems,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._node = node
        self._node_uid = node_uid
        self._problems = problems
        self._backoff = backoff or Backoff(first=0.5, most=60.0)
        self._clock = clock
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._troubles: dict[Key, _Trouble] = {}
        self._written: dict[Key, tuple[Change, float]] = {}

    async def sync(
        self, static: Mapping[str, StaticPod], mirrors: Mapping[Key, Pod]
    ) -> float | None:
        """Make the mirrors fit; *mirrors* are all pods of this node at the API server.

        Returns the seconds after which to call again even if nothing changed, None for never.
        Nothing is raised.
        """
        seen = {key: seen_of(pod) for key, pod in mirrors.items()}
        wanted = plan(static, seen)
        owner = self._node_uid()
        due = [
            change
            for change in wanted.changes
            if self._is_due(change) and (owner is not None or change.create is None)
        ]
        keys = {change.key for change in wanted.changes}
        for book in (self._troubles, self._written):
            for key in [key for key in book if key not in keys]:
                del book[key]
        await asyncio.gather(*(self._make(change, owner or "") for change in due))
        self._tell(wanted)
        waiting = owner is None and any(change.create for change in wanted.changes)
        return NO_NODE if waiting else self._next()

    def _is_due(self, change: Change) -> bool:
        now = self._clock()
        trouble, written = self._troubles.get(change.key), self._written.get(change.key)
        if written is not None and written[0] == change and now < written[1]:
            return False
        return trouble is None or trouble.change != change or now >= trouble.due

    async def _make(self, change: Change, owner: str) -> None:
        async with self._limit:
            try:
                await self._write(change, owner)
            except KubeError as error:
                self._failed(change, error)
            else:
                self._troubles.pop(change.key, None)
                self._written[change.key] = change, self._clock() + LAG

    async def _write(self, change: Change, owner: str) -> None:
        namespace, name = change.key
        pods = f"/api/v1/namespaces/{quote(namespace)}/pods"
        if change.delete:
            await self._delete(f"{pods}/{quote(name)}", change.delete)
        if change.create is None:
            return
        body = msgspec.json.encode(mirror_of(change.create, self._node, owner))
        try:
            await self._client.request("POST", pods, body=body)
        except Conflict:
            # Made by us and not seen yet, or by somebody else: what is there decides.
            await self._settle(f"{pods}/{quote(name)}", change.create)

    async def _settle(self, path: str, static: StaticPod) -> None:
        """There is a pod already: fine if it is our mirror; another mirror of ours is deleted."""
        answer = await self._client.request("GET", path, body=None)
        try:
            found = msgspec.json.decode(answer, type=_Found)
        except msgspec.MsgspecError as error:
            raise _InTheWay(f"a pod with this name is there already: {error}") from error
        mirror = found.metadata.annotations.get(MIRROR)
        if mirror == static.pod.uid and not found.metadata.deletion_timestamp:
            return
        if mirror is not None and found.spec.node_name == self._node:
            await self._delete(path, found.metadata.uid)
            text = "an older mirror was in its place"
        else:
            where = f"on node {found.spec.node_name!r}" if found.spec.node_name else "on no node"
            text = f"a pod with this name is there already, {where}: rename one of them"
        raise _InTheWay(text)

    async def _delete(self, path: str, uid: str) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        }
        try:
            await self._client.request("DELETE", path, body=msgspec.json.encode(options))
        except (NotFound, Conflict):
            # Gone, or another one by now: the watch brings it.
            return

    def _failed(self, change: Change, error: KubeError) -> None:
        old = self._troubles.get(change.key)
        times = old.times + 1 if old is not None else 1
        due = self._clock() + self._backoff.delay(times)
        self._troubles[change.key] = _Trouble(change, _reason(change.key, error), times, due)

    def _tell(self, wanted: Plan) -> None:
        texts = {key: one.text for key, one in self._troubles.items() if one.text}
        for key in wanted.taken:
            texts[key] = (
                "a pod of the API server has the name of a static pod, which runs but cannot be "
                "shown there: rename one of them"
            )
        self._problems.replace_group(
            "mirror ", [("/".join(key), text) for key, text in sorted(texts.items())]
        )

    def _next(self) -> float | None:
        times = [one.due for one in self._troubles.values()]
        times += [until for _, until in self._written.values()]
        now = self._clock()
        return min((max(0.0, due - now) for due in times), default=None)


class _InTheWay(KubeError):  # noqa: N818 - names the state, not the fault
    """Another pod has the mirror's name."""


class _Meta(msgspec.Struct, rename="camel"):
    uid: str = ""
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Found(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


def _reason(key: Key, error: KubeError) -> str:
    if isinstance(error, NotFound):
        return f"the namespace {key[0]} is not there: create it to see the static pod"
    if isinstance(error, KubeUnavailable):
        return ""
    return str(error)
