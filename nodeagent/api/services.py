"""All services of the cluster, for the variables of containers: small values, kept by a watch."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import lru_cache

import msgspec

from hostkit.kube.listwatch import follow
from hostkit.kube.mirror import Mirror
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.api.port import ServiceLink, ServicePort

SERVICES = "/api/v1/services"


class _Port(msgspec.Struct):
    port: int
    name: str | None = None
    protocol: str | None = None


class _Spec(msgspec.Struct, rename="camel"):
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    type: str | None = None
    ports: list[_Port] | None = None


class _Meta(msgspec.Struct):
    name: str
    namespace: str


class _Service(msgspec.Struct):
    metadata: _Meta
    spec: _Spec


_service = msgspec.json.Decoder(_Service)
# Nearly all services share a few ports and namespaces.
_port = lru_cache(maxsize=1024)(ServicePort)


def decode(raw: msgspec.Raw) -> tuple[str, ServiceLink] | None:
    """``namespace/name`` and the service; None for one that has no cluster IP.

    Raises ValueError naming the field of an object that is no Service.
    """
    found = _service.decode(raw)
    meta, spec = found.metadata, found.spec
    if not spec.cluster_ip or spec.cluster_ip == "None" or spec.type == "ExternalName":
        return None
    ports = tuple(
        _port(one.port, sys.intern(one.name or ""), sys.intern(one.protocol or "TCP"))
        for one in spec.ports or ()
    )
    link = ServiceLink(sys.intern(meta.namespace), meta.name, spec.cluster_ip, ports)
    return f"{meta.namespace}/{meta.name}", link


class ServiceList:
    """Follows all services; *on_change* hears that one came, changed or went."""

    def __init__(
        self,
        client: KubeClient,
        problems: Problems,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._problems = problems
        self._on_change = on_change
        self._sorted: tuple[ServiceLink, ...] | None = None
        self._listed = asyncio.Event()
        self._mirror = Mirror(
            decode, on_change=self._changed, on_listed=self._listed.set, on_bad=self._bad
        )

    @property
    def listed(self) -> bool:
        """Whether the services were listed once."""
        return self._listed.is_set()

    async def links(self, within: float) -> Sequence[ServiceLink]:
        """All services by namespace and name, once they were listed.

        Raises TimeoutError when that takes more than *within* seconds.
        """
        if not self._listed.is_set():
            async with asyncio.timeout(within):
                await self._listed.wait()
        if self._sorted is None:
            order = sorted(self._mirror.items.values(), key=lambda one: (one.namespace, one.name))
            self._sorted = tuple(order)
        return self._sorted

    async def run(self) -> None:
        """Follow for ever."""
        async with aclosing(follow(self._client, SERVICES, on_state=self._state)) as items:
            await self._mirror.run(items)

    def _changed(self, _key: str, _old: ServiceLink | None, _new: ServiceLink | None) -> None:
        self._sorted = None
        self._on_change()

    def _state(self, connected: bool, text: str) -> None:
        self._problems.update("api services", "" if connected else text)

    def _bad(self, name: str, text: str) -> None:
        self._problems.update(f"service {name or '(no name)'}", text)
