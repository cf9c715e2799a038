"""``nodeagent cleanup``: take away everything that nodeagent ever put on this host.

Each step stands alone and a failure is named, but what containers may still use is only removed
once they are gone. The Node object stays at the API server: it may have been cordoned or labelled
by somebody, and deleting it moves its pods.
"""

import contextlib
import glob
import shutil
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.errors import HostkitError
from hostkit.files import remove
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from nodeagent.api.objects import NoObjects
from nodeagent.config import cert_dir, docker_socket, node_name
from nodeagent.control import control_socket
from nodeagent.docker.api import EngineInfo, Entry, Image
from nodeagent.docker.engine import DockerEngine
from nodeagent.docker.labels import TYPE
from nodeagent.docker.pause import PAUSE
from nodeagent.errors import EngineConflict, NodeAgentError
from nodeagent.node.cgroups import PodCgroups
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.volumes.volumes import Volumes

STATIC_PODS = "static-pods.json"
"""The memory of static pods in the root folder."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One step's outcome; *ok* is False when something of ours stays."""

    what: str
    result: str
    ok: bool = True


class Files(Protocol):
    """The part of Volumes that is used here."""

    async def orphans(self, known: Collection[str]) -> list[str]:
        """UIDs of pods with files, without the *known*."""
        ...

    async def teardown(self, uid: str) -> None:
        """Unmount and delete the files of a pod; raises PodError."""
        ...


class Containers(Protocol):
    """The part of Engine that is used here."""

    async def info(self) -> EngineInfo:
        """Facts of the engine."""
        ...

    async def containers(self) -> list[Entry]:
        """All containers of ours."""
        ...

    async def remove(self, container: str) -> None:
        """Remove a container, whatever it does."""
        ...

    async def image(self, reference: str) -> Image | None:
        """The image, None when it is not there."""
        ...

    async def remove_image(self, image: str) -> None:
        """Remove an image; raises EngineConflict while a container uses it."""
        ...


class NoDocker:
    """A host from which Docker was removed, and with it all containers."""

    def __init__(self, cgroup_root: Path = Path("/sys/fs/cgroup")) -> None:
        self._v2 = (cgroup_root / "cgroup.controllers").exists()

    async def info(self) -> EngineInfo:
        """What dockerd chooses where it is told nothing: the groups are still its."""
        return EngineInfo("", "", "systemd", "2") if self._v2 else EngineInfo("", "")

    async def containers(self) -> list[Entry]:
        """None."""
        return []

    async def remove(self, container: str) -> None:
        """Nothing to remove."""

    async def image(self, reference: str) -> Image | None:
        """None."""
        return None

    async def remove_image(self, image: str) -> None:
        """Nothing to remove."""

    async def close(self) -> None:
        """Nothing to close."""


class Groups(Protocol):
    """The part of PodCgroups that is used here."""

    async def clear(self) -> tuple[str, ...]:
        """Remove all groups without processes; what stays."""
        ...


class Cleanup:
    """Takes nodeagent's traces away. *groups* makes the cgroups' keeper for what Docker says of
    itself; *proc* is where processes are seen."""

    def __init__(
        self,
        settings: Settings,
        engine: Containers,
        files: Files,
        groups: Callable[[EngineInfo], Groups],
        *,
        proc: Path = Path("/proc"),
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._files = files
        self._groups = groups
        self._proc = proc
        self._gone = False

    async def run(self) -> list[Step]:
        """Do every step."""
        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("containers", self._containers),
            ("image", self._image),
            ("volumes", self._volumes),
            ("cgroups", self._cgroups),
            ("files", self._run_files),
        ]
        done = []
        for what, work in steps:
            try:
                done.append(Step(what, await work()))
            except (HostkitError, OSError) as error:
                done.append(Step(what, str(error), ok=False))
        if self._settings["api-servers"] or self._settings["kubeconfig"]:
            name = node_name(self._settings)
            done.append(Step("node", f"stays at the API server: kubectl delete node {name}"))
        return done

    async def _containers(self) -> str:
        found = await self._engine.containers()
        # A sandbox is the network of the others: it goes last.
        found.sort(key=lambda one: one.labels.get(TYPE) == "podsandbox")
        failed = []
        for one in found:
            try:
                await self._engine.remove(one.id)
            except HostkitError as error:
                failed.append(f"{one.names[0] if one.names else one.id[:12]}: {error}")
        if failed:
            raise NodeAgentError(_few(failed))
        left = await self._engine.containers()
        if left:
            raise NodeAgentError(f"{len(left)} came back: does another nodeagent run?")
        self._gone = True
        return f"{len(found)} removed" if found else "none"

    async def _image(self) -> str:
        image = await self._engine.image(PAUSE)
        if image is None:
            return "none of ours"
        try:
            await self._engine.remove_image(image.id)
        except EngineConflict:
            return f"{PAUSE} stays, a container of somebody else uses it"
        return f"{PAUSE} removed"

    async def _volumes(self) -> str:
        self._need_no_containers()
        if any(_comm(one) == "kubelet" for one in self._proc.glob("[0-9]*")):
            raise NodeAgentError(
                f"a kubelet runs on this host and may use {self._settings['root-dir']}: stop it"
            )
        uids = await self._files.orphans(())
        failed = []
        for uid in uids:
            try:
                await self._files.teardown(uid)
            except HostkitError as error:
                failed.append(str(error))
        if failed:
            raise NodeAgentError(_few(failed))
        pods = "pod" if len(uids) == 1 else "pods"
        return f"those of {len(uids)} {pods} removed" if uids else "none"

    async def _cgroups(self) -> str:
        self._need_no_containers()
        stays = await self._groups(await self._engine.info()).clear()
        if stays:
            raise NodeAgentError(f"still in use: {_few(list(stays))}")
        return "none is left"

    def _need_no_containers(self) -> None:
        if not self._gone:
            raise NodeAgentError("left as they are: containers may still use them")

    async def _run_files(self) -> str:
        settings, certificates = self._settings, cert_dir(self._settings)
        root, run = Path(settings["root-dir"]), Path(settings["run-dir"])
        names = [control_socket(settings["run-dir"]), run / "nodeagent.lock"]
        if not settings["tls-cert-file"]:
            names += [certificates / "kubelet.crt", certificates / "kubelet.key"]
        if self._gone:
            # While containers are left it tells the next nodeagent whose they are.
            names.append(root / STATIC_PODS)
        gone = [str(name) for name in names if remove(name)]
        for name in (*names, root / STATIC_PODS):
            # What one that was killed left of writing it.
            for part in name.parent.glob(f".{glob.escape(name.name)}.*"):
                remove(part)
        for folder in (certificates, root / "pods", root / "plugins", root, run):
            # What others put there stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        return ", ".join(gone) + " removed" if gone else "none"


def _few(texts: list[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _comm(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class _Silent:
    """A Recorder for files that only go: there is nothing to tell anybody about."""

    def pod(
        self, pod: Pod, kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str = "",
    ) -> None:  # fmt: skip
        """As Recorder.pod."""

    def node(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """As Recorder.node."""


async def cleanup_for(settings: Settings, runner: Runner) -> list[Step]:
    """Every step, with this host's Docker, mounts and cgroups."""
    name = node_name(settings)
    host = Host(
        name,
        "",
        name,
        Path(settings["root-dir"]),
        cgroup_root=settings["cgroup-root"],
        cgroup_per_pod=settings["cgroups-per-qos"],
    )

    def groups(info: EngineInfo) -> Groups:
        v2 = info.cgroup_version == "2"
        there = replace(host, cgroup_driver=info.cgroup_driver, cgroups_v2=v2)
        return PodCgroups(there, runner, Problems())

    engine = _engine(docker_socket(settings))
    volumes = Volumes(host, NoObjects(), _Silent(), runner, clock=time.monotonic)
    try:
        return await Cleanup(settings, engine, volumes, groups).run()
    finally:
        await engine.close()


def _engine(socket: Path) -> DockerEngine | NoDocker:
    if socket.exists() or shutil.which("dockerd"):
        return DockerEngine(f"unix://{socket}", metrics=Metrics("kubelet"))
    return NoDocker()
