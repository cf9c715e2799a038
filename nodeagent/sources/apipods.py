"""The pods that the API server wants on this node, mirror pods among them.

Model: one watch of the pods whose ``spec.nodeName`` is ours, kept by UID. A pod of surprising
types is a BadPod as long as it can be named, so that somebody can say on it what is wrong. While
no server answers, all pods stay as they were.
"""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hostkit.kube.listwatch import follow
from hostkit.kube.mirror import Mirror
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.pods.containerstatus import text_of
from nodeagent.pods.model import Meta, Pod, PodSpec, decode

PODS = "/api/v1/pods"


@dataclass(frozen=True, slots=True)
class ApiPod:
    """A pod, and its spec as the API server wrote it (JSON), which costs little to keep."""

    pod: Pod
    spec: bytes

    @property
    def raw(self) -> Mapping[str, Any]:
        """The undecoded spec, to look for what ``Pod`` does not name."""
        found: dict[str, Any] = msgspec.json.decode(self.spec)
        return found


@dataclass(frozen=True, slots=True)
class BadPod:
    """A pod that cannot be decoded; *text* says why."""

    namespace: str
    name: str
    uid: str
    text: str
    version: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pod(self) -> Pod:
        """Enough of a pod to write a status to it."""
        meta = Meta(
            name=self.name, namespace=self.namespace, uid=self.uid, resource_version=self.version
        )
        return Pod(meta, PodSpec(), dict(self.status))


class ApiPods:
    """Follows the pods of *node_name*; *on_change* hears the UID of each that came, changed or
    went, *on_listed* of each complete list, and *on_connected* when a server answers again."""

    def __init__(
        self,
        client: KubeClient,
        node_name: str,
        on_change: Callable[[str], None],
        problems: Problems,
        *,
        on_listed: Callable[[], None] = lambda: None,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._problems = problems
        self._on_connected = on_connected
        self.connected = False
        self._mirror: Mirror[ApiPod | BadPod] = Mirror(
            _decode,
            on_change=lambda uid, _old, _new: on_change(uid),
            on_listed=on_listed,
            on_bad=self._bad,
        )

    @property
    def listed(self) -> bool:
        """Whether the pods were listed once."""
        return self._mirror.listed

    @property
    def items(self) -> Mapping[str, ApiPod | BadPod]:
        """All of them by UID."""
        return self._mirror.items

    def pods(self) -> dict[str, ApiPod]:
        """Those to be run here by UID: all good ones but mirror pods."""
        return {
            uid: item
            for uid, item in self.items.items()
            if isinstance(item, ApiPod) and not item.pod.is_mirror
        }

    def by_name(self) -> dict[tuple[str, str], Pod]:
        """All good ones, mirror pods too, by namespace and name."""
        return {
            (item.pod.metadata.namespace, item.pod.metadata.name): item.pod
            for item in self.items.values()
            if isinstance(item, ApiPod)
        }

    def bad(self) -> list[BadPod]:
        """Those that cannot be decoded."""
        return [item for item in self.items.values() if isinstance(item, BadPod)]

    async def run(self) -> None:
        """Follow for ever."""
        params = (("fieldSelector", f"spec.nodeName={self._node_name}"),)
        source = follow(self._client, PODS, params=params, on_state=self._state)
        async with aclosing(source) as items:
            await self._mirror.run(items)

    def _state(self, connected: bool, text: str) -> None:
        self.connected = connected
        self._problems.update("api pods", "" if connected else text)
        if connected:
            self._on_connected()

    def _bad(self, name: str, text: str) -> None:
        self._problems.update(f"pod {name or '(no name)'}", text)


def _decode(raw: msgspec.Raw) -> tuple[str, ApiPod | BadPod]:
    """UID and pod; raises ValueError for an object that no status can be written to."""
    document = msgspec.json.decode(raw)
    meta = document["metadata"]
    uid = meta.get("uid")
    if not isinstance(uid, str) or not uid:
        raise ValueError("metadata.uid: it is missing or no text, so the pod cannot be told apart")
    try:
        pod = decode(document)
    except ValueError as error:
        version, status = meta.get("resourceVersion"), document.get("status")
        return uid, BadPod(
            text_of(meta.get("namespace")), text_of(meta.get("name")), uid, str(error),
            text_of(version), status if isinstance(status, dict) else {},
        )  # fmt: skip
    return uid, ApiPod(pod, msgspec.json.encode(document.get("spec") or {}))
