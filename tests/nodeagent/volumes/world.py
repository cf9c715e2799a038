"""What tests of volumes share: a pod from a document, and objects that can be away."""

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hostkit.command import CommandError, Completed
from nodeagent.api.port import Kind, SecretData, ServiceLink
from nodeagent.errors import PodError
from nodeagent.pods.host import Host, Mount
from nodeagent.pods.model import Pod, decode
from nodeagent.volumes.volumes import Volumes
from tests.fakes.mounts import FakeMounts

MAP = {"name": "conf", "configMap": {"name": "m"}}
SECRET = {"name": "key", "secret": {"secretName": "s", "defaultMode": 0o400}}
SCRATCH = {"name": "scratch", "emptyDir": {}}
TOKEN = {
    "name": "token",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca/a.crt"}]}},
            {
                "downwardAPI": {
                    "items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                }
            },
        ]
    },
}

NFS = {"name": "share", "nfs": {"server": "nas", "path": "/export", "readOnly": True}}


def host(root: Path) -> Host:
    """A node whose files are below *root*."""
    return Host(name="n1", address="192.0.2.1", hostname="n1", root=root, memory=4 << 30, cpus=2)


def pod(*volumes: Mapping[str, Any], uid: str = "u1", **spec: Any) -> Pod:
    """A pod with these *volumes* and one container, unless *spec* has others."""
    spec.setdefault("containers", [{"name": "app", "image": "x"}])
    return decode(
        {
            "metadata": {"name": "web", "namespace": "shop", "uid": uid, "labels": {"app": "web"}},
            "spec": {"volumes": list(volumes), **spec},
        }
    )


def mounting(*mounts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A pod's list of containers: one with these volumeMounts."""
    return {"containers": [{"name": "app", "image": "x", "volumeMounts": list(mounts), **more}]}


@dataclass
class FakeObjects:
    """Objects by name; *away* stands for an API server that does not answer."""

    config_maps: dict[str, dict[str, bytes]] = field(default_factory=dict)
    secrets: dict[str, SecretData] = field(default_factory=dict)
    documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    keep: float = 60.0
    services_listed: bool = True
    away: bool = False
    issued: int = 0

    def hold(self, pod: Pod, wanted: frozenset[tuple[Kind, str]]) -> None:
        """Nothing has to be kept here."""

    def release(self, uid: str) -> None:
        """Nothing is kept here."""

    def _answer(self) -> None:
        if self.away:
            raise PodError("FailedMount", "the API server does not answer")

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        self._answer()
        return self.config_maps.get(name)

    async def secret(self, namespace: str, name: str) -> SecretData | None:
        self._answer()
        return self.secrets.get(name)

    async def token(self, pod: Pod, audience: str, seconds: int) -> tuple[str, float]:
        self._answer()
        self.issued += 1
        return f"token-{self.issued}-{audience}-{seconds}", self.keep

    async def get(self, path: str) -> Mapping[str, Any] | None:
        self._answer()
        return self.documents.get(path)

    async def services(self) -> Sequence[ServiceLink]:
        return ()


class FakeRecorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        self.events.append(f"{kind} {reason} {message}")

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.events.append(f"{kind} {reason} {message}")


class MountNfs:
    """mount.nfs: mounts on the fake table, or fails with *error*."""

    def __init__(self, mounts: FakeMounts) -> None:
        self.mounts = mounts
        self.error: CommandError | None = None
        self.calls: list[tuple[str, ...]] = []

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        check: bool = True,
    ) -> Completed:
        self.calls.append(tuple(argv))
        if self.error is not None:
            raise self.error
        self.mounts.add(Path(argv[2]), "nfs4", argv[1])
        return Completed(tuple(argv), 0, "", "")


@dataclass
class World:
    """Volumes on a folder, with everything around it faked; *now* is the clock."""

    root: Path
    objects: FakeObjects = field(default_factory=FakeObjects)
    mounts: FakeMounts = field(default_factory=FakeMounts)
    recorder: FakeRecorder = field(default_factory=FakeRecorder)
    now: float = 1000.0
    within: float = 30.0

    def __post_init__(self) -> None:
        self.runner = MountNfs(self.mounts)
        self.hosts = self.root / "etc-hosts-of-the-node"
        self.hosts.write_text("127.0.0.1\tlocalhost n1\n", encoding="utf-8")
        self.restart()

    def restart(self) -> None:
        """The agent ends and starts anew: nothing in memory is left."""
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        self.volumes = Volumes(
            host(self.root), self.objects, self.recorder, self.runner, self.mounts,
            clock=clock, etc_hosts=self.hosts, within=self.within,
        )  # fmt: skip

    def folder(self, kind: str, name: str, uid: str = "u1") -> Path:
        """A volume's folder."""
        return self.root / "pods" / uid / "volumes" / f"kubernetes.io~{kind}" / name


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def bound(world: World, one: Pod, attempt: int = 0) -> dict[str, Mount]:
    """The mounts of the pod's container by their place in it."""
    return await bound_by(world.volumes, one, attempt)


async def bound_by(volumes: Volumes, one: Pod, attempt: int = 0) -> dict[str, Mount]:
    """The mounts that *volumes* make for the pod's container."""
    found = await volumes.mounts(
        one, one.spec.containers[0], attempt, pod_ip="10.1.2.3", env={"NAME": "n"}
    )
    return {mount.target: mount for mount in found}


def text_of(mount: Mount) -> str:
    """What is in the file behind a mount."""
    return Path(mount.source).read_text(encoding="utf-8")
