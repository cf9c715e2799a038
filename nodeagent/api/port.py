"""What pods need from the API server: the protocols that the real parts and the fakes follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nodeagent.pods.model import Pod


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service; *name* may be empty, *protocol* is TCP, UDP or SCTP."""

    port: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class ServiceLink:
    """What variables are made of: a service with a cluster IP."""

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretData:
    """A Secret: its type, such as ``kubernetes.io/dockerconfigjson``, and its bytes by key."""

    type: str
    data: Mapping[str, bytes]


Kind = Literal["ConfigMap", "Secret"]


class Objects(Protocol):
    """Objects that pods refer to; methods raise PodError while they cannot be had.

    An object that does not exist is None: the caller knows whether it is optional.
    """

    def hold(self, pod: Pod, wanted: frozenset[tuple[Kind, str]]) -> None:
        """Keep these objects of the pod's namespace fresh; a change of one wakes the pod."""
        ...

    def release(self, uid: str) -> None:
        """The pod is gone."""
        ...

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """``data`` and ``binaryData`` of a ConfigMap."""
        ...

    async def secret(self, namespace: str, name: str) -> SecretData | None:
        """A Secret."""
        ...

    async def token(self, pod: Pod, audience: str, seconds: int) -> tuple[str, float]:
        """A token of the pod's service account, and for how many seconds to keep it."""
        ...

    async def get(self, path: str) -> Mapping[str, Any] | None:
        """Any object by its path, decoded: claims and persistent volumes."""
        ...

    @property
    def services_listed(self) -> bool:
        """Whether services were listed once."""
        ...

    async def services(self) -> Sequence[ServiceLink]:
        """All services with a cluster IP, by namespace and name; waits for the first list."""
        ...


class Recorder(Protocol):
    """Events for ``kubectl describe``; never blocks, repeats are counted and limited in rate."""

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        """An event about a pod, or about one of its containers."""
        ...

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """An event about this node."""
        ...
